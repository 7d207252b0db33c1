"""The formats of virtual disks: qcow2, VMDK, VDI, VHD and VHDX, through dissect.hypervisor; and raw.

An image can name other files: its backing file, or the extents of a VMDK. A name in an input may lead to any file of
this machine. So only its last component is used, and the file must be in the folder of the image that the user named.
"""

from __future__ import annotations

import io
import os
import re
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from msgspec import Struct, field

from migrate.blobio.source_files import NOT_WAITING, open_source_file
from migrate.blobio.stopping import check_stop
from migrate.errors import (
    DamagedError,
    LimitError,
    PermissionSourceError,
    SourceError,
    TruncatedError,
    UnsupportedError,
)
from migrate.storage.blocks import Blocks, FileBlocks
from migrate.storage.disk.volumes import looks_like_disk
from migrate.storage.filesystems.dissection import import_dissect
from migrate.storage.filesystems.filesystem import FOREIGN
from migrate.storage.pieces import BlocksPart, JoinedBlocks, open_blocks

_SECTOR: Final = 512
_LONGEST_CHAIN: Final = 64
"""Limit of a chain of images, each the backing file of the next."""
_DESCRIPTOR_BYTES: Final = 1024 * 1024
_MOST_EXTENTS: Final = 100_000
_LARGEST_DISK: Final = 1 << 60
_EXTENT_LINE: Final = re.compile(r'^(?:RW|RDONLY|NOACCESS)\s+(\d+)\s+(\w+)(?:\s+"([^"]*)")?(?:\s+(\d+))?', re.MULTILINE)
_NO_PARENT: Final = "ffffffff"
_READ_AT_ONCE: Final = 4 * 1024 * 1024
_CONVERT: Final = "turn it into a raw image with `qemu-img convert -O raw` and convert that"
_FOREIGN_ERRORS: Final = (*FOREIGN, OSError, zlib.error, RecursionError, AttributeError, AssertionError, MemoryError)
"""Errors that dissect raises for damaged bytes."""


class DiskImage(Struct):
    """An open disk image. `blocks`: the disk as a machine sees it. `files`: all files that it consists of."""

    format: str
    blocks: Blocks
    files: list[str] = field(default_factory=list)
    closing: list[Blocks] = field(default_factory=list)

    def close(self) -> None:
        while self.closing:
            self.closing.pop().close()


def probe_format(file: Blocks) -> str:
    """`qcow2`, `vmdk`, `vdi`, `vhd`, `vhdx`, the name of a format that is not read, or `raw`."""
    head = file.read_at(0, min(file.size, 4096))
    tail = file.read_at(file.size - _SECTOR, _SECTOR) if file.size >= _SECTOR else b""
    for kind, place, magic in (
        ("qcow2", 0, b"QFI\xfb"),
        ("vmdk", 0, b"KDMV"),
        ("vmdk", 0, b"COWD"),
        ("vmdk", 0, b"# Disk DescriptorFile"),
        ("vdi", 0x40, b"\x7f\x10\xda\xbe"),
        ("vhdx", 0, b"vhdxfile"),
        ("vhd", 0, b"conectix"),
        ("qed", 0, b"QED\0"),
        ("parallels", 0, b"WithoutFreeSpace"),
        ("parallels", 0, b"WithouFreSpacExt"),
        ("ewf", 0, b"EVF\x09\x0d\x0a\xff\x00"),
    ):
        if head[place : place + len(magic)] == magic:
            return kind
    # A fixed VHD is a raw disk with a footer of one sector; only other VHDs have a copy of it at the beginning.
    if tail[:8] == b"conectix":
        return "vhd"
    return "dmg" if tail[:4] == b"koly" else "raw"


def looks_like_image(head: bytes) -> bool:
    """True if the first bytes of a stream are those of a disk image or of a raw disk."""
    blocks = HeadBlocks(head)
    return probe_format(blocks) != "raw" or looks_like_disk(blocks)


class HeadBlocks(Blocks):
    """The first bytes of a stream of unknown length, as blocks. The bytes behind them are zeros."""

    def __init__(self, head: bytes) -> None:
        self.size = max(len(head), 1 << 40)
        self._head = head

    def read_at(self, offset: int, size: int, /) -> bytes:
        return self._head[offset : offset + size].ljust(size, b"\0")


def open_image(file: Blocks, location: str, path: str | None) -> DiskImage:
    """The disk in an image file, which is taken over. `path`: the path of the file; None for standard input, and for a
    file inside another one."""
    image = DiskImage("raw", file, [path or location], [file])
    try:
        image.format = probe_format(file)
        image.blocks = _Opener(image, path).open(file, image.format, 0)
        if image.blocks.size > _LARGEST_DISK:
            raise DamagedError(f"{location}: a disk of {image.blocks.size:,} bytes")
    except BaseException:
        image.close()
        raise
    return image


