"""Names that were moved, changed or dropped behind the back of what the runs wrote down."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from migrate.convert.run import Conversion
from migrate.convert.sources import OpenedSource
from migrate.model.digest import Digest
from migrate.model.options import ConvertOptions
from migrate.model.progress import SilentProgress
from migrate.readers.detect import open_source
from migrate.verify import verify
from migrate.writers.open_target import open_target
from tests.archives import V1Archive

REF = "org.opencontainers.image.ref.name"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layout and a registry's storage, each of two runs."""
    root = tmp_path_factory.mktemp("made")
    for number in (1, 2):
        archive = V1Archive()
        for name in ("app", "db"):
            archive.tag(f"{name}{number}", "1", archive.layer(f"{name} {number}"))
        source = root / f"{number}.tar"
        source.write_bytes(archive.build())
        for target in (f"oci:{root}/layout", f"registry-storage:{root}/registry"):
            opened = open_target(target, ConvertOptions())
            Conversion([OpenedSource(str(source), open_source(str(source)))], ConvertOptions(), opened).run()
            opened.close()
    return root


@pytest.fixture
def layout(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "layout", tmp_path / "layout"))


@pytest.fixture
def registry(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "registry", tmp_path / "registry"))


def found(target: Path) -> str:
    return "\n".join(f"{finding.where}: {finding.message}" for finding in verify(str(target), 1, SilentProgress()))


def change_index(layout: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    """And manifest.json in the same way: the two agree."""
    index = json.loads((layout / "index.json").read_text())
    change(index["manifests"])
    (layout / "index.json").write_text(json.dumps(index))
    tags: dict[str, list[str]] = {}
    for entry in index["manifests"]:
        manifest = json.loads((layout / "blobs" / "sha256" / entry["digest"][7:]).read_text())
        name = entry.get("annotations", {}).get(REF)
        tags.setdefault(manifest["config"]["digest"][7:], []).extend([name] if name else [])
    rows = json.loads((layout / "manifest.json").read_text())
    for row in rows:
        row["RepoTags"] = sorted(tags[row["Config"].rpartition("/")[2]]) or None
    (layout / "manifest.json").write_text(json.dumps(rows))


def rename(entry: dict[str, Any], name: str) -> None:
    entry["annotations"] = {REF: name}


def test_what_the_runs_wrote_is_clean(made: Path) -> None:
    assert found(made / "layout") == ""
    assert found(made / "registry") == ""


@pytest.mark.parametrize("kept", ["map and report", "report alone"])
def test_names_of_a_layout(kept: str, layout: Path) -> None:
    if kept == "report alone":
        (layout / "migration-map.json").unlink()
    document = (layout / "index.json").read_bytes()
    name = "app2:1"

    def entry_of(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
        return next(entry for entry in entries if entry["annotations"][REF] == name)

    def swap(entries: list[dict[str, Any]]) -> None:
        one, other = entry_of(entries, name), entry_of(entries, "db2:1")
        one["annotations"], other["annotations"] = other["annotations"], one["annotations"]

    changes: dict[str, Callable[[list[dict[str, Any]]], object]] = {
        "leads to": swap,
        "is gone": lambda entries: rename(entry_of(entries, name), "other:1"),
        f"{name} of the image": lambda entries: entry_of(entries, name).pop("annotations"),
    }
    for message, change in changes.items():
        (layout / "index.json").write_bytes(document)
        change_index(layout, change)
        assert message in found(layout), message


def test_the_map_covers_earlier_runs(layout: Path, registry: Path) -> None:
    change_index(layout, lambda entries: rename(entries[0], "other:1"))
    assert "the name app1:1" in found(layout)
    link = registry / "docker/registry/v2/repositories/app1/_manifests/tags/1/current/link"
    other = registry / "docker/registry/v2/repositories/db1/_manifests/tags/1/current/link"
    assert link.read_bytes() != other.read_bytes()
    shutil.rmtree(registry / "docker/registry/v2/repositories/app1")
    assert "the name app1:1" in found(registry)


@pytest.mark.parametrize("kept", ["map and report", "report alone"])
@pytest.mark.parametrize("lost", ["tags/1/current/link", "tags/1/current", "tags/1", "tags", ""])
def test_tags_of_a_registry_that_are_gone(lost: str, kept: str, registry: Path) -> None:
    if kept == "report alone":
        (registry / "migration-map.json").unlink()
    path = registry / "docker/registry/v2/repositories/db2/_manifests" / lost if lost else None
    if path is None:
        shutil.rmtree(registry / "docker/registry/v2/repositories/db2")
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    assert "the name db2:1" in found(registry)


def test_manifest_json_removed(layout: Path) -> None:
    (layout / "manifest.json").unlink()
    assert "manifest.json: is missing" in found(layout)


@pytest.mark.parametrize("content", [b"", b"stale", b"sha256:" + b"0" * 64 + b"\nsha256:" + b"0" * 64])
def test_a_stale_marker_disarms_nothing(content: bytes, layout: Path) -> None:
    (layout / ".migrate" / "finishing").write_bytes(content)
    rows = json.loads((layout / "manifest.json").read_text())
    (layout / "manifest.json").write_text(json.dumps(rows[1:]))
    assert "lacks an image" in found(layout)


def test_a_run_ended_between_the_two_documents_is_no_mismatch(made: Path, layout: Path, tmp_path: Path) -> None:
    new_index, manifest = (layout / "index.json").read_bytes(), (layout / "manifest.json").read_bytes()
    index = json.loads(new_index)
    gone = index["manifests"].pop()
    (layout / "index.json").write_text(json.dumps(index))
    for name in ("migration-map.json", "migration-report.json"):
        (layout / name).unlink()
    assert gone["digest"]
    assert "does not" in found(layout)
    (layout / ".migrate" / "finishing").write_text(f"{Digest.of(manifest)}\n{Digest.of(new_index)}")
    assert found(layout) == ""


def test_a_damaged_map_is_a_mismatch(layout: Path, registry: Path) -> None:
    for target in (layout, registry):
        (target / "migration-map.json").write_text('{"schema_version": 1, "images": [{}]}')
        assert "migration-map.json" in found(target)


def test_a_run_that_ends_while_verify_reads(layout: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first reading lists the files of before, and finds the index of after."""
    from migrate.verify import layout as checks

    after = (layout / "index.json").read_bytes()
    names = json.loads(after)["manifests"]
    blob = layout / "blobs" / "sha256" / names[-1]["digest"][7:]
    content = blob.read_bytes()
    blob.unlink()
    check = checks._LayoutCheck._check_index

    def finish_first(self: Any) -> None:
        if not blob.exists():
            blob.write_bytes(content)
        check(self)

    monkeypatch.setattr(checks._LayoutCheck, "_check_index", finish_first)
    assert found(layout) == ""
