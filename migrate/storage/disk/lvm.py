"""LVM2: physical volumes, and the logical volumes of their groups. Nothing is activated.

Source of the format: lvm2, lib/format_text/layout.h, lib/label/label.c, lib/format_text/ (the text metadata, as in
/etc/lvm/backup). Linear, striped and thin volumes are read. The data and metadata of a thin pool are read as well,
because Docker's devicemapper driver with direct-lvm keeps layers in a pool, without a volume for each.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from msgspec import Struct, field

from migrate.errors import DamagedError, LimitError, SourceError, UnsupportedError
from migrate.storage.pieces import JoinedBlocks, StripedBlocks
from migrate.storage.thin.device import ThinDevice
from migrate.storage.thin.pool import ThinPool
from migrate.storage.tree import PoolParts

if TYPE_CHECKING:
    from migrate.storage.blocks import Blocks

_SECTOR: Final = 512
_LABEL = struct.Struct("<8sQII8s")
_LOCATION = struct.Struct("<QQ")
_METADATA_HEADER = struct.Struct("<I16sIQQ")
_RAW_LOCATION = struct.Struct("<QQII")
_MAGIC: Final = b" LVM2 x[5A%r0N*>"
_FIRST_CRC: Final = 0xF597A6CF
_METADATA_BYTES: Final = 64 * 1024 * 1024
_DEPTH: Final = 16
_DEEPEST: Final = 8
"""Limit of volumes that are made of other volumes."""
_TOKEN: Final = re.compile(r'#[^\n]*|"((?:[^"\\]|\\.)*)"|(-?\d+(?:\.\d+)?)|([A-Za-z0-9_.+/@:-]+)|([{}=,\[\]])|\s+')


_Member = TypeVar("_Member")


class Section(dict[str, "str | int | list[object] | Section"]):
    """A section of the text metadata."""

    def number(self, key: str) -> int:
        value = self._member(key, int, "number")
        if value < 0:
            raise DamagedError(f"the LVM metadata have no number {key}")
        return value

    def text(self, key: str) -> str:
        return self._member(key, str, "text")

    def section(self, key: str) -> Section:
        return self._member(key, Section, "section")

    def _member(self, key: str, kind: type[_Member], what: str) -> _Member:
        value = self.get(key)
        if not isinstance(value, kind):
            raise DamagedError(f"the LVM metadata have no {what} {key}")
        return value

    def sections(self) -> Iterator[tuple[str, Section]]:
        return ((key, value) for key, value in self.items() if isinstance(value, Section))


class PhysicalVolume(Struct, frozen=True):
    """A physical volume. `metadata`: the text of the newest valid copy on it, None if it has none."""

    uuid: str
    blocks: Blocks
    metadata: str | None


class VolumeGroup(Struct):
    """A volume group. `volumes`: name → the volume, or why it cannot be read. Hidden volumes, of which others are made,
    are not included."""

    name: str
    volumes: dict[str, Blocks | SourceError] = field(default_factory=dict)
    pools: list[PoolParts] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def is_physical_volume(blocks: Blocks) -> bool:
    return _find_label(blocks) is not None


def read_physical_volume(blocks: Blocks) -> PhysicalVolume:
    """Reads the label and the metadata. Raises DamagedError for a damaged label; damaged metadata count as absent."""
    place = _find_label(blocks)
    if place is None:
        raise DamagedError("no LVM label")
    raw = blocks.read_at(place, min(_SECTOR, blocks.size - place))
    _, _, crc, offset, _ = _LABEL.unpack_from(raw)
    if _crc(raw[20:]) != crc:
        raise DamagedError("the LVM label does not have its checksum")
    try:
        uuid = raw[offset : offset + 32].decode("ascii")
        at = offset + 40
        # Two lists: first the areas with data, then those with metadata.
        at, _ = _locations(raw, at)
        _, areas = _locations(raw, at)
    except (struct.error, UnicodeDecodeError) as exc:
        raise DamagedError(f"the LVM label cannot be understood: {exc}") from exc
    texts = [text for start, _ in areas if (text := _read_text(blocks, start)) is not None]
    newest = max(
        texts,
        key=lambda text: ((match := re.search(r"\bseqno\s*=\s*(\d{1,9})", text)) and int(match[1])) or 0,
        default=None,
    )
    return PhysicalVolume(uuid, blocks, newest)


def read_groups(found: Sequence[PhysicalVolume]) -> list[VolumeGroup]:
    """The groups that consist of these physical volumes. Groups without readable metadata are left out."""
    groups: dict[str, tuple[int, str, Section]] = {}
    for volume in found:
        if volume.metadata is None:
            continue
        for name, section in parse_metadata(volume.metadata).sections():
            seqno = section.number("seqno")
            if name not in groups or groups[name][0] < seqno:
                groups[name] = (seqno, name, section)
    # Each physical volume has the text of the whole group. The newest one counts, as for LVM.
    by_uuid = {volume.uuid: volume.blocks for volume in found}
    return [_Group(name, section, by_uuid).read() for _, name, section in groups.values()]


class _Group:
    def __init__(self, name: str, section: Section, by_uuid: Mapping[str, Blocks]) -> None:
        self._name = name
        self._extent = section.number("extent_size") * _SECTOR
        volumes = section.get("logical_volumes", Section())
        self._volumes = volumes if isinstance(volumes, Section) else Section()
        self._physical: dict[str, tuple[Blocks | None, int]] = {}
        for key, physical in section.section("physical_volumes").sections():
            uuid = physical.text("id").replace("-", "")
            self._physical[key] = (by_uuid.get(uuid), physical.number("pe_start") * _SECTOR)
        if not 0 < self._extent <= 1 << 40:
            raise DamagedError(f"the LVM group {name} has extents of {self._extent:,} bytes")

    def read(self) -> VolumeGroup:
        found = VolumeGroup(self._name)
        missing = sorted(key for key, (blocks, _) in self._physical.items() if blocks is None)
        if missing:
            found.problems.append(f"LVM group {self._name}: {', '.join(missing)} of its physical volumes are not here")
        for name, section in self._volumes.sections():
            # A volume that is not VISIBLE is a part of another one, such as `pool_tdata`. A thin pool is not opened as
            # a volume: Docker keeps its layers in the pool, with device IDs of its own (direct-lvm).
            status = section.get("status")
            visible = isinstance(status, list) and "VISIBLE" in status
            segments = _segments(section)
            if len(segments) == 1 and segments[0].get("type") == "thin-pool":
                try:
                    found.pools.append(self._pool_parts(name, segments[0], 0))
                except SourceError as exc:
                    found.problems.append(f"LVM group {self._name}, thin pool {name}: {exc.message}")
            elif visible:
                try:
                    found.volumes[name] = self._open(name, 0)
                except SourceError as exc:
                    found.volumes[name] = exc
        return found

    def _pool_parts(self, name: str, segment: Section, depth: int) -> PoolParts:
        data, metadata = segment.text("pool"), segment.text("metadata")
        return PoolParts(name, self._open(data, depth + 1), self._open(metadata, depth + 1))

    def _open(self, name: str, depth: int) -> Blocks:
        if depth > _DEEPEST:
            raise DamagedError(f"the LVM volume {name} is made of itself")
        parts: list[tuple[int, int, Blocks, int]] = []
        size = 0
        for segment in _segments(self._volumes.section(name)):
            start = segment.number("start_extent") * self._extent
            length = segment.number("extent_count") * self._extent
            parts.append((start, length, self._open_segment(segment, length, depth), 0))
            size = max(size, start + length)
        parts.sort(key=lambda part: part[0])
        # JoinedBlocks refuses parts that overlap. So a right sum means that nothing is missing.
        if sum(length for _, length, _, _ in parts) != size or not size:
            raise DamagedError(f"the LVM volume {name} is not covered by its segments")
        return parts[0][2] if len(parts) == 1 else JoinedBlocks(parts, size)

    def _open_segment(self, segment: Section, length: int, depth: int) -> Blocks:
        kind = segment.text("type")
        if kind in ("striped", "linear"):
            return self._open_stripes(segment, length)
        if kind == "thin":
            return self._open_thin(segment, length, depth)
        if kind in ("error", "zero"):
            raise UnsupportedError(f"a part of it is of the type {kind}")
        raise UnsupportedError(
            f"it is of the LVM type {kind}, which is not read; activate it on a machine with LVM, and convert the "
            "Docker root from there"
        )

    def _open_stripes(self, segment: Section, length: int) -> Blocks:
        listed = segment.get("stripes")
        names = listed if isinstance(listed, list) else []
        columns: list[tuple[Blocks, int]] = []
        for name, extent in zip(names[::2], names[1::2], strict=False):
            if not isinstance(name, str) or not isinstance(extent, int) or name not in self._physical:
                raise DamagedError(f"its stripes are on {name!r}, which the group does not have")
            blocks, first = self._physical[name]
            if blocks is None:
                raise SourceError(f"its physical volume {name} is not here")
            columns.append((blocks, first + extent * self._extent))
        if not columns or len(names) % 2:
            raise DamagedError("it has a segment without stripes")
        share = length // len(columns)
        for blocks, start in columns:
            if start + share > blocks.size:
                raise DamagedError("it reaches beyond its physical volume")
        # LVM stores a linear volume as a striped one with one stripe.
        if len(columns) == 1:
            return JoinedBlocks([(0, length, *columns[0])], length)
        unit = segment.number("stripe_size") * _SECTOR
        if not unit or share % unit:
            raise DamagedError(f"it has stripes of {unit:,} bytes")
        return StripedBlocks(columns, unit, length)

    def _open_thin(self, segment: Section, length: int, depth: int) -> Blocks:
        if "external_origin" in segment:
            raise UnsupportedError("it is thin with an external origin, which is not read")
        name = segment.text("thin_pool")
        segments = _segments(self._volumes.section(name))
        if len(segments) != 1:
            raise DamagedError(f"its pool {name} is not a thin pool")
        parts = self._pool_parts(name, segments[0], depth)
        pool = ThinPool(parts.metadata)
        device_map = pool.read_map(segment.number("device_id"))
        return ThinDevice(parts.data, device_map, pool.superblock.block_size, length)


def _segments(volume: Section) -> list[Section]:
    return [section for key, section in volume.sections() if re.fullmatch(r"segment\d+", key)]


def parse_metadata(text: str) -> Section:
    """Parses the text metadata. Raises DamagedError."""
    tokens = _tokens(text)
    root = Section()
    stack = [root]
    for kind, token in tokens:
        if kind == "}" and len(stack) > 1:
            stack.pop()
            continue
        if kind not in ("word", "number", "text"):
            raise DamagedError(f"the LVM metadata cannot be understood at {token!r}")
        following, _ = next(tokens, ("", ""))
        if following == "{":
            if len(stack) > _DEPTH:
                raise LimitError(f"the LVM metadata have sections deeper than {_DEPTH}")
            section = Section()
            stack[-1][token] = section
            stack.append(section)
        elif following == "=":
            stack[-1][token] = _value(tokens, *next(tokens, ("", "")))
        else:
            raise DamagedError(f"the LVM metadata cannot be understood behind {token!r}")
    if len(stack) > 1:
        raise DamagedError("the LVM metadata end in the middle of a section")
    return root


def _value(tokens: Iterator[tuple[str, str]], kind: str, token: str) -> str | int | list[object]:
    if kind == "text":
        return token
    if kind == "number":
        return int(token.partition(".")[0])
    if kind != "[":
        raise DamagedError(f"the LVM metadata cannot be understood at {token!r}")
    found: list[object] = []
    for kind, token in tokens:
        if kind == "]":
            return found
        if kind in ("text", "number"):
            found.append(_value(tokens, kind, token))
        elif kind != ",":
            break
    raise DamagedError("the LVM metadata have a list that does not end")


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise DamagedError(f"the LVM metadata cannot be understood at {text[at : at + 20]!r}")
        at = match.end()
        quoted, number, word, sign = match.groups()
        if quoted is not None:
            yield "text", quoted
        elif number is not None and (at >= len(text) or not (text[at].isalnum() or text[at] in "_-.")):
            yield "number", number
        elif number is not None:  # a name that starts with digits
            rest = re.compile(r"[A-Za-z0-9_.+/@:-]*").match(text, at)
            assert rest is not None
            at = rest.end()
            yield "word", number + rest[0]
        elif word is not None:
            yield "word", word
        elif sign is not None:
            yield sign, sign


def _find_label(blocks: Blocks) -> int | None:
    """The offset of the label, which is in one of the first four sectors; None if there is none."""
    head = blocks.read_at(0, min(4 * _SECTOR, blocks.size))
    for place in range(0, len(head), _SECTOR):
        if head[place : place + 8] == b"LABELONE" and head[place + 24 : place + 32] == b"LVM2 001":
            return place
    return None


def _locations(raw: bytes, at: int) -> tuple[int, list[tuple[int, int]]]:
    """(offset behind the list, its entries). An empty entry ends the list."""
    found: list[tuple[int, int]] = []
    while True:
        offset, size = _LOCATION.unpack_from(raw, at)
        at += _LOCATION.size
        if not offset:
            return at, found
        found.append((offset, size))


def _read_text(blocks: Blocks, start: int) -> str | None:
    """The metadata text of one area; None if it is damaged or absent. Behind its first sector the area is a ring."""
    try:
        raw = blocks.read_at(start, _SECTOR)
        crc, magic, _, here, area = _METADATA_HEADER.unpack_from(raw)
        offset, length, text_crc, flags = _RAW_LOCATION.unpack_from(raw, _METADATA_HEADER.size)
        # Bit 0 of the flags is set for a location that must be ignored (RAW_LOCN_IGNORED).
        if magic != _MAGIC or here != start or _crc(raw[4:]) != crc or flags & 1 or not 0 < length <= _METADATA_BYTES:
            return None
        if not _SECTOR <= offset < area or length > area - _SECTOR:
            return None
        first = blocks.read_at(start + offset, min(length, area - offset))
        text = first + (blocks.read_at(start + _SECTOR, length - len(first)) if len(first) < length else b"")
        return text.rstrip(b"\0").decode("utf-8", "replace") if _crc(text) == text_crc else None
    except (SourceError, struct.error):
        return None


def _crc(content: bytes) -> int:
    """LVM's checksum: CRC-32 with its own initial value, and without complements."""
    return zlib.crc32(content, _FIRST_CRC ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
