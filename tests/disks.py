"""Disk images for tests: file systems filled from a folder, partition tables, LVM, and the formats of qemu-img."""

from __future__ import annotations

import os
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

MIB: Final = 1024 * 1024
Make = Callable[[Path, Path, int], None]
"""(folder, image to be written, its size in bytes)"""


def run(*command: str | Path, text: str | None = None) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, input=text).stdout


@contextmanager
def mounted(image: Path, *options: str, place: Path | None = None) -> Iterator[Path]:
    """Mounted at `place`, by default beside the image. Afterwards the image holds all that was written."""
    mount_point = place or image.with_name(f"{image.name}.mounted")
    mount_point.mkdir(exist_ok=True)
    run("mount", "-o", ",".join(("loop", *options)), image, mount_point)
    try:
        yield mount_point
    finally:
        unmount(mount_point)
        if place is None:
            mount_point.rmdir()


def unmount(place: Path) -> None:
    """In every mount namespace: one that a process made meanwhile has the mount, too, and as long as any has it, the
    file system is in use, and the image lacks what the kernel still holds."""
    run("sync", "-f", place)
    run("umount", place)
    for process in _having_mounted(place):
        run("nsenter", f"--mount=/proc/{process}/ns/mnt", "umount", place)
    assert not list(_having_mounted(place)), f"{place} is still mounted"


