"""`migrate find`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from migrate.cli.completion import LocationType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from migrate.report.finding import NameClaim


@click.command("find", short_help="Find the images that have or had a name, and their sources.")
@click.argument("location", metavar="LAYOUT", type=LocationType())
@click.argument("name", metavar="NAME")
@click.option("--as-of", metavar="DATE", help="Only the image of that time: the newest one created by DATE (UTC).")
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
@click.option("--no-trunc", is_flag=True, help="IDs in full.")
def command(location: str, name: str, as_of: str | None, as_json: bool, no_trunc: bool) -> None:
    """Find every image that has or had NAME, the newest first: its creation date, its old and new ID, its source, and
    the reason if another image has the name now.

    LAYOUT is a target of any number of runs, or a map or report file. NAME without a tag matches every tag; `*` and `?`
    match any characters. DATE is YYYY-MM-DD (the end of that day) or a time such as 2014-03-01T12:00:00Z.

    \b
    Examples:
      migrate find new-layout/ team/web:1.0
      migrate find new-layout/ 'team/*:1.*' --json
      migrate find new-layout/ team/web --as-of 2014-03-01
    """
    from migrate.cli.report_file import find_rows
    from migrate.errors import UsageError
    from migrate.report import finding

    # The date is checked before the map is read, which takes long for a large target.
    moment = None if as_of is None else _moment(as_of)
    wanted = finding.matcher(name)
    found = finding.find_claims(find_rows(location, wanted), wanted)
    if not found:
        raise UsageError(f"{location}: no image has or had the name {name} (`migrate map LAYOUT` lists all)")
    if moment is not None:
        found = finding.as_of(found, moment)
        if not found:
            raise UsageError(f"{location}: no image with the name {name} was created by {as_of}")
    if as_json:
        from migrate.cli.outputs import safe_json
        from migrate.documents.image_map import row_document
        from migrate.documents.json_text import encode_json_pretty

        rows: list[dict[str, Any]] = [
            {"name": one.name, "has_it": one.has_it, "why": one.why, "image": row_document(one.image)} for one in found
        ]
        sys.stdout.buffer.write(safe_json(encode_json_pretty({"found": rows})))
    else:
        _write_table(found, no_trunc)


def _moment(text: str) -> datetime:
    from migrate.errors import UsageError

    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"--as-of {text}: not a date; write 2014-03-01 or 2014-03-01T12:00:00Z") from error
    if len(text) == len("2014-03-01"):  # a date alone means the end of that day
        moment = moment.replace(hour=23, minute=59, second=59, microsecond=999_999)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _write_table(found: Sequence[NameClaim], full: bool) -> None:
    from migrate.cli.terminal import colour_enabled, terminal_width
    from migrate.report.tables import Column, Paint, render_table

    cut = None if full else 12
    columns = [
        Column("NAME"),
        Column("CREATED"),
        Column("LEGACY ID"),
        Column("IMAGE ID"),
        Column("SOURCE", flexible=not full),
        Column("WHY", flexible=not full),
    ]
    rows = [
        (
            one.name,
            (one.image.created or "not stated")[: None if full else 10],
            one.image.legacy_id[:cut],
            one.image.image_id.hex[:cut],
            ", ".join(one.image.sources),
            one.why,
        )
        for one in found
    ]
    paint = Paint(colour_enabled(sys.stdout))
    click.echo(render_table(columns, rows, width=terminal_width(sys.stdout), paint=paint))
