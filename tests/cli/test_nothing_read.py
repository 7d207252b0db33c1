"""A run that could read no image leaves no target behind, of whatever kind: neither an empty one nor its state."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.archives import V1Archive, build_tar, legacy_id
from tests.command import migrate

NAMELESS = [("repositories", json.dumps({"gone": {"1": legacy_id("gone")}}).encode())]
LOST_LAYER = V1Archive()
LOST_LAYER.tag("app", "1", LOST_LAYER.layer("app"))
SOURCES = {
    "no image": build_tar([("readme", b"nothing of Docker's\n")]),
    "no image, compressed": gzip.compress(build_tar([("readme", b"nothing of Docker's\n")])),
    "a name without its image": build_tar(NAMELESS),
    "a name without its image, compressed": gzip.compress(build_tar(NAMELESS)),
    "cut off in its first header": LOST_LAYER.build()[:400],
    "cut off in a layer": LOST_LAYER.build()[:2_000],
    "not a tar": b"only text\n",
    "empty": b"",
}
TARGETS = (
    "out",
    "deep/er/out",
    "oci:out",
    "oci-archive:deep/out.tar",
    "docker-archive:out.tar",
    "registry-storage:out",
)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", SOURCES)
def test_convert_leaves_nothing(source: str, target: str, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(SOURCES[source])
    done = migrate("convert", "a.tar", target, cwd=tmp_path)
    assert done.code == 4, done.err
    assert done.errors
    assert done.out == "", "a summary of nothing"
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


@pytest.mark.parametrize("source", SOURCES)
def test_batch_leaves_nothing(source: str, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(SOURCES[source])
    done = migrate("batch", "--executor", "threads", "a.tar", "out", cwd=tmp_path)
    assert done.code == 4, done.err
    assert " 0 B" not in done.out, "a table of zeros"
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


@pytest.mark.parametrize("target", TARGETS)
def test_what_was_there_stays(target: str, tmp_path: Path) -> None:
    """An empty directory of the user's own is still there, and what an earlier run has written is untouched."""
    (tmp_path / "a.tar").write_bytes(SOURCES["a name without its image"])
    if not target.endswith(".tar"):
        (tmp_path / target.rpartition(":")[2]).mkdir(parents=True)
        assert migrate("convert", "a.tar", target, cwd=tmp_path).code == 4
        assert list((tmp_path / target.rpartition(":")[2]).iterdir()) == []
    (tmp_path / "b.tar").write_bytes(LOST_LAYER.build())
    assert migrate("convert", "b.tar", target, cwd=tmp_path).code == 0
    before = files_of(tmp_path)
    assert migrate("convert", "a.tar", target, cwd=tmp_path).code == 4
    assert files_of(tmp_path) == before


def test_what_others_put_there_stays(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(SOURCES["no image"])
    (tmp_path / "out" / "lost+found").mkdir(parents=True)
    assert migrate("convert", "a.tar", "out", cwd=tmp_path).code == 4
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["lost+found"]


def files_of(place: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(place)): path.read_bytes()
        for path in sorted(place.rglob("*"))
        if path.is_file() and ".migrate" not in path.parts
    }
