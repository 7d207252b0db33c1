"""What a worker found out about one source, as bytes: lines of JSON that the merge reads instead of the source.

The first lines hold the layers, then comes one line for each image, then one with failures and warnings. Strings may
hold halves of surrogate pairs (paths that are no text), which only the standard library's JSON carries unharmed.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct, field, to_builtins

from migrate.blobio.limits import STATED_BYTES
from migrate.convert.publish import FinishedImage
from migrate.model.container import Container, Volume
from migrate.model.digest import DiffID, Digest
from migrate.model.image import ComposedImage, Descriptor, HashedLayer, Platform, StoredBlob
from migrate.model.legacy import Failure, LegacyID, LegacyLayer, ReadyIndex, ReadyManifest
from migrate.model.reference import Reference

_ROWS_A_LINE: Final = 1_000
_IMAGE: Final = b'{"image":'
_LAYERS: Final = b'{"layers":'
_HELD: Final = b'{"held":'


class Role(StrEnum):
    """How a layer came to its blob. `kept`: a carried-over manifest names it. `carried`: the source had it in the
    wanted compression. `made`: compressed by us, in this run or before. `found`: another source carried it."""

    KEPT = "kept"
    CARRIED = "carried"
    MADE = "made"
    FOUND = "found"


class LayerRecord(Struct, frozen=True):
    """One legacy layer of a source; `hashed` is None where the history step never had bytes."""

    legacy_id: LegacyID
    hashed: HashedLayer | None
    role: Role = Role.MADE


class ImageRecord(Struct, frozen=True):
    """A finished image without the blobs of its layers, on which the merge decides. `chain` are its rows, base first.

    `ready` holds manifest and layers of an image whose manifest was carried over.
    """

    finished: FinishedImage
    chain: tuple[int, ...]


class HeldLayer(Struct, frozen=True):
    """A layer with v1 JSON, which other sources of the batch may lack. `mark` is the beginning of the digest of that
    JSON. `is_v1` is false for JSON beside a manifest.json, which other programs made up."""

    legacy_id: LegacyID
    mark: str
    is_v1: bool


class SourceRecord(Struct, frozen=True, kw_only=True):
    """`containers` are those of which no image was made. `missing` are IDs and diffIDs of layers that failed images
    lack, `held` the layers that other sources may take, and `lent` those that were taken from other sources."""

    type: str | None = None
    layers: tuple[LayerRecord, ...] = ()
    images: tuple[ImageRecord, ...] = ()
    failures: tuple[Failure, ...] = ()
    warnings: tuple[str, ...] = ()
    containers: tuple[Container, ...] = ()
    orphaned_volumes: tuple[Volume, ...] = ()
    missing: tuple[str, ...] = ()
    held: tuple[HeldLayer, ...] = ()
    lent: Mapping[LegacyID, str] = field(default_factory=dict)


def encode_record(record: SourceRecord) -> bytes:
    lines: list[dict[str, Any]] = [
        {"layers": [_layer_fields(row) for row in record.layers[start : start + _ROWS_A_LINE]]}
        for start in range(0, len(record.layers), _ROWS_A_LINE)
    ]
    lines += ({"image": _image_fields(image)} for image in record.images)
    if record.held:
        lines.append({"held": [[layer.legacy_id, layer.mark, layer.is_v1] for layer in record.held]})
    last = {
        "type": record.type,
        "failures": [failure.without_source() for failure in record.failures],
        "warnings": list(record.warnings),
        "containers": [to_builtins(container) for container in record.containers],
        "orphaned_volumes": [to_builtins(volume) for volume in record.orphaned_volumes],
        **({"missing": list(record.missing)} if record.missing else {}),
        **({"lent": dict(record.lent)} if record.lent else {}),
    }
    return b"".join(json.dumps(line, separators=(",", ":")).encode("ascii") + b"\n" for line in (*lines, last))


def parse_record(
    content: bytes, source: str, *, images: bool = True, layers: bool = True, held: bool = False
) -> SourceRecord:
    """ValueError for bytes that `encode_record` did not write. Without `images`, those are passed over; without
    `layers`, those are, and the chains of the images are empty; `held` are read only where they are wanted."""
    rows: list[LayerRecord] = []
    records: list[ImageRecord] = []
    lendable: list[HeldLayer] = []
    # what is not wanted is not parsed: layers are most of a record
    left_out = (*([] if images else [_IMAGE]), *([] if layers else [_LAYERS]), *([] if held else [_HELD]))
    try:
        lines = [json.loads(line) for line in content.splitlines() if not line.startswith(left_out)]
        for line in lines:
            rows += [_parse_layer(fields) for fields in line.get("layers", ())]
            if "image" in line:
                records.append(_parse_image(line["image"], source, rows if layers else None))
            lendable += [
                HeldLayer(LegacyID(_text(one)), _text(mark), _flag(v1)) for one, mark, v1 in line.get("held", ())
            ]
        last = lines[-1]
        return SourceRecord(
            type=_text_or_none(last["type"]),
            layers=tuple(rows),
            images=tuple(records),
            failures=tuple(
                Failure(
                    source=source,
                    references=_each(fields["references"], str),
                    legacy_id=_text_or_none(fields["legacy_id"]),
                    layer=_text_or_none(fields["layer"]),
                    error=_text(fields["error"]),
                    message=_text(fields["message"]),
                )
                for fields in last["failures"]
            ),
            warnings=_each(last["warnings"], str),
            containers=tuple(map(_parse_container, last.get("containers", ()))),
            orphaned_volumes=tuple(map(_parse_volume, last.get("orphaned_volumes", ()))),
            missing=_each(last.get("missing", []), str),
            held=tuple(lendable),
            lent={LegacyID(_text(one)): _text(place) for one, place in last.get("lent", {}).items()},
        )
    except (KeyError, IndexError, TypeError, AttributeError, RecursionError) as exc:
        raise ValueError(f"{source}: not a record of a batch: {exc!r}") from exc


def _each(values: Any, kind: type) -> tuple[Any, ...]:
    """The members of a list that are all of one JSON type."""
    if type(values) is not list or any(type(value) is not kind for value in values):
        raise ValueError(f"a list of {kind.__name__} was expected, not {values!r:.100}")
    return tuple(values)


def _text(value: Any) -> str:
    return str(_each([value], str)[0])


def _word(value: Any) -> str:
    """One of few texts that thousands of records have, and that is in memory once."""
    return sys.intern(_text(value))


def _text_or_none(value: Any) -> str | None:
    return None if value is None else _text(value)


def _whole(value: Any, most: int = STATED_BYTES) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"a whole number up to {most:,} was expected, not {value!r:.100}")
    return value


def _flag(value: Any) -> bool:
    return bool(_each([value], bool)[0])


# --- layers ------------------------------------------------------------------------------------------------------


def _layer_fields(row: LayerRecord) -> list[Any]:
    hashed = row.hashed
    if hashed is None:
        return [row.legacy_id]
    blob = hashed.blob
    return [
        row.legacy_id,
        hashed.diff_id.hex,
        hashed.tar_size,
        hashed.empty,
        None if blob is None else [blob.digest.hex, blob.size, blob.compression, row.role.value],
        hashed.origin,
        hashed.exact,
        hashed.note,
        list(hashed.flags),
        [list(pair) for pair in hashed.flagged],
        hashed.damaged,
    ]


def _parse_layer(fields: Sequence[Any]) -> LayerRecord:
    legacy_id = LegacyID(_text(fields[0]))
    if len(fields) == 1:
        return LayerRecord(legacy_id, None)
    _, diff_id, tar_size, empty, blob, origin, exact, note, flags, *later = fields
    flagged, damaged = later or ([], False)  # a journal of an earlier version has neither
    hashed = HashedLayer(
        diff_id=DiffID(Digest(diff_id)),
        tar_size=_whole(tar_size),
        empty=_flag(empty),
        blob=None
        if blob is None
        else StoredBlob(digest=Digest(blob[0]), size=_whole(blob[1]), compression=_word(blob[2])),
        origin=_word(origin),
        exact=_flag(exact),
        note=_text_or_none(note),
        flags=_each(flags, str),
        flagged=tuple((_text(flag), _text(entry)) for flag, entry in flagged),
        damaged=_flag(damaged),
    )
    return LayerRecord(legacy_id, hashed, Role.MADE if blob is None else Role(blob[3]))


# --- images ------------------------------------------------------------------------------------------------------


def _image_fields(record: ImageRecord) -> dict[str, Any]:
    image = record.finished
    composed = image.composed
    fields: dict[str, Any] = {
        "id": image.legacy_id,
        "chain": list(record.chain),
        "config": _base64(composed.config),
        "config_type": composed.config_media_type,
        "manifest_type": composed.manifest_media_type,
        "diff_ids": [diff_id.hex for diff_id in composed.diff_ids],
        "platform": [composed.platform.os, composed.platform.architecture, composed.platform.variant],
        "created": composed.created,
        "references": [[reference.name, reference.tag] for reference in image.references],
    }
    if image.containers:
        fields["containers"] = list(image.containers)
    if image.container is not None:
        fields["container"] = to_builtins(image.container)
    if image.legacy_digests:
        fields["legacy_digests"] = [digest.hex for digest in image.legacy_digests]
    if image.warnings:
        fields["warnings"] = list(image.warnings)
    if not image.certain:
        fields["certain"] = False
    if image.ready:
        fields["manifest"] = _base64(composed.manifest)
        fields["layers"] = [[layer.media_type, layer.digest.hex, layer.size] for layer in composed.layers]
    if image.index is not None:
        fields["index"] = {
            "content": _base64(image.index.content),
            "type": image.index.media_type,
            "references": [[reference.name, reference.tag] for reference in image.index.references],
            "nested": [[_base64(nested.content), nested.media_type] for nested in image.index.nested],
        }
    return fields


def _parse_image(fields: Mapping[str, Any], source: str, rows: Sequence[LayerRecord] | None) -> ImageRecord:
    ready = "manifest" in fields
    os, architecture, variant = fields["platform"]
    composed = ComposedImage(
        config_document=base64.b64decode(fields["config"]),
        config_media_type=_word(fields["config_type"]),
        manifest_document=base64.b64decode(fields["manifest"]) if ready else b"",
        manifest_media_type=_word(fields["manifest_type"]),
        diff_ids=tuple(DiffID(Digest(diff_id)) for diff_id in fields["diff_ids"]),
        layers=tuple(
            Descriptor(media_type=_word(media_type), digest=Digest(digest), size=_whole(size))
            for media_type, digest, size in fields.get("layers", ())
        ),
        platform=Platform(os=_word(os), architecture=_word(architecture), variant=_text_or_none(variant)),
        created=_text_or_none(fields["created"]),
    )
    chain = () if rows is None else tuple(_whole(row, len(rows) - 1) for row in fields["chain"])
    # The report needs only a layer's ID; its JSON went into the config.
    finished = FinishedImage(
        source=source,
        order=0,
        legacy_id=LegacyID(_text(fields["id"])),
        composed=composed,
        chain=()
        if rows is None
        else tuple(
            (LegacyLayer(legacy_id=rows[row].legacy_id, json=b"", parent=None, payload=None), rows[row].hashed)
            for row in chain
        ),
        references=_references(fields["references"]),
        containers=_each(fields.get("containers", []), str),
        container=_parse_container(fields["container"]) if "container" in fields else None,
        legacy_digests=tuple(map(Digest, fields.get("legacy_digests", ()))),
        warnings=_each(fields.get("warnings", []), str),
        index=_parse_index(fields.get("index")),
        ready=ready,
        certain=_flag(fields.get("certain", True)),
    )
    return ImageRecord(finished, chain)


def _parse_container(fields: Mapping[str, Any]) -> Container:
    volumes = tuple(_parse_volume(volume) for volume in fields["volumes"])
    changed = fields["changed_bytes"]
    return Container(
        id=_text(fields["id"]),
        name=_text(fields["name"]),
        image=_text(fields["image"]),
        state=_text(fields["state"]),
        created=_text_or_none(fields["created"]),
        changed_bytes=None if changed is None else _whole(changed),
        volumes=volumes,
        unseen=_each(fields["unseen"], str),
        half_removed=_flag(fields.get("half_removed", False)),
    )


def _parse_volume(fields: Mapping[str, Any]) -> Volume:
    size = fields["bytes"]
    return Volume(
        path=_text(fields["path"]),
        source=_text(fields["source"]),
        bytes=None if size is None else _whole(size),
        kind="bind" if fields.get("kind") == "bind" else "volume",
    )


def _parse_index(fields: Mapping[str, Any] | None) -> ReadyIndex | None:
    if fields is None:
        return None
    return ReadyIndex(
        content=base64.b64decode(fields["content"]),
        media_type=_text(fields["type"]),
        references=_references(fields["references"]),
        children=(),
        nested=tuple(
            ReadyManifest(content=base64.b64decode(content), media_type=_text(media_type))
            for content, media_type in fields.get("nested", ())
        ),
    )


def _references(pairs: Sequence[Sequence[str]]) -> tuple[Reference, ...]:
    return tuple(Reference(_text(name), _text(tag)) for name, tag in pairs)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


# --- failures ----------------------------------------------------------------------------------------------------