class _Opener:
    def __init__(self, image: DiskImage, path: str | None) -> None:
        self._image = image
        self._path = path
        self._where = path or image.files[0]

    def open(self, file: Blocks, kind: str, depth: int) -> Blocks:
        if depth > _LONGEST_CHAIN:
            raise LimitError(f"{self._where}: more than {_LONGEST_CHAIN} images in one chain of backing files")
        if kind == "raw":
            return file
        with _dissect_errors(self._where, kind):
            match kind:
                case "qcow2":
                    return self._qcow2(file, depth)
                case "vmdk":
                    return self._vmdk(file)
                case "vdi":
                    return self._vdi(file)
                case "vhd":
                    return self._vhd(file)
                case "vhdx":
                    return self._vhdx(file)
        raise UnsupportedError(f"{self._where}: is a {kind} image, which is not read; {_CONVERT}")

    def _qcow2(self, file: Blocks, depth: int) -> Blocks:
        head = file.read_at(0, min(file.size, 4096))
        (version, name_place, name_size) = struct.unpack_from(">IQI", head, 4)
        if version not in (2, 3):
            raise UnsupportedError(
                f"{self._where}: is a qcow image of version {version}, which is not read; {_CONVERT}"
            )
        (size, encryption) = struct.unpack_from(">QI", head, 24)
        features = struct.unpack_from(">Q", head, 72)[0] if version >= 3 else 0
        if encryption:
            raise UnsupportedError(
                f"{self._where}: is encrypted; decrypt it with `qemu-img convert` and convert the result"
            )
        if features & 0x2:
            raise UnsupportedError(f"{self._where}: is marked as corrupt; run `qemu-img check -r all` on a copy")
        # dissect 3.21 reads wrong clusters of an image with extended L2 entries, or never ends.
        if features & 0x10:
            raise UnsupportedError(f"{self._where}: has subclusters (extended_l2), which are not read; {_CONVERT}")
        # The other incompatible features of qcow2 version 3: dirty, corrupt, external data, compression type.
        if features & ~0xF:
            raise UnsupportedError(
                f"{self._where}: uses features of qcow2 that are not read ({features:#x}); {_CONVERT}"
            )
        if features & 0x4:
            raise UnsupportedError(f"{self._where}: keeps its data in another file; {_CONVERT}")
        backing = None
        if name_place:
            if not 0 < name_size <= 1023:
                raise DamagedError(f"{self._where}: the name of its backing file has {name_size:,} bytes")
            name = os.fsdecode(file.read_at(name_place, name_size))
            beside = self._open_file_beside(name, "backing file")
            backing = self.open(beside, _backing_format(file, version) or probe_format(beside), depth + 1)
        # The image may be larger than its backing file, which then ends in zeros.
        opened = _hypervisor("qcow2").QCow2(
            open_blocks(file),
            backing_file=None
            if backing is None
            else open_blocks(JoinedBlocks([(0, min(size, backing.size), backing, 0)], size)),
        )
        return ImageBlocks(opened.open, size, self._where)

    def _vmdk(self, file: Blocks) -> Blocks:
        if file.read_at(0, 4) != b"# Di":
            return self._sparse_extent(file)
        text = file.read_at(0, min(file.size, _DESCRIPTOR_BYTES)).rstrip(b"\0").decode("utf-8", "replace")
        self._refuse_parent(text)
        parts: list[tuple[int, int, Blocks, int]] = []
        end = 0
        for count, match in enumerate(_EXTENT_LINE.finditer(text)):
            if count >= _MOST_EXTENTS:
                raise LimitError(f"{self._where}: more than {_MOST_EXTENTS:,} extents")
            length, kind = int(match[1]) * _SECTOR, match[2]
            if kind in ("FLAT", "VMFS"):
                extent = self._open_file_beside(match[3] or "", "extent")
                parts.append((end, length, extent, int(match[4] or 0) * _SECTOR))
            elif kind in ("SPARSE", "VMFSSPARSE"):
                parts.append((end, length, self._sparse_extent(self._open_file_beside(match[3] or "", "extent")), 0))
            elif kind != "ZERO":
                raise UnsupportedError(
                    f"{self._where}: has an extent of the type {kind}, which is not read; {_CONVERT}"
                )
            end += length
        if not end:
            raise DamagedError(f"{self._where}: the descriptor names no extent")
        for start, length, blocks, there in parts:
            # A file that was cut short would otherwise be noticed only when its missing part is read, or never.
            if there + length > blocks.size:
                raise TruncatedError(f"{self._where}: the extent at byte {start:,} has less than its {length:,} bytes")
        return JoinedBlocks(parts, end)

    def _sparse_extent(self, file: Blocks) -> Blocks:
        """A sparse VMDK file, alone or as one of several extents."""
        head = file.read_at(0, min(file.size, _SECTOR))
        if head[:4] not in (b"KDMV", b"COWD"):
            raise DamagedError(f"{self._where}: one of its extents is not a sparse extent of VMDK")
        # VMware Workstation writes KDMV, older ESX servers COWD. Only KDMV can have the descriptor in the extent, and
        # the descriptor names the parent.
        if head[:4] == b"KDMV":
            capacity, _, place, size = struct.unpack_from("<QQQQ", head, 12)
            if place and 0 < size * _SECTOR <= _DESCRIPTOR_BYTES:
                self._refuse_parent(
                    file.read_at(place * _SECTOR, size * _SECTOR).rstrip(b"\0").decode("utf-8", "replace")
                )
            capacity *= _SECTOR
        else:
            capacity = struct.unpack_from("<I", head, 12)[0] * _SECTOR
        if not 0 < capacity <= _LARGEST_DISK:
            raise DamagedError(f"{self._where}: states a disk of {capacity:,} bytes")
        return ImageBlocks(lambda: _Grains(_hypervisor("vmdk").SparseDisk(open_blocks(file))), capacity, self._where)

    def _refuse_parent(self, descriptor: str) -> None:
        found = re.search(r"^\s*parentCID\s*=\s*\"?([0-9a-fA-F]+)", descriptor, re.MULTILINE)
        if found is not None and found[1].lower() != _NO_PARENT:
            hint = re.search(r'^\s*parentFileNameHint\s*=\s*"([^"]*)"', descriptor, re.MULTILINE)
            raise UnsupportedError(
                f"{self._where}: is a snapshot on top of {hint[1] if hint else 'another image'!r}; consolidate the "
                "snapshots, or join them with `qemu-img convert -O raw`, and convert the result"
            )

    def _vdi(self, file: Blocks) -> Blocks:
        head = file.read_at(0, min(file.size, 512))
        (kind,) = struct.unpack_from("<I", head, 0x4C)
        (size,) = struct.unpack_from("<Q", head, 0x170)
        # 1: dynamic, 2: fixed; others have a parent.
        if kind not in (1, 2):
            raise UnsupportedError(
                f"{self._where}: is a snapshot on top of another VDI; clone it with `VBoxManage clonemedium` first"
            )
        return ImageBlocks(_hypervisor("vdi").VDI(open_blocks(file)).open, size, self._where)

    def _vhd(self, file: Blocks) -> Blocks:
        footer = file.read_at(file.size - _SECTOR, _SECTOR)
        (stated,) = struct.unpack_from(">I", footer, 64)
        if footer[:8] != b"conectix" or stated != ~sum(footer[:64] + footer[68:]) & 0xFFFFFFFF:
            raise DamagedError(f"{self._where}: the VHD's footer is not at its end, or damaged; was it cut off?")
        size, kind = struct.unpack_from(">Q", footer, 48)[0], struct.unpack_from(">I", footer, 60)[0]
        if kind == 2:
            return BlocksPart(file, 0, min(size, file.size - _SECTOR))
        if kind != 3:
            raise UnsupportedError(f"{self._where}: is a VHD on top of another one; merge them, and convert the result")
        return ImageBlocks(lambda: _hypervisor("vhd").VHD(open_blocks(file)), size, self._where)

    def _vhdx(self, file: Blocks) -> Blocks:
        headers = [file.read_at(place, 4096) for place in (0x10000, 0x20000)]
        sound = [raw for raw in headers if raw[:4] == b"head"]
        if not sound:
            raise DamagedError(f"{self._where}: both headers of the VHDX are damaged")
        # A VHDX has two headers, and the one with the higher sequence number is in use ([MS-VHDX], Headers). Its
        # LogGuid, bytes 48 to 64, is zero if no entry of the log has to be replayed.
        newest = max(sound, key=lambda raw: int(struct.unpack_from("<Q", raw, 8)[0]))
        if any(newest[48:64]):
            raise UnsupportedError(
                f"{self._where}: was not closed, and its log is not replayed; attach it once on Windows, or run "
                "`qemu-img check -r all` on a copy"
            )
        opened = _hypervisor("vhdx").VHDX(open_blocks(file))
        if opened.has_parent:
            raise UnsupportedError(
                f"{self._where}: is a VHDX on top of another one; merge them, and convert the result"
            )
        return ImageBlocks(lambda: opened, int(opened.size), self._where)

    def _open_file_beside(self, name: str, what: str) -> FileBlocks:
        """Opens the file with the last component of `name` in the folder of the image that the user named. A symbolic
        link there is not followed, since it could be part of the input."""
        # The image has the path from the machine that made it, with backslashes on Windows. It could also name any file
        # of this machine. So only the last component is used.
        plain = name.removeprefix("file:").replace("\\", "/").rpartition("/")[2]
        if plain in ("", ".", "..") or "\0" in plain or (name.startswith("json:") or "://" in name):
            raise UnsupportedError(f"{self._where}: its {what} {name!r} is not a file beside it; {_CONVERT}")
        if self._path is None:
            raise UnsupportedError(f"{self._where}: needs its {what} {name!r}, and has no folder; name the file itself")
        path = os.path.join(os.path.dirname(os.path.abspath(self._path)), plain)
        try:
            file = FileBlocks(open_source_file(path, NOT_WAITING), path)
        except FileNotFoundError as exc:
            raise SourceError(
                f"{self._where}: its {what} is not beside it: {path} (it names {name!r}); put it there, or {_CONVERT}"
            ) from exc
        except PermissionError as exc:
            raise PermissionSourceError(f"{path}: may not be read by this user: run as root") from exc
        except OSError as exc:
            raise SourceError(f"{path}: cannot be opened: {exc.strerror}") from exc
        self._image.closing.append(file)
        self._image.files.append(path)
        return file


