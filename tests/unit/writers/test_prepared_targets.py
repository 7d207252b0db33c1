"""Targets that somebody else has prepared: nothing leads out of them, nothing is waited for, every refusal is clear."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from migrate.errors import TargetError
from migrate.model.options import ConvertOptions
from migrate.model.progress import SilentProgress
from migrate.storage.syscalls import SystemCalls
from migrate.verify import verify
from migrate.writers.base import ImageTarget
from migrate.writers.docker_archive import DockerArchive, OciArchive
from migrate.writers.oci_layout import OciLayout
from migrate.writers.registry_storage import RegistryStorage
from tests.images import layer, put_image, put_layer

OPTIONS = ConvertOptions()
A, B = layer("a"), layer("b", b"b" * 300_000)
BLOB = A.descriptor.digest.hex
REGISTRY = "docker/registry/v2"

Open = Callable[[Path], ImageTarget]
LAYOUT_NAMES = [
    "oci-layout",
    "index.json",
    "manifest.json",
    "migration-report.json",
    "migration-map.json",
    "blobs",
    "blobs/sha256",
    f"blobs/sha256/{BLOB}",
    ".migrate",
    ".migrate/lock",
    ".migrate/layers",
    ".migrate/payloads",
    ".migrate/runs",
    ".migrate/finishing",
]
REGISTRY_NAMES = [
    "docker",
    "docker/registry",
    f"{REGISTRY}/blobs",
    f"{REGISTRY}/blobs/sha256/{BLOB[:2]}/{BLOB}",
    f"{REGISTRY}/blobs/sha256/{BLOB[:2]}/{BLOB}/data",
    f"{REGISTRY}/repositories",
    f"{REGISTRY}/repositories/app/_manifests/tags/1/current/link",
    f"{REGISTRY}/repositories/app/_layers/sha256/{BLOB}/link",
    f"{REGISTRY}/repositories/app/_manifests",
    "migration-report.json",
    "migration-map.json",
    ".migrate/lock",
    ".migrate/layers",
]
SPOOL_NAMES = ["", "owner", "archive.tar", "layer.tar", "blobs", "blobs/sha256", f"blobs/sha256/{BLOB}", ".migrate"]
CASES = [("layout", name) for name in LAYOUT_NAMES] + [("registry-storage", name) for name in REGISTRY_NAMES]
OPEN: dict[str, Open] = {
    "layout": lambda path: OciLayout(path, OPTIONS),
    "registry-storage": lambda path: RegistryStorage(str(path), OPTIONS),
    "oci-archive": lambda path: OciArchive(str(path), OPTIONS),
    "docker-archive": lambda path: DockerArchive(str(path), OPTIONS),
}


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What no write may reach."""
    folder = tmp_path / "outside"
    (folder / "folder").mkdir(parents=True)
    (folder / "file").write_bytes(b"precious")
    return folder


def untouched(outside: Path) -> bool:
    return sorted(os.listdir(outside)) == ["file", "folder"] and (
        (outside / "file").read_bytes() == b"precious" and os.listdir(outside / "folder") == []
    )


