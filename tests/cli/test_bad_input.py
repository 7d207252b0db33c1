"""Archives from strangers: one clear line each, the other images converted, the target valid, no traceback."""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from migrate.blobio import limits
from tests.archives import V1Archive, build_tar, layer_json, layer_tar, legacy_id, link, pax_header
from tests.command import Result, migrate


def good_archive() -> V1Archive:
    """One sound image, `good:1` on two layers, for the broken ones to stand beside."""
    archive = V1Archive()
    archive.layer("base")
    archive.tag("good", "1", archive.layer("app", "base"))
    return archive


def check_good_is_converted(target: Path) -> None:
    report = json.loads((target / "migration-report.json").read_bytes())
    assert ["good:1"] in [image["references"] for image in report["images"]]
    assert migrate("verify", target).code == 0


def run(content: bytes, tmp_path: Path, name: str = "archive.tar") -> tuple[Result, Path]:
    source = tmp_path / name
    source.write_bytes(content)
    before = source.stat().st_mtime_ns
    result = migrate("convert", source, tmp_path / "out")
    assert source.read_bytes() == content
    assert source.stat().st_mtime_ns == before
    assert sorted(path.name for path in tmp_path.iterdir()) <= sorted([name, "out"])
    return result, tmp_path / "out"


def parent_cycle(archive: V1Archive) -> None:
    archive.layer("x", "y")
    archive.layer("y", "x")
    archive.tag("bad", "1", legacy_id("x"))


def missing_parent(archive: V1Archive) -> None:
    archive.tag("bad", "1", archive.layer("orphan", "nobody"))


def missing_layer_tar(archive: V1Archive) -> None:
    identity = archive.layer("hollow", "base")
    archive.members = [member for member in archive.members if member[0] != f"{identity}/layer.tar"]
    archive.tag("bad", "1", identity)


def missing_json(archive: V1Archive) -> None:
    identity = archive.layer("mute", "base")
    archive.members = [member for member in archive.members if member[0] != f"{identity}/json"]
    archive.tag("bad", "1", identity)


def layer_tar_is_a_directory(archive: V1Archive) -> None:
    identity = archive.layer("folder", "base")
    folder = tarfile.TarInfo(f"{identity}/layer.tar")
    folder.type = tarfile.DIRTYPE
    archive.members = [m for m in archive.members if m[0] != f"{identity}/layer.tar"] + [(folder.name, folder)]
    archive.tag("bad", "1", identity)


def parent_is_a_path(archive: V1Archive) -> None:
    identity = legacy_id("climber")
    archive.layer("climber", raw=layer_json(identity, "../../etc"))
    archive.tag("bad", "1", identity)


def tag_to_an_absent_id(archive: V1Archive) -> None:
    archive.tag("bad", "1", legacy_id("absent"))


def link_out_of_the_archive(archive: V1Archive) -> None:
    identity = archive.layer("outside", "base")
    archive.members = [m for m in archive.members if m[0] != f"{identity}/layer.tar"]
    archive.members.append(link(f"{identity}/layer.tar", "../../../etc/passwd"))
    archive.tag("bad", "1", identity)


def absolute_link(archive: V1Archive) -> None:
    identity = archive.layer("absolute", "base")
    archive.members = [m for m in archive.members if m[0] != f"{identity}/layer.tar"]
    archive.members.append(link(f"{identity}/layer.tar", "/etc/passwd", tarfile.LNKTYPE))
    archive.tag("bad", "1", identity)


def link_to_itself(archive: V1Archive) -> None:
    identity = archive.layer("loop", "base")
    archive.members = [m for m in archive.members if m[0] != f"{identity}/layer.tar"]
    archive.members.append(link(f"{identity}/layer.tar", "layer.tar"))
    archive.tag("bad", "1", identity)


def json_nested_ten_thousand_deep(archive: V1Archive) -> None:
    archive.tag("bad", "1", archive.layer("deep", raw=b'{"id":' + b"[" * 10_000 + b"]" * 10_000 + b"}"))


def json_of_a_hundred_megabytes(archive: V1Archive) -> None:
    archive.tag("bad", "1", archive.layer("huge", raw=b'{"comment":"' + b"x" * 100_000_000 + b'"}'))


def json_that_is_no_object(archive: V1Archive) -> None:
    archive.tag("bad", "1", archive.layer("list", raw=b"[1,2]"))


def json_that_is_not_json(archive: V1Archive) -> None:
    archive.tag("bad", "1", archive.layer("text", raw=b"\xff\xfe not json"))


