"""Repeating of requests, and the pauses before. The same for the registry and its token server."""

from __future__ import annotations

import email.utils
import ssl
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import httpx

ATTEMPTS: Final = 7
PAUSES: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before the second, third, … attempt."""
SLOW_ANSWERS: Final = 2
"""After so many timeouts a request fails, since each takes half a minute or more."""
RETRIED: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_PAUSE: Final = 120.0

Sleep = Callable[[float], object]


def pause(sleep: Sleep, answer: httpx.Response | None, attempt: int) -> None:
    """Waits before another attempt. `attempt` counts from 0. A `Retry-After` of `answer` replaces the usual pause."""
    wanted = _retry_after(answer.headers.get("Retry-After")) if answer is not None else None
    usual = PAUSES[min(attempt, len(PAUSES) - 1)]
    sleep(usual if wanted is None else min(wanted, _LONGEST_PAUSE))


def is_hopeless(exc: Exception) -> bool:
    """True if the same request would fail again: an invalid address, or an untrusted certificate."""
    import httpx

    return isinstance(exc, (httpx.InvalidURL, httpx.UnsupportedProtocol)) or is_untrusted(exc)


def is_untrusted(exc: BaseException | None) -> bool:
    while exc is not None:
        if isinstance(exc, ssl.SSLCertVerificationError):
            return True
        exc = exc.__cause__ or exc.__context__
    return False


def _retry_after(text: str | None) -> float | None:
    """The seconds of a `Retry-After` header, in either form of RFC 9110; None if there are none."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
