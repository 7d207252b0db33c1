"""Plain text that fits a terminal: safe characters, columns cut to the width, a little colour."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from enum import StrEnum

from msgspec import Struct

from migrate.model.text import printable

_GAP = "  "
_FLEXIBLE_MINIMUM = 12


class Style(StrEnum):
    """SGR codes (ECMA-48)."""

    BOLD = "1"
    DIM = "2"
    RED = "31"
    GREEN = "32"
    YELLOW = "33"


class Column(Struct, frozen=True):
    """`right` aligns numbers; `flexible` columns are cut in the middle if the table is too wide, the widest first."""

    title: str
    right: bool = False
    flexible: bool = False


class Paint(Struct, frozen=True):
    """Colours text, or leaves it alone where `enabled` is False."""

    enabled: bool = False

    def __call__(self, text: str, *styles: Style) -> str:
        if not self.enabled or not text:
            return text
        return f"\x1b[{';'.join(styles)}m{text}\x1b[0m"


def spreadsheet_cell(text: str) -> str:
    """`text` for CSV: printable, and never a formula: names come from archives that anyone could have made."""
    shown = printable(text)
    return f"'{shown}" if shown.startswith(_FORMULA) else shown


_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that spreadsheets run as a formula (OWASP, CSV injection)."""


def display_width(text: str) -> int:
    """Terminal cells of printable text."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def shorten(text: str, width: int) -> str:
    """At most `width` cells, cut in the middle: both ends of a name matter."""
    if display_width(text) <= width:
        return text
    if width < 2:
        return "…"[:width]
    tail = (width - 1) // 2
    head = width - 1 - tail
    return _head(text, head) + "…" + _head(text[::-1], tail)[::-1]


def _head(text: str, width: int) -> str:
    taken = 0
    for index, character in enumerate(text):
        taken += display_width(character)
        if taken > width:
            return text[:index]
    return text


def short_digest(digest: object) -> str:
    """`sha256:0123456789ab`: enough to tell blobs apart by eye, and a prefix that `--image` and `map` take."""
    algorithm, colon, value = str(digest).partition(":")
    return f"{algorithm}{colon}{value[:12]}"


def render_table(
    columns: Sequence[Column], rows: Iterable[Sequence[str]], *, width: int, paint: Paint, indent: str = ""
) -> str:
    """Lines of at most `width` cells as long as the fixed columns fit; headings bold; no trailing spaces."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [
        max([display_width(column.title), *(display_width(row[index]) for row in cells)])
        for index, column in enumerate(columns)
    ]
    # the widest flexible columns are cut until all fit
    available = width - len(indent) - len(_GAP) * (len(columns) - 1)
    flexible = [index for index, column in enumerate(columns) if column.flexible]
    while flexible and sum(widths) > available:
        widest = max(flexible, key=lambda index: widths[index])
        if widths[widest] <= _FLEXIBLE_MINIMUM:
            break
        widths[widest] -= 1
    heading = _line(columns, [column.title for column in columns], widths)
    lines = [indent + paint(heading, Style.BOLD)]
    lines += [indent + _line(columns, row, widths) for row in cells]
    return "\n".join(lines)


def _line(columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int]) -> str:
    parts = []
    for column, cell, width in zip(columns, cells, widths, strict=True):
        text = shorten(cell, width)
        padding = " " * (width - display_width(text))
        parts.append(padding + text if column.right else text + padding)
    return _GAP.join(parts).rstrip()


def wrap(text: str, width: int, indent: str = "") -> str:
    """Prose within `width`; words longer than a line (digests, paths) stay whole, so that they can be copied."""
    import textwrap

    return textwrap.fill(
        printable(text),
        width=max(width, 20),
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
