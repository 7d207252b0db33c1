"""What random mutations of targets found that `verify` passed over."""

from __future__ import annotations

import tarfile
from pathlib import Path

import orjson
import pytest

from migrate import api
from migrate.model.progress import SilentProgress
from migrate.verify import verify
from tests.shelves import archive


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "a.tar"
    path.write_bytes(archive("app"))
    return path


def found(target: Path) -> str:
    return "; ".join(f"{one.where}: {one.message}" for one in verify(str(target), 1, SilentProgress()))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"io.containerd.image.name"', '"io.con|ainerd.image.name"', "has lost io.containerd.image.name"),
        ('"platform"', '"platfor-"', "has lost the platform of team/app:"),
        ('"architecture"', '"arbhitecture"', "its platform has no os or no architecture"),
        ('"os"', '"so"', "its platform has no os or no architecture"),
    ],
)
def test_members_of_an_entry_that_others_may_do_without(
    old: str, new: str, message: str, source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    api.convert(source, target)
    assert found(target) == ""
    index = target / "index.json"
    index.write_text(index.read_text().replace(old, new, 1))
    assert message in found(target)
    layout = tmp_path / "foreign"  # of another program, without our map and report
    target.rename(layout)
    for name in ("migration-map.json", "migration-report.json"):
        (layout / name).unlink()
    assert ("its platform" in found(layout)) == ("its platform" in message)
    assert "has lost" not in found(layout)


@pytest.mark.parametrize("kept", [1, 2])
def test_an_archive_that_zeros_have_cut_to_its_first_members(kept: int, source: Path, tmp_path: Path) -> None:
    """In a directory a run may have been ended in its first instant; an archive gets its name when it is whole."""
    target = tmp_path / "out.tar"
    api.convert(source, f"oci-archive:{target}")
    with tarfile.open(target) as tar:
        end = tar.getmembers()[kept].offset
        following = tar.getmembers()[kept + 2].offset
    content = target.read_bytes()
    target.write_bytes(content[:end] + bytes(following - end) + content[following:])
    assert found(target)


def test_an_empty_index_is_still_clean(tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    (layout / "blobs/sha256").mkdir(parents=True)
    (layout / "oci-layout").write_bytes(orjson.dumps({"imageLayoutVersion": "1.0.0"}))
    (layout / "index.json").write_bytes(orjson.dumps({"schemaVersion": 2, "manifests": []}))
    assert found(layout) == ""
