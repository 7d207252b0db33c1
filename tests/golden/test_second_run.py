"""A second run of the same sources on the same target leaves every byte of it, whatever two cases it is of.

With ALL_PAIRS=1 in the environment: every pair of all shipped cases, which takes an hour.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path

import pytest

from migrate import api
from migrate.model.options import ConvertOptions
from tests.cases import FIXTURES, case, registry_cases
from tests.registries import extract_tree
from tests.stores import StoreShelf, stores

__all__ = ["stores"]

_REGISTRIES = [case.name for case in registry_cases()]
_SAVES = sorted(path.parent.name for path in FIXTURES.glob("*/save.tar.xz"))
_ROOTS = sorted(path.parent.name for path in FIXTURES.glob("*/store.tar.xz"))
_STORES = [name for name in _ROOTS if name.startswith("store-")]


def _pairs() -> list[tuple[str, str]]:
    if "ALL_PAIRS" in os.environ:
        pairs = list(combinations(_REGISTRIES + _SAVES + _ROOTS, 2))
        random.Random(1).shuffle(pairs)
        return pairs
    return [*combinations(_REGISTRIES, 2), *pairwise(_SAVES + _STORES)]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, stores: StoreShelf) -> Callable[[str], Path]:
    directory = tmp_path_factory.mktemp("sources")

    @cache
    def source(name: str) -> Path:
        if name in _ROOTS:
            return stores.path(name)
        return extract_tree(case(name), directory) if name in _REGISTRIES else case(name).write_plain(directory)

    return source


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


@pytest.mark.parametrize(("one", "two"), _pairs())
def test_a_second_run_changes_nothing_and_a_name_has_one_entry(
    one: str, two: str, sources: Callable[[str], Path], tmp_path: Path
) -> None:
    given = [sources(one), sources(two)]
    api.convert(given, tmp_path / "target")
    first = _bytes_of(tmp_path / "target")
    entries = json.loads((tmp_path / "target" / "index.json").read_bytes())["manifests"]
    names = Counter(entry.get("annotations", {}).get("org.opencontainers.image.ref.name") for entry in entries)
    assert [name for name, count in names.items() if name is not None and count > 1] == []
    api.convert(given, tmp_path / "target", ConvertOptions(check_existing=True))
    assert _bytes_of(tmp_path / "target") == first
    api.convert(given, tmp_path / "target")  # a source in one file may be believed to be unchanged
    assert _bytes_of(tmp_path / "target") == first
