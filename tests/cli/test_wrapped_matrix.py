"""Every shipped Docker root and registry, in a tar and on a disk: what its directory becomes, as an ordinary user.

Not every root in every wrapping: each root once in a tar of some writer and once on some disk, and each writer, file
system, partition table and image format with several roots.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from itertools import cycle
from pathlib import Path

import pytest

from tests import disks, wrapped, wrappings
from tests.cases import case, container_cases, registry_cases, store_cases
from tests.stores import StoreShelf, stores
from tests.wrapped import Facts, facts, identities

__all__ = ["stores"]

pytestmark = pytest.mark.peer  # mkfs, mount, qemu-img, sfdisk, bsdtar and busybox; root, to restore the stores
ROOTS = [one.name for one in (*store_cases(), *container_cases())]
REGISTRIES = [one.name for one in registry_cases()]
WRITERS = dict(zip(ROOTS, cycle(wrappings.ALL), strict=False))
KINDS = dict(zip(ROOTS, cycle(disks.FILE_SYSTEMS), strict=False))
FORMATS = dict(zip(ROOTS, cycle(disks.QEMU_FORMATS), strict=False))
AROUND = {"ext4": "gpt", "ext3": "dos", "ext2": "lvm", "xfs": "lvm", "btrfs": None}
"""What is around each file system."""


@pytest.fixture(scope="module")
def plain(stores: StoreShelf) -> Callable[[str], Facts]:
    """What each root becomes from its directory."""
    return cache(lambda name: facts(stores.path(name)))


def shipped(name: str) -> Path:
    return case(name).path / ("registry.tar.xz" if name.startswith("registry") else "store.tar.xz")


@pytest.fixture(scope="module")
def packed() -> dict[str, Facts]:
    names = [*ROOTS, *REGISTRIES]
    return dict(zip(names, wrapped.unprivileged([shipped(name) for name in names]), strict=True))


@pytest.mark.parametrize("name", ROOTS)
def test_a_shipped_tar_is_its_directory(plain: Callable[[str], Facts], packed: dict[str, Facts], name: str) -> None:
    assert packed[name] == plain(name)


@pytest.mark.parametrize("name", REGISTRIES)
def test_a_tar_of_a_registrys_storage(packed: dict[str, Facts], tmp_path: Path, name: str) -> None:
    """As it is, and packed again below three folders by another writer."""
    (tmp_path / "of/an old/host").mkdir(parents=True)
    disks.run("tar", "-xJf", shipped(name), "-C", tmp_path / "of/an old/host")
    expected = facts(tmp_path / "of/an old/host")
    assert packed[name] == expected
    for count, writer in enumerate(wrappings.ALL.values()):
        if count % len(REGISTRIES) == REGISTRIES.index(name):
            writer(tmp_path / "of", tmp_path / "again.tar")
            assert identities(facts(tmp_path / "again.tar")) == identities(expected)
            (tmp_path / "again.tar").unlink()


@pytest.mark.parametrize("name", ROOTS)
def test_a_tar_of_another_writer_below_three_folders(
    plain: Callable[[str], Facts], stores: StoreShelf, tmp_path: Path, name: str
) -> None:
    place = tmp_path / "top/backup of/a host/docker"
    place.parent.mkdir(parents=True)
    disks.run("cp", "-a", stores.path(name), place)
    writer = WRITERS[name]
    wrappings.ALL[writer](tmp_path / "top", tmp_path / "backup.tar")
    wrapped.same_images(facts(tmp_path / "backup.tar"), plain(name), writer)


@pytest.fixture(scope="module")
def on_disks(stores: StoreShelf, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Facts]:
    """One disk for each file system, with its share of the roots, in each of their formats."""
    top = tmp_path_factory.mktemp("matrix")
    places: dict[str, tuple[Path, str]] = {}
    for kind, around in AROUND.items():
        names = [name for name in ROOTS if KINDS[name] == kind]
        (folder := top / f"{kind}.folder").mkdir()
        for name in names:
            disks.run("cp", "-a", stores.path(name), folder / name)
        volume, disk = top / f"{kind}.volume", top / f"{kind}.raw"
        disks.FILE_SYSTEMS[kind](folder, volume, (320 if kind in ("xfs", "btrfs") else 128) * disks.MIB)
        disks.run("rm", "-r", folder)
        if around is None:
            volume.rename(disk)
        else:
            disks.partitioned([in_a_group(volume) if around == "lvm" else volume], disk, around.replace("lvm", "gpt"))
        for name in names:
            places[name] = (top / f"{kind}.{FORMATS[name]}.image", name)
            disks.convert(disk, places[name][0], FORMATS[name])
    found = dict(zip(places, wrapped.unprivileged(list(places.values())), strict=True))
    shutil.rmtree(top)
    return found


def in_a_group(volume: Path) -> Path:
    uuid, count = "d" * 32, disks.extents_of(volume.stat().st_size)
    physical = disks.physical_volume(volume.with_suffix(".pv"), uuid, count + 1)
    disks.write_extents(physical, 1, volume)
    text = disks.volume_group("old", {"pv0": uuid}, {"root": ('"READ", "VISIBLE"', disks.linear(("pv0", 1, count)))})
    disks.write_metadata(physical, text)
    return physical


@pytest.mark.parametrize("name", ROOTS)
def test_a_disk_has_what_the_directory_has(
    plain: Callable[[str], Facts], on_disks: dict[str, Facts], name: str
) -> None:
    assert on_disks[name] == plain(name)