def json_with_a_mistyped_field(archive: V1Archive) -> None:
    archive.tag("bad", "1", archive.layer("typed", raw=b'{"created":"2014-05-06T07:08:09Z","config":7}'))


def layer_that_is_no_tar(archive: V1Archive) -> None:
    archive.tag("bad", "1", archive.layer("noise", "base", tar=b"this is not a tar archive" * 100))


def layer_cut_in_an_entry(archive: V1Archive) -> None:
    whole = layer_tar("big.bin", content=b"b" * 5000)
    archive.tag("bad", "1", archive.layer("cut", "base", tar=whole[:3000]))


def layer_with_a_wrong_header_checksum(archive: V1Archive) -> None:
    whole = bytearray(layer_tar("one", "two"))
    whole[1024] ^= 1
    archive.tag("bad", "1", archive.layer("sum", "base", tar=bytes(whole)))


def layer_with_a_pax_size_of_ten_thousand_digits(archive: V1Archive) -> None:
    tar = pax_header(b"size", b"9" * 10_000) + layer_tar("one")
    archive.tag("bad", "1", archive.layer("digits", "base", tar=tar))


def layer_compressed_and_cut(archive: V1Archive) -> None:
    whole = gzip.compress(layer_tar("big.bin", content=bytes(range(256)) * 400))
    archive.tag("bad", "1", archive.layer("gz", "base", tar=whole[: len(whole) // 2]))


def layer_that_is_a_bomb(archive: V1Archive) -> None:
    import lzma

    archive.tag("bad", "1", archive.layer("bomb", "base", tar=lzma.compress(bytes(400_000_000), preset=0)))


BROKEN_IMAGES = [
    parent_cycle,
    missing_parent,
    missing_layer_tar,
    missing_json,
    layer_tar_is_a_directory,
    parent_is_a_path,
    tag_to_an_absent_id,
    link_out_of_the_archive,
    absolute_link,
    link_to_itself,
    json_nested_ten_thousand_deep,
    json_of_a_hundred_megabytes,
    json_that_is_no_object,
    json_that_is_not_json,
    json_with_a_mistyped_field,
    layer_that_is_no_tar,
    layer_cut_in_an_entry,
    layer_with_a_wrong_header_checksum,
    layer_with_a_pax_size_of_ten_thousand_digits,
    layer_compressed_and_cut,
    layer_that_is_a_bomb,
]


@pytest.mark.parametrize("break_it", BROKEN_IMAGES, ids=lambda function: function.__name__)
def test_a_broken_image_fails_alone(break_it: Callable[[V1Archive], None], tmp_path: Path) -> None:
    archive = good_archive()
    break_it(archive)
    result, target = run(archive.build(), tmp_path)
    assert result.code == 3, result.err
    assert result.errors, result.err
    check_good_is_converted(target)
    report = json.loads((target / "migration-report.json").read_bytes())
    assert any("bad:1" in failure["references"] for failure in report["failures"])
    for failure in report["failures"]:
        assert "archive.tar" in failure["message"] or failure["layer"], failure


@pytest.mark.parametrize("name", ["../../escape/json", "/etc/cron.d/evil", "ok/../../escape", "bell\x07/json"])
def test_a_member_named_outside_the_archive_is_refused(name: str, tmp_path: Path) -> None:
    result, target = run(good_archive().build([(name, b"{}")]), tmp_path)
    assert result.code == 3
    assert any("outside the archive" in line for line in result.errors)
    check_good_is_converted(target)


def test_an_unreadable_repositories_file_costs_the_names_and_no_image(tmp_path: Path) -> None:
    archive = good_archive()
    archive.tags = {}
    result, target = run(archive.build([("repositories", b'{"good":')]), tmp_path)
    assert result.code == 3
    assert any("without their names" in line for line in result.errors)
    report = json.loads((target / "migration-report.json").read_bytes())
    assert [image["legacy_id"] for image in report["images"]] == [legacy_id("app")]


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive at all, only text\n" * 100, bytes(512), gzip.compress(b"text" * 1000), b"\x1f\x8b\x08 broken"],
    ids=["empty", "text", "zeros", "gzip of text", "broken gzip"],
)
def test_what_is_no_archive_gives_exit_4(content: bytes, tmp_path: Path) -> None:
    result, target = run(content, tmp_path)
    assert result.code == 4
    assert len(result.errors) == 1
    assert "archive.tar" in result.errors[0]
    assert not list((target / "blobs" / "sha256").iterdir()) if (target / "blobs" / "sha256").exists() else True


def test_a_missing_file_gives_exit_4(tmp_path: Path) -> None:
    result = migrate("convert", tmp_path / "nothing.tar", tmp_path / "out")
    assert (result.code, len(result.errors)) == (4, 1)


def test_truncation_anywhere_never_passes_for_whole(tmp_path: Path) -> None:
    content = good_archive().build()
    end = content.rindex(b'{"good"') + 512
    for cut in range(256, end, 997):
        case = tmp_path / str(cut)
        case.mkdir()
        result, target = run(content[:cut], case)
        assert result.code in (3, 4), cut
        assert result.errors, cut
        if (target / "index.json").exists():
            assert migrate("verify", target).code == 0, cut


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_truncated_compressed_archive_gives_what_came_before(keep: float, tmp_path: Path) -> None:
    archive = V1Archive()
    for number in range(40):
        archive.tag("many", str(number), archive.layer(f"layer {number}", tar=layer_tar("f", content=bytes(200_000))))
    packed = gzip.compress(archive.build(), 1)
    result, target = run(packed[: int(len(packed) * keep)], tmp_path, "archive.tar.gz")
    assert result.code in (3, 4)
    assert any("archive.tar.gz" in line for line in result.errors)
    if result.code == 3:
        assert migrate("verify", target).code == 0


def test_a_compressed_archive_with_a_wrong_checksum_is_not_believed(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(good_archive().build()))
    packed[-8] ^= 1
    result, _ = run(bytes(packed), tmp_path, "archive.tar.gz")
    assert result.code == 4


def test_a_bomb_around_the_archive_is_refused(tmp_path: Path) -> None:
    import bz2

    result, _ = run(bz2.compress(bytes(300_000_000), 9), tmp_path, "archive.tar.bz2")
    assert result.code == 4
    assert "limit" in result.errors[0]
    assert limits.DECOMPRESSION_RATIO > 1032, "DEFLATE itself reaches 1,032"


def test_zeros_that_compress_beyond_the_bound_are_converted_when_asked_for(tmp_path: Path) -> None:
    import lzma

    archive = good_archive()
    zeros = lzma.compress(layer_tar("disk.img", content=bytes(80_000_000)), preset=0)
    archive.tag("zeros", "1", archive.layer("zeros", tar=zeros))
    source = tmp_path / "a.tar"
    source.write_bytes(archive.build())
    refused = migrate("convert", source, tmp_path / "refused")
    assert refused.code == 3
    assert "1,100 to 1 (--max-ratio allows more)" in refused.err
    for options in ([], ["--format", "oci", "--compression", "zstd"]):
        target = tmp_path / "-".join(["out", *options])
        assert migrate("convert", "--max-ratio", "20000", *options, source, target).code == 0
        assert migrate("verify", target).code == 0  # zstd of ours makes 48 bytes of 1 MiB of zeros


def test_a_target_inside_the_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    result = migrate("convert", tmp_path / "source", tmp_path / "source" / "out")
    assert result.code == 2
    assert list((tmp_path / "source").iterdir()) == []


def test_an_archive_of_no_image_at_all(tmp_path: Path) -> None:
    result, _ = run(build_tar([("hello.txt", b"hello")]), tmp_path)
    assert result.code == 4
    assert "hold" in result.errors[0] or "no image" in result.errors[0]


# --- likely slips ----------------------------------------------------------------------------------------------------


def test_a_target_alone_asks_for_sources(tmp_path: Path) -> None:
    done = migrate("convert", tmp_path / "a.tar")
    assert done.code == 2 and done.errors == [
        f"migrate: error: no SOURCE before the TARGET {tmp_path}/a.tar: name the sources first"
    ]


def test_sources_without_a_target_replace_none_of_them(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        (tmp_path / name).write_bytes(good_archive().build())
    content = (tmp_path / "b.tar").read_bytes()
    done = migrate("convert", "-q", tmp_path / "a.tar", tmp_path / "b.tar")
    assert done.code == 5 and f"{tmp_path}/b.tar: is a file; an OCI layout is a directory" in done.err
    assert (tmp_path / "b.tar").read_bytes() == content


def test_a_shelf_of_archives_is_for_batch(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(good_archive().build())
    done = migrate("plan", "-q", tmp_path)
    assert done.code == 4 and "`migrate batch` finds those that are below it" in done.err
