"""migration-map.json of a target in a bucket: as in a directory, a later run adds and never takes away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from migrate import api
from migrate.documents.image_map import Rows, parse_map
from migrate.errors import TargetError
from migrate.layout.names import MAP_NAME
from tests.archives import V1Archive, layer_tar, legacy_id
from tests.buckets import memory_bucket, objects

TARGETS = ["memory://bucket/out", "registry-storage:memory://bucket/out"]


def archive(path: Path, name: str, layer: str, *, raw: bytes | None = None) -> Path:
    built = V1Archive()
    built.tag(name, "1", built.layer(layer, tar=layer_tar(layer), raw=raw))
    path.write_bytes(built.build())
    return path


def rows(filesystem: Any) -> Rows:
    return parse_map(objects(filesystem, "bucket/out")[MAP_NAME])


@pytest.mark.parametrize("target", TARGETS)
def test_a_later_run_adds_and_one_that_reads_nothing_changes_nothing(target: str, tmp_path: Path) -> None:
    with memory_bucket() as filesystem:
        assert api.convert(archive(tmp_path / "a.tar", "one", "a"), target).exit_code == 0
        first = rows(filesystem)
        assert [(row.legacy_id, row.names) for row in first] == [(legacy_id("a"), ("one:1",))]
        assert api.convert(archive(tmp_path / "b.tar", "two", "b"), target).exit_code == 0
        both = rows(filesystem)
        assert set(first) < set(both)
        assert sorted(row.legacy_id for row in both) == sorted(map(legacy_id, "ab"))
        before = objects(filesystem, "bucket/out")
        assert api.convert(archive(tmp_path / "c.tar", "three", "c", raw=b"no json"), target).exit_code == 4
        after = objects(filesystem, "bucket/out")
        for name in (MAP_NAME, "migration-report.json", "index.json"):
            assert after.get(name) == before.get(name)


@pytest.mark.parametrize("target", TARGETS)
def test_a_name_that_moves_to_another_image(target: str, tmp_path: Path) -> None:
    with memory_bucket() as filesystem:
        for layer in "ab":
            assert api.convert(archive(tmp_path / f"{layer}.tar", "app", layer), target).exit_code == 0
        names = {row.legacy_id: row.names for row in rows(filesystem)}
        assert sorted(names.values()) == [(), ("app:1",)]


@pytest.mark.parametrize("target", TARGETS)
def test_a_map_that_cannot_be_read_ends_the_run(target: str, tmp_path: Path) -> None:
    with memory_bucket() as filesystem:
        assert api.convert(archive(tmp_path / "a.tar", "one", "a"), target).exit_code == 0
        filesystem.pipe(f"/bucket/out/{MAP_NAME}", b'{"schema_version": 1, "images": [')
        with pytest.raises(TargetError, match=MAP_NAME):
            api.convert(archive(tmp_path / "b.tar", "two", "b"), target)
        assert objects(filesystem, "bucket/out")[MAP_NAME] == b'{"schema_version": 1, "images": ['


def test_batches_add_to_it(tmp_path: Path) -> None:
    with memory_bucket() as filesystem:
        for layer, name in (("a", "one"), ("b", "two")):
            source = archive(tmp_path / f"{layer}.tar", name, layer)
            outcome = api.batch(source, TARGETS[0], client=Threads())
            outcome.close()
        assert sorted(row.legacy_id for row in rows(filesystem)) == sorted(map(legacy_id, "ab"))


def Threads() -> Any:  # noqa: N802
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(1)
