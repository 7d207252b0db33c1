"""A registry that answers over HTTP is one source for every command that reads sources."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.archives import layer_json, layer_tar, legacy_id
from tests.command import migrate
from tests.registry_content import RegistryContent
from tests.scripted import Answer, scripted_server
from tests.v1_registry import V1Tree
from tests.v1_server import V1Server


def v1(directory: Path) -> Answer:
    tree = V1Tree(directory / "tree")
    for below, name in ((None, "base"), ("base", "top")):
        raw = layer_json(legacy_id(name), legacy_id(below) if below else None)
        tree.add_image(legacy_id(name), raw, layer_tar(name))
    tree.add_tag("app", "1.0", legacy_id("top"))
    tree.add_tag("app", "gone", "0" * 64)
    return V1Server(tree.root).answer


def v2(_: Path) -> Answer:
    content = RegistryContent()
    content.add("app", "1.0", content.schema1("base", "top"))
    content.add("app", "gone", b"{}")
    return content.answer


def rows(document: dict[str, Any]) -> list[Any]:
    images = [[image["references"], image["legacy_id"]] for image in document["images"]]
    return [images, [[row["references"], row["error"], row["message"]] for row in document["failures"]]]


@pytest.mark.parametrize("build", [v1, v2])
def test_the_commands_agree(build: Callable[[Path], Answer], tmp_path: Path) -> None:
    with scripted_server(build(tmp_path)) as (host, seen):
        source = f"docker://{host}"
        inspected = migrate("inspect", "--json", source)
        planned = migrate("plan", source, "--report", tmp_path / "plan.json")
        converted = migrate("convert", source, tmp_path / "layout")
        batch = ("batch", "-j", "1", "--executor", "threads", source, tmp_path / "batch")
        codes = [inspected.code, planned.code, converted.code, migrate(*batch).code]
        assert codes == [3, 3, 3, 3]
        before = len(seen)
        assert migrate(*batch).code == 3
        assert not any(request.path.endswith("/layer") or "/blobs/" in request.path for request in seen[before:])
        shown = migrate("show", source, "app:1.0")
    assert shown.code == 0 and "app:1.0" in shown.out
    reports = [tmp_path / "plan.json", *(tmp_path / place / "migration-report.json" for place in ("layout", "batch"))]
    found = [rows(json.loads(path.read_bytes())) for path in reports]
    assert found[0] == found[1] == found[2]
    assert [names for names, _ in found[0][0]] == [["app:1.0"]]
    assert rows(inspected.json())[0] == found[0][0]


def test_a_batch_reads_a_registry_again_that_has_changed(tmp_path: Path) -> None:
    content = RegistryContent()
    content.add("app", "1.0", content.schema1("base"))
    with scripted_server(content.answer) as (host, _):
        batch = ("batch", "-j", "1", "--executor", "threads", f"docker://{host}", tmp_path / "batch")
        assert migrate(*batch).code == 0
        content.add("app", "2.0", content.schema1("base", "top"))
        assert migrate(*batch).code == 0
    report = json.loads((tmp_path / "batch/migration-report.json").read_bytes())
    assert sorted(name for image in report["images"] for name in image["references"]) == ["app:1.0", "app:2.0"]