def _mount_points(process: str) -> list[str]:
    """As one process sees them; none of one that has ended."""
    try:
        lines = Path(f"/proc/{process}/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []
    return [line.split()[4].encode().decode("unicode_escape") for line in lines]


def _having_mounted(place: Path) -> Iterator[str]:
    """One process for each namespace that has something mounted there. Known by the path, which belongs to one test:
    the number of a loop device is given to the next test as soon as it is free."""
    seen = set()
    for process in filter(str.isdecimal, os.listdir("/proc")):
        if os.fspath(place) in _mount_points(process) and (namespace := _namespace(process)) not in seen:
            seen.add(namespace)
            yield process


def _namespace(process: str) -> str | None:
    try:
        return os.readlink(f"/proc/{process}/ns/mnt")
    except OSError:
        return None


def blank(image: Path, size: int) -> Path:
    image.touch()
    os.truncate(image, size)
    return image


def plain(*command: str) -> Make:
    """Filled through a mount, so that times keep their fractions."""

    def make(folder: Path, image: Path, size: int) -> None:
        run(*command, blank(image, size))
        with mounted(image) as place:
            run("cp", "-a", f"{folder}/.", place)

    return make


def btrfs(*options: str) -> Make:
    """Each layer of Docker's btrfs driver becomes a subvolume, as Docker makes them."""

    def make(folder: Path, image: Path, size: int) -> None:
        run("mkfs.btrfs", "-q", "-f", blank(image, size))
        with mounted(image, *options) as place:
            # not by a glob: that of Python 3.11.2 cannot pass a link with a long target
            stores = [Path(top) for top, _, _ in os.walk(folder) if top.endswith("/btrfs/subvolumes")]
            for layer in sorted(layer for store in stores for layer in store.iterdir()):
                below = place / layer.relative_to(folder)
                below.parent.mkdir(parents=True, exist_ok=True)
                run("btrfs", "subvolume", "create", below)
            run("cp", "-a", f"{folder}/.", place)

    return make


FILE_SYSTEMS: Final[dict[str, Make]] = {
    "ext4": plain("mkfs.ext4", "-q", "-F"),
    "ext3": plain("mkfs.ext3", "-q", "-F"),
    "ext2": plain("mkfs.ext2", "-q", "-F", "-I", "256"),
    "xfs": plain("mkfs.xfs", "-q", "-f"),
    "btrfs": btrfs("compress-force=zstd"),
}


def partitioned(parts: Sequence[Path], image: Path, label: str) -> None:
    """Each part a partition of its own; of an MBR with more than three parts, logical ones from the third on."""
    starts, lines, at = [], [f"label: {label}"], MIB
    logical = label == "dos" and len(parts) > 3
    for number, part in enumerate(parts, start=1):
        if logical and number == 3:
            lines.append(f"start={at // 512}, type=5")
        if logical and number >= 3:
            at += MIB
        size = part.stat().st_size
        starts.append(at)
        lines.append(f"start={at // 512}, size={size // 512}, type={'83' if label == 'dos' else 'L'}")
        at += size
    blank(image, at + MIB)
    run("sfdisk", "-q", image, text="\n".join(lines) + "\n")
    with open(image, "r+b") as disk:
        for start, part in zip(starts, parts, strict=True):
            disk.seek(start)
            _copy(part, disk)


def _copy(part: Path, disk: object) -> None:
    with open(part, "rb") as source:
        while block := source.read(MIB):
            if block.strip(b"\0"):
                disk.write(block)  # type: ignore[attr-defined]
            else:
                disk.seek(len(block), os.SEEK_CUR)  # type: ignore[attr-defined]


_EXTENT: Final = 4 * MIB


def physical_volume(image: Path, uuid: str, extents: int) -> Path:
    """A blank physical volume; `write_metadata` fills its metadata area, which is in the first MiB."""
    blank(image, MIB + extents * _EXTENT)
    head = uuid.encode() + struct.pack("<Q", image.stat().st_size)
    head += struct.pack("<QQQQ", MIB, 0, 0, 0) + struct.pack("<QQQQ", 4096, MIB - 4096, 0, 0)
    body = (struct.pack("<I", 32) + b"LVM2 001" + head).ljust(492, b"\0")
    with open(image, "r+b") as disk:
        disk.seek(512)
        disk.write(b"LABELONE" + struct.pack("<QI", 1, lvm_crc(body)) + body)
    return image


def write_metadata(image: Path, text: str) -> None:
    raw = text.encode() + b"\0"
    location = struct.pack("<QQII", 512, len(raw), lvm_crc(raw), 0)
    body = (b" LVM2 x[5A%r0N*>" + struct.pack("<IQQ", 1, 4096, MIB - 4096) + location).ljust(508, b"\0")
    with open(image, "r+b") as disk:
        disk.seek(4096)
        disk.write(struct.pack("<I", lvm_crc(body)) + body + raw)


def lvm_crc(content: bytes) -> int:
    return zlib.crc32(content, 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def volume_group(name: str, physical: dict[str, str], volumes: dict[str, tuple[str, str]]) -> str:
    """The text metadata. `physical`: name → UUID of 32 letters; `volumes`: name → (status, segments)."""
    lines = [f"{name} {{", 'id = "abcdef-0000-0000-0000-0000-0000-group1"', "seqno = 7"]
    lines += [
        'format = "lvm2" # informational',
        'status = ["RESIZEABLE", "READ", "WRITE"]',
        "flags = []",
        f"extent_size = {_EXTENT // 512}",
        "max_lv = 0",
    ]
    lines += ["physical_volumes {"]
    for key, uuid in physical.items():
        dashed = "-".join([uuid[:6], *(uuid[at : at + 4] for at in range(6, 26, 4)), uuid[26:]])
        lines += [f"{key} {{", f'id = "{dashed}"', 'device = "/dev/sd{x}"', f"pe_start = {MIB // 512}"]
        lines += ["pe_count = 99", "}"]
    lines += ["}", "logical_volumes {"]
    for key, (status, segments) in volumes.items():
        lines += [f"{key} {{", f'id = "{key}"', f"status = [{status}]", "flags = []", segments, "}"]
    lines += ["}", "}", 'contents = "Text Format Volume Group"', "version = 1", 'description = "a \\"test\\""']
    return "\n".join(lines) + "\n"


def linear(*pieces: tuple[str, int, int]) -> str:
    """Segments of (physical volume, first extent there, number of extents)."""
    lines, start = [f"segment_count = {len(pieces)}"], 0
    for number, (volume, first, count) in enumerate(pieces, start=1):
        lines += [f"segment{number} {{", f"start_extent = {start}", f"extent_count = {count}", 'type = "striped"']
        lines += ["stripe_count = 1 # linear", f'stripes = ["{volume}", {first}]', "}"]
        start += count
    return "\n".join(lines)


def extents_of(size: int) -> int:
    return -(-size // _EXTENT)


def write_extents(image: Path, first: int, content: Path) -> None:
    with open(image, "r+b") as disk:
        disk.seek(MIB + first * _EXTENT)
        _copy(content, disk)


QEMU_FORMATS: Final[dict[str, tuple[str, ...]]] = {
    "raw": ("-O", "raw"),
    "qcow2": ("-O", "qcow2"),
    "qcow2-0.10": ("-O", "qcow2", "-o", "compat=0.10"),
    "qcow2-compressed": ("-c", "-O", "qcow2"),
    "qcow2-zstd": ("-c", "-O", "qcow2", "-o", "compression_type=zstd"),
    "qcow2-small-clusters": ("-O", "qcow2", "-o", "cluster_size=4k"),
    "vmdk-sparse": ("-O", "vmdk", "-o", "subformat=monolithicSparse"),
    "vmdk-flat": ("-O", "vmdk", "-o", "subformat=monolithicFlat"),
    "vmdk-split": ("-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse"),
    "vmdk-split-flat": ("-O", "vmdk", "-o", "subformat=twoGbMaxExtentFlat"),
    "vmdk-stream": ("-O", "vmdk", "-o", "subformat=streamOptimized"),
    "vdi": ("-O", "vdi"),
    "vdi-static": ("-O", "vdi", "-o", "static=on"),
    "vhd": ("-O", "vpc"),
    "vhd-fixed": ("-O", "vpc", "-o", "subformat=fixed,force_size=on"),
    "vhdx": ("-O", "vhdx"),
    "vhdx-fixed": ("-O", "vhdx", "-o", "subformat=fixed"),
}


def convert(disk: Path, image: Path, form: str) -> None:
    run("qemu-img", "convert", "-f", "raw", *QEMU_FORMATS[form], disk, image)
