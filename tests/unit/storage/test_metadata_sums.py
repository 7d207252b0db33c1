"""One byte changed in what a file system keeps beside the content: an error, or nothing that shows, and never another
tree in silence. For the file systems that have checksums of it: ext4 of today, XFS version 5, and btrfs."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from migrate.errors import DamagedError, MigrateError
from migrate.storage.blocks import FileBlocks
from migrate.storage.filesystems.btrfs import BtrfsTree
from migrate.storage.filesystems.ext4 import Ext4
from migrate.storage.filesystems.image_tree import ImageTree
from migrate.storage.filesystems.kept import KeptFileSystem
from migrate.storage.filesystems.probe import open_file_system
from migrate.storage.tree import Tree
from tests import disks

pytestmark = pytest.mark.peer  # mkfs and mount
FLIPS = {"ext4": 60, "xfs": 60, "btrfs": 30}
MAKE = {
    "ext4": disks.plain("mkfs.ext4", "-q", "-F", "-b", "1024", "-O", "metadata_csum"),
    "xfs": disks.plain("mkfs.xfs", "-q", "-f"),
    "btrfs": disks.btrfs("compress=no"),
}
SIZES = {"ext4": 16, "xfs": 320, "btrfs": 128}


class RecordingBlocks(FileBlocks):
    """Remembers which bytes were read."""

    def __init__(self, image: Path) -> None:
        super().__init__(os.open(image, os.O_RDONLY), "image")
        self.ranges: set[tuple[int, int]] = set()

    def read_at(self, offset: int, size: int) -> bytes:
        self.ranges.add((offset, size))
        return super().read_at(offset, size)

    def read_into(self, view: memoryview, offset: int) -> None:
        self.ranges.add((offset, len(view)))
        super().read_into(view, offset)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A large folder with an index, attributes in a block of their own, a long link, a file in many pieces."""
    top = tmp_path_factory.mktemp("tree")
    (top / "many").mkdir()
    for number in range(100):
        (top / "many" / f"a rather long name {number:04}").write_bytes(b"%d" % number)
    (top / "some").mkdir()
    (top / "some/link").symlink_to("x" * 300)
    (top / "some/attributes").write_bytes(b"a")
    for number in range(12):
        os.setxattr(top / "some/attributes", f"user.attribute{number}", b"v" * 60)
    with (top / "some/pieces").open("wb") as stream:
        for number in range(300):
            stream.seek(number * 12_288)
            stream.write(b"piece %d" % number)
    return top


def opened(blocks: FileBlocks, kind: str) -> Tree:
    if kind == "btrfs":
        return BtrfsTree(blocks, "image")
    return ImageTree(KeptFileSystem(open_file_system(blocks, kind)), 1, location="image")


def walked(tree: Tree, *, contents: bool) -> dict[bytes, Any]:
    found: dict[bytes, Any] = {}
    waiting = [b""]
    while waiting:
        for entry in tree.entries(waiting.pop()):
            found[entry.path] = (entry[1:], dict(tree.xattrs(entry.path)))
            if entry.is_folder:
                waiting.append(entry.path)
            elif entry.is_link:
                found[entry.path] += (tree.read_link(entry.path),)
            elif entry.is_file:
                with tree.open(entry.path) as stream:
                    found[entry.path] += (hashlib.sha256(stream.read()).digest() if contents else None,)
    return found


@pytest.mark.parametrize("kind", MAKE)
def test_no_flip_of_metadata_is_silent(kind: str, folder: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    MAKE[kind](folder, image, SIZES[kind] * disks.MIB)
    blocks = RecordingBlocks(image)
    walked(opened(blocks, kind), contents=False)
    places = [at for start, size in sorted(blocks.ranges) for at in range(start, start + size, 64)]
    blocks.close()
    sound = walked(opened(FileBlocks(os.open(image, os.O_RDONLY), "image"), kind), contents=True)
    assert len(sound) >= 105
    chosen, outcomes = random.Random(5), set()
    content = image.read_bytes()
    used = [at for at in places if any(content[at : at + 64])]
    with open(image, "r+b", buffering=0) as file:
        for _ in range(FLIPS[kind]):
            place = chosen.choice(used) + chosen.randrange(64)
            os.pwrite(file.fileno(), bytes([content[place] ^ 1 << chosen.randrange(8)]), place)
            device = FileBlocks(os.open(image, os.O_RDONLY), "image")
            try:
                found = walked(opened(device, kind), contents=True)
            except MigrateError as error:
                outcomes.add(type(error))
            else:
                in_content = {path for path in sound if found.get(path, ())[:2] == sound[path][:2]}
                assert found.keys() == sound.keys() == in_content, place
            finally:
                device.close()
                os.pwrite(file.fileno(), content[place : place + 1], place)
    assert DamagedError in outcomes


@pytest.mark.parametrize(
    "features", ["metadata_csum,64bit", "metadata_csum,^64bit,^metadata_csum_seed", "^metadata_csum,uninit_bg"]
)
def test_what_mkfs_writes_is_sound(features: str, folder: Path, tmp_path: Path) -> None:
    """Whatever the size of inodes, descriptors and blocks, and wherever the seed of the checksums is."""
    for number, options in enumerate((("-b", "1024"), ("-b", "4096"), ("-O", "metadata_csum_seed"))):
        if "metadata_csum_seed" in options and features.startswith("^"):
            continue
        image = disks.blank(tmp_path / f"{number}", 16 * disks.MIB)
        disks.run("mkfs.ext4", "-q", "-F", "-O", features, *options, "-d", folder, image)
        shutil.copyfile(image, tmp_path / "copy")
        assert Ext4(FileBlocks(os.open(image, os.O_RDONLY), "image")).read_inode(2).mode
        tree = opened(FileBlocks(os.open(tmp_path / "copy", os.O_RDONLY), "image"), "ext4")
        assert len(walked(tree, contents=True)) >= 105
