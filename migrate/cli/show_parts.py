"""The parts of an image that `migrate show` prints."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from migrate.cli.outputs import safe_json
from migrate.cli.report_file import read_report
from migrate.cli.terminal import colour_enabled, terminal_width
from migrate.documents.go_json import indented
from migrate.documents.json_text import encode_json_pretty, safe_text
from migrate.documents.oci import parse_config, parse_history
from migrate.documents.v1_json import parse_settings
from migrate.errors import MigrateError, UsageError
from migrate.layout.view import LayoutView, StoredImage, StoredLayer
from migrate.model.digest import Digest, chain_ids
from migrate.model.text import printable
from migrate.report.document import ReportLayer
from migrate.report.tables import Column, Paint, Style, render_table
from migrate.report.units import count, format_size
from migrate.tar.entries import TarEntry, TarScanner

_READ = 1024 * 1024
_TYPES = {48: "-", 49: "h", 50: "l", 51: "c", 52: "b", 53: "d", 54: "p", 55: "-"}
_LAYER_TITLES = {
    "legacy_id": "legacy ID",
    "diff_id": "diffID",
    "chain_id": "chainID",
    "blob_digest": "blob digest",
    "media_type": "media type",
}


class ImageText:
    """Writes the parts of one image to standard output."""

    def __init__(self, view: LayoutView, image: StoredImage, location: str, *, exact_bytes: bool, full: bool) -> None:
        self._view = view
        self._image = image
        self._exact_bytes = exact_bytes
        self._full = full
        self._width = terminal_width(sys.stdout)
        self._paint = Paint(colour_enabled(sys.stdout))
        self._report_rows = _report_layers(location, image)

    def _size(self, size: int) -> str:
        return format_size(size, exact=self._exact_bytes)

    def _json(self, value: object) -> None:
        sys.stdout.buffer.write(safe_json(encode_json_pretty(value)))

    def document(self, raw: bytes, exact: bool) -> None:
        """Writes a JSON document, indented, or with `exact` its bytes unchanged."""
        sys.stdout.buffer.writelines([raw] if exact else map(safe_json, indented(raw, "document")))

    def manifest(self, exact: bool) -> None:
        raw = self._view.manifest(self._image)
        if raw is None:
            raise UsageError("a docker archive has no manifests; use --config or --layers")
        self.document(raw, exact)

    # --- summary ---------------------------------------------------------------------------------------------------

    def summary(self, as_json: bool) -> None:
        raw = self._view.config(self._image)
        facts, layers = parse_config(raw), self._view.layers(self._image)
        # The fields that are most often needed from `docker inspect`, if they are set.
        inner = parse_settings(raw, "config")
        names = ("User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "OnBuild", "Labels")
        fields: dict[str, Any] = {
            "references": list(self._image.references),
            "image_id": str(Digest.of(raw)),
            "manifest_digest": None if self._image.manifest is None else str(self._image.manifest),
            "platform": str(facts.platform or self._image.platform or "not stated"),
            "created": facts.created,
            "layers": len(layers),
            "history_steps": None if facts.history_empty is None else len(facts.history_empty),
            "blob_bytes": sum(layer.size for layer in layers),
            "config": {name: inner[name] for name in names if inner.get(name)},
        }
        if as_json:
            self._json(fields)
            return
        rows = [
            ("names", ", ".join(fields["references"]) or "<none>"),
            ("image ID", fields["image_id"]),
            ("digest", fields["manifest_digest"] or "none (a docker archive)"),
            ("platform", fields["platform"]),
            ("created", fields["created"] or "not stated"),
            ("layers", f"{len(layers):,}, {self._size(fields['blob_bytes'])} as stored"),
            *((name, _one_line(value)) for name, value in fields["config"].items()),
        ]
        for name, text in rows:
            click.echo(f"{self._paint(f'{name:<13}', Style.DIM)}{printable(text)}")

    # --- history ---------------------------------------------------------------------------------------------------

    def history(self, as_json: bool) -> None:
        steps = list(self._steps())
        if as_json:
            self._json({"history": steps})
            return
        columns = [
            Column("CREATED"),
            Column("TAR SIZE", right=True),
            Column("BLOB", right=True),
            Column("CREATED BY", flexible=not self._full),
            Column("COMMENT", flexible=True),
        ]
        rows = [
            (
                (step["created"] or "")[:19].replace("T", " "),
                "" if step["tar_size"] is None else self._size(step["tar_size"]),
                "" if step["blob_size"] is None else self._size(step["blob_size"]),
                step["created_by"],
                step["comment"],
            )
            for step in reversed(steps)
        ]
        click.echo(render_table(columns, rows, width=self._width, paint=self._paint))

    def _steps(self) -> Iterator[dict[str, Any]]:
        """History entries, base first. Sizes of uncompressed tars come from the report, and are None without one."""
        # A config has one diffID for each history entry without `empty_layer`, in the same order.
        layers = iter(self._view.layers(self._image))
        for step in parse_history(self._view.config(self._image)):
            layer = None if step.get("empty_layer") else next(layers, None)
            row = None if layer is None else self._report_rows.get(layer.diff_id)
            yield {
                "created": step.get("created") or None,
                "created_by": step.get("created_by", ""),
                "comment": step.get("comment", ""),
                "author": step.get("author", ""),
                "empty_layer": layer is None,
                "diff_id": None if layer is None else str(layer.diff_id),
                "tar_size": 0 if layer is None else None if row is None else row.tar_size,
                "blob_size": None if layer is None else layer.size,
            }

    # --- layers ----------------------------------------------------------------------------------------------------

    def layers(self, as_json: bool) -> None:
        layers = self._view.layers(self._image)
        chains = list(chain_ids(layer.diff_id for layer in layers))
        rows = [self._layer_fields(layer, chain) for layer, chain in zip(layers, chains, strict=True)]
        if as_json:
            self._json({"layers": rows})
            return
        if not rows:
            click.echo("no layers: every step of the history was empty")
        for number, fields in enumerate(rows, 1):
            tar = "" if fields["tar_size"] is None else f"tar {self._size(fields['tar_size'])}, "
            heading = f"layer {number} of {len(rows)}: {tar}blob {self._size(fields['blob_size'])}"
            click.echo(self._paint(heading, Style.BOLD))
            for name, title in _LAYER_TITLES.items():
                if fields[name] is not None:
                    click.echo(f"  {title:<12} {printable(fields[name])}")
            click.echo(f"  {fields['why']}")

    def _layer_fields(self, layer: StoredLayer, chain: object) -> dict[str, Any]:
        row = self._report_rows.get(layer.diff_id)
        # Many users expect these two digests to be equal, so the difference is explained for every layer.
        why = f"they differ: the diffID is the sha256 of the tar, the blob digest that of the {layer.compression} file"
        if layer.compression == "none":
            why = "diffID and blob digest are equal: the blob is the tar itself, not compressed"
        return {
            "legacy_id": None if row is None else row.legacy_id,
            "diff_id": str(layer.diff_id),
            "chain_id": str(chain),
            "blob_digest": None if layer.blob is None else str(layer.blob),
            "media_type": layer.media_type,
            "compression": layer.compression,
            "tar_size": None if row is None else row.tar_size,
            "blob_size": layer.size,
            "origin": None if row is None else row.origin,
            "why": why,
        }

    # --- files -----------------------------------------------------------------------------------------------------

    def files(self, as_json: bool, number: int | None) -> None:
        layers = self._view.layers(self._image)
        if number is not None and number > len(layers):
            raise UsageError(f"--layer {number}: the image has {count(len(layers), 'layer')}")
        for position, layer in enumerate(layers, 1):
            if number in (None, position):
                if number is None and not as_json:
                    click.echo(self._paint(f"layer {position} of {len(layers)}  {layer.diff_id}", Style.BOLD))
                # Entries are printed after every block, so that a layer of any size takes little memory.
                lister = _Lister(str(layer.diff_id))
                with self._view.open_tar(layer) as tar:
                    while block := tar.read(_READ):
                        lister.feed(memoryview(block))
                        for entry in lister.taken():
                            self._print_entry(entry, position, as_json)
                    lister.finish()
                for entry in lister.taken():
                    self._print_entry(entry, position, as_json)

    def _print_entry(self, entry: TarEntry, position: int, as_json: bool) -> None:
        if as_json:
            click.echo(
                json.dumps(
                    {
                        "layer": position,
                        "name": safe_text(_name(entry.name)),
                        "type": _TYPES.get(entry.kind, "?"),
                        "mode": f"{entry.mode & 0o7777:04o}",
                        "uid": entry.uid,
                        "gid": entry.gid,
                        "size": entry.size,
                        "mtime": entry.mtime,
                        "link": safe_text(_name(entry.link)) if entry.link else None,
                    }
                )
            )
            return
        click.echo(_tar_line(entry, self._size(entry.size) if not self._exact_bytes else f"{entry.size}"))


class _Lister(TarScanner):
    def __init__(self, what: str) -> None:
        super().__init__(what)
        self._entries: list[TarEntry] = []

    def on_entry(self, entry: TarEntry) -> None:
        self._entries.append(entry)

    def taken(self) -> Sequence[TarEntry]:
        entries, self._entries = self._entries, []
        return entries


def _report_layers(location: str, image: StoredImage) -> Mapping[Digest, ReportLayer]:
    """The layers of the image in the layout's report, by diffID; empty without a report."""
    try:
        report = read_report(location)
    except MigrateError:
        return {}
    return {
        layer.diff_id: layer
        for row in report.images
        if row.manifest_digest == image.manifest
        for layer in row.layers
        if layer.diff_id is not None
    }


def _one_line(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={text}" if isinstance(text, str) else str(key) for key, text in value.items())
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value)


def _tar_line(entry: TarEntry, size: str) -> str:
    kind = _TYPES.get(entry.kind, "?")
    owner = f"{_name(entry.user) or entry.uid}/{_name(entry.group) or entry.gid}"
    name = printable(_name(entry.name))
    arrow = {"h": " link to ", "l": " -> "}.get(kind)
    link = f"{arrow}{printable(_name(entry.link))}" if arrow else ""
    base = entry.name.rstrip(b"/").rpartition(b"/")[2]
    note = "   (hides what lower layers have here)" if base.startswith(b".wh.") and base[4:8] != b".wh." else ""
    note = "   (hides the directory's lower content)" if base == b".wh..wh..opq" else note
    mode = stat.filemode(entry.mode)[1:]
    return f"{kind}{mode} {printable(owner):<11} {size:>9} {_date(entry.mtime)} {name}{link}{note}"


def _date(seconds: int) -> str:
    from datetime import UTC, datetime

    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError, OSError):  # a tar may have any number; datetime ends at the year 9999
        return f"{seconds:>16}"


def _name(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
