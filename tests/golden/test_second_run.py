"""A second run of the same sources on the same target leaves every byte of it, whatever two cases it is of."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from itertools import combinations, pairwise
from pathlib import Path

import pytest

from migrate import api
from migrate.model.options import ConvertOptions
from tests.cases import FIXTURES, case, registry_cases, save_cases
from tests.registries import extract_tree
from tests.stores import StoreShelf, stores

__all__ = ["stores"]

_REGISTRIES = [case.name for case in registry_cases()]
_OTHERS = [case.name for case in save_cases()] + sorted(path.name for path in FIXTURES.glob("store-*"))
_PAIRS = [*combinations(_REGISTRIES, 2), *pairwise(_OTHERS)]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, stores: StoreShelf) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("sources")
    found = {name: extract_tree(case(name), directory) for name in _REGISTRIES}
    found |= {one.name: one.write_plain(directory) for one in save_cases()}
    return found | {name: stores.path(name) for name in _OTHERS if name.startswith("store-")}


def _bytes_of(target: Path) -> dict[str, str]:
    files = sorted(path for path in target.rglob("*") if path.is_file())
    names = {str(path.relative_to(target)): path for path in files}
    report = json.loads(names.pop("migration-report.json").read_bytes())
    found = {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in names.items()
        if not name.startswith(".migrate/")
    }
    return found | {"report": json.dumps({**report, "started": "", "finished": ""}, sort_keys=True)}


@pytest.mark.parametrize(("one", "two"), _PAIRS)
def test_a_second_run_changes_nothing_and_a_name_has_one_entry(
    one: str, two: str, sources: dict[str, Path], tmp_path: Path
) -> None:
    given = [sources[one], sources[two]]
    api.convert(given, tmp_path / "target")
    first = _bytes_of(tmp_path / "target")
    entries = json.loads((tmp_path / "target" / "index.json").read_bytes())["manifests"]
    names = Counter(entry.get("annotations", {}).get("org.opencontainers.image.ref.name") for entry in entries)
    assert [name for name, count in names.items() if name is not None and count > 1] == []
    api.convert(given, tmp_path / "target", ConvertOptions(check_existing=True))
    assert _bytes_of(tmp_path / "target") == first
    api.convert(given, tmp_path / "target")  # a source in one file may be believed to be unchanged
    assert _bytes_of(tmp_path / "target") == first
