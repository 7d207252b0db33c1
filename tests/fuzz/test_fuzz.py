"""The committed corpus through every target, and a bounded run of the fuzzer from there on.

`python -m tests.fuzz` fuzzes for an hour; docs/reference/guarantees.md states what that gave.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.__main__ import CORPUS
from tests.fuzz.targets import TARGETS

pytestmark = pytest.mark.peer  # thin_restore, mkfs.ext4 and mkfs.xfs make what some targets begin with


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus(name: str, tmp_path: Path) -> None:
    seeds = sorted((CORPUS / name).iterdir())
    assert seeds
    run = TARGETS[name](tmp_path)
    run(b"")
    for seed in seeds:
        run(seed.read_bytes())


def test_a_bounded_run() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--bounded"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-6_000:]
    assert done.stderr.count("\tDONE") == len(TARGETS), done.stderr[-6_000:]
