from __future__ import annotations

import os
from pathlib import Path

import pytest

from migrate import api
from migrate.convert.source_paths import distinct_sources, refuse_to_write
from migrate.errors import UsageError
from migrate.model.options import ConvertOptions
from tests.archives import V1Archive


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    directory = tmp_path / "shelf"
    directory.mkdir()
    archive = V1Archive()
    archive.tag("app", "1", archive.layer("base"))
    (directory / "a.tar").write_bytes(archive.build())
    return directory


def test_each_source_once_by_its_first_name(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shelf.parent / "linked").symlink_to("shelf")
    (shelf / "link.tar").symlink_to("a.tar")
    os.link(shelf / "a.tar", shelf / "hard.tar")
    monkeypatch.chdir(shelf)
    names = ["a.tar", "./a.tar", f"{shelf}/a.tar", "../linked/a.tar", "../shelf/../shelf/a.tar"]
    assert distinct_sources(names) == ["a.tar"]
    assert distinct_sources([str(shelf), f"{shelf}/", ".", "../linked"]) == [str(shelf)]
    others = ["a.tar", "link.tar", "hard.tar", "gone.tar"]
    assert distinct_sources(others) == others
    assert distinct_sources(["-", "s3://b/k", "s3://b/k", "-"]) == ["-", "s3://b/k"]


@pytest.mark.parametrize("name", ["{}/a.tar", "{}", "{}/new", "{}/not/yet", "{}/../shelf/new", "{}/../linked/new"])
@pytest.mark.parametrize("prefix", ["", "oci:", "oci-archive:", "docker-archive:", "registry-storage:"])
def test_a_target_that_is_a_source_or_lies_in_one(shelf: Path, name: str, prefix: str) -> None:
    (shelf.parent / "linked").symlink_to("shelf")
    sources = ["-", "s3://bucket/a.tar", str(shelf / "gone"), str(shelf / "a.tar"), str(shelf)]
    with pytest.raises(UsageError, match="never written to"):
        refuse_to_write(sources, target=f"{prefix}{name.format(shelf)}")


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("s3://shelf/saves", "s3://shelf/saves/out", "or lies in it"),
        ("s3://shelf/saves/", "oci:s3://shelf/saves", "or lies in it"),
        ("s3://shelf", "registry-storage:s3://shelf/out/", "or lies in it"),
        ("s3a://shelf/saves", "s3://shelf/saves/out", "or lies in it"),
        ("s3://shelf/out/a.tar", "s3://shelf/out", "lies in the target"),
        ("s3://shelf/out/*.tar", "s3://shelf/out", "lies in the target"),
    ],
)
def test_a_bucket_that_is_read_is_not_written_to(source: str, target: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        refuse_to_write(["-", "a.tar", source], target=target)


def test_places_beside_each_other_in_a_bucket() -> None:
    sources = ["s3://shelf/saves", "s3://shelf/*.tar", "gs://shelf/out", "docker://host/app", "a.tar", "-"]
    for target in ("s3://shelf/saves-out", "s3://shelf/out", "docker://host/app"):
        refuse_to_write(sources, target=target)


def test_a_source_by_another_of_its_names(shelf: Path) -> None:
    os.link(shelf / "a.tar", shelf.parent / "hard.tar")
    (shelf.parent / "soft.tar").symlink_to("shelf/a.tar")
    for name in ("hard.tar", "soft.tar"):
        with pytest.raises(UsageError, match=r"the output file .*\.tar is the source"):
            refuse_to_write([str(shelf / "a.tar")], files=[str(shelf.parent / name)])


def test_a_target_around_a_source(shelf: Path) -> None:
    with pytest.raises(UsageError, match=r"the source .*a\.tar lies in the target"):
        refuse_to_write([str(shelf / "a.tar")], target=f"registry-storage:{shelf}")


def test_a_url_of_the_disk_is_its_path(shelf: Path) -> None:
    place, url = str(shelf / "a.tar"), f"file://{shelf}/a.tar"
    assert distinct_sources([url, place]) == [url]
    for source, target in (
        (url, place),
        (f"file://{shelf}", f"{shelf}/out"),
        (place, f"registry-storage:file://{shelf}"),
    ):
        with pytest.raises(UsageError, match="never written to"):
            refuse_to_write([source], target=target)
    refuse_to_write([f"file://{shelf}"], target=f"{shelf}-new")


def test_what_may_be_written(shelf: Path) -> None:
    refuse_to_write([str(shelf), "-", "s3://b/k"], target=f"{shelf}-new", files=[str(shelf.parent / "report.json")])
    for target in ("docker://host/x", "docker-archive:-", "s3://b/out"):
        refuse_to_write([str(shelf)], target=target)


def test_programs_are_refused_as_users_are(shelf: Path, tmp_path: Path) -> None:
    for target in (shelf / "out", shelf / "a.tar"):
        with pytest.raises(UsageError, match="never written to"):
            api.convert([shelf / "a.tar", shelf], target)
    assert [path.name for path in shelf.iterdir()] == ["a.tar"]
    pool = tmp_path / "pool"
    pool.write_bytes(b"x")
    with pytest.raises(UsageError, match="never written to"):
        api.convert(shelf / "a.tar", f"docker-archive:{pool}", ConvertOptions(dm_data=str(pool), force=True))
    assert pool.read_bytes() == b"x"


def test_programs_have_each_source_once(shelf: Path, tmp_path: Path) -> None:
    names = [str(shelf / "a.tar"), f"{shelf}/../shelf/a.tar"]
    for outcome in (api.plan(names), api.convert(names, tmp_path / "out")):
        assert [row.location for row in outcome.report.sources] == [str(shelf / "a.tar")]
        assert outcome.report.totals.saved_bytes == 0
