"""What convert, plan and batch do around a conversion: open sources, run, and tell the result."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from migrate.cli.messages import encode_event
from migrate.cli.outputs import Outputs
from migrate.convert.run import Conversion, OpenedSource, Outcome
from migrate.convert.source_paths import distinct_sources
from migrate.errors import MigrateError, UsageError
from migrate.model.options import ConvertOptions
from migrate.readers.base import SourceOptions
from migrate.readers.detect import open_source
from migrate.report.document import Report
from migrate.writers.open_target import target_path


def set_up_logging(values: dict[str, Any]) -> None:
    """What libraries have to say, such as those that talk to object stores. Their warnings come unasked."""
    as_events = values["progress"] == "json"
    if not values["verbose"] and not as_events:
        return
    import logging

    class Events(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            level, message = record.levelname.lower(), record.getMessage()
            return encode_event({"event": "log", "level": level, "message": message})

    handler = logging.StreamHandler()
    handler.setFormatter(Events() if as_events else logging.Formatter("migrate: %(message)s"))
    level = {0: logging.WARNING, 1: logging.INFO}.get(values["verbose"], logging.DEBUG)
    logging.basicConfig(level=level, handlers=[handler])


def open_sources(
    locations: Sequence[str], source_type: str | None, options: ConvertOptions, temporary_directory: str | None = None
) -> list[OpenedSource]:
    """Opens what can be opened; the reason for the rest stands in its place."""
    if list(locations).count("-") > 1:
        raise UsageError("standard input can be read only once")
    reading = SourceOptions(
        driver=options.driver,
        dm_data=options.dm_data,
        dm_metadata=options.dm_metadata,
        temporary_directory=temporary_directory,
        extra=options.for_readers,
        max_ratio=options.max_ratio,
    )
    opened = []
    for location in distinct_sources(locations):
        try:
            opened.append(OpenedSource(location, open_source(location, source_type, reading)))
        except MigrateError as error:
            if error.scope == "run":
                raise
            opened.append(OpenedSource(location, error=error))
    return opened


def spool_directory(target: str) -> str | None:
    """Where a pipe's or a compressed archive's plain form may lie: TMPDIR if set, else beside a target on disk."""
    path = target_path(target)
    if os.environ.get("TMPDIR") or path is None:
        return None
    return next((str(parent) for parent in Path(path).absolute().parents if parent.is_dir()), None)


def close_sources(sources: Iterable[OpenedSource]) -> None:
    for opened in sources:
        if opened.source is not None:
            opened.source.close()


def write_page(report: Report, outputs: Outputs) -> None:
    """`--html`."""
    if outputs.is_asked("html"):
        from migrate.report.html import render_html

        outputs.write("html", [render_html(report).encode("utf-8")])


def tell(outcome: Outcome, values: dict[str, Any], outputs: Outputs) -> None:
    """Writes the asked-for reports, then the summary on stdout."""
    if outputs.is_asked("report"):
        from migrate.report.json import encode_report

        outputs.write("report", [encode_report(outcome.report)])
    write_page(outcome.report, outputs)
    if not (outputs.take_stdout or values["quiet"]):
        from migrate.cli.terminal import colour_enabled, terminal_width
        from migrate.report.text import render_text

        summary = render_text(
            outcome.report,
            width=terminal_width(sys.stdout),
            exact_bytes=values["bytes_"],
            colour=colour_enabled(sys.stdout),
            list_failures=False,  # progress has told each
        )
        click.echo(summary, nl=False)


def run_conversion(conversion: Conversion) -> Outcome:
    """Runs it, and lets go of sources and target whatever happens."""
    try:
        return conversion.run()
    finally:
        close_sources(conversion.sources)
        if conversion.target is not None:
            conversion.target.close()
