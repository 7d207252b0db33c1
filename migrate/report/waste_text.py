"""The analysis of `plan --deep` as text, and the titles of its lists for all renderings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from migrate.report.tables import Column, Paint, Style, render_table
from migrate.report.units import count

TITLES: Final = {
    "equal_layers": "Layers with equal entries in other bytes",
    "near_layers": "Layers that differ in a few files",
    "repeated_files": "Files that are in several layers",
    "wasted_files": "Files that a later layer deletes or replaces",
}

Row = Mapping[str, Any]


def render_deep(
    deep: Mapping[str, object], *, width: int, size: Callable[[int], str], paint: Paint, rows: int = 5
) -> str:
    """The largest `rows` of each list, below its title and total size."""
    parts = [
        "\n".join(_list(deep, name, title, width, size, paint, rows))
        for name, title in TITLES.items()
        if deep.get(name)
    ]
    if not parts:
        parts = ["  Nothing found."]
    heading = paint("What more could be saved", Style.BOLD) + " (for information: layers keep their bytes)"
    if deep.get("complete") is False:
        parts.append("  There were more tar entries than the analysis can keep: it covers only the first layers.")
    return "\n".join([heading, *parts])


def _list(
    deep: Mapping[str, object],
    name: str,
    title: str,
    width: int,
    size: Callable[[int], str],
    paint: Paint,
    limit: int,
) -> Iterator[str]:
    rows = list_of(deep, name)
    total = deep.get(f"{name}_bytes")
    yield f"  {title}" + (f": {size(total)}" if isinstance(total, int) else "")
    columns = [Column("BYTES", right=True), Column("WHAT", flexible=True), Column("WHERE", flexible=True)]
    cells = [(size(int(row.get("bytes", 0))), *describe(name, row)) for row in rows[:limit]]
    yield render_table(columns, cells, width=width, paint=paint, indent="    ")
    if len(rows) > limit:
        yield paint(f"    … and {count(len(rows) - limit, 'more row')} in the JSON report", Style.DIM)


def list_of(deep: Mapping[str, object], name: str) -> Sequence[Row]:
    """A list of the analysis. Values of other types, in a report from elsewhere, are ignored."""
    rows = deep.get(name)
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, Sequence) else []


def describe(name: str, row: Row) -> tuple[str, str]:
    """The cells of a row: its subject, and where it was found."""
    digests = row.get("diff_ids")
    # a table has room for three digests; the JSON report has all of them
    layers = ""
    if isinstance(digests, Sequence):
        layers = " ".join(str(digest).removeprefix("sha256:")[:12] for digest in digests[:3])
        layers += f" and {len(digests) - 3:,} more" if len(digests) > 3 else ""
    if name == "equal_layers":
        return f"differ in {row.get('differ_in')}", layers
    if name == "near_layers":
        files = row.get("files")
        names = ", ".join(map(str, files)) if isinstance(files, Sequence) else ""
        return f"{count(_number(row, 'differing_files'), 'file')}: {names}", layers
    path = str(row.get("path"))
    if name == "repeated_files":
        return path, f"{count(_number(row, 'layers'), 'layer')}, {count(_number(row, 'copies'), 'copy', 'copies')}"
    return path, f"from {count(_number(row, 'layers'), 'layer')}"


def _number(row: Row, name: str) -> int:
    value = row.get(name)
    return value if isinstance(value, int) else 0
