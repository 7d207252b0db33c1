"""The JSON Schemas in the package against what the program writes: every field is in them, with its type."""

from __future__ import annotations

import copy
import json
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.archives import V1Archive, layer_tar
from tests.command import migrate

NAMES = ("report", "map", "inspect", "events", "journal")


def schema(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(resources.files("migrate").joinpath("schemas", f"{name}.json").read_text())
    return document


def closed(part: Any) -> Any:
    """The schema as it would be if no field could be added: readers pass over new ones, this test does not."""
    if isinstance(part, list):
        return [closed(item) for item in part]
    if not isinstance(part, dict):
        return part
    made = {name: closed(value) for name, value in part.items()}
    if "properties" in part and "additionalProperties" not in part:
        made["additionalProperties"] = False
    return made


def check(name: str, document: Any) -> None:
    jsonschema.Draft202012Validator(closed(schema(name))).validate(document)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two archives with everything that a report can have: duplicates, a conflict, a failure, an empty layer."""
    place = tmp_path_factory.mktemp("shelf")
    for number in range(2):
        archive = V1Archive()
        archive.layer("base", tar=layer_tar("same.txt", content=bytes(5_000)))
        archive.layer("empty", "base", tar=layer_tar())
        archive.tag("app", "1", archive.layer(f"top {number}", "empty"))
        archive.tag("twin", str(number), archive.layer(f"twin {number}", tar=layer_tar("twin.txt")))
        archive.tag("lost", "1", "ab" * 32)
        (place / f"{number}.tar").write_bytes(archive.build())
    (place / "cut.tar").write_bytes((place / "0.tar").read_bytes()[:3_000])
    return place


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_is_one(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(name))


def test_reports(shelf: Path, tmp_path: Path) -> None:
    sources = sorted(shelf.glob("*.tar"))
    commands: list[tuple[str | Path, ...]] = [
        ("convert", *sources, tmp_path / "out"),
        ("convert", "--dry-run", "--report", "-", *sources, tmp_path / "none"),
        ("plan", "--deep", "--report", "-", *sources),
        ("batch", "--report", "-", shelf, tmp_path / "batch"),
    ]
    for command in commands:
        done = migrate(*command, "--progress", "none")
        assert done.code == 3
        report = json.loads(done.out if "-" in command else (tmp_path / "out/migration-report.json").read_bytes())
        check("report", report)
        assert all(report[field] for field in ("images", "duplicates", "conflicts", "failures", "sources"))


def test_maps(shelf: Path, tmp_path: Path) -> None:
    assert migrate("convert", *sorted(shelf.glob("*.tar")), tmp_path / "out").code == 3
    done = migrate("map", "--json", tmp_path / "out")
    check("map", done.json())
    assert done.json()["images"]
    kept = tmp_path / "out" / "migration-map.json"
    if kept.exists():
        check("map", json.loads(kept.read_bytes()))


def test_inspections(shelf: Path) -> None:
    done = migrate("inspect", "--json", shelf / "0.tar")
    assert done.code == 3
    check("inspect", done.json())
    assert all(done.json()[field] for field in ("images", "layers", "failures"))


def test_events(shelf: Path, tmp_path: Path) -> None:
    seen: set[str] = set()
    commands: list[tuple[str | Path, ...]] = [
        ("convert", *sorted(shelf.glob("*.tar")), tmp_path / "out"),
        ("batch", shelf, tmp_path / "batch"),
        ("verify", tmp_path / "out"),
        ("convert", shelf / "0.tar", "--no-such-option"),
    ]
    for command in commands:
        for line in migrate(*command, "--progress", "json").err.splitlines():
            event = json.loads(line)
            check("events", event)
            seen.add(event["event"])
    assert seen >= {"stage", "progress", "layer", "image", "source", "finished", "failure", "error"}


def test_journals(shelf: Path, tmp_path: Path) -> None:
    assert migrate("batch", shelf, tmp_path / "out").code == 3
    lines = (tmp_path / "out/.migrate/journal.jsonl").read_text().splitlines()
    for line in lines:
        check("journal", json.loads(line))
    assert {next(iter(json.loads(line))) for line in lines} == {"run", "source", "merged"}


def test_a_wrong_document_is_refused(shelf: Path, tmp_path: Path) -> None:
    assert migrate("convert", shelf / "0.tar", tmp_path / "out").code == 3
    report = json.loads((tmp_path / "out/migration-report.json").read_bytes())
    changes: list[dict[str, object]] = [{"images": None}, {"totals": {}}, {"schema_version": 2}, {"new": 1}]
    for change in changes:
        with pytest.raises(jsonschema.ValidationError):
            check("report", copy.deepcopy(report) | change)
