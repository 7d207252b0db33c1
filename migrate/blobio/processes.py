"""Processes of this program that work for its main process."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

_PATIENCE: Final = 1.0
"""Seconds from SIGTERM to SIGKILL."""


def leave_signals_to_main_process() -> None:
    """To be called in a new process. A terminal sends Ctrl-C to all processes; only the main process reacts to it, and
    ends the others by SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def end_at_once(processes: Sequence[BaseProcess]) -> None:
    """Ends processes, also busy ones. The target is valid after a kill at any moment, so there is no need to wait for a
    large layer."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_PATIENCE)
        if process.is_alive():
            process.kill()
