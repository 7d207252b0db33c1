"""File system images made by mkfs and debugfs: no root, no mount, no kernel driver."""

from __future__ import annotations

import os
from pathlib import Path

from tests.unit.readers.devicemapper.pools import run

MTIME = 1_400_000_000
ERA_FEATURES = "^metadata_csum,^64bit,^metadata_csum_seed,^orphan_file"
"""ext4 as e2fsprogs 1.42 made it (RHEL 7, Fedora 20): no checksums, descriptors of 32 bytes."""


def sample_tree(root: Path, layer_id: str = "0" * 64) -> Path:
    """`id` and `rootfs/` with every kind of entry that needs no privilege to make."""
    top = root / "rootfs"
    (top / "etc").mkdir(parents=True)
    (top / "empty").mkdir()
    (root / "id").write_text(layer_id)
    (top / "etc/hostname").write_bytes(b"hello\n")
    (top / "etc/big").write_bytes(b"".join(b"%07d\n" % number for number in range(100_000)))
    (top / "etc/nothing").write_bytes(b"")
    os.link(top / "etc/hostname", top / "etc/twin")
    (top / "etc/link").symlink_to("hostname")
    (top / "etc/long").symlink_to("x" * 150)
    os.mkfifo(top / "etc/fifo")
    with (top / "etc/sparse").open("wb") as stream:
        stream.write(b"head")
        stream.seek(3 * 1024 * 1024)
        stream.write(b"tail")
    many = top / "many"
    many.mkdir()
    for number in range(700):
        (many / f"name-{number:04d}-{'y' * (number % 40)}").write_bytes(b"%d" % number)
    (many / "odd-\udcff\udcfe").write_bytes(b"not UTF-8")
    for path in sorted(root.rglob("*"), reverse=True):
        os.utime(path, ns=(MTIME * 10**9, MTIME * 10**9), follow_symlinks=False)
    return root


def make_ext4(image: Path, tree: Path | None, size: str = "64M", features: str = ERA_FEATURES, *more: str) -> Path:
    with image.open("wb") as stream:
        stream.truncate(int(size[:-1]) * 1024**2)
    source = ["-d", str(tree)] if tree else []
    run(
        "mkfs.ext4",
        "-q",
        "-F",
        "-O",
        features,
        "-E",
        "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0",
        *more,
        *source,
        str(image),
    )
    return image


def debugfs(image: Path, *commands: str) -> str:
    return run("debugfs", "-w", "-f", "/dev/stdin", str(image), given="\n".join(commands) + "\n")


def make_xfs(image: Path, prototype: Path, size: str = "320M", *more: str) -> Path:
    with image.open("wb") as stream:
        stream.truncate(int(size[:-1]) * 1024**2)
    run("mkfs.xfs", "-q", "-f", *more, "-p", str(prototype), str(image))
    return image


def xfs_prototype(path: Path, tree: Path) -> Path:
    """The protofile of `mkfs.xfs -p` for a tree: names, kinds, modes and owners; times are those of the run."""
    lines = [b"/stand/diag", b"4872 110", b"d--755 0 0", *_prototype_lines(tree), b"$", b"$"]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def _prototype_lines(directory: Path) -> list[bytes]:
    lines: list[bytes] = []
    for entry in sorted(directory.iterdir(), key=lambda path: os.fsencode(path.name)):
        status = entry.lstat()
        name, rights = os.fsencode(entry.name), b"--%03o %d %d" % (status.st_mode & 0o777, status.st_uid, status.st_gid)
        if entry.is_symlink():
            lines.append(name + b" l" + rights + b" " + os.fsencode(os.readlink(entry)))
        elif entry.is_dir():
            lines += [name + b" d" + rights, *_prototype_lines(entry), b"$"]
        elif entry.is_fifo():
            lines.append(name + b" p" + rights)
        else:
            lines.append(name + b" -" + rights + b" " + os.fsencode(entry))
    return lines
