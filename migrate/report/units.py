"""Numbers in human units. Sizes are decimal (1 kB = 1,000 bytes), as in Docker."""

from __future__ import annotations

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def format_size(size: int, *, exact: bool = False) -> str:
    """`4.31 MB`, or with `exact` all digits: `4,310,000 B`."""
    if exact or size < 1000:
        return f"{size:,} B"
    value = float(size)
    for unit in _UNITS[1:]:
        value /= 1000
        if value < 999.5 or unit == _UNITS[-1]:
            break
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {unit}"


def format_share(part: int, whole: int) -> str:
    """`48 %`. A part is never rounded down to 0 % nor up to 100 %."""
    if whole <= 0 or part <= 0:
        return "0 %"
    share = 100 * part / whole
    if part < whole and share > 99.5:
        return f"{min(share, 99.9):.1f} %"
    return f"{max(share, 0.1):.1f} %" if share < 10 else f"{share:.0f} %"


def format_seconds(seconds: float) -> str:
    """`4 s`, `3 min 07 s`, `2 h 05 min`, `3 d 04 h`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600:02} h"


def count(number: int, singular: str, plural: str | None = None) -> str:
    """`1 image`, `2,000 images`."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"
