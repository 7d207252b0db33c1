"""Tables of paths are bounded: one thread may put an empty one in the place of that in which another looks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from migrate.storage.blocks import open_device
from migrate.storage.directory_tree import DirectoryTree
from migrate.storage.filesystems.ext4 import Ext4
from migrate.storage.filesystems.image_tree import ImageTree
from migrate.storage.filesystems.kept import KeptFileSystem
from migrate.storage.named_files import NamedFiles
from tests import disks
from tests.peers import need


class _Dropped(dict[Any, Any]):
    """A table that another thread drops in the moment in which something is found in it."""

    def __init__(self, content: dict[Any, Any], drop: Callable[[], None]) -> None:
        super().__init__(content)
        self._drop = drop

    def __contains__(self, key: object) -> bool:
        found = super().__contains__(key)
        if found:
            self._drop()
        return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`a/b/name` has another size than `name`."""
    top = tmp_path / "folder"
    (top / "a/b").mkdir(parents=True)
    (top / "name").write_bytes(b"of the top")
    (top / "a/b/name").write_bytes(b"below")
    return top


def test_a_folder_of_a_disk_image(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("mkfs.ext4")
    image = disks.blank(tmp_path / "image", 8 * disks.MIB)
    disks.run("mkfs.ext4", "-q", "-F", "-d", folder, image)
    blocks = open_device(image)
    tree = ImageTree(KeptFileSystem(Ext4(blocks)), 1)
    assert tree.stat(b"a/b/name").size == 5
    empty = {b"": tree._top}
    monkeypatch.setattr(
        tree, "_chains", _Dropped(dict(tree._chains), lambda: monkeypatch.setattr(tree, "_chains", empty))
    )
    assert tree.stat(b"a/b/name").size == 5
    assert tree.stat(b"a/b/name").size == 5
    blocks.close()


def test_a_folder_of_named_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = NamedFiles(DirectoryTree(str(folder)))
    assert files.size("a/b/name") == 5
    empty = {"": b""}
    monkeypatch.setattr(
        files, "_folders", _Dropped(dict(files._folders), lambda: monkeypatch.setattr(files, "_folders", empty))
    )
    assert files.size("a/b/name") == 5
    files.close()
