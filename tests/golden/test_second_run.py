"""A second run of the same sources on the same target leaves every byte of it, whatever two cases it is of.

`python -m tests.golden.all_pairs` takes every pair of all shipped cases.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
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
CASES = [*_REGISTRIES, *_SAVES, *_ROOTS]


def restored(name: str, stores: StoreShelf, directory: Path) -> Path:
    """The source of a case."""
    if name in _ROOTS:
        return stores.path(name)
    return extract_tree(case(name), directory) if name in _REGISTRIES else case(name).write_plain(directory)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, stores: StoreShelf) -> Callable[[str], Path]:
    directory = tmp_path_factory.mktemp("sources")
    return cache(lambda name: restored(name, stores, directory))


def _bytes_of(target: Path) -> dict[str, bytes]:
    """Every file but the state of later runs; the report without its times."""
    files = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    found = {name: content for name, content in files.items() if not name.startswith(".migrate/")}
    report = json.loads(found.pop("migration-report.json"))
    return found | {"report": json.dumps({**report, "started": "", "finished": ""}, sort_keys=True).encode()}


def faults(given: Sequence[Path], target: Path) -> list[str]:
    """What two more runs of the same sources change, and names that two entries have."""
    api.convert(given, target)
    first = _bytes_of(target)
    names = Counter(
        entry.get("annotations", {}).get("org.opencontainers.image.ref.name")
        for entry in json.loads(first["index.json"])["manifests"]
    )
    found = [f"two entries: {name}" for name, count in names.items() if name is not None and count > 1]
    # a source in one file may be believed to be unchanged
    for options in (ConvertOptions(check_existing=True), ConvertOptions()):
        api.convert(given, target, options)
        again = _bytes_of(target)
        found += [f"changed: {name}" for name in sorted({name for name, _ in first.items() ^ again.items()})]
    return found


@pytest.mark.parametrize(("one", "two"), [*combinations(_REGISTRIES, 2), *pairwise(_SAVES + _STORES)])
def test_a_second_run_changes_nothing_and_a_name_has_one_entry(
    one: str, two: str, sources: Callable[[str], Path], tmp_path: Path
) -> None:
    assert faults([sources(one), sources(two)], tmp_path / "target") == []
