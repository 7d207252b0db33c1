"""The command line in processes that are forked from one that has loaded it: as a process of its own, but quick.

A server is started once, imports the commands, and forks for each call; the child gets its directory, streams and
arguments, and runs the real entry point.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.command import Result

_PRELOADED = (
    *("main", "convert", "plan", "batch", "inspect", "verify", "push", "report", "map", "find", "gc", "export", "show"),
    *("session", "outputs", "show_parts", "report_file", "rewriting"),
)
_LIBRARIES = ("batch.batch", "verify", "report.html", "report.text", "writers.oci_layout", "readers.docker_root")


class Forked:
    """`with Forked() as run: run("convert", "a.tar", "out", cwd=place)`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> Self:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.forked", self._directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parents[1],
        )
        return self

    def __call__(self, *arguments: str, cwd: Path, user: int | None = None) -> Result:
        """`user`: the ID under which the command runs."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        request = {"arguments": arguments, "cwd": str(cwd), "user": user}
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        out, err = ((self._directory / name).read_text("utf-8") for name in ("stdout", "stderr"))
        assert "Traceback" not in err, err
        return Result(code, out, err)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._server:  # closes its streams, and waits
            pass


def _serve(directory: str) -> None:
    from migrate.cli import main  # first: a module of that name will stand in its place

    for name in _PRELOADED:
        importlib.import_module(f"migrate.cli.{name}")
    for name in _LIBRARIES:
        importlib.import_module(f"migrate.{name}")
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            _run(main, directory, request["arguments"], request["cwd"], request["user"])
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _run(main: Callable[[], None], directory: str, arguments: Sequence[str], cwd: str, user: int | None) -> None:
    """In the child; ends it."""
    streams = [os.open(os.devnull, os.O_RDONLY)]
    streams += [os.open(f"{directory}/{name}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC) for name in ("stdout", "stderr")]
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    os.chdir(cwd)
    if user is not None:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    sys.argv = ["migrate", *arguments]
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
    _serve(sys.argv[1])
