"""Docker roots in tars and on disk images, against the same roots in a directory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests import disks, wrapped, wrappings
from tests.cases import case
from tests.command import migrate
from tests.stores import StoreShelf, stores
from tests.wrapped import Facts, facts, identities

__all__ = ["stores"]

pytestmark = pytest.mark.peer  # mkfs, mount, qemu-img, sfdisk, bsdtar and busybox; root, to restore the stores
REPACKED = [
    *(("store-1.9.1-overlay", writer) for writer in wrappings.ALL),
    *(("store-1.3.3-vfs", writer) for writer in ("gnu-pax-sparse", "gnu", "bsdtar-pax")),
    ("store-1.3.3-aufs", "gnu-pax-sparse"),
]
"""Hard links and device nodes, whole copies, and whiteouts as files."""
ON_DISK = ["store-1.9.1-overlay", "store-1.9.1-btrfs"]


@pytest.fixture(scope="module")
def plain(stores: StoreShelf) -> Callable[[str], Facts]:
    """What each store becomes from its directory."""
    return cache(lambda name: facts(stores.path(name)))


def test_a_docker_save_archive_below_a_folder(tmp_path: Path) -> None:
    (tmp_path / "unpacked/app").mkdir(parents=True)
    plain = case("save-1.9.1-single").write_plain(tmp_path)
    disks.run("tar", "-xf", plain, "-C", tmp_path / "unpacked/app")
    disks.run("tar", "-cf", tmp_path / "again.tar", "-C", tmp_path / "unpacked", "app")
    assert identities(facts(tmp_path / "again.tar")) == identities(facts(plain))


@pytest.mark.parametrize(("name", "writer"), REPACKED)
def test_a_tar_of_any_writer_gives_the_same_images(
    plain: Callable[[str], Facts], stores: StoreShelf, tmp_path: Path, name: str, writer: str
) -> None:
    wrappings.ALL[writer](stores.path(name), tmp_path / "backup.tar")
    wrapped.same_images(facts(tmp_path / "backup.tar"), plain(name), writer)


def test_lost_fractions_of_a_second_are_in_the_note(stores: StoreShelf, tmp_path: Path) -> None:
    """Docker compares copies by size and time: in whole seconds a change within one second is not seen."""
    wrappings.ALL["gnu"](stores.path("store-1.3.3-vfs"), tmp_path / "backup.tar")
    found = facts(tmp_path / "backup.tar")
    notes = [row[3] for image in found["images"] for row in image[4:] if row[3]]
    assert any(
        "taken as unchanged by size and time, of which this source has whole seconds alone" in one for one in notes
    )
    assert not all(image[3] for image in found["images"])


@pytest.mark.parametrize(
    ("folders", "suffix"),
    [
        ("backup/2015/host-7", ""),
        ("var/lib/docker", ".gz"),
        ("mnt/old disk/docker/docker", ".bz2"),
        ("a/b/c", ".xz"),
        ("srv/docker", ".zst"),
    ],
)
def test_folders_above_the_root_and_compression(
    plain: Callable[[str], Facts], stores: StoreShelf, tmp_path: Path, folders: str, suffix: str
) -> None:
    name = "store-1.9.1-pulled-overlay"
    place = tmp_path / "top" / folders
    place.parent.mkdir(parents=True)
    (tmp_path / "top/etc").mkdir()
    (tmp_path / "top/etc/passwd").write_text("root")
    disks.run("cp", "-a", stores.path(name), place)
    options = wrappings.XATTRS + {"": (), ".gz": ("-z",), ".bz2": ("-j",), ".xz": ("-J",), ".zst": ("--zstd",)}[suffix]
    disks.run("tar", "--format=posix", *options, "-C", tmp_path / "top", "-cf", tmp_path / f"b.tar{suffix}", ".")
    found = facts(tmp_path / f"b.tar{suffix}")
    assert [image[:4] for image in found["images"]] == [image[:4] for image in plain(name)["images"]]


def test_a_tar_on_standard_input(plain: Callable[[str], Facts]) -> None:
    packed = (case("store-1.9.1-pulled-overlay").path / "store.tar.xz").read_bytes()
    result = migrate("plan", "--all", "--progress", "none", "--report", "-", "-", stdin=packed)
    assert result.code == 0, result.err
    images = [[image["legacy_id"], image["references"], image["image_id"]] for image in result.json()["images"]]
    assert images == [image[:3] for image in plain("store-1.9.1-pulled-overlay")["images"]]


def test_two_roots_in_a_tar_are_named(stores: StoreShelf, tmp_path: Path) -> None:
    for place in ("a", "deep/er/b"):
        (tmp_path / "top" / place).parent.mkdir(parents=True, exist_ok=True)
        disks.run("cp", "-a", stores.path("store-1.9.1-pulled-overlay"), tmp_path / "top" / place)
    disks.run("tar", "-C", tmp_path / "top", "-cf", tmp_path / "b.tar", ".")
    result = migrate("plan", tmp_path / "b.tar")
    assert result.code == 4
    assert f"{tmp_path}/b.tar/a (docker-root); {tmp_path}/b.tar/deep/er/b (docker-root)" in result.err


# --- disks -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file_systems(stores: StoreShelf, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """An image of each kind of file system with a store at /var/lib/docker."""
    place = tmp_path_factory.mktemp("file-systems")

    @cache
    def image(name: str, kind: str) -> Path:
        top = place / f"{name}.top"
        if not top.exists():
            (top / "var/lib").mkdir(parents=True)
            disks.run("cp", "-a", stores.path(name), top / "var/lib/docker")
        target = place / f"{name}.{kind}"
        disks.FILE_SYSTEMS[kind](top, target, (320 if kind in ("xfs", "btrfs") else 64) * disks.MIB)
        return target

    return image


@pytest.mark.parametrize(
    ("name", "kind"), [*((ON_DISK[0], kind) for kind in disks.FILE_SYSTEMS), (ON_DISK[1], "btrfs")]
)
def test_a_file_system_in_an_image(
    plain: Callable[[str], Facts], file_systems: Callable[[str, str], Path], name: str, kind: str
) -> None:
    assert facts(file_systems(name, kind)) == plain(name)


@pytest.mark.parametrize("label", ["dos", "gpt"])
def test_partitions(
    plain: Callable[[str], Facts], file_systems: Callable[[str, str], Path], tmp_path: Path, label: str
) -> None:
    """The store is on the last of several partitions, in an MBR a logical one."""
    swap, empty = disks.blank(tmp_path / "swap", 4 * disks.MIB), tmp_path / "empty"
    disks.run("mkswap", swap)
    (tmp_path / "boot").mkdir()
    disks.FILE_SYSTEMS["ext2"](tmp_path / "boot", empty, 4 * disks.MIB)
    disk = tmp_path / "disk.img"
    disks.partitioned([swap, empty, empty, file_systems(ON_DISK[0], "ext4")], disk, label)
    assert wrapped.unprivileged([disk])[0] == plain(ON_DISK[0])
    result = migrate("inspect", disk)
    assert result.code == 0
    for line in ("partition 1", ": swap", f"partition {6 if label == 'dos' else 4}", ": ext4"):
        assert line in result.out


def test_a_damaged_gpt_is_read_from_its_copy(file_systems: Callable[[str, str], Path], tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disks.partitioned([file_systems(ON_DISK[0], "ext4")], disk, "gpt")
    with open(disk, "r+b") as file:
        file.seek(1024)
        file.write(bytes(4096))
    result = migrate("inspect", disk)
    assert result.code == 0
    assert "the partition table is damaged; its copy at the disk's end is read" in result.err


@pytest.fixture(scope="module")
def disk(file_systems: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("disk") / "disk.img"
    disks.partitioned([file_systems(ON_DISK[0], "ext4")], place, "gpt")
    return place


@pytest.mark.parametrize("form", disks.QEMU_FORMATS)
def test_every_format_of_qemu_img(plain: Callable[[str], Facts], disk: Path, tmp_path: Path, form: str) -> None:
    image = tmp_path / "image.vmdk"
    disks.convert(disk, image, form)
    assert facts(image) == plain(ON_DISK[0])


def test_images_without_privileges(plain: Callable[[str], Facts], disk: Path, tmp_path: Path) -> None:
    images = [tmp_path / form for form in ("qcow2-compressed", "vmdk-stream", "vhdx")]
    for image in images:
        disks.convert(disk, image, image.name)
    assert wrapped.unprivileged(images) == [plain(ON_DISK[0])] * 3


def test_a_compressed_raw_image(plain: Callable[[str], Facts], disk: Path, tmp_path: Path) -> None:
    disks.run("sh", "-c", f"gzip -1 < {disk} > {tmp_path}/disk.img.gz")
    assert facts(tmp_path / "disk.img.gz") == plain(ON_DISK[0])


class TestBackingFiles:
    @pytest.fixture
    def overlay(self, disk: Path, tmp_path: Path) -> Path:
        base, overlay = tmp_path / "base.qcow2", tmp_path / "overlay.qcow2"
        disks.convert(disk, base, "qcow2")
        disks.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", overlay, "400M")
        return overlay

    def test_beside_the_image(self, plain: Callable[[str], Facts], overlay: Path) -> None:
        assert facts(overlay) == plain(ON_DISK[0])

    def test_a_moved_pair(self, plain: Callable[[str], Facts], overlay: Path, tmp_path: Path) -> None:
        """The overlay has the absolute path of where its backing file was."""
        shutil.move(tmp_path, moved := tmp_path.with_name(f"{tmp_path.name}-moved"))
        assert facts(moved / overlay.name) == plain(ON_DISK[0])

    def test_elsewhere_is_refused(self, overlay: Path, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        shutil.move(overlay, tmp_path / "elsewhere/overlay.qcow2")
        result = migrate("plan", tmp_path / "elsewhere/overlay.qcow2")
        assert result.code == 4
        assert "its backing file is not beside it" in result.err and "base.qcow2" in result.err

    def test_a_link_is_not_followed(self, overlay: Path, tmp_path: Path) -> None:
        shutil.move(tmp_path / "base.qcow2", tmp_path.with_name("base-of-another"))
        (tmp_path / "base.qcow2").symlink_to(tmp_path.with_name("base-of-another"))
        assert migrate("plan", overlay).code == 4


def test_a_journal_that_was_not_replayed(stores: StoreShelf, plain: Callable[[str], Facts], tmp_path: Path) -> None:
    """The image is copied while it is mounted, after the journal was written and before the rest was."""
    name, image = "store-1.9.1-pulled-overlay", tmp_path / "crashed.img"
    disks.run("mkfs.ext4", "-q", "-F", disks.blank(tmp_path / "live.img", 64 * disks.MIB))
    with disks.mounted(tmp_path / "live.img", "data=journal", "commit=300") as place:
        disks.run("cp", "-a", stores.path(name), place / "docker")
        descriptor = os.open(place, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        disks.run("sync", "-f", place)
        (place / "docker/graph").rename(place / "docker/graph2")
        (place / "docker/graph2").rename(place / "docker/graph")
        file = os.open(place / "docker", os.O_RDONLY)
        os.fsync(file)
        os.close(file)
        shutil.copyfile(tmp_path / "live.img", image)
    assert "needs_recovery" in disks.run("dumpe2fs", "-h", image)
    assert facts(image) == plain(name)
    assert "its journal was replayed in memory" in migrate("inspect", image).err


# --- LVM -------------------------------------------------------------------------------------------------------------

PV0, PV1 = "a" * 31 + "0", "b" * 31 + "1"


def test_a_volume_on_two_physical_volumes(
    plain: Callable[[str], Facts], file_systems: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """In pieces, on two partitions of one disk."""
    content = file_systems(ON_DISK[0], "ext4")
    count = disks.extents_of(content.stat().st_size)
    half = count // 2
    first, second = (
        disks.physical_volume(tmp_path / name, uuid, count + 2) for name, uuid in (("pv0", PV0), ("pv1", PV1))
    )
    text = disks.volume_group(
        "vg0",
        {"pv0": PV0, "pv1": PV1},
        {
            "root": ('"READ", "WRITE", "VISIBLE"', disks.linear(("pv1", 1, half), ("pv0", 2, count - half))),
            "mirrored": (
                '"READ", "WRITE", "VISIBLE"',
                'segment_count = 1\nsegment1 {\nstart_extent = 0\nextent_count = 1\ntype = "raid1"\n}',
            ),
        },
    )
    raw = content.read_bytes()
    cut = half * 4 * disks.MIB
    for name, part in (("head", raw[:cut]), ("tail", raw[cut:])):
        (tmp_path / name).write_bytes(part)
    disks.write_extents(second, 1, tmp_path / "head")
    disks.write_extents(first, 2, tmp_path / "tail")
    disks.write_metadata(first, text)
    disks.write_metadata(second, text)
    disks.partitioned([first, second], tmp_path / "disk.img", "gpt")
    assert facts(tmp_path / "disk.img") == plain(ON_DISK[0])
    shown = migrate("inspect", tmp_path / "disk.img").out
    assert "LVM volume vg0/root" in shown and "of the LVM type raid1, which is not read" in shown


def test_a_missing_physical_volume_is_named(file_systems: Callable[[str, str], Path], tmp_path: Path) -> None:
    volume = disks.physical_volume(tmp_path / "pv0", PV0, 30)
    text = disks.volume_group(
        "vg0", {"pv0": PV0, "pv1": PV1}, {"root": ('"VISIBLE"', disks.linear(("pv0", 0, 1), ("pv1", 0, 1)))}
    )
    disks.write_metadata(volume, text)
    result = migrate("plan", volume)
    assert result.code == 4
    assert "its physical volume pv1 is not here" in result.err


# --- what is not read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "magic", "message"),
    [
        (0, b"LUKS\xba\xbe\0\2", "is encrypted (LUKS): open it with `cryptsetup open --readonly`"),
        (4096, b"\xfc\x4e\x2b\xa9", "is a member of a RAID (md): assemble it with `mdadm"),
        (132 * 1024, (0xBAB10C).to_bytes(8, "little"), "belongs to a ZFS pool: import it with `zpool import"),
        (0xFF6, b"SWAPSPACE2", ": swap"),
        (3, b"NTFS    ", ": ntfs"),
        (0x400, b"\xe2\xe1\xf5\xe0", ": erofs"),
        (0x8001, b"BEA01", ": udf"),
        (0x20, b"NXSB", ": apfs"),
        (0x1018, bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81"), "belongs to a bcache, and may lack"),
    ],
)
def test_what_is_on_a_disk_and_not_read_is_named(tmp_path: Path, place: int, magic: bytes, message: str) -> None:
    part = disks.blank(tmp_path / "part", disks.MIB)
    with open(part, "r+b") as file:
        file.seek(place)
        file.write(magic)
    disks.partitioned([part], tmp_path / "disk.img", "gpt")
    for image in (part, tmp_path / "disk.img"):
        result = migrate("plan", image)
        assert result.code == 4
        assert message in result.err


def test_an_encrypted_disk_image_is_named(tmp_path: Path) -> None:
    options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
    disks.run(
        *("qemu-img", "create", "-q", "--object", "secret,id=s,data=abc", "-f", "qcow2", "-o", options),
        *(tmp_path / "disk.qcow2", "4M"),
    )
    result = migrate("plan", tmp_path / "disk.qcow2")
    assert result.code == 4
    assert "is encrypted; decrypt it with `qemu-img convert`" in result.err


@pytest.mark.parametrize(
    ("form", "options", "message"),
    [
        ("qcow2", "extended_l2=on", "has subclusters (extended_l2), which are not read; turn it into a raw image"),
        ("qcow2", "data_file=data.raw", "keeps its data in another file; turn it into a raw image"),
        ("qcow", "", "is a qcow image of version 1, which is not read; turn it into a raw image"),
        ("qed", "", "is a qed image, which is not read; turn it into a raw image"),
        ("parallels", "", "is a parallels image, which is not read; turn it into a raw image"),
    ],
)
def test_an_image_of_a_form_that_is_not_read_is_named(form: str, options: str, message: str, tmp_path: Path) -> None:
    chosen = ["-o", options.replace("=data", f"={tmp_path}/data")] if options else []
    disks.run("qemu-img", "create", "-q", "-f", form, *chosen, tmp_path / "disk", "4M")
    result = migrate("plan", tmp_path / "disk")
    assert result.code == 4
    assert message in result.err


@pytest.mark.parametrize("form", ["vmdk-split", "vmdk-split-flat", "vmdk-flat"])
def test_a_missing_part_of_an_image_is_named(disk: Path, tmp_path: Path, form: str) -> None:
    disks.convert(disk, tmp_path / "old.vmdk", form)
    (part,) = (path for path in tmp_path.iterdir() if path.name != "old.vmdk")
    part.rename(tmp_path / "elsewhere")
    result = migrate("plan", tmp_path / "old.vmdk")
    assert result.code == 4
    assert f"its extent is not beside it: {part}" in result.err and "put it there" in result.err


def test_a_disk_without_anything_known_lists_what_it_has(tmp_path: Path) -> None:
    disks.partitioned(
        [disks.blank(tmp_path / "a", disks.MIB), disks.blank(tmp_path / "b", disks.MIB)], tmp_path / "d", "dos"
    )
    result = migrate("inspect", tmp_path / "d")
    assert result.code == 4
    for line in ("partition 1 (MBR) (1,048,576 bytes): nothing that is known", "partition 2 (MBR)"):
        assert line in result.err


def test_a_missing_extra_is_named(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from migrate.storage.filesystems import dissection

    def absent(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(dissection, "import_module", absent)
    disks.convert(disk, tmp_path / "disk.qcow2", "qcow2")
    found = json.dumps(facts(tmp_path / "disk.qcow2"))
    assert "unsupported" in found or "source-unreadable" in found
