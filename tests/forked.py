"""Forks for each call of `tests.command.migrate`: the child gets its directory, streams and arguments, and runs the
real entry point."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from typing import Any

_LIBRARIES = (
    *("batch.batch", "verify", "report.html", "report.text", "writers.oci_layout", "readers.docker_root"),
    *("cli.run_commands", "cli.inventory_text", "readers.not_a_source", "readers.registry_v1", "readers.registry_v2"),
    *("readers.docker_archive", "writers.docker_archive", "writers.registry_storage", "readers.graphdrivers.choose"),
)
"""With these, a user who may not read Python's own files can run most commands."""


def serve(directory: str) -> None:
    """Reads a request a line from standard input, and writes the exit code of each; removes `directory` at the end."""
    from migrate.cli import main  # first: the module of that name takes its place
    from migrate.cli.main import COMMANDS

    for name in COMMANDS:
        importlib.import_module(f"migrate.cli.{name}")
    for name in _LIBRARIES:
        importlib.import_module(f"migrate.{name}")
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            _run(main, directory, request)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    shutil.rmtree(directory)


def _run(main: Callable[[], None], directory: str, request: dict[str, Any]) -> None:
    """In the child; ends it."""
    streams = [os.open(f"{directory}/stdin" if request["stdin"] else os.devnull, os.O_RDONLY)]
    streams += [os.open(f"{directory}/{name}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC) for name in ("stdout", "stderr")]
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if (user := request["user"]) is not None:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    sys.argv = ["migrate", *request["arguments"]]
    code = 1
    try:
        main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
    except BaseException:  # noqa: BLE001 - printed, as the interpreter would
        traceback.print_exc()
    finally:  # nothing of the server's goes on here
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
