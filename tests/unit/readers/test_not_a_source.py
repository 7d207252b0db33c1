"""What people give in place of a source is named, with what to do."""

from __future__ import annotations

import base64
import gzip
import io
import json
import lzma
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from migrate.errors import NoImageError, SourceError, SourceUnreadableError, UnfitSourceError, UnrecognisedSourceError
from migrate.readers.detect import open_source
from migrate.readers.not_a_source import other_part
from tests.archives import V1Archive, layer_tar
from tests.command import migrate
from tests.peers import run
from tests.roots import RootBuilder


def tar_of(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def saved() -> bytes:
    archive = V1Archive()
    archive.tag("app", "1", archive.layer("base", tar=layer_tar("etc/motd", content=b"welcome\n" * 200)))
    return archive.build()


def zipped(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("image.tar", content)
    return stream.getvalue()


def reason(path: Path, content: bytes, kind: type[SourceError]) -> str:
    path.write_bytes(content)
    with pytest.raises(kind) as caught:
        open_source(str(path)).listing()
    assert type(caught.value) is kind or kind is SourceError
    assert caught.value.message.startswith(f"{path}: ")
    return caught.value.message


EXPORT = tar_of(**{".dockerenv": b"", "bin/sh": b"x", "etc/hosts": b"h", "usr/x": b"", "var/x": b""})
ROOT = tar_of(**{"./bin/sh": b"x", "./etc/hosts": b"h", "./usr/x": b"", "./var/x": b""})


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: EXPORT, UnfitSourceError, "docker import"),
        (lambda: gzip.compress(EXPORT), UnfitSourceError, "docker import"),
        (lambda: ROOT, NoImageError, "root file system"),
        (lambda: ("\ufeff" + "manifest.json\0").encode("utf-16-le") * 600, UnfitSourceError, "PowerShell"),
        (lambda: saved().replace(b"\n", b"\r\n"), UnfitSourceError, "text mode"),
        (lambda: gzip.compress(os.urandom(200_000)).replace(b"\n", b"\r\n"), UnfitSourceError, "text mode"),
        (lambda: b"Unable to find image locally\n" + saved(), UnfitSourceError, "tail -c +30"),
        (lambda: gzip.compress(gzip.compress(saved())), UnfitSourceError, "twice"),
        (lambda: lzma.compress(gzip.compress(saved())), UnfitSourceError, "twice"),
        (lambda: zipped(saved()), UnrecognisedSourceError, "zip"),
        (lambda: b"\n<!DOCTYPE html><html>login" + bytes(600), UnrecognisedSourceError, "HTML"),
        (lambda: lzma.compress(saved(), lzma.FORMAT_ALONE), UnrecognisedSourceError, "xz --format=lzma"),
        (lambda: b"xFSdump0" + bytes(600), UnrecognisedSourceError, "xfsrestore"),
        (lambda: b"VMA\0" + bytes(600), UnrecognisedSourceError, "vma extract"),
        (lambda: gzip.compress(b"partclone-image" + bytes(600)), UnrecognisedSourceError, "partclone.restore"),
        (lambda: b"\0\1\2" * 200 + saved(), UnfitSourceError, "later part"),
        (lambda: b"\x7fELF" + bytes(600), UnrecognisedSourceError, "program"),
        (lambda: b"!<arch>\n" + bytes(600), UnrecognisedSourceError, "an archive of ar"),
        (lambda: b"Salted__" + os.urandom(600), UnrecognisedSourceError, "encrypted by openssl"),
        (lambda: b"-----BEGIN PGP MESSAGE-----\n" + bytes(600), UnrecognisedSourceError, "gpg -d"),
        (lambda: b"\x85\2\x0c\3" + os.urandom(600), UnrecognisedSourceError, "gpg -d"),
        (lambda: base64.b64encode(gzip.compress(saved())), UnrecognisedSourceError, "base64 -d"),
        (lambda: base64.encodebytes(lzma.compress(saved())), UnrecognisedSourceError, "base64 -d"),
        (lambda: b"begin 644 image.tar\n" + bytes(600), UnrecognisedSourceError, "uudecode"),
        (lambda: b"btrfs-stream\0" + bytes(600), UnrecognisedSourceError, "btrfs receive"),
        (lambda: bytes(8) + b"\xac\xcb\xba\xf5\2" + bytes(600), UnrecognisedSourceError, "zfs receive"),
        (lambda: struct.pack("<6I2I", 1, 0, 0, 1, 1, 2, 60012, 0) + bytes(600), UnrecognisedSourceError, "restore -rf"),
    ],
)
def test_a_file(tmp_path: Path, make: Callable[[], bytes], kind: type[SourceUnreadableError], words: str) -> None:
    assert words in reason(tmp_path / "file", make(), kind)


