"""Threads that share the work of a run: whole layers first, and the blocks of a layer that another thread reads.

A thread that takes a layer does everything for it: it reads, hashes, compresses and writes, so that small layers cost
no hand-over and many layers need none. Threads that find no layer of their own help with blocks: the tail of a run,
or a single huge layer, keeps every core busy. sha256, the compressors and the system calls let go of the interpreter's
lock, so threads are enough.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final, TypeVar

from migrate.blobio.stopping import stopped_by
from migrate.errors import InterruptedRunError

Item = TypeVar("Item")
_JOIN_SECONDS: Final = 2.0
"""All threads together; one that hangs in a read for longer is left to the end of the process."""
_HELPERS_PER_PROCESSOR: Final = 4


class Workers:
    """Up to `jobs` threads, or none for one job: then the caller's thread does everything.

    To be used as a context; leaving it ends the threads. What a step raises stops the others within a block and comes
    out of `each`.
    """

    def __init__(self, jobs: int) -> None:
        self.jobs = max(1, jobs)
        # Two conditions on one lock, so that a wake-up meant for a worker never goes to the thread in `each`.
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        self._finished = threading.Condition(lock)
        self._steps: deque[Callable[[], None]] = deque()
        self._blocks: deque[Callable[[], None]] = deque()
        self.spare_buffers: list[memoryview] = []
        """Block buffers between two layers; as many as were in use at once."""
        self._running = 0
        self._threads: list[threading.Thread] = []
        self._error: BaseException | None = None
        self._stopped = False

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop(None)
        deadline = time.monotonic() + _JOIN_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def each(self, batches: Iterable[Sequence[Item]], step: Callable[[Item], None]) -> None:
        """`step` for every item; the items of one batch run in order on one thread. Returns when all are done."""
        if self.jobs == 1:
            for batch in batches:
                _run_batch(batch, step)
            return
        steps = [partial(_run_batch, batch, step) for batch in batches]
        self._start(len(steps))
        if not self._threads:
            for one in steps:
                one()
            return
        with self._changed:
            self._steps.extend(steps)
            self._changed.notify_all()
            try:
                while (self._steps or self._running) and not self._stopped:
                    self._finished.wait()
            except BaseException as exc:  # Ctrl-C reaches the main thread here
                self._stop(exc)
                raise
        if self._error is not None:
            raise self._error

    def start_helpers(self) -> None:
        """Starts threads for the blocks of layers that the caller reads itself, outside of `each`: one for each job but
        the caller's, which compresses too while it waits."""
        if self.jobs > 1:
            self._start(self.jobs - 1)

    def check_stop(self) -> None:
        """Called between blocks. Raises InterruptedRunError once another thread has failed or the run is cancelled."""
        if self._stopped:
            raise InterruptedRunError("the run was stopped")

    # --- blocks --------------------------------------------------------------------------------------------------

    def wants_blocks(self) -> bool:
        """True while there are threads without a layer that could soon use another block."""
        helpers = len(self._threads) - self._running
        return helpers > 0 and len(self._blocks) <= helpers

    def offer(self, task: Callable[[], None]) -> None:
        with self._changed:
            self._blocks.append(task)
            self._changed.notify()

    def take_back(self, task: Callable[[], None]) -> bool:
        """True if no thread has begun with `task`; then it is the caller's."""
        with self._changed:
            try:
                self._blocks.remove(task)
            except ValueError:
                return False
        return True

    # --- threads -------------------------------------------------------------------------------------------------

    def _start(self, steps: int) -> None:
        """As many threads as have something to do; fewer where the system allows no more."""
        while len(self._threads) < min(self.jobs, max(steps, most_helpers())):
            thread = threading.Thread(target=self._work, name=f"rehash-{len(self._threads)}", daemon=True)
            try:
                thread.start()  # an interruption may come here: a thread that did not start must not be waited for
            except RuntimeError:
                return
            self._threads.append(thread)

    def _work(self) -> None:
        with stopped_by(self.check_stop):
            while True:
                with self._changed:
                    while not (self._blocks or self._steps or self._stopped):
                        self._changed.wait()
                    if self._stopped:
                        return
                    block = self._blocks.popleft() if self._blocks else None
                    step = self._steps.popleft() if block is None else None
                    self._running += step is not None
                if block is not None:
                    block()
                elif step is not None:
                    with self._counted():
                        step()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        error: BaseException | None = None
        try:
            yield
        except BaseException as exc:  # noqa: BLE001 - handed to the thread that waits in `each`
            error = exc
        with self._changed:
            self._running -= 1
            if error is not None:
                self._stop(error)
            elif not self._running and not self._steps:
                self._finished.notify()

    def _stop(self, error: BaseException | None) -> None:
        with self._changed:
            if self._error is None and not self._stopped:
                self._error = error
            self._stopped = True
            self._steps.clear()
            self._changed.notify_all()
            self._finished.notify_all()


def most_helpers() -> int:
    """Threads that may wait for parts of one layer: what they do takes a processor, and more than a few for each only
    hold memory."""
    return _HELPERS_PER_PROCESSOR * (os.cpu_count() or 1)


def _run_batch(batch: Sequence[Item], step: Callable[[Item], None]) -> None:
    for item in batch:
        step(item)


_BATCH_BYTES: Final = 1024 * 1024
_TINY_BYTES: Final = 16 * 1024
"""What is not larger spends its time under Python's lock; two threads would only wait for each other."""


def batches(items: Iterable[Item], size_of: Callable[[Item], int | None]) -> Iterator[Sequence[Item]]:
    """Groups neighbours that are small, so that a thread takes many of them at once, and all that are tiny.

    The tiny ones come last. An unknown size counts as large.
    """
    tiny: list[Item] = []
    batch: list[Item] = []
    total = 0
    for item in items:
        known = size_of(item)
        if known is not None and known <= _TINY_BYTES:
            tiny.append(item)
            continue
        size = _BATCH_BYTES if known is None else known
        if batch and total + size > _BATCH_BYTES:
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size
    if batch:
        yield batch
    if tiny:
        yield tiny
