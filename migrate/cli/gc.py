"""`migrate gc`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from migrate.cli.completion import LocationType

if TYPE_CHECKING:
    from migrate.layout.garbage import Garbage


@click.command("gc", short_help="Remove untagged images and blobs that no image needs.")
@click.argument("location", metavar="LAYOUT", type=LocationType())
@click.option("--dry-run", is_flag=True, help="Print what would be removed; write nothing.")
def command(location: str, dry_run: bool) -> None:
    """Remove all images without a name, and all blobs that no image needs, from LAYOUT, an OCI layout in a directory.

    An image has no name if its source gave it none, or if another image got the name. The map keeps the old and new IDs
    of removed images, marked as removed. Nothing is removed while another run uses LAYOUT, or if an image with a name
    is damaged.

    \b
    Examples:
      migrate gc new-layout/ --dry-run
      migrate gc new-layout/
    """
    from migrate.errors import SourceUnreadableError, UsageError
    from migrate.layout.names import LAYOUT_FILE
    from migrate.layout.view import open_layout

    layout = open_layout(location)
    try:
        if layout.tree.is_remote:
            # a bucket has no locks
            raise UsageError(f"{layout.location}: gc needs a directory; it cannot lock other runs out of a bucket")
        if not layout.is_folder:
            raise UsageError(
                f"{layout.location}: gc needs a directory; to leave images out of an archive, convert it with --exclude"
            )
        if not layout.has(LAYOUT_FILE):
            raise SourceUnreadableError(f"{layout.location}: not an OCI image layout: it has no {LAYOUT_FILE} file")
        # Opening a target writes its lock file, so a dry run only reads the layout.
        if dry_run:
            from migrate.layout.garbage import plan_garbage

            entries = layout.entries()
            garbage = plan_garbage(entries, layout.documents(entries), layout.blob_sizes())
        else:
            from migrate.model.options import ConvertOptions
            from migrate.writers.oci_layout import OciLayout

            target = OciLayout(layout.location, ConvertOptions())
            try:
                garbage = target.collect_garbage()
            finally:
                target.close()
    finally:
        layout.tree.close()
    _print_results(location, garbage, dry_run=dry_run)


def _print_results(location: str, garbage: Garbage, *, dry_run: bool) -> None:
    from migrate.cli.report_file import read_map
    from migrate.errors import MigrateError
    from migrate.model.text import printable
    from migrate.report.units import count, format_size

    try:
        rows, _ = read_map(location)
    except MigrateError:  # a layout needs no map
        rows = ()
    known = {row.manifest_digest: row for row in rows}
    for digest in garbage.images:
        row = known.get(digest)
        of = "" if row is None else f"  {row.legacy_id[:12]}  {', '.join(row.references) or '<none>'}"
        click.echo(printable(f"{digest}{of}"))
    verb = "would be removed" if dry_run else "removed"
    size = format_size(garbage.bytes)
    click.echo(f"{count(len(garbage.images), 'image')} and {count(len(garbage.blobs), 'blob')} {verb}: {size}")
