"""The command line as a user runs it, without mocks: each call in a process that is forked from a loaded program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import orjson


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("migrate: error: ")]

    def json(self) -> Any:
        return orjson.loads(self.out)


def migrate(
    *arguments: str | Path, stdin: bytes | None = None, cwd: Path | None = None, user: int | None = None
) -> Result:
    """Runs `migrate ARGUMENTS`, under the ID `user` if given, and checks that no traceback came out.

    It has the directory and the environment of the test, but a start of Python's own is left out: it would take most
    of the time. Tests of the start itself, and of closed or odd streams, run `python -m migrate`.
    """
    server = _server()
    if stdin is not None:
        (server.directory / "stdin").write_bytes(stdin)
    request = {
        "arguments": [os.fspath(argument) for argument in arguments],
        "cwd": os.fspath(cwd or Path.cwd()),
        "environment": dict(os.environ),
        "stdin": stdin is not None,
        "user": user,
    }
    server.requests.write(json.dumps(request) + "\n")
    server.requests.flush()
    code = int(server.codes.readline())
    out, err = ((server.directory / name).read_bytes().decode() for name in ("stdout", "stderr"))
    assert "Traceback" not in err, err
    return Result(code, out, err)


@dataclass(frozen=True)
class _Server:
    process: subprocess.Popen[str]
    requests: IO[str]
    codes: IO[str]
    directory: Path
    """Of the files that are the streams of a call."""


@cache
def _server() -> _Server:
    """Started by the first call; ends with the test process, when its standard input does."""
    directory = tempfile.mkdtemp(prefix="migrate-streams-")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.forked", directory],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[1],
    )
    assert process.stdin is not None
    assert process.stdout is not None
    return _Server(process, process.stdin, process.stdout, Path(directory))
