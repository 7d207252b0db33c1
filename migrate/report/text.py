"""The report as text for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime

from msgspec import Struct

from migrate.model.legacy import Failure
from migrate.model.text import printable
from migrate.report.document import Conflict, Report
from migrate.report.glance import Claimant, Glance, MessageKinds
from migrate.report.savings import titles_of_users
from migrate.report.tables import Column, Paint, Style, render_table, short_digest, wrap
from migrate.report.tally import LayerTally
from migrate.report.units import count, format_seconds, format_share, format_size

_LIST_LIMIT = 20
_CONFLICTS_SHOWN = 5
_CLAIMANTS_SHOWN = 4
_OUTCOMES = ("converted", "damaged", "failed", "skipped")


class RunFacts(Struct, frozen=True, kw_only=True):
    """Facts for the summary that the report lacks. `present`: number of images that were in the target before.
    `done_before`: number of sources that an earlier run of the batch has read. `tally`: the layers of a batch."""

    present: int = 0
    done_before: int = 0
    tally: LayerTally | None = None


def render_text(
    report: Report,
    *,
    width: int = 80,
    exact_bytes: bool = False,
    colour: bool = False,
    savings: int = 10,
    next_steps: Sequence[str] = (),
    glance: Glance | None = None,
    facts: RunFacts | None = None,
) -> str:
    """The summary: figures, the `savings` largest savings, conflicts, failures with their reasons, warnings and skipped
    sources by kind, and the next commands.

    `glance` has the figures of the images if the report is without them. Lines have at most `width` cells, except for
    digests and names, which are never split. Ends with a newline.
    """
    page = _Page(report, width, exact_bytes, Paint(colour), glance or Glance.of(report), facts or RunFacts())
    parts = [
        page.headline(),
        page.figures(),
        page.savings(savings),
        page.deep(),
        page.conflicts(),
        page.failures(),
        page.warnings(),
        page.skipped(),
        page.next_steps(next_steps),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


class _Page:
    def __init__(
        self, report: Report, width: int, exact_bytes: bool, paint: Paint, glance: Glance, facts: RunFacts
    ) -> None:
        self.report = report
        self.width = width
        self.exact_bytes = exact_bytes
        self.paint = paint
        self.glance = glance
        self.facts = facts

    def size(self, size: int) -> str:
        return format_size(size, exact=self.exact_bytes)

    def headline(self) -> str:
        report = self.report
        kind = "dry run, nothing was written" if report.dry_run else None
        parts = [f"{report.tool_name} {report.tool_version}", kind, count(len(report.sources), "source")]
        with suppress(ValueError, TypeError):  # no times, or one of them without a zone
            started, finished = (datetime.fromisoformat(text) for text in (report.started, report.finished))
            parts.append(format_seconds((finished - started).total_seconds()))
        return self.paint(wrap(" · ".join(part for part in parts if part), self.width), Style.BOLD)

    def figures(self) -> str:
        totals = self.report.totals
        sources = self.sources()
        rows = [("sources", sources)] if sources else []
        rows.append(("images", self.images()))
        if doubts := self.doubts():
            rows.append(("", doubts))
        if totals.legacy_layers:
            rows += self.layers()
        if containers := self.report.containers:
            volumes = {volume.source for row in containers for volume in row.container.volumes}
            beside = f" and {count(len(volumes), 'volume')}" if volumes else ""
            rows.append(("omitted", f"{count(len(containers), 'container')}{beside}: see the warnings"))
        return "\n".join(f"  {self.paint(f'{name:<8}', Style.DIM)}{text}" for name, text in rows)

    def sources(self) -> str:
        """The number of sources of each outcome; empty for one source."""
        outcomes = Counter(source.outcome or "" for source in self.report.sources)
        done = "would be converted" if self.report.dry_run and not self.facts.done_before else "converted"
        parts = [f"{outcomes[name]:,} {done if name == 'converted' else name}" for name in _OUTCOMES if outcomes[name]]
        if self.facts.done_before:
            parts.append(f"{self.facts.done_before:,} of them done before")
            if self.report.dry_run:
                parts.append(f"{len(self.report.sources) - self.facts.done_before:,} left to do")
        return ", ".join(parts) if len(self.report.sources) > 1 or self.facts.done_before else ""

    def images(self) -> str:
        """The number of images. Equal images of several sources are one image in the target."""
        totals, distinct = self.report.totals, len(self.glance.manifests)
        present = self.facts.present
        written = f"{distinct - present:,} {'would be written' if self.report.dry_run else 'written'}"
        if present:
            written = f"{written}, {present:,} there already" if present < distinct else f"{distinct:,} there already"
        if distinct < totals.images:
            written = f"{totals.images:,} → {distinct:,} distinct: {written}"
        failed = f", {self.paint(f'{totals.images_failed:,} failed', Style.RED)}" if totals.images_failed else ""
        return f"{written}{self.damaged()}{failed}"

    def layers(self) -> list[tuple[str, str]]:
        totals, tally = self.report.totals, self.facts.tally
        layers = f"{totals.legacy_layers:,} → {totals.unique_layers:,} distinct"
        merged = f"{count(totals.duplicate_layers, 'duplicate')}, {totals.empty_layers:,} empty"
        saved = f"{self.size(totals.saved_bytes)} ({format_share(totals.saved_bytes, totals.legacy_bytes)}) saved"
        if tally is not None and tally.across_bytes:
            saved += f", {self.size(tally.across_bytes)} of it across sources"
        # a plan compresses samples only
        about = "about " if totals.blob_bytes_estimated else ""
        stored = "to be stored (--exact-sizes for exact figures)" if about else "as stored, compressed"
        blobs = "not computed" if totals.blob_bytes is None else f"{about}{self.size(totals.blob_bytes)} {stored}"
        return [
            ("layers", f"{layers} ({merged})"),
            ("bytes", f"{self.size(totals.legacy_bytes)} → {self.size(totals.unique_bytes)}"),
            ("", self.paint(saved, Style.GREEN) if totals.saved_bytes else saved),
            ("blobs", blobs),
        ]

    def doubts(self) -> str:
        """The number of images that are not exact, and of those without a name in the target."""
        inexact, unnamed = self.glance.inexact, self.glance.unnamed
        parts = [f"{inexact:,} not exact" if inexact else "", f"{unnamed:,} without a name" if unnamed else ""]
        return self.paint(", ".join(filter(None, parts)), Style.YELLOW) if any(parts) else ""

    def damaged(self) -> str:
        layers, images = self.report.totals.damaged_layers, self.glance.damaged
        if not layers:
            return ""
        of_layers = f"{count(layers, 'layer')} damaged"
        return f", {self.paint(f'{images:,} damaged ({of_layers})' if images else of_layers, Style.RED)}"

    def savings(self, limit: int) -> str:
        rows = self.report.duplicates[:limit]
        if not rows:
            return ""
        tally = self.facts.tally
        users = {} if tally is not None else titles_of_users(self.report.images, {row.diff_id for row in rows})
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
                # a batch does not keep its images, so the number of sources is shown instead
                count(tally.users(row.diff_id), "source") if tally is not None else _users(users.get(row.diff_id, ())),
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
        from migrate.report.waste_text import render_deep

        return render_deep(self.report.deep, width=self.width, size=self.size, paint=self.paint)

    def conflicts(self) -> str:
        rows = self.report.conflicts
        lines = [line for row in rows[:_CONFLICTS_SHOWN] for line in self.conflict(row)]
        title = f"Conflicts ({len(rows):,})"
        return self.section(title, lines, len(rows), "conflict", Style.YELLOW, _CONFLICTS_SHOWN)

    def conflict(self, row: Conflict) -> Iterator[str]:
        yield f"  {printable(row.reference)} ({printable(str(row.platform))})"
        known = self.glance.claimants
        others = sorted(row.others, key=lambda digest: known[digest].created or "" if digest in known else "")
        shown = [row.kept, *reversed(others)][:_CLAIMANTS_SHOWN]
        columns = [Column("IMAGE"), Column("MADE"), Column("NOW"), Column("SOURCE", flexible=True)]
        cells = [
            (short_digest(digest), *_claim(known.get(digest), row.reference if digest == row.kept else None))
            for digest in shown
        ]
        yield render_table(columns, cells, width=self.width, paint=self.paint, indent="    ")
        if len(others) >= _CLAIMANTS_SHOWN:
            yield self.paint(f"    … and {len(others) + 1 - _CLAIMANTS_SHOWN:,} more", Style.DIM)

    def failures(self) -> str:
        """The failures by kind. Failures of whole sources come first."""
        kinds = MessageKinds()
        for row in sorted(self.report.failures, key=lambda row: bool(row.references or row.legacy_id)):
            kinds.add(row.title, row.message.replace(row.source, ""), "\n".join(self.failure(row)))
        return self.kinds("Failures", kinds, "kind of failure", Style.RED)

    def failure(self, row: Failure) -> Iterator[str]:
        """The lines of one failure: what failed and why, with the source named once."""
        name = ", ".join(row.references) or row.legacy_id
        message = row.message.removeprefix(f"{row.source}: ")
        if name and row.source not in message:
            name = f"{name}  ({row.source})"
        yield wrap(name or row.source, self.width, indent="  ")
        yield wrap(f"{row.error}: {message}", self.width, indent="    ")
        if row.layer is not None and row.layer not in row.message:
            yield f"    layer {printable(row.layer)}"

    def warnings(self) -> str:
        kinds = MessageKinds()
        for message in self.report.warnings:
            kinds.add("", message, message)
        for source in self.report.sources:
            for message in source.warnings if source.outcome != "skipped" else ():
                shown = message if source.location in message else f"{source.location}: {message}"
                kinds.add(source.location, message, shown)
        kinds.merge(self.glance.warnings)
        return self.kinds("Warnings", kinds, "kind of warning", Style.YELLOW)

    def skipped(self) -> str:
        """Files that are not a source, and sources of which no image was chosen, by reason."""
        places: dict[str, list[str]] = {}
        for source in self.report.sources:
            if source.outcome == "skipped":
                places.setdefault(source.reason or "", []).append(source.location)
        ranked = sorted(places.items(), key=lambda kind: (-len(kind[1]), kind[0]))
        lines = []
        for reason, found in ranked[:_LIST_LIMIT]:
            others = f" and {len(found) - 1:,} more" if len(found) > 1 else ""
            lines.append(wrap(f"{found[0]}{others}: {reason}", self.width, indent="  "))
        number = sum(map(len, places.values()))
        return self.section(f"Skipped ({count(number, 'source')})", lines, len(ranked), "reason", Style.YELLOW)

    def kinds(self, title: str, kinds: MessageKinds, unit: str, style: Style) -> str:
        lines: list[str] = []
        for kind in list(kinds)[:_LIST_LIMIT]:
            lines += (text if "\n" in text else wrap(text, self.width, indent="  ") for text in kind.shown)
            if kind.more:
                lines.append(self.paint(f"    … and {kind.more:,} more of this kind", Style.DIM))
        return self.section(f"{title} ({kinds.number:,})", lines, len(kinds), unit, style)

    def next_steps(self, commands: Sequence[str]) -> str:
        if not commands or not self.report.totals.images:
            return ""
        return "\n".join([self.heading("Next"), *(f"  {printable(command)}" for command in commands)])

    def section(
        self, title: str, lines: Sequence[str], total: int, unit: str, style: Style, shown: int = _LIST_LIMIT
    ) -> str:
        if not lines:
            return ""
        return "\n".join([self.heading(title, style), *lines, *self.more(total - shown, unit)])

    def heading(self, title: str, *styles: Style) -> str:
        return self.paint(title, Style.BOLD, *styles)

    def more(self, number: int, unit: str) -> Iterator[str]:
        if number > 0:
            yield self.paint(f"  … and {count(number, 'more ' + unit)} in the JSON report", Style.DIM)


def _claim(claimant: Claimant | None, granted: str | None) -> tuple[str, str, str]:
    """The cells of an image in a conflict: creation time, current name, source."""
    if claimant is None:
        return "", granted or "has no name now", "in the target before this run"
    made = (claimant.created or "")[:16].replace("T", " ")
    names = ", ".join(claimant.names)
    return made or "not stated", granted or (f"only {names}" if names else "has no name now"), claimant.source


def _users(titles: Iterable[str]) -> str:
    titles = list(titles)
    return ", ".join(titles[:2]) + (f" + {len(titles) - 2:,} more" if len(titles) > 2 else "")
