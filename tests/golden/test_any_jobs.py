"""The number of threads changes nothing: the target, the report and the events are the same.

`python -m tests.golden.all_jobs` takes all shipped cases, also damaged, with all options.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from migrate import api
from migrate.model.options import ConvertOptions
from migrate.model.progress import Event
from migrate.report.json import encode_report
from tests.golden.test_second_run import restored
from tests.stores import StoreShelf, stores
from tests.threads import switching_often

__all__ = ["stores"]

_CASES = (
    "containers-1.9.1-overlay",
    "containers-1.9.1-aufs",
    "store-damaged-vfs",
    "save-1.9.1-multi",
    "registry-v1-tree-damaged",
    "registry-v2-mixed-2.8-damaged",
)


class _Seen:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event, /) -> None:
        self.events.append(event)


def outcome(sources: Sequence[Path], target: Path | None, options: ConvertOptions) -> dict[str, Any]:
    """All that a run gives, without its times and without the order in which layers became ready. Removes `target`."""
    seen = _Seen()
    try:
        if target is None:
            done = api.plan(list(sources), options, seen)
        else:
            done = api.convert(list(sources), target, options, seen)
        files = {} if target is None else _files_of(target)
        report = json.loads(encode_report(done.report))
    finally:
        if target is not None:
            shutil.rmtree(target, ignore_errors=True)
    found = {name: content for name, content in files.items() if not name.endswith("migration-report.json")}
    return {
        **found,
        "report": {**report, "started": "", "finished": ""},
        "exit code": done.exit_code,
        "layers": sorted(repr(event) for event in seen.events if event.kind == "layer"),
        "events": [repr(event) for event in seen.events if event.kind not in ("layer", "advance")],
        "bytes": sum(event.bytes for event in seen.events if event.kind == "advance"),
    }


def _files_of(target: Path) -> dict[str, bytes]:
    """Without the state of later runs."""
    files = {str(path.relative_to(target)): path for path in target.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(".migrate/")}


@pytest.mark.parametrize("name", _CASES)
def test_more_jobs_change_nothing(name: str, stores: StoreShelf, tmp_path: Path) -> None:
    options = ConvertOptions(all_layers=True, containers=True, salvage=True)
    source = restored(name, stores, tmp_path)
    target = None if name.startswith("containers-") else tmp_path / "target"
    expected = outcome([source], target, options)
    with switching_often():
        assert outcome([source], target, replace(options, jobs=4)) == expected
