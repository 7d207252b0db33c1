"""Text for a terminal: printable characters, tables that fit the width, colours."""

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
    """A column. `right`: aligned right, for numbers. `flexible`: shortened if the table is too wide, the widest
    first."""

    title: str
    right: bool = False
    flexible: bool = False


class Paint(Struct, frozen=True):
    """Adds colours to text if `enabled` is True."""

    enabled: bool = False

    def __call__(self, text: str, *styles: Style) -> str:
        if not self.enabled or not text:
            return text
        return f"\x1b[{';'.join(styles)}m{text}\x1b[0m"


def spreadsheet_cell(text: str) -> str:
    """`text` for CSV: printable, and never a formula, because names come from untrusted archives."""
    shown = printable(text)
    return f"'{shown}" if shown.startswith(_FORMULA) else shown


_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters of cells that spreadsheets run as a formula (OWASP, CSV injection)."""


def display_width(text: str) -> int:
    """Terminal cells of printable text."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def shorten(text: str, width: int) -> str:
    """At most `width` cells, shortened in the middle, because both ends of a name help to recognise it."""
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
    """`sha256:0123456789ab`: long enough to distinguish blobs, and a prefix that `map` accepts."""
    algorithm, colon, value = str(digest).partition(":")
    return f"{algorithm}{colon}{value[:12]}"


def render_table(
    columns: Sequence[Column], rows: Iterable[Sequence[str]], *, width: int, paint: Paint, indent: str = ""
) -> str:
    """A table with bold headings. Lines have at most `width` cells if the fixed columns fit, and no trailing spaces."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [
        max([display_width(column.title), *(display_width(row[index]) for row in cells)])
        for index, column in enumerate(columns)
    ]
    # shorten the widest flexible column, one cell at a time, until the table fits
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
    """Text wrapped to `width`. Words longer than a line (digests, paths) are not split, so that they can be copied."""
    import textwrap

    return textwrap.fill(
        printable(text),
        width=max(width, 20),
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
