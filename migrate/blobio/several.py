"""Calls a function for many items in several threads, for requests that mostly wait for a server."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def in_threads(step: Callable[[Item], Answer], items: Iterable[Item], most: int, name: str) -> list[Answer]:
    """The results of `step` for all items, in their order, by `most` threads whose names begin with `name`. After the
    first error no further item is begun.

    An interruption waits for no call: a server may never answer.
    """
    from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait  # slow to import, and few runs need it

    pool = ThreadPoolExecutor(most, thread_name_prefix=name)
    interrupted = False
    try:
        futures = [pool.submit(step, item) for item in items]
        wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            if future.done() and not future.cancelled() and future.exception() is not None:
                future.result()
        return [future.result() for future in futures]
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        pool.shutdown(wait=not interrupted, cancel_futures=True)
