"""Many small images are shared over processes: Python runs one thread at a time, and most of their time is Python's.

Processes of this program are forked, and so have the open archive and all that was read of it. Each takes one portion
of the images after the other (`convert.portions`), writes the layers and documents into the target, as another run
could do at the same time, and returns the images, packed.

The result is the same as that of one process. So images are shared only if their layers cannot influence each other:
small plain tars in an archive, each of which gives the same blob wherever it is compressed. A portion that a process
does not finish, for whatever reason, is converted by the main process, which then meets the error itself.
"""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Final

import msgspec

from migrate.blobio.processes import end_at_once, leave_signals_to_main_process
from migrate.convert.portions import Portion, Share
from migrate.writers.base import ImageTarget

_NUMBER: Final = struct.Struct("<I")
_END: Final = b""
_HELD: Final = {signal.SIGINT, signal.SIGTERM}
_PATIENCE: Final = 5.0
"""Seconds. A process that has sent its end has only to exit."""


Convert = Callable[[ImageTarget, Portion], Share]
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Share).decode


def share(
    portions: Sequence[Portion],
    target: ImageTarget,
    convert: Convert,
    processes: int,
    arrived: Callable[[int, Share], Share],
) -> dict[int, Share]:
    """What processes made of the portions, by their numbers. Portions that no process has finished are missing.

    `arrived` is called for each number and share, also for those of a process that does not finish later, and gives
    what is kept of it.
    """
    context = get_context("fork")
    numbers, last = os.pipe()
    os.write(last, b"".join(_NUMBER.pack(number) for number in range(len(portions))))
    os.close(last)
    children: list[BaseProcess] = []
    working: dict[Connection, dict[int, Share]] = {}
    done: dict[int, Share] = {}
    try:
        for _ in range(min(processes, len(portions))):
            mine, its = context.Pipe(duplex=False)
            working[mine] = {}
            child: BaseProcess = context.Process(
                target=_work, args=(portions, target, convert, numbers, its, list(working)), daemon=True
            )
            with _signals_held():
                child.start()
                children.append(child)
            its.close()
        while working:
            for one in wait(list(working)):
                assert isinstance(one, Connection)
                try:
                    message = one.recv_bytes()
                except (EOFError, OSError):  # its blobs are perhaps not durable, so nothing of it counts
                    del working[one]
                    continue
                if message == _END:
                    done |= working.pop(one)
                    continue
                place: int = _NUMBER.unpack_from(message)[0]
                working[one][place] = arrived(place, _decode(message[_NUMBER.size :]))
    finally:
        os.close(numbers)
        if not working:
            for child in children:
                child.join(_PATIENCE)
        end_at_once(children)
    return done


def _work(
    portions: Sequence[Portion],
    target: ImageTarget,
    convert: Convert,
    numbers: int,
    results: Connection,
    not_mine: Sequence[Connection],
) -> None:
    leave_signals_to_main_process()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
    for connection in not_mine:  # otherwise nobody would notice that the main process was killed
        connection.close()
    try:
        with closing(target.reopened()) as own:
            while number := os.read(numbers, _NUMBER.size):
                made = convert(own, portions[_NUMBER.unpack(number)[0]])
                results.send_bytes(number + _encode(made))
            own.flush()
        results.send_bytes(_END)
    except Exception:  # noqa: BLE001 - the main process converts what is not finished, and meets the error itself
        os._exit(1)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Holds the signals that a new process would treat as the main process does, until it has its own handlers."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
