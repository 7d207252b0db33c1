"""Containers as images in a real engine of today: their file systems are those that the old engine exported."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.cases import case, container_cases, is_half_removed
from tests.command import migrate
from tests.compat.thin_store import build_thin_store
from tests.peers import ENGINE_PATHS, DockerEngine
from tests.stores import StoreShelf, stores

__all__ = ["stores"]

pytestmark = pytest.mark.peer

UNSEEN = "etc/sly.conf"
"""Changed with the same size and time: the old engine exports it, and does not commit it."""
_KINDS = {
    "0": "file",
    "\0": "file",
    "1": "hardlink",
    "2": "symlink",
    "3": "char",
    "4": "block",
    "5": "dir",
    "6": "fifo",
}


def exported(tree: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    """What `DockerEngine.export` gives, in the terms of `expected.json`; a hard link as the file that it is."""
    found = {}
    for name, (kind, mode, uid, gid, mtime, link, major, minor, content) in tree.items():
        word = _KINDS[kind.decode()]
        if word == "hardlink":
            content, word, link = tree[link][8], "file", ""
        device = [major, minor] if word in ("char", "block") else None
        digest = hashlib.sha256(content).hexdigest() if word == "file" else None
        found[name] = (word, mode & 0o7777, uid, gid, mtime, link, device, digest)
    return found


def expected(rows: list[dict[str, Any]]) -> dict[str, tuple[Any, ...]]:
    by_name = {row["name"].rstrip("/"): row for row in rows}
    found = {}
    for name, row in by_name.items():
        word, link, digest = row["type"], row.get("linkname", ""), row.get("sha256")
        if word == "hardlink":
            word, link, digest = "file", "", by_name[link]["sha256"]
        mtime = 0 if word == "dir" else row["mtime"]
        found[name] = (word, int(row["mode"], 8), row["uid"], row["gid"], mtime, link, row.get("dev"), digest)
    return {name: facts for name, facts in found.items() if name not in ENGINE_PATHS | {".", ".dockerinit"}}


EXPORTED = [one.name for one in container_cases() if "aufs" not in one.name]
"""No engine of today's kernels runs aufs: those containers were never exported."""


@pytest.mark.parametrize("name", EXPORTED)
def test_the_image_of_a_container_has_its_file_system(
    name: str, engine: DockerEngine, stores: StoreShelf, tmp_path: Path
) -> None:
    archive = tmp_path / "images.tar"
    assert migrate("convert", stores.path(name), f"docker-archive:{archive}", "--containers").code in (0, 3)
    engine.load(archive.read_bytes())
    try:
        for facts in case(name).expected["containers"].values():
            if not facts["image_in_graph"] or is_half_removed(facts):
                continue
            tree = exported(engine.export(f"container/{facts['name']}"))
            wanted = expected(facts["export_members"])
            if facts["name"] == "scribe":
                assert tree.pop(UNSEEN) != wanted.pop(UNSEEN)
            assert tree == wanted, facts["name"]
    finally:
        engine.remove_all()


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
@pytest.mark.parametrize("name", [one.name for one in container_cases() if one.name.endswith("-vfs")])
def test_devicemapper_gives_the_same(name: str, kind: str, stores: StoreShelf, tmp_path: Path) -> None:
    facts = case(name).expected["containers"]
    chosen = {
        one: container["name"] for one, container in facts.items() if container["name"] in ("axe", "mason", "smith")
    }
    thin = build_thin_store(stores.path(name), "vfs", tmp_path / "thin", kind, chosen)
    options = [word for container in chosen.values() for word in ("--container", container)]
    rows = []
    for number, root in enumerate((stores.path(name), thin.root)):
        done = migrate("convert", root, tmp_path / str(number), *options)
        assert done.code == 0, done.err
        rows.append(json.loads((tmp_path / str(number) / "migration-report.json").read_bytes())["images"])
    assert [row["image_id"] for row in rows[0]] == [row["image_id"] for row in rows[1]]
    assert len(rows[0]) == len(chosen)
