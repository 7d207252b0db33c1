"""Archives that come by once: the same bytes come out, and large layers are not kept in a temporary file."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.archives import V1Archive, layer_tar, legacy_id, link
from tests.cli.test_convert import digests, report_of, stable
from tests.command import migrate

MIB = 1 << 20


def noise(seed: int, size: int) -> bytes:
    return hashlib.shake_256(seed.to_bytes(4, "big")).digest(size)


def archive_of_large_layers() -> V1Archive:
    """Large and small layers, twins, one without an entry, one that is compressed, and one behind a link."""
    archive = V1Archive()
    archive.layer("base", tar=layer_tar("base", content=noise(1, 3 * MIB)))
    archive.layer("empty", "base", tar=bytes(2 * MIB))
    archive.layer("small", "empty")
    archive.layer("twin", "small", tar=layer_tar("base", content=noise(1, 3 * MIB)))
    archive.layer("packed", "twin", tar=gzip.compress(layer_tar("packed", content=noise(2, 2 * MIB)), mtime=0))
    linked = archive.layer("linked", "packed")
    archive.members = [member for member in archive.members if member[0] != f"{linked}/layer.tar"]
    archive.members.append(link(f"{linked}/layer.tar", f"../{legacy_id('base')}/layer.tar"))
    archive.tag("app", "1", archive.layer("top", "linked", tar=layer_tar("top", content=noise(3, 2 * MIB))))
    return archive


@pytest.mark.parametrize("options", [[], ["--format", "oci", "--compression", "zstd"], ["--empty-layers", "keep"]])
def test_a_pipe_gives_the_same_bytes_as_a_file(options: list[str], tmp_path: Path) -> None:
    content = archive_of_large_layers().build()
    (tmp_path / "a.tar").write_bytes(content)
    (tmp_path / "a.tar.xz").write_bytes(lzma.compress(content, preset=0))
    assert migrate("convert", *options, tmp_path / "a.tar", tmp_path / "file").code == 0
    assert migrate("convert", *options, "-", tmp_path / "pipe", stdin=content).code == 0
    assert migrate("convert", *options, "--jobs", "1", tmp_path / "a.tar.xz", tmp_path / "xz").code == 0
    assert digests(tmp_path / "pipe") == digests(tmp_path / "xz") == digests(tmp_path / "file")
    assert stable(report_of(tmp_path / "pipe")) == stable(report_of(tmp_path / "file"))
    assert migrate("convert", *options, "-", tmp_path / "file", stdin=content).code == 0
    assert digests(tmp_path / "pipe") == digests(tmp_path / "file")
    dry = migrate("convert", *options, "--dry-run", "--report", "-", "-", tmp_path / "none", stdin=content)
    assert stable(dry.json()) == stable(report_of(tmp_path / "file"))


def test_large_layers_are_not_spooled(tmp_path: Path) -> None:
    """No file may grow over 6 MB in this run, and the archive has 40 MB that do not compress to less than 8 each."""
    archive = V1Archive()
    for number in range(8):
        archive.tag("app", str(number), archive.layer(f"l{number}", tar=layer_tar("f", content=noise(number, 5 * MIB))))
    content = archive.build()
    done = subprocess.run(
        [sys.executable, "-m", "migrate", "convert", "-q", "-", str(tmp_path / "out")],
        input=content,
        capture_output=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (6 * MIB, 6 * MIB)),
    )
    assert done.returncode == 0, done.stderr
    assert len(report_of(tmp_path / "out")["images"]) == 8


def test_inspect_and_a_choice_of_images_work_on_a_pipe_too(tmp_path: Path) -> None:
    content = archive_of_large_layers().build()
    listed = migrate("inspect", "--json", "-", stdin=content)
    assert listed.code == 0
    assert [image["references"] for image in listed.json()["images"]] == [["app:1"]]
    chosen = migrate("convert", "--image", legacy_id("base"), "-", tmp_path / "out", stdin=content)
    assert chosen.code == 0
    assert len(list((tmp_path / "out" / "blobs" / "sha256").iterdir())) == 3, "one layer, its config, its manifest"


def test_a_pipe_that_ends_in_a_large_layer_costs_its_image_alone(tmp_path: Path) -> None:
    archive = archive_of_large_layers()
    content = archive.build()
    cut = content.index(noise(3, 2 * MIB)) + MIB
    assert migrate("convert", "-", tmp_path / "none", stdin=content[:cut]).code == 4
    result = migrate("convert", "--salvage", "-", tmp_path / "out", stdin=content[:cut])
    assert result.code == 3
    report = report_of(tmp_path / "out")
    assert {failure["error"] for failure in report["failures"]} == {"truncated"}
    (image,) = report["images"]
    assert image["legacy_id"] == legacy_id("linked")
    assert migrate("verify", tmp_path / "out").code == 0


def test_a_damaged_large_layer_costs_its_image_alone(tmp_path: Path) -> None:
    archive = V1Archive()
    archive.tag("good", "1", archive.layer("good", tar=layer_tar("good", content=noise(1, 2 * MIB))))
    broken = bytearray(layer_tar("one", "two", content=noise(2, 2 * MIB)))
    broken[2 * MIB + 512] ^= 1
    archive.tag("bad", "1", archive.layer("bad", tar=bytes(broken)))
    archive.tag("late", "1", archive.layer("late", tar=layer_tar("late", content=noise(3, 2 * MIB))))
    result = migrate("convert", "-", tmp_path / "out", stdin=archive.build())
    assert result.code == 3
    report = report_of(tmp_path / "out")
    assert sorted(image["references"] for image in report["images"]) == [["good:1"], ["late:1"]]
    assert [failure["references"] for failure in report["failures"]] == [["bad:1"]]
    assert migrate("verify", tmp_path / "out").code == 0


def test_a_compressed_archive_whose_checksum_is_wrong_gives_no_image(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(archive_of_large_layers().build(), 1))
    packed[-6] ^= 1
    result = migrate("convert", "-", tmp_path / "out", stdin=bytes(packed))
    assert result.code == 4
    assert len(result.errors) == 1
    index = tmp_path / "out" / "index.json"
    assert not index.exists() or json.loads(index.read_bytes())["manifests"] == []


@pytest.mark.parametrize("left_over", [1, 100, 511])
def test_an_archive_that_ends_in_half_a_block_behind_its_zeros_is_read(tmp_path: Path, left_over: int) -> None:
    archive = V1Archive()
    archive.tag("app", "1", archive.layer("base"))
    members = archive.build().rstrip(b"\0")
    content = members + bytes(-len(members) % 512) + bytes(512) + b"x" * left_over
    (tmp_path / "a.tar").write_bytes(content)
    plain = migrate("convert", tmp_path / "a.tar", tmp_path / "plain")
    packed = migrate("convert", "-", tmp_path / "packed", stdin=gzip.compress(content))
    assert (plain.code, packed.code) == (3, 3)
    assert digests(tmp_path / "packed") == digests(tmp_path / "plain")
    assert [len(report_of(tmp_path / name)["images"]) for name in ("plain", "packed")] == [1, 1]
