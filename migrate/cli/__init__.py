"""The command line: the only place that prints, shows progress, reads the environment and exits."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

INTERRUPTED = "interrupted; what is complete stays valid, run the same command again to continue"
_GC_THRESHOLDS = (50_000, 20, 50)
"""For `gc.set_threshold`. Modules and the values of layers live until the end of a run. If they were searched for
garbage as often as Python does by default, it would take a tenth of the time of a run and of the program's start."""

_TICK_SECONDS = 0.25
_is_postponed = False
"""True after a signal that came during an import or in a destructor."""


def main() -> None:
    """Runs the command line. SIGTERM stops it as Ctrl-C does, with exit code 130."""
    import gc
    import signal

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    signal.signal(signal.SIGALRM, _tick)
    # Python runs a handler between two instructions of the main thread. If a signal arrives in the moment before that
    # thread begins to wait for another one, nothing ends the wait, which may be one for a registry that never answers.
    # The next tick ends it.
    signal.setitimer(signal.ITIMER_REAL, _TICK_SECONDS, _TICK_SECONDS)
    gc.set_threshold(*_GC_THRESHOLDS)
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
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            # The result is complete. A signal while the interpreter shuts down would only print a traceback.
            signal.signal(number, signal.SIG_IGN)
        # Before it ends, Python searches all objects for garbage, which takes a tenth of the time of a short command.
        # Frozen objects are not searched.
        gc.freeze()


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt, but not during an import: some libraries crash when their import is interrupted. Nor in
    a destructor, whose errors Python ignores."""
    import signal

    global _is_postponed
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib") or frame.f_code.co_name == "__del__":
            _is_postponed = True
            signal.setitimer(signal.ITIMER_REAL, 0.02, _TICK_SECONDS)
            return
        frame = frame.f_back
    _is_postponed = False
    raise KeyboardInterrupt


def _tick(number: int, frame: FrameType | None) -> None:
    if _is_postponed:
        _interrupt(number, frame)


def _end_interrupted() -> None:
    """Exits with 130 at once, without the interpreter's shutdown.

    A thread that is still inside a library would crash during the shutdown. Python would also end itself by SIGINT
    where one had arrived while it compiled something.
    """
    import contextlib
    import os
    import sys

    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # the stream's reader has ended, or the disk is full
            stream.flush()
    os._exit(130)
