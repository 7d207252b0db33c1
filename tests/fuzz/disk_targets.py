"""Disks as fuzz targets: partition tables, LVM, the formats of hypervisors, and the file systems of whole disks.

A fuzzer does not make a file system. So each target has a sound disk of which an input changes bytes, eight at a time:
a place among those that hold something (three bytes), and what is written there (five).
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fastcrc import crc32

from migrate.errors import MigrateError
from migrate.storage.blocks import FileBlocks
from migrate.storage.disk.disk_tree import DiskTree
from migrate.storage.disk.formats import open_image
from migrate.storage.disk.lvm import parse_metadata
from migrate.storage.disk.volumes import read_contents
from migrate.storage.tree import Tree
from tests import disks
from tests.unit.readers.devicemapper.images import make_ext4

Fuzzed = Callable[[bytes], None]
_SECTOR = 512
_MOST_READ = 4 * disks.MIB


def walk(tree: Tree) -> None:
    waiting, seen = [b""], 0
    while waiting:
        folder = waiting.pop()
        try:
            entries = tree.entries(folder)
        except MigrateError:
            continue
        for entry in entries:
            seen += 1
            assert seen < 50_000, "a tree without an end"
            if stat.S_ISDIR(entry.mode):
                waiting.append(entry.path)
            try:
                if stat.S_ISLNK(entry.mode):
                    tree.read_link(entry.path)
                elif stat.S_ISREG(entry.mode) and entry.size < 1 << 24:
                    with tree.open(entry.path) as stream:
                        while stream.read(1 << 16):
                            pass
                tree.xattrs(entry.path)
            except MigrateError:
                pass


class Spoiled:
    """A sound disk image, of which the edits of one input are undone after it. `places`: sectors that may change."""

    def __init__(self, image: Path, places: Sequence[int] | None = None) -> None:
        self.fd = os.open(image, os.O_RDWR)
        self.size = os.fstat(self.fd).st_size
        self.places = list(places or self._used())

    def _used(self) -> Iterator[int]:
        for at in range(0, self.size, 1 << 16):
            block = os.pread(self.fd, 1 << 16, at)
            if block.strip(b"\0"):
                yield from (
                    at + part for part in range(0, len(block), _SECTOR) if block[part : part + _SECTOR].strip(b"\0")
                )

    @contextmanager
    def edited(self, raw: bytes, mend: Callable[[set[int]], Iterator[tuple[int, bytes]]]) -> Iterator[None]:
        """`mend`: of the sectors that were changed, what has to be written to make their checksums right."""
        undo: list[tuple[int, bytes]] = []
        touched: set[int] = set()

        def write(where: int, content: bytes) -> None:
            undo.append((where, os.pread(self.fd, len(content), where)))
            os.pwrite(self.fd, content[: max(0, self.size - where)], where)

        for at in range(0, len(raw) - 7, 8):
            sector = self.places[int.from_bytes(raw[at : at + 2], "big") % len(self.places)]
            touched.add(sector)
            write(sector + raw[at + 2] * 2, raw[at + 3 : at + 8])
        for where, content in list(mend(touched)):
            write(where, content)
        try:
            yield
        finally:
            for where, content in reversed(undo):
                os.pwrite(self.fd, content, where)


def no_checksums(_: set[int]) -> Iterator[tuple[int, bytes]]:
    return iter(())


def read_disk(fd: int, *, trees: bool = True) -> None:
    try:
        image = open_image(FileBlocks(os.dup(fd), "disk"), "disk", None)
    except MigrateError:
        return
    try:
        if not trees:
            for at in range(0, min(image.blocks.size, _MOST_READ), 1 << 16):
                image.blocks.read_at(at, min(1 << 16, image.blocks.size - at))
        contents = read_contents(image.blocks)
        assert all(volume.description for volume in contents.volumes)
        for volume in contents.file_systems if trees else ():
            try:
                tree = DiskTree(contents, volume, "disk")
            except MigrateError:
                continue
            walk(tree)
    except MigrateError:
        pass
    finally:
        image.close()


def _folder(place: Path) -> Path:
    """Enough for more than one block of names, for extents and for attributes."""
    tree = place / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/hostname").write_bytes(b"hello\n" * 20_000)
    (tree / "etc/link").symlink_to("x" * 150)
    with (tree / "etc/holes").open("wb") as stream:
        stream.seek(1 << 20)
        stream.write(os.urandom(70_000))
    os.setxattr(tree / "etc/hostname", "user.note", b"n" * 300)
    for number in range(300):
        (tree / f"etc/name-{number:04d}").write_bytes(b"%d" % number)
    return tree


# --- partitions and volumes --------------------------------------------------------------------------------------


def partitioned_disks(place: Path) -> Fuzzed:
    """MBR with logical partitions, and GPT, each with a file system and a physical volume; checksums are right."""
    made = [_partitioned(place / label, label) for label in ("dos", "gpt")]

    def run(raw: bytes) -> None:
        disk = made[raw[0] & 1] if raw else made[0]
        with disk.edited(raw[1:], lambda touched: _right_sums(disk)):
            read_disk(disk.fd, trees=False)

    return run


def _partitioned(place: Path, label: str) -> Spoiled:
    place.mkdir()
    uuid = "a" * 32
    small = make_ext4(place / "small", None, "1M", "^has_journal")
    volume = disks.physical_volume(place / "volume", uuid, 3)
    group = disks.volume_group(
        "vg", {"pv0": uuid}, {"root": ('"READ", "WRITE", "VISIBLE"', disks.linear(("pv0", 0, 1), ("pv0", 2, 1)))}
    )
    disks.write_metadata(volume, group)
    disks.write_extents(volume, 0, small)
    parts = [small, volume, small, small] if label == "dos" else [small, volume]
    disks.partitioned(parts, place / "disk", label)
    disk = Spoiled(place / "disk")
    starts = {at for at in disk.places if _holds_label(disk, at)}
    tables = [at for at in disk.places if at < disks.MIB or at >= disk.size - 40 * _SECTOR]
    logical = [at for at in disk.places if os.pread(disk.fd, 2, at + 510) == b"\x55\xaa"]
    near = [at for at in disk.places if any(0 <= at - start < 16 * 1024 for start in starts)]
    disk.places = sorted({*tables, *logical, *near})
    return disk


def _holds_label(disk: Spoiled, at: int) -> bool:
    return os.pread(disk.fd, 8, at) == b"LABELONE"


def _right_sums(disk: Spoiled) -> Iterator[tuple[int, bytes]]:
    for at in (_SECTOR, disk.size - _SECTOR):
        header = bytearray(os.pread(disk.fd, 92, at))
        if header[:8] == b"EFI PART":
            first, count, size = struct.unpack_from("<Q", header, 72)[0], *struct.unpack_from("<II", header, 80)
            if first < disk.size // _SECTOR and count * size < 1 << 20:
                table = os.pread(disk.fd, count * size, first * _SECTOR)
                header[88:92] = struct.pack("<I", zlib.crc32(table))
            header[16:20] = bytes(4)
            yield at, bytes(header[:16]) + struct.pack("<I", zlib.crc32(header)) + bytes(header[20:])
    for at in disk.places:
        head = os.pread(disk.fd, _SECTOR, at)
        if head[:8] == b"LABELONE":
            yield at + 16, struct.pack("<I", disks.lvm_crc(head[20:]))
        if head[4:20] == b" LVM2 x[5A%r0N*>":
            offset, length = struct.unpack_from("<QQ", head, 40)
            text = os.pread(disk.fd, min(length, 1 << 20), at + min(offset, 1 << 30))
            body = head[4:56] + struct.pack("<I", disks.lvm_crc(text)) + head[60:]
            yield at, struct.pack("<I", disks.lvm_crc(body)) + body


def lvm_metadata(_: Path) -> Fuzzed:
    def run(raw: bytes) -> None:
        with suppress(MigrateError):
            parse_metadata(raw.decode("utf-8", "replace"))

    return run


# --- formats of hypervisors --------------------------------------------------------------------------------------


def disk_formats(place: Path) -> Fuzzed:
    small = make_ext4(place / "small", _folder(place), "4M", "^has_journal")
    forms = ["qcow2", "qcow2-compressed", "qcow2-zstd", "vmdk-sparse", "vmdk-stream", "vdi", "vhd", "vhdx"]
    made = []
    for form in forms:
        disks.convert(small, place / form, form)
        disk = Spoiled(place / form)
        disk.places = disk.places[:400] + disk.places[-8:]
        made.append(disk)

    def run(raw: bytes) -> None:
        disk = made[raw[0] % len(made)] if raw else made[0]
        with disk.edited(raw[1:], no_checksums):
            read_disk(disk.fd, trees=False)

    return run


# --- file systems ------------------------------------------------------------------------------------------------


def ext4_disks(place: Path) -> Fuzzed:
    """With a journal, extents, hashed folders and large inodes."""
    return _file_system(place, "ext4", 16)


def xfs_disks(place: Path) -> Fuzzed:
    return _file_system(place, "xfs", 320)


def _file_system(place: Path, kind: str, size: int) -> Fuzzed:
    disks.FILE_SYSTEMS[kind](_folder(place), place / "disk", size * disks.MIB)
    disk = Spoiled(place / "disk")

    def run(raw: bytes) -> None:
        with disk.edited(raw, no_checksums):
            read_disk(disk.fd)

    return run


def btrfs_disks(place: Path) -> Fuzzed:
    """The superblock and the nodes of its trees, with right checksums."""
    disks.FILE_SYSTEMS["btrfs"](_folder(place), place / "disk", 128 * disks.MIB)
    disk = Spoiled(place / "disk")
    superblock = 0x10000
    fsid = os.pread(disk.fd, 16, superblock + 32)
    (size,) = struct.unpack("<I", os.pread(disk.fd, 4, superblock + 148))
    nodes = [
        at for at in range(0, disk.size - size, 4096) if os.pread(disk.fd, 16, at + 32) == fsid and at != superblock
    ]
    blocks = {superblock: 4096, **dict.fromkeys(nodes, size)}
    owner = {at + part: at for at, length in blocks.items() for part in range(0, length, _SECTOR)}
    disk.places = [at for at in disk.places if at in owner]

    def right(touched: set[int]) -> Iterator[tuple[int, bytes]]:
        for at in sorted({owner[sector] for sector in touched}):
            content = os.pread(disk.fd, blocks[at], at)
            yield at, struct.pack("<I", crc32.iscsi(content[32:]))

    def run(raw: bytes) -> None:
        with disk.edited(raw, right):
            read_disk(disk.fd)

    return run
