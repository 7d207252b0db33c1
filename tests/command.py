"""The command line as a user runs it: a process of its own, no mocks."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def migrate(*arguments: str | Path, stdin: bytes | None = None, cwd: Path | None = None) -> Result:
    """Runs `migrate ARGUMENTS` and checks that no traceback came out."""
    done = subprocess.run(
        [sys.executable, "-m", "migrate", *map(str, arguments)], input=stdin, capture_output=True, check=False, cwd=cwd
    )
    result = Result(done.returncode, done.stdout.decode(), done.stderr.decode())
    assert "Traceback" not in result.err, result.err
    return result
