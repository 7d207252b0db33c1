"""Times as Go's time.Time reads them from JSON and writes them back (RFC3339Nano)."""

from __future__ import annotations

import re
from typing import Final

ZERO_TIME: Final = "0001-01-01T00:00:00Z"
"""The text that Go writes for a time that was never set."""

_RFC3339 = (
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{1,2}):([0-9]{2}):([0-9]{2})(?:[.,]([0-9]+))?"
    r"(?:Z|([+-])([0-9]{2}):([0-9]{2}))"
)
_CANONICAL = re.compile(
    r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])"
    r"T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{0,8}[1-9])?Z"
)


def normalise_time(text: str) -> str | None:
    """`text` as Go writes it after reading it as a time; None if Go refuses it.

    The fraction loses trailing zeros and digits beyond nanoseconds. The offset is kept, but zero becomes `Z`. An hour
    of one digit and a comma before the fraction are accepted, as in the Go versions of Docker 1.10 to 20.10.
    """
    if _CANONICAL.fullmatch(text):
        return text
    match = re.fullmatch(_RFC3339, text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(match[index]) for index in range(1, 7))
    if not (1 <= month <= 12 and hour < 24 and minute < 60 and second < 60):
        return None
    from calendar import monthrange  # most times are in canonical form

    if not 1 <= day <= monthrange(year or 4, month)[1]:  # the calendar module has no year 0, which is a leap year
        return None
    fraction = (match[7] or "")[:9].rstrip("0")
    stamp = f"{match[1]}-{match[2]}-{match[3]}T{hour:02}:{match[5]}:{match[6]}"
    offset = int(match[9] or 0) * 60 + int(match[10] or 0)
    zone = f"{match[8]}{offset // 60:02}:{offset % 60:02}" if offset else "Z"
    return f"{stamp}{'.' if fraction else ''}{fraction}{zone}"
