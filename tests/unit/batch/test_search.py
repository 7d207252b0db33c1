from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import pytest

from migrate.batch.plan import Candidate
from migrate.batch.search import expand, find_candidates, identify, list_line, read_list
from migrate.errors import UsageError
from tests.archives import V1Archive, build_tar


def search(*locations: str, lists: Sequence[BinaryIO] = ()) -> list[Candidate]:
    return find_candidates(expand(locations, lists))


def names(found: list[Candidate], root: Path) -> list[str]:
    return [str(Path(candidate.location).relative_to(root)) for candidate in found]


def test_directories_are_searched_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b/2.tar", "b/1.tar", "a.tar", "c/d/e.txt", ".hidden.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = search(str(tmp_path))
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
    assert names(search(str(tmp_path)), tmp_path) == ["other.tar", "unpacked"]


def test_each_source_counts_once_and_where_it_is_named_first(tmp_path: Path) -> None:
    for name in ("1.tar", "2.tar", "3.tar"):
        (tmp_path / name).write_bytes(b"x")
    found = search(str(tmp_path / "3.tar"), str(tmp_path), str(tmp_path / "*.tar"))
    assert names(found, tmp_path) == ["3.tar", "1.tar", "2.tar"]


def test_several_names_of_one_source_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shelf").mkdir()
    (tmp_path / "linked").symlink_to("shelf")
    (tmp_path / "shelf" / "a.tar").write_bytes(b"x")
    monkeypatch.chdir(tmp_path / "shelf")
    found = search("a.tar", "./a.tar", f"{tmp_path}/shelf/a.tar", "../linked/a.tar", f"{tmp_path}/linked", ".", "*.tar")
    assert [candidate.location for candidate in found] == ["a.tar"]


def test_standard_input_is_no_source_of_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for lists in ([], [io.BytesIO(b"a.tar\n-\n")]):
        with pytest.raises(UsageError, match="use `migrate convert -`"):
            expand([] if lists else ["-"], lists)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-").write_bytes(b"x")
    assert expand(["*"]) == ["./-"]


@pytest.mark.parametrize("name", ["a.tar", " a b.tar ", "\udcff.tar", "s3://bucket/a.tar"])
def test_a_name_that_a_line_holds_comes_back(name: str) -> None:
    line = list_line(name)
    assert line is not None
    assert list(read_list(io.BytesIO(line))) == [name]


@pytest.mark.parametrize("name", ["a\nb.tar", "a\r", "  ", "x" * 70_000])
def test_a_name_that_no_line_holds_never_comes_back_as_another(name: str) -> None:
    assert list_line(name) is None


def test_blank_lines_of_a_list_are_no_sources() -> None:
    assert expand([], [io.BytesIO(b"\n  \t\na.tar\n \r\n")]) == ["a.tar"]


def test_globs_and_lists(tmp_path: Path) -> None:
    for name in ("1.tar", "2.tar", "[odd].tar", "x.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert names(search(str(tmp_path / "?.tar")), tmp_path) == ["1.tar", "2.tar"]
    assert names(search(str(tmp_path / "[odd].tar")), tmp_path) == ["[odd].tar"]
    listed = io.BytesIO(f"{tmp_path}/x.txt\n\n{tmp_path}/1.tar\r\n{tmp_path}/gone.tar".encode())
    assert names(search(lists=[listed]), tmp_path) == ["x.txt", "1.tar", "gone.tar"]


def test_a_glob_without_a_match_and_a_binary_list_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing matches"):
        search(str(tmp_path / "*.tar"))
    with pytest.raises(UsageError, match="not a list of paths"):
        expand([], [io.BytesIO(b"\0" * 100)])


def test_links_to_files_count_and_links_to_directories_do_not(tmp_path: Path) -> None:
    (tmp_path / "real.tar").write_bytes(b"x")
    (tmp_path / "link.tar").symlink_to("real.tar")
    (tmp_path / "round").symlink_to(".")
    (tmp_path / "dangling.tar").symlink_to("gone")
    os.mkfifo(tmp_path / "pipe")
    assert names(search(str(tmp_path)), tmp_path) == ["link.tar", "real.tar"]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/\xff.tar"
    with open(raw, "wb") as stream:
        stream.write(b"x")
    (found,) = search(str(tmp_path))
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
