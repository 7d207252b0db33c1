"""What is written for each shipped case, as digests: no change of the code may change a byte of it unnoticed.

`same_targets.json` holds, for each case, form of target and way of empty layers, one SHA-256 over all files of the
target. A change of it needs an entry under "Digests" in the changelog. To write it anew:

    UPDATE_SAME_TARGETS=1 python -m pytest tests/golden/test_same_targets.py
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from migrate import api
from migrate.model.options import ConvertOptions, EmptyLayers
from tests.cases import FIXTURES, Case
from tests.registries import extract_tree
from tests.stores import StoreShelf, stores

__all__ = ["stores"]

_TABLE = Path(__file__).with_name("same_targets.json")
_TARGETS = {
    "oci": "",
    "oci-archive": "oci-archive:",
    "docker-archive": "docker-archive:",
    "storage": "registry-storage:",
}
_CASES = sorted(path.name for path in FIXTURES.iterdir() if (path / "expected.json").exists())


def _source(name: str, stores: StoreShelf, directory: Path) -> Path:
    case = Case(FIXTURES / name)
    if (case.path / "store.tar.xz").exists():
        return stores.path(name)
    if (case.path / "registry.tar.xz").exists():
        return extract_tree(case, directory)
    return case.write_plain(directory)


def _digest(target: Path) -> str:
    """Of the names and bytes of all files, but for the report, the map beside it, and the state of later runs."""
    total = hashlib.sha256()
    files = [target] if target.is_file() else sorted(path for path in target.rglob("*") if path.is_file())
    for path in files:
        name = "" if path == target else str(path.relative_to(target))
        if not name.startswith((".migrate/", "migration-")):
            total.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


@pytest.mark.parametrize("name", _CASES)
def test_every_target_has_the_bytes_of_the_table(name: str, stores: StoreShelf, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    source = _source(name, stores, tmp_path / "source")
    got = {}
    for kind, prefix in _TARGETS.items():
        for empty_layers in EmptyLayers:
            target = tmp_path / f"{kind}-{empty_layers}"
            api.convert([str(source)], f"{prefix}{target}", ConvertOptions(empty_layers=empty_layers, all_layers=True))
            got[f"{kind} {empty_layers}"] = _digest(target)
    if os.environ.get("UPDATE_SAME_TARGETS"):
        table = json.loads(_TABLE.read_text()) if _TABLE.exists() else {}
        _TABLE.write_text(json.dumps({**table, name: got}, indent=1, sort_keys=True) + "\n")
    assert json.loads(_TABLE.read_text())[name] == got


def test_the_table_has_no_other_cases() -> None:
    assert sorted(json.loads(_TABLE.read_text())) == _CASES