def put_in_the_way(kind: str, path: Path, outside: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    match kind:
        case "link to a file":
            path.symlink_to(outside / "file")
        case "link to a folder":
            path.symlink_to(outside / "folder")
        case "dangling link":
            path.symlink_to(outside / "made by us")
        case "FIFO":
            os.mkfifo(path)
        case "socket":
            os.mknod(path, 0o140644)
        case "device":
            os.mknod(path, 0o020666, os.makedev(1, 3))
        case "folder":
            path.mkdir()
            (path / "not empty").write_bytes(b"")
        case "file":
            path.write_bytes(b"mine")


KINDS = ["link to a file", "link to a folder", "dangling link", "FIFO", "socket", "device", "folder", "file"]


def write(target: ImageTarget) -> None:
    """Everything that a run may do with a target."""
    target.begin_run()
    try:
        for each in (A, B):
            if target.memory.known_blob(each.diff_id, "gzip") is None:
                put_layer(target, each)
        put_image(target, [A, B], "app:1")
        target.memory.remember_size(A.diff_id, 10_240)
        target.memory.remember_payload("0" * 64, b"facts")
        target.existing_images()
        target.remember_run("0" * 64)
        target.finish(b'{"images": []}')
    finally:
        target.close()


@pytest.mark.parametrize("obstacle", KINDS)
@pytest.mark.parametrize(("target", "name"), CASES)
def test_every_name_of_a_directory(target: str, name: str, obstacle: str, tmp_path: Path, outside: Path) -> None:
    path = tmp_path / "target"
    write(OPEN[target](path))
    put_in_the_way(obstacle, path / name, outside)
    try:
        write(OPEN[target](path))
    except TargetError as error:
        assert str(path) in error.message
        assert error.exit_code == 5
    else:
        found = [each.where for each in verify(str(path), 1, SilentProgress())]
        assert [where for where in found if not where.startswith(".migrate") and not where.endswith("/not empty")] == []
    assert untouched(outside)


@pytest.mark.parametrize("obstacle", KINDS)
@pytest.mark.parametrize("name", SPOOL_NAMES)
@pytest.mark.parametrize("target", ["oci-archive", "docker-archive"])
def test_every_name_of_a_spool(target: str, name: str, obstacle: str, tmp_path: Path, outside: Path) -> None:
    path = tmp_path / "images.tar"
    spool = tmp_path / ".images.tar.migrate"
    put_in_the_way(obstacle, spool / name if name else spool, outside)
    try:
        write(OPEN[target](path))
    except TargetError as error:
        assert str(tmp_path) in error.message
        assert not path.exists()
    else:
        assert verify(str(path), 1, SilentProgress()) == []
        assert not spool.exists()
    assert untouched(outside)


def test_a_spool_of_another_user_is_refused(tmp_path: Path) -> None:
    """Who owns it could change a blob between our look at it and the archive."""
    spool = tmp_path / ".images.tar.migrate"
    spool.mkdir()
    os.chown(spool, 12_345, 12_345)
    with pytest.raises(TargetError, match=r"\.images\.tar\.migrate: belongs to user 12345"):
        OPEN["oci-archive"](tmp_path / "images.tar")
    os.chown(spool, 0, 0)
    (spool / "blobs").mkdir()
    os.chown(spool / "blobs", 12_345, 12_345)
    with pytest.raises(TargetError, match="blobs: belongs to user 12345"):
        write(OPEN["oci-archive"](tmp_path / "images.tar"))
    assert not (tmp_path / "images.tar").exists()


class Swapping(SystemCalls):
    """Before its call number `at`, somebody puts a link in the place of a folder of the target."""

    def __init__(self, folder: Path, outside: Path, at: int) -> None:
        self._left = at
        self._folder = folder
        self._outside = outside

    def _step(self) -> None:
        self._left -= 1
        if self._left == 0 and self._folder.is_dir():
            self._folder.rename(self._folder.with_name("swapped"))
            self._folder.symlink_to(self._outside / "folder")

    def open(self, path: str, flags: int, directory: int | None = None) -> int:
        self._step()
        return super().open(path, flags, directory)

    def rename(self, old: str, new: str, old_directory: int, new_directory: int) -> None:
        self._step()
        super().rename(old, new, old_directory, new_directory)


@pytest.mark.parametrize("folder", ["blobs", "blobs/sha256", ".migrate"])
def test_a_folder_of_a_layout_that_is_swapped_at_any_call(folder: str, tmp_path: Path, outside: Path) -> None:
    refused = 0
    for at in range(1, 30):
        path = tmp_path / str(at) / "target"
        path.parent.mkdir()
        try:
            write(OciLayout(path, OPTIONS, files=Swapping(path / folder, outside, at)))
        except TargetError:
            refused += 1
        assert untouched(outside), f"swapped at call {at}"
    assert refused > 5 or folder == ".migrate"