class ImageBlocks(Blocks):
    """The disk in an image, read through dissect. One read at a time, since dissect's streams have one position.

    Raises TruncatedError for a part that is missing in the image file; a read never returns fewer bytes.
    """

    def __init__(self, opener: Callable[[], Any], size: int, where: str) -> None:
        self.size = size
        self._where = where
        self._stream = opener()
        self._lock = threading.Lock()

    def read_at(self, offset: int, size: int, /) -> bytes:
        if offset < 0 or offset + size > self.size:
            raise TruncatedError(
                f"{self._where}: ends at byte {self.size:,}, but is in use up to byte {offset + size:,}"
            )
        content = b"".join(
            self._read(at, min(_READ_AT_ONCE, offset + size - at)) for at in range(offset, offset + size, _READ_AT_ONCE)
        )
        if len(content) != size:
            raise TruncatedError(f"{self._where}: byte {offset + len(content):,} of the disk is not in the image")
        return content

    def _read(self, offset: int, size: int) -> bytes:
        check_stop()
        with self._lock, _dissect_errors(self._where, f"byte {offset:,} of the disk"):
            self._stream.seek(offset, io.SEEK_SET)
            return bytes(self._stream.read(size))


class _Grains:
    """A sparse extent of dissect, which reads whole sectors, as a stream. (dissect's VMDK class refuses an extent with
    an empty descriptor, which qemu-img writes into each of several files.)"""

    def __init__(self, disk: Any) -> None:
        self._disk = disk
        self._position = 0

    def seek(self, offset: int, _: int) -> None:
        self._position = offset

    def read(self, size: int) -> bytes:
        first, skip = divmod(self._position, _SECTOR)
        count = -(-(skip + size) // _SECTOR)
        return bytes(self._disk.read_sectors(first, count)[skip : skip + size])


def _hypervisor(name: str) -> Any:
    return import_dissect(f"dissect.hypervisor.disk.{name}", "reading a disk image of this format", "disk")


@contextmanager
def _dissect_errors(where: str, what: str) -> Iterator[None]:
    """Turns dissect's errors into DamagedError. Its own error classes have no common base but Exception."""
    try:
        yield
    except (SourceError, KeyboardInterrupt, SystemExit):
        raise
    except _FOREIGN_ERRORS as exc:
        raise DamagedError(f"{where}: cannot be understood ({what}): {type(exc).__name__}: {exc}") from exc
    except Exception as exc:
        if not type(exc).__module__.startswith("dissect."):
            raise
        raise DamagedError(f"{where}: cannot be understood ({what}): {exc}") from exc


def _backing_format(file: Blocks, version: int) -> str | None:
    """The format of the backing file that the image states; None if it states none.

    The content must not decide: a guest can write the header of another format into the first bytes of its raw disk,
    with the name of any file as the backing file."""
    (length,) = struct.unpack_from(">I", file.read_at(100, 4)) if version >= 3 else (72,)
    at = int(length)
    for _ in range(64):
        kind, size = struct.unpack(">II", file.read_at(at, 8))
        if not kind:
            return None
        if kind == 0xE2792ACA:
            return file.read_at(at + 8, min(size, 64)).decode("ascii", "replace").replace("vpc", "vhd")
        at += 8 + (size + 7) // 8 * 8
    return None
