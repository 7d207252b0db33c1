"""A shelf as people have it: backups of roots and registries, a disk, and other files. What each is in a batch."""

from __future__ import annotations

import csv
import gzip
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests import disks
from tests.cases import case
from tests.command import migrate
from tests.roots import RootBuilder, write

EXPECTED = {
    "archive.tar": ("converted", ""),
    "below-a-folder.tar": ("converted", ""),
    "disk.img": ("converted", ""),
    "registry.tgz": ("converted", ""),
    "var-lib-docker.tar.xz": ("converted", ""),
    "export.tar": ("failed", "as `docker export` writes it"),
    "root-file-system.tar": ("skipped", "is a root file system and no image"),
    "text-mode.tar": ("failed", "was copied in text mode"),
    "twice.tar.gz.gz": ("failed", "is compressed twice"),
    "powershell.tar": ("failed", "is text in UTF-16"),
    "log-before.tar": ("failed", "bytes of something else before it"),
    "image.zip": ("skipped", "a zip archive"),
    "encrypted.img": ("failed", "is encrypted (LUKS)"),
    "notes.txt": ("skipped", "neither a tar archive"),
}


def tar_of(target: Path, folder: Path, below: str) -> None:
    with tarfile.open(target, "w:xz" if target.suffix == ".xz" else "w:gz" if target.suffix == ".tgz" else "w") as tar:
        tar.add(folder, below)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made, shelf = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("shelf")
    root = RootBuilder(made / "var/lib/docker")
    write(root.add("base") / "etc/motd", b"hello")
    root.tag({"old/app": {"1": "base"}})
    tar_of(shelf / "var-lib-docker.tar.xz", made / "var", "var")
    disks.run("mkfs.ext4", "-q", "-F", "-d", made, disks.blank(shelf / "disk.img", 8 * disks.MIB))
    (made / "registry").mkdir()
    disks.run("tar", "-xJf", case("registry-v2-schema1-2.1.1").path / "registry.tar.xz", "-C", made / "registry")
    tar_of(shelf / "registry.tgz", made / "registry", "srv/registry")
    saved = case("save-1.9.1-single").write_plain(made).rename(shelf / "archive.tar").read_bytes()
    (made / "saved").mkdir()
    disks.run("tar", "-xf", shelf / "archive.tar", "-C", made / "saved")
    tar_of(shelf / "below-a-folder.tar", made / "saved", "image")
    for name in ("bin", "etc", "usr/lib", "var/log"):
        write(made / "container" / name / "file")
    tar_of(shelf / "root-file-system.tar", made / "container", ".")
    write(made / "container/.dockerenv")
    tar_of(shelf / "export.tar", made / "container", ".")
    (shelf / "text-mode.tar").write_bytes(saved.replace(b"\n", b"\r\n"))
    (shelf / "twice.tar.gz.gz").write_bytes(gzip.compress(gzip.compress(saved)))
    (shelf / "powershell.tar").write_bytes(saved.decode("latin-1").encode("utf-16"))
    (shelf / "log-before.tar").write_bytes(b"Saving the image\n" + saved)
    with zipfile.ZipFile(shelf / "image.zip", "w") as packed:
        packed.writestr("image.tar", saved)
    (shelf / "encrypted.img").write_bytes(b"LUKS\xba\xbe\0\2" + bytes(disks.MIB))
    (shelf / "notes.txt").write_text("the old server's disk\n")
    return shelf


@pytest.mark.peer  # mkfs
def test_what_each_file_of_a_shelf_becomes(shelf: Path, tmp_path: Path) -> None:
    result = migrate("batch", "-q", "--account", tmp_path / "account.csv", shelf, tmp_path / "out")
    assert result.code == 3
    with open(tmp_path / "account.csv", encoding="utf-8", newline="") as stream:
        rows = {Path(row["source"]).name: row for row in csv.DictReader(stream)}
    assert {name: row["outcome"] for name, row in rows.items()} == {name: one for name, (one, _) in EXPECTED.items()}
    for name, (_, reason) in EXPECTED.items():
        assert reason in rows[name]["reason"], name

    assert migrate("verify", tmp_path / "out").code == 0
