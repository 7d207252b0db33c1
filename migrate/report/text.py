"""The report for a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from migrate.model.digest import Digest
from migrate.model.legacy import Failure
from migrate.report.document import Report
from migrate.report.savings import LayerUse
from migrate.report.tables import Column, Paint, Style, printable, render_table, wrap
from migrate.report.units import count, format_seconds, format_share, format_size
from migrate.report.waste_text import render_deep

_LIST_LIMIT = 20
_LOST_SHOWN = 3
_ALIKE_SHOWN = 3
"""Up to so many warnings of one kind are listed; of more, the first and a count."""
_PARTICULARS = re.compile(r"""'[^']*'|"[^"]*"|\S*[/:@]\S*|\b[0-9a-f]{12,}\b|\d[\d,.]*""")


def render_text(
    report: Report,
    *,
    width: int = 80,
    exact_bytes: bool = False,
    colour: bool = False,
    savings: int = 10,
    list_failures: bool = True,
    next_steps: Sequence[str] = (),
) -> str:
    """The summary: figures, the `savings` largest savings, conflicts, failures with their reasons, warnings by kind,
    and the commands that come next.

    Lines stay within `width` cells, but for digests and names that have to be copied whole. Ends with a newline.
    """
    page = _Page(report, width, exact_bytes, Paint(colour))
    parts = [
        page.headline(),
        page.figures(),
        page.savings(savings),
        page.deep(),
        page.conflicts(),
        page.failures() if list_failures else "",
        page.warnings(),
        page.next_steps(next_steps),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


class _Page:
    def __init__(self, report: Report, width: int, exact_bytes: bool, paint: Paint) -> None:
        self.report = report
        self.width = width
        self.exact_bytes = exact_bytes
        self.paint = paint

    def size(self, size: int) -> str:
        return format_size(size, exact=self.exact_bytes)

    def headline(self) -> str:
        report = self.report
        kind = "dry run, nothing was written" if report.dry_run else None
        parts = [f"{report.tool_name} {report.tool_version}", kind, count(len(report.sources), "source")]
        duration = _duration(report)
        if duration is not None:
            parts.append(format_seconds(duration))
        return self.paint(wrap(" · ".join(part for part in parts if part), self.width), Style.BOLD)

    def figures(self) -> str:
        totals = self.report.totals
        written = "would be written" if self.report.dry_run else "written"
        damaged = self.damaged()
        failed = f", {self.paint(f'{totals.images_failed:,} failed', Style.RED)}" if totals.images_failed else ""
        layers = f"{totals.legacy_layers:,} → {totals.unique_layers:,} distinct"
        merged = f"{count(totals.duplicate_layers, 'duplicate')}, {totals.empty_layers:,} empty"
        saved = f"{self.size(totals.saved_bytes)} ({format_share(totals.saved_bytes, totals.legacy_bytes)}) saved"
        about = "about " if totals.blob_bytes_estimated else ""
        stored = "to be stored (--exact-sizes tells exactly)" if about else "as stored, compressed"
        blobs = "not computed" if totals.blob_bytes is None else f"{about}{self.size(totals.blob_bytes)} {stored}"
        rows = [
            ("images", f"{totals.images:,} {written}{damaged}{failed}"),
            *([("", doubts)] if (doubts := self.doubts()) else []),
            ("layers", f"{layers} ({merged})"),
            ("bytes", f"{self.size(totals.legacy_bytes)} → {self.size(totals.unique_bytes)}"),
            ("", self.paint(saved, Style.GREEN) if totals.saved_bytes else saved),
            ("blobs", blobs),
        ]
        return "\n".join(f"  {self.paint(f'{name:<8}', Style.DIM)}{text}" for name, text in rows)

    def doubts(self) -> str:
        """How many of the images are not certain to the byte, and how many have no name in the target."""
        inexact = sum(not image.exact for image in self.report.images)
        unnamed = sum(not image.names for image in self.report.images)
        parts = [f"{inexact:,} not exact" if inexact else "", f"{unnamed:,} without a name" if unnamed else ""]
        return self.paint(", ".join(filter(None, parts)), Style.YELLOW) if any(parts) else ""

    def damaged(self) -> str:
        layers = self.report.totals.damaged_layers
        images = sum(any(layer.damaged for layer in image.layers) for image in self.report.images)
        if not layers:
            return ""
        of_layers = f"{count(layers, 'layer')} damaged"
        return f", {self.paint(f'{images:,} damaged ({of_layers})' if images else of_layers, Style.RED)}"

    def savings(self, limit: int) -> str:
        rows = self.report.duplicates[:limit]
        if not rows:
            return ""
        use = LayerUse(self.report)
        columns = [
            Column("SAVED", right=True),
            Column("COPIES", right=True),
            Column("SIZE", right=True),
            Column("DIFF ID"),
            Column("USED BY", flexible=True),
        ]
        cells = [
            (
                self.size(row.saved_bytes),
                f"{row.copies:,}",
                self.size(row.tar_size),
                row.diff_id.hex[:12],
                _users([self.report.images[index].title for index in use.images.get(row.diff_id, ())]),
            )
            for row in rows
        ]
        more = len(self.report.duplicates) - len(rows)
        return "\n".join(
            [
                self.heading("Largest savings"),
                render_table(columns, cells, width=self.width, paint=self.paint, indent="  "),
                *self.more(more, "layer"),
            ]
        )

    def deep(self) -> str:
        if self.report.deep is None:
            return ""
        return render_deep(self.report.deep, width=self.width, size=self.size, paint=self.paint)

    def conflicts(self) -> str:
        rows = self.report.conflicts
        lines = [
            f"  {printable(row.reference)} ({printable(str(row.platform))})\n    kept {row.kept}\n"
            + "\n".join(_lost(row.others))
            for row in rows[:_LIST_LIMIT]
        ]
        return self.section(f"Conflicts ({len(rows):,})", lines, len(rows), "conflict", Style.YELLOW)

    def failures(self) -> str:
        rows = self.report.failures
        lines = [line for row in rows[:_LIST_LIMIT] for line in self.failure(row)]
        return self.section(f"Failures ({len(rows):,})", lines, len(rows), "failure", Style.RED)

    def failure(self, row: Failure) -> Iterator[str]:
        name = ", ".join(row.references) or row.legacy_id
        where = f"{name}  ({row.source})" if name else row.source
        yield f"  {printable(where)}"
        yield wrap(f"{row.error}: {row.message}", self.width, indent="      ")
        if row.layer is not None and row.layer not in row.message:
            yield f"      layer {printable(row.layer)}"

    def warnings(self) -> str:
        kinds: dict[str, list[str]] = {}
        for name, message in self.report.all_warnings():
            kinds.setdefault(_kind(name, message), []).append(": ".join(filter(None, (name, message))))
        lines = []
        for rows in list(kinds.values())[:_LIST_LIMIT]:
            shown = rows if len(rows) <= _ALIKE_SHOWN else rows[:1]
            lines += [wrap(row, self.width, indent="  ") for row in shown]
            if len(shown) < len(rows):
                lines.append(self.paint(f"    … and {len(rows) - 1:,} more of this kind", Style.DIM))
        number = sum(map(len, kinds.values()))
        return self.section(f"Warnings ({number:,})", lines, len(kinds), "kind of warning", Style.YELLOW)

    def next_steps(self, commands: Sequence[str]) -> str:
        if not commands or not self.report.totals.images or self.report.dry_run:
            return ""
        return "\n".join([self.heading("Next"), *(f"  {printable(command)}" for command in commands)])

    def section(self, title: str, lines: Sequence[str], total: int, unit: str, style: Style) -> str:
        if not lines:
            return ""
        return "\n".join([self.heading(title, style), *lines, *self.more(total - _LIST_LIMIT, unit)])

    def heading(self, title: str, *styles: Style) -> str:
        return self.paint(title, Style.BOLD, *styles)

    def more(self, number: int, unit: str) -> Iterator[str]:
        if number > 0:
            yield self.paint(f"  … and {count(number, 'more ' + unit)} in the JSON report", Style.DIM)


def _kind(name: str, message: str) -> str:
    """What is left of a warning without the names, IDs and numbers in it: equal for warnings of one kind."""
    return _PARTICULARS.sub("…", message.replace(name, "…") if name else message)


def _lost(digests: Sequence[Digest]) -> Iterator[str]:
    yield from (f"    lost {digest}" for digest in digests[:_LOST_SHOWN])
    if len(digests) > _LOST_SHOWN:
        yield f"    … and {len(digests) - _LOST_SHOWN:,} more"


def _users(titles: Iterable[str]) -> str:
    titles = list(dict.fromkeys(titles))
    return ", ".join(titles[:2]) + (f" + {len(titles) - 2:,} more" if len(titles) > 2 else "")


def _duration(report: Report) -> float | None:
    try:
        started, finished = (datetime.fromisoformat(text) for text in (report.started, report.finished))
        return (finished - started).total_seconds()
    except (ValueError, TypeError):  # no times, or one of them without a zone
        return None
