"""The command line: the only place that prints, shows progress, reads the environment and exits."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

INTERRUPTED = "interrupted; what is complete stays valid, run the same command again to continue"


def main() -> None:
    """Runs the command line. SIGTERM stops it as Ctrl-C does, with exit code 130."""
    import signal

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, _interrupt)
    try:
        from migrate.cli.main import run  # heavy imports wait until they are used

        run()
    except KeyboardInterrupt:  # before the command line was ready, or while it was ending
        from migrate.cli.messages import print_end

        print_end(INTERRUPTED, 130)
        _end_interrupted()
    except SystemExit as stop:
        if stop.code != 130:
            raise
        _end_interrupted()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)  # the result is there; what is left is the interpreter's own end


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt, but not into an import: some libraries crash when that is interrupted."""
    import signal

    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _end_interrupted() -> None:
    """Exit code 130, at once: a thread that is still inside a library when the interpreter goes away would crash, and
    Python ends by SIGINT once one came while it compiled something.
    """
    import contextlib
    import os
    import sys

    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # its reader has ended, or the disk is full
            stream.flush()
    os._exit(130)
