"""docs/reference/report.md names every field, and no other."""

from __future__ import annotations

import json
import re
from pathlib import Path

from msgspec.structs import replace

from migrate.model.container import Container, Volume
from migrate.report.document import Report, UnconvertedContainer
from migrate.report.json import encode_report

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "report.md"


def fields_of(heading: str) -> set[str]:
    section = re.search(rf"^### {re.escape(heading)}\n(.*?)(?=^### |^## |\Z)", PAGE.read_text(), re.M | re.S)
    assert section is not None
    rows = re.findall(r"^\| (`.*?) \|", section[1], re.M)
    return {name.removesuffix("[]") for row in rows for name in re.findall(r"`([a-z_]+(?:\[\])?)`", row)}


def test_every_field_is_explained(report: Report) -> None:
    layers = tuple(
        replace(layer, note="n", flags=("f",), flagged=(("f", "entry"),)) for layer in report.images[0].layers
    )
    volume = Volume(path="/data", source="/old/volumes/data/_data", bytes=7)
    container = Container(id="c", name="web", image="i", state="exited", created=None, volumes=(volume,))
    image = replace(report.images[0], layers=layers, container=container)
    containers = (UnconvertedContainer(source="a", container=container),)
    totals = replace(report.totals, damaged_layers=1)
    full = replace(report, images=(image,), totals=totals, containers=containers, deep={})
    document = json.loads(encode_report(full))
    page = PAGE.read_text()
    top = page[page.index("| `schema_version`") : page.index("### totals")]
    assert {name.removesuffix("[]") for name in re.findall(r"^\| `([a-z_\[\]]+)`", top, re.M)} | {"finished"} == set(
        document
    )
    assert fields_of("totals") == set(document["totals"])
    assert fields_of("images[]") == set(document["images"][0])
    assert fields_of("layers[]") == set(document["images"][0]["layers"][0])
    for name in ("sources", "duplicates", "conflicts", "failures", "containers"):
        row = next(line for line in top.splitlines() if line.startswith(f"| `{name}[]`"))
        assert set(document[name][0]) <= set(re.findall(r"`([a-z_]+)`", row)), name


def test_the_deep_lists_are_explained() -> None:
    from tests.unit.waste.test_waste import analyse, make_tar

    base, other = make_tar({"a": b"x" * 900, "b": b"y"}), make_tar({"a": b"x" * 900, "b": b"z"})
    deep = analyse([[base, other], [make_tar({"a": b"x" * 900, "b": b"y"}, mtime=5)]])
    section = PAGE.read_text().partition("### deep")[2]
    for name, value in deep.items():
        assert f"`{name}" in section or name.endswith("_bytes"), name
        for row in value if isinstance(value, list) else ():
            line = next(line for line in section.splitlines() if line.startswith(f"| `{name}[]`"))
            assert set(row) <= set(re.findall(r"`([a-z_]+)`", line)), name