@pytest.mark.parametrize("names", ["a.tgz.aa a.tgz.ab", "a.001 a.002", "x00 x01", "a.tar.az a.tar.ba"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_part_of_a_split_file_names_the_other_part(
    tmp_path: Path, pack: Callable[[bytes], bytes], names: str
) -> None:
    RootBuilder(tmp_path / "root").add("base")
    (tmp_path / "root/random").write_bytes(os.urandom(100_000))
    whole = pack(run("tar", "-C", tmp_path / "root", "-cf", "-", ".").stdout)
    first, second = (tmp_path / name for name in names.split())
    for path, other, content in ((first, second, whole[:50_123]), (second, first, whole[50_123:])):
        assert not other_part(str(path))
        other.write_bytes(b"")
        assert f"{other} is beside it" in reason(path, content, SourceError)
        path.unlink()
        other.unlink()


@pytest.mark.parametrize("form", ["newc", "odc", "cpio", "bin"])
def test_a_cpio_archive_has_a_remedy(tmp_path: Path, form: str) -> None:
    (tmp_path / "graph").write_bytes(b"content\n" * 200)
    archive = run("bsdtar", f"--format={form}", "-cf", "-", "-C", tmp_path, "graph").stdout
    assert "cpio archive: unpack it" in reason(tmp_path / "file", archive, UnrecognisedSourceError)


def test_a_file_with_windows_lines_in_a_sound_archive_is_no_text_copy(tmp_path: Path) -> None:
    archive = V1Archive()
    archive.tag("app", "1", archive.layer("base", tar=layer_tar("a.txt", content=b"line\r\n" * 500)))
    (tmp_path / "file").write_bytes(archive.build())
    assert len(open_source(str(tmp_path / "file")).listing().images) == 1


def test_the_inner_folders_of_a_docker_root_name_the_root(tmp_path: Path) -> None:
    root = RootBuilder(tmp_path)
    root.add("base")
    for folder in ("graph", "vfs/dir"):
        with pytest.raises(UnfitSourceError, match="above it"):
            open_source(str(tmp_path / folder))


@pytest.mark.parametrize("name", ["busybox", "team/app:1.0", "host:5000/team/app", "0123456789ab"])
def test_the_name_of_an_image(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceUnreadableError, match="docker save"):
        open_source(name)


@pytest.mark.parametrize("name", ["./busybox", "/srv/app", "image.tar", "a.tgz"])
def test_a_path_is_no_name_of_an_image(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceUnreadableError) as caught:
        open_source(name)
    assert "docker save" not in caught.value.message


def test_in_a_batch_what_was_of_docker_failed_and_the_rest_is_skipped(tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (shelf / "good.tar").write_bytes(saved())
    (shelf / "export.tar").write_bytes(EXPORT)
    (shelf / "twice.tar.gz").write_bytes(gzip.compress(gzip.compress(saved())))
    (shelf / "image.zip").write_bytes(zipped(saved()))
    (shelf / "notes.txt").write_bytes(b"notes")
    (shelf / "more.txt").write_bytes(b"more")
    done = migrate("batch", shelf, tmp_path / "out", "--jobs", "1")
    assert done.code == 3, done.err
    report = json.loads((tmp_path / "out/migration-report.json").read_text())
    rows = {Path(row["location"]).name: row for row in report["sources"]}
    assert {name for name, row in rows.items() if row["failed"]} == {"export.tar", "twice.tar.gz"}
    shown = " ".join(done.out.split())  # lines are wrapped, where depends on the path
    assert "Skipped (3 sources)" in shown
    assert "and 1 more: is neither a tar archive" in shown
    assert "zip archive" in done.err + done.out
