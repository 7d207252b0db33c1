"""Text that fits, and that sends nothing to a terminal but letters."""

from __future__ import annotations

import pytest

from migrate.model.text import printable
from migrate.report.tables import Column, Paint, Style, display_width, render_table, shorten, wrap

PLAIN = Paint(False)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("acme/web:1.0", "acme/web:1.0"),
        ("Ünï 漢字", "Ünï 漢字"),
        ("a\x1b[31mred", "a\\x1b[31mred"),
        ("two\nlines\ttab", "two\\x0alines\\x09tab"),
        ("\x9b31m", "\\x9b31m"),
        ("\udcff", "\\xff"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\u2066x\u2069", "\\u2066x\\u2069"),
        ("\U000e0041", "\\U000e0041"),
        ("\x7f", "\\x7f"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_width_counts_cells() -> None:
    assert display_width("abc") == 3
    assert display_width("漢字") == 4
    assert display_width("e\u0301") == 1


@pytest.mark.parametrize("width", range(0, 12))
def test_shorten_never_goes_over(width: int) -> None:
    for text in ("abcdefghijkl", "漢字漢字漢字", "a"):
        short = shorten(text, width)
        assert display_width(short) <= width
        assert short == text or "…" in short or width == 0


def test_shorten_keeps_both_ends() -> None:
    assert shorten("registry.example.com/team/web:1.0", 15) == "registr…web:1.0"


def test_a_table_fits_and_aligns() -> None:
    columns = [Column("NAME", flexible=True), Column("SIZE", right=True)]
    rows = [("a" * 100, "1 B"), ("short", "1,000 kB")]
    text = render_table(columns, rows, width=40, paint=PLAIN, indent="  ")
    lines = text.splitlines()
    assert [display_width(line) for line in lines] == [40, 40, 40]
    assert lines[0].split() == ["NAME", "SIZE"]
    assert lines[2].endswith("1,000 kB")


def test_a_table_too_narrow_keeps_its_fixed_columns() -> None:
    columns = [Column("NAME", flexible=True), Column("ID")]
    text = render_table(columns, [("n" * 50, "i" * 30)], width=20, paint=PLAIN)
    assert "i" * 30 in text
    assert max(map(len, text.splitlines())) == 12 + 2 + 30


def test_no_trailing_spaces() -> None:
    text = render_table([Column("A"), Column("B")], [("x", ""), ("long cell", "y")], width=80, paint=PLAIN)
    assert all(line == line.rstrip() for line in text.splitlines())


def test_colour_only_when_asked() -> None:
    assert Paint(True)("x", Style.BOLD, Style.RED) == "\x1b[1;31mx\x1b[0m"
    assert PLAIN("x", Style.BOLD) == "x"


def test_wrapping_leaves_ids_whole() -> None:
    digest = "sha256:" + "0" * 64
    text = wrap(f"the layer {digest} is not in the source", 40, indent="    ")
    assert digest in text
    assert all(line.startswith("    ") for line in text.splitlines())
