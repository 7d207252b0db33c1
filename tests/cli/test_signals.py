"""One signal ends the program, wherever its main thread is."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROGRAM = """
import _thread, os, signal, threading
from migrate.cli import main
import migrate.cli.main as module

def run():
{body}

module.run = run
main()
"""
_BEFORE_A_WAIT = """
    def interrupt():
        # As a signal that came in the moment before the wait: it is noted, and ends no system call.
        for _ in range(1000):
            os.sched_yield()
        _thread.interrupt_main()

    threading.Thread(target=interrupt, daemon=True).start()
    threading.Event().wait()
"""
_IN_A_DESTRUCTOR = """
    class Closed:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)
            int()

    Closed()
    threading.Event().wait()
"""


@pytest.mark.parametrize("body", [_BEFORE_A_WAIT, _IN_A_DESTRUCTOR], ids=["before a wait", "in a destructor"])
def test_one_signal_ends_a_wait_without_end(body: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(body=body)], capture_output=True, check=False, timeout=15
    )
    assert done.returncode == 130 and b"run the same command again" in done.stderr
    assert b"Traceback" not in done.stderr and b"ignored" not in done.stderr
