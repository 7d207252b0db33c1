"""Threads that share the work of a run: whole layers, and blocks of layers that other threads read.

A thread that takes a layer does everything for it: it reads, hashes, compresses and writes, without handing blocks to
other threads. Threads without a layer help with blocks. So all cores are in use at the end of a run, and for a single
huge layer. sha256, the compressors and the system calls release the interpreter's lock, so that threads are enough.
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
"""Time to wait for all threads together. A thread that is in a read for longer ends with the process."""
_HELPERS_PER_PROCESSOR: Final = 4


class Workers:
    """Up to `jobs` threads. For one job there are none, and the caller's thread does everything.

    A context manager that ends the threads. An error of a step stops the other steps within a block, and is raised by
    `each`.
    """

    def __init__(self, jobs: int) -> None:
        self.jobs = max(1, jobs)
        # Two conditions on one lock: `notify` wakes one waiting thread, and this must not be the thread in `each` if
        # the notification is for a worker.
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        self._finished = threading.Condition(lock)
        self._steps: deque[Callable[[], None]] = deque()
        self._blocks: deque[Callable[[], None]] = deque()
        self.spare_buffers: list[memoryview] = []
        """Buffers for blocks that no layer uses at the moment; as many as were in use at once."""
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
        """Calls `step` for every item, and returns when all are done. The items of a batch run in order in one
        thread."""
        if self.jobs == 1:
            for batch in batches:
                _run_batch(batch, step)
            return
        steps = [partial(_run_batch, batch, step) for batch in batches]
        self._start(min(self.jobs, max(len(steps), most_helpers())))
        # The system may allow no thread at all; then the caller's thread does the work.
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
            except BaseException as exc:  # Ctrl-C interrupts the main thread here
                self._stop(exc)
                raise
        if self._error is not None:
            raise self._error

    def start_helpers(self) -> None:
        """Starts threads for the blocks of layers that the caller reads itself, outside of `each`. One thread fewer
        than jobs, since the caller also compresses while it waits."""
        self._start(min(self.jobs - 1, most_helpers()))

    def check_stop(self) -> None:
        """Called between blocks. Raises InterruptedRunError once another thread has failed or the run is cancelled."""
        if self._stopped:
            raise InterruptedRunError("the run was stopped")

    # --- blocks --------------------------------------------------------------------------------------------------

    def has_idle_threads(self) -> bool:
        """True if there are threads without a layer, and they have few blocks to work on."""
        helpers = len(self._threads) - self._running
        return helpers > 0 and len(self._blocks) <= helpers

    def offer(self, task: Callable[[], None]) -> None:
        with self._changed:
            self._blocks.append(task)
            self._changed.notify()

    def take_back(self, task: Callable[[], None]) -> bool:
        """Takes back an offered task. False if a thread has begun with it."""
        with self._changed:
            # Looked up first: the error of `remove` has the repr of the task, and so megabytes of a block as text.
            if task not in self._blocks:
                return False
            self._blocks.remove(task)
        return True

    # --- threads -------------------------------------------------------------------------------------------------

    def _start(self, count: int) -> None:
        """Starts `count` threads in all, or fewer if the system allows no more."""
        while len(self._threads) < count:
            thread = threading.Thread(target=self._work, name=f"rehash-{len(self._threads)}", daemon=True)
            try:
                # Added to the list after the start: a thread that was not started, because of an interruption, must not
                # be joined.
                thread.start()
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
                    # A block belongs to a layer that is being read, so it comes before the start of another layer.
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
        except BaseException as exc:  # noqa: BLE001 - raised by the thread that waits in `each`
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
    """The limit of threads for blocks. Compressing uses a processor, and more than a few threads for each processor
    only use memory."""
    return _HELPERS_PER_PROCESSOR * (os.cpu_count() or 1)


def _run_batch(batch: Sequence[Item], step: Callable[[Item], None]) -> None:
    for item in batch:
        step(item)


_BATCH_BYTES: Final = 1024 * 1024
_TINY_BYTES: Final = 16 * 1024
"""Smaller items spend most of their time under Python's lock, so that two threads would only wait for each other."""


def batches(items: Iterable[Item], size_of: Callable[[Item], int | None]) -> Iterator[Sequence[Item]]:
    """Groups small neighbours, so that a thread takes many of them at once, and all tiny items.

    The tiny items come last. An unknown size counts as large.
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
