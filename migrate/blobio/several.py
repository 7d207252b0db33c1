"""Calls a function for many items in several threads, for requests that mostly wait for a server."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def in_threads(step: Callable[[Item], Answer], items: Iterable[Item], most: int, name: str) -> list[Answer]:
    """The results of `step` for all items, in their order, by `most` threads whose names begin with `name`.

    An interruption waits for no call: a server may never answer.
    """
    from concurrent.futures import ThreadPoolExecutor  # slow to import, and few sources need it

    pool = ThreadPoolExecutor(most, thread_name_prefix=name)
    interrupted = False
    try:
        return list(pool.map(step, items))
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        pool.shutdown(wait=not interrupted, cancel_futures=True)
