"""`migrate map`."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from migrate.cli.completion import LocationType, legacy_ids
from migrate.cli.messages import names_with

if TYPE_CHECKING:
    from migrate.documents.image_map import MappedImage
    from migrate.report.document import Report
    from migrate.report.mapping import MappedLayer

_CSV_FIELDS = (
    *("legacy_id", "image_id", "manifest_digest", "references", "names", "containers", "platform", "sources"),
    *("legacy_digests", "created"),
)


@click.command("map", short_help="Find the new image ID and digest of an old ID.")
@click.argument("location", metavar="LAYOUT", type=LocationType())
@click.argument("words", metavar="[OLD_ID]...", nargs=-1, shell_complete=legacy_ids)
@click.option("--from", "listed", metavar="FILE", help="Read IDs from FILE, one per line; - is standard input.")
@click.option("--rewrite", is_flag=True, help="Replace old IDs, digests and names in text files; prints a diff.")
@click.option("--in-place", is_flag=True, help="With --rewrite: write the files.")
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV on standard output; spaces between the values of a cell.")
@click.option("--no-trunc", is_flag=True, help="IDs in full, in the table of all images.")
def command(
    location: str,
    words: tuple[str, ...],
    listed: str | None,
    rewrite: bool,
    in_place: bool,
    as_json: bool,
    as_csv: bool,
    no_trunc: bool,
) -> None:
    """Find the new image IDs and digests of old IDs, in the map and report of LAYOUT. LAYOUT may also be a map or
    report file, or - for standard input.

    OLD_ID is a legacy ID, the ID of a container of the old Docker root, an image ID, an old or new manifest digest, a
    unique prefix of one of these (4 digits or more), or the name of an image. Without an OLD_ID, every image is listed.
    Old digests are those of schema 1 manifests: `NAME@sha256:…` with one of them finds nothing in a new registry.

    With --rewrite, the arguments after LAYOUT are text files such as compose files, units and scripts. Old IDs (in full
    or the first 12 digits), old digests, and names that --rename changed are replaced.

    \b
    Examples:
      migrate map new-layout/
      migrate map new-layout/ 8c2e06607696
      migrate map --csv new-layout/ > old-to-new.csv
      migrate map new-layout/ --from pinned-ids.txt --json
      migrate map new-layout/ --rewrite docker-compose.yml app.service
      migrate map new-layout/ --rewrite --in-place docker-compose.yml
    """
    from migrate.cli.report_file import read_map
    from migrate.errors import UsageError

    _check(words, listed, rewrite=rewrite, in_place=in_place, as_json=as_json, as_csv=as_csv)
    if rewrite:
        from migrate.cli.rewriting import rewrite_files

        sys.exit(rewrite_files(read_map(location)[0], words, in_place=in_place))
    wanted = [*words, *_lines(listed)]
    if listed is not None and not wanted:
        raise UsageError(f"--from {listed}: no ID in this file")
    images: Sequence[MappedImage]
    images, report = read_map(location)
    layers: list[MappedLayer] = []
    if wanted:
        images, layers = _find_all(report, images, wanted)
    if as_json:
        _write_json(images, layers)
    elif as_csv:
        _write_csv(images)
    elif not wanted:
        _write_table(images, no_trunc)
    else:
        click.echo("\n\n".join([*map(_image_details, images), *map(_layer_details, layers)]))
    # On standard error, so that a script which reads the table does not get it.
    if layers and not as_json:
        click.echo("migrate: one of these IDs is a layer, not an image; `convert --all` makes an image of it", err=True)


def _check(words: Sequence[str], listed: str | None, **chosen: bool) -> None:
    from migrate.errors import UsageError

    if chosen["as_json"] and chosen["as_csv"]:
        raise UsageError("--json and --csv exclude each other")
    if chosen["rewrite"] and (chosen["as_json"] or chosen["as_csv"] or listed is not None):
        raise UsageError("--rewrite prints a diff: it cannot be combined with --json, --csv or --from")
    if chosen["rewrite"] and not words:
        raise UsageError("--rewrite needs the files in which image IDs and names are to be replaced")
    if chosen["in_place"] and not chosen["rewrite"]:
        raise UsageError("--in-place needs --rewrite")


def _lines(listed: str | None) -> list[str]:
    """The IDs of a list: the first word of each line. Lines that begin with # are comments."""
    if listed is None:
        return []
    from migrate.blobio.limits import JSON_BYTES, read_limited
    from migrate.errors import UsageError

    try:
        with open(listed, "rb") if listed != "-" else nullcontext(sys.stdin.buffer) as stream:
            lines = read_limited(stream, JSON_BYTES, listed).decode("utf-8", "surrogateescape").splitlines()
    except OSError as error:
        raise UsageError(f"--from {listed}: {error.strerror}") from error
    return [line.split()[0] for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _find_all(
    report: Report | None, images: Sequence[MappedImage], wanted: Iterable[str]
) -> tuple[Sequence[MappedImage], list[MappedLayer]]:
    """Images and layers in the order of `wanted`, each once. One UsageError names all words that were not found."""
    from migrate.errors import UsageError

    found: dict[object, MappedImage] = {}
    layers: dict[object, MappedLayer] = {}
    # All unknown IDs are listed at once, so that a list of hundreds need not be corrected one by one.
    problems: list[str] = []
    for word in wanted:
        try:
            some, parts = _find(report, images, word)
        except UsageError as error:
            problems.append(error.message)
            continue
        found.update((image.key, image) for image in some)
        layers.update((layer.layer, layer) for layer in parts)
    if problems:
        raise UsageError("\n".join(problems))
    return tuple(found.values()), list(layers.values())


def _find(
    report: Report | None, images: Sequence[MappedImage], old_id: str
) -> tuple[Sequence[MappedImage], Sequence[MappedLayer]]:
    from migrate.errors import UsageError
    from migrate.report.mapping import find_images, find_layers

    found = find_images(images, old_id)
    # A short text is the beginning of many IDs by chance, but it may be the whole name of an image.
    if len(old_id) < 4 and not _is_name(found, old_id):
        found = ()
    if len({image.legacy_id for image in found}) > 1 and not _is_name(found, old_id):
        raise UsageError(f"{old_id} matches several IDs: {_first_ids(image.legacy_id for image in found)}")
    if found:
        return found, ()
    layers = find_layers(report, images, old_id) if report is not None and len(old_id) >= 4 else ()
    if len({layer.layer.legacy_id for layer in layers}) > 1:
        raise UsageError(f"{old_id} matches several IDs: {_first_ids(row.layer.legacy_id for row in layers)}")
    if not layers:
        raise UsageError(f"no image or layer {old_id}.{_hint(report, images, old_id)}")
    return (), layers


def _is_name(found: Iterable[MappedImage], text: str) -> bool:
    """True where `text` found images by their name. Several images can have had one name: one for each platform, and
    those that lost it in a conflict."""
    ids = [image.legacy_id for image in found]
    return not any(one.startswith(text) for one in ids)


def _first_ids(ids: Iterable[str]) -> str:
    rows = sorted(set(ids))
    return ", ".join(rows[:4]) + (f" and {len(rows) - 4} more" if len(rows) > 4 else "")


def _hint(report: Report | None, images: Sequence[MappedImage], text: str) -> str:
    import difflib

    # The most useful hint first: the image is known, but could not be converted.
    failures = () if report is None else report.failures
    failed = [row for row in failures if text in row.references or (row.legacy_id or "").startswith(text)]
    if failed:
        return f" It failed: {failed[0].message}"
    names = [name for image in images for name in (*image.references, *image.names)]
    if named := names_with(text, names):
        return f" Did you mean {' or '.join(named)}?"
    if len(text) < 4:
        return " Give 4 digits or more."
    ids = [image.legacy_id[: max(len(text), 12)] for image in images]
    close = difflib.get_close_matches(text, dict.fromkeys([*names, *ids]), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(close)}?" if close else " `migrate map LAYOUT` lists all."


def _write_json(images: Iterable[MappedImage], layers: Iterable[MappedLayer]) -> None:
    from migrate.cli.outputs import safe_json
    from migrate.documents.image_map import row_document
    from migrate.documents.json_text import encode_json_pretty

    document: dict[str, Any] = {"images": [row_document(image) for image in images]}
    rows = [
        {
            "legacy_id": row.layer.legacy_id,
            "diff_id": None if row.layer.diff_id is None else str(row.layer.diff_id),
            "blob_digest": None if row.layer.blob_digest is None else str(row.layer.blob_digest),
            "images": [row_document(image) for image in row.images],
        }
        for row in layers
    ]
    if rows:
        document["layers"] = rows
    sys.stdout.buffer.write(safe_json(encode_json_pretty(document)))


def _write_csv(images: Iterable[MappedImage]) -> None:
    from migrate.documents.image_map import row_document
    from migrate.report.tables import spreadsheet_cell

    text = io.StringIO()
    writer = csv.DictWriter(text, _CSV_FIELDS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for image in images:
        cells = {
            key: " ".join(value) if isinstance(value, list) else value or ""
            for key, value in row_document(image).items()
        }
        writer.writerow({key: spreadsheet_cell(cell) for key, cell in cells.items()})
    click.echo(text.getvalue(), nl=False)


def _write_table(images: Iterable[MappedImage], full: bool) -> None:
    from migrate.cli.terminal import colour_enabled, terminal_width
    from migrate.report.tables import Column, Paint, render_table

    columns = [
        Column("LEGACY ID"),
        Column("IMAGE ID"),
        Column("DIGEST"),
        Column("REFERENCES", flexible=not full),
        Column("CONTAINERS", right=True),
    ]
    cut = None if full else 12
    rows = [
        (
            image.legacy_id[:cut],
            image.image_id.hex[:cut],
            "" if image.manifest_digest is None else image.manifest_digest.hex[:cut],
            ", ".join(image.references) or "<none>",
            str(len(image.containers) or ""),
        )
        for image in images
    ]
    paint = Paint(colour_enabled(sys.stdout))
    click.echo(render_table(columns, rows, width=terminal_width(sys.stdout), paint=paint))


def _image_details(image: MappedImage) -> str:
    from migrate.model.text import printable

    changed = [name for name in image.names if name not in image.references]
    rows = [
        ("legacy ID", [image.legacy_id]),
        ("image ID", [str(image.image_id)]),
        ("digest", [str(image.manifest_digest or "not known: nothing was compressed (a plan)")]),
        ("old digest", list(map(str, image.legacy_digests))),
        ("references", list(image.references) or ["<none>"]),
        ("now named", changed),
        ("containers", list(image.containers)),
        ("platform", [image.platform]),
        ("created", [image.created or "not stated"]),
        ("source", list(image.sources)),
        ("removed", ["yes: `migrate gc` has removed it from the layout"] if image.removed else []),
    ]
    return "\n".join(
        f"{title if not index else '':<11}{printable(value)}"
        for title, values in rows
        for index, value in enumerate(values)
    )


def _layer_details(row: MappedLayer) -> str:
    from migrate.model.text import printable
    from migrate.report.tables import short_digest

    lines = [
        f"{'legacy ID':<11}{printable(row.layer.legacy_id)}  (a layer, not an image)",
        f"{'diffID':<11}{row.layer.diff_id or 'none'}",
        f"{'blob':<11}{row.layer.blob_digest or 'none: empty and dropped, or nothing was written'}",
    ]
    for index, image in enumerate(row.images[:20]):
        name = ", ".join(image.references) or image.legacy_id[:12]
        lines.append(f"{'' if index else 'in images':<11}{printable(name)}  {short_digest(image.image_id)}")
    if len(row.images) > 20:
        lines.append(f"{'':<11}and {len(row.images) - 20:,} more")
    return "\n".join(lines)
