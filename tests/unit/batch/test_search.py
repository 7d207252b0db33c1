from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from migrate.batch.plan import Candidate
from migrate.batch.search import find_candidates, identify
from migrate.errors import UsageError
from tests.archives import V1Archive, build_tar


def names(found: list[Candidate], root: Path) -> list[str]:
    return [str(Path(candidate.location).relative_to(root)) for candidate in found]


def test_directories_are_searched_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b/2.tar", "b/1.tar", "a.tar", "c/d/e.txt", ".hidden.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = find_candidates([str(tmp_path)])
    assert names(found, tmp_path) == [".hidden.tar", "a.tar", "b/1.tar", "b/2.tar", "c/d/e.txt"]
    assert [candidate.order for candidate in found] == [0, 1, 2, 3, 4]


def test_a_directory_that_is_a_source_is_one_source(tmp_path: Path) -> None:
    unpacked = tmp_path / "unpacked"
    archive = V1Archive()
    archive.tag("app", "1", archive.layer("base"))
    for name, content in archive.members:
        (unpacked / name).parent.mkdir(parents=True, exist_ok=True)
        assert isinstance(content, bytes)
        (unpacked / name).write_bytes(content)
    (tmp_path / "other.tar").write_bytes(build_tar([]))
    assert names(find_candidates([str(tmp_path)]), tmp_path) == ["other.tar", "unpacked"]


def test_each_source_counts_once_and_where_it_is_named_first(tmp_path: Path) -> None:
    for name in ("1.tar", "2.tar", "3.tar"):
        (tmp_path / name).write_bytes(b"x")
    found = find_candidates([str(tmp_path / "3.tar"), str(tmp_path), str(tmp_path / "*.tar")])
    assert names(found, tmp_path) == ["3.tar", "1.tar", "2.tar"]


def test_globs_and_lists(tmp_path: Path) -> None:
    for name in ("1.tar", "2.tar", "[odd].tar", "x.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert names(find_candidates([str(tmp_path / "?.tar")]), tmp_path) == ["1.tar", "2.tar"]
    assert names(find_candidates([str(tmp_path / "[odd].tar")]), tmp_path) == ["[odd].tar"]
    listed = io.BytesIO(f"{tmp_path}/x.txt\n\n{tmp_path}/1.tar\r\n{tmp_path}/gone.tar".encode())
    assert names(find_candidates([], [listed]), tmp_path) == ["x.txt", "1.tar", "gone.tar"]


def test_a_glob_without_a_match_and_a_binary_list_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing matches"):
        find_candidates([str(tmp_path / "*.tar")])
    with pytest.raises(UsageError, match="not a list of paths"):
        find_candidates([], [io.BytesIO(b"\0" * 100)])


def test_links_to_files_count_and_links_to_directories_do_not(tmp_path: Path) -> None:
    (tmp_path / "real.tar").write_bytes(b"x")
    (tmp_path / "link.tar").symlink_to("real.tar")
    (tmp_path / "round").symlink_to(".")
    (tmp_path / "dangling.tar").symlink_to("gone")
    os.mkfifo(tmp_path / "pipe")
    assert names(find_candidates([str(tmp_path)]), tmp_path) == ["link.tar", "real.tar"]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/\xff.tar"
    with open(raw, "wb") as stream:
        stream.write(b"x")
    (found,) = find_candidates([str(tmp_path)])
    assert os.fsencode(found.location) == raw


def test_the_identity_of_a_file_is_its_size_and_time(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"x")
    before = identify(str(path))
    assert before.size == 1
    assert identify(str(path)) == before
    os.utime(path, ns=(1, 1))
    assert identify(str(path)) != before
    assert identify(str(tmp_path / "gone")) != before


def test_the_identity_of_a_store_follows_its_documents(tmp_path: Path) -> None:
    root = tmp_path / "graph" / ("a" * 64)
    root.mkdir(parents=True)
    (root / "json").write_bytes(b"{}")
    before = identify(str(tmp_path))
    assert before.size is None
    assert identify(str(tmp_path)) == before
    (root / "json").write_bytes(b"{ }")
    assert identify(str(tmp_path)) != before
