"""A report of any size: repositories that grew on a few bases, with copies of layers under other IDs."""

from __future__ import annotations

import random

from migrate.model.image import HashedLayer
from migrate.model.legacy import Failure
from migrate.report.document import Report
from migrate.report.model import ImageInput, SourceInput
from tests.reports import build_report

from .conftest import EMPTY, by_content, hashed, image_input, legacy_id

Row = tuple[str, HashedLayer]


def large_report(images: int, layers_per_image: int = 20) -> Report:
    """`images` images in archives of 100; the same on every call."""
    choose = random.Random(16)
    bases = [
        [(f"base {base} {step}", hashed(f"base {base} {step}", 5_000_000)) for step in range(5)] for base in range(20)
    ]
    sources: dict[str, dict[str, HashedLayer]] = {}
    inputs: list[ImageInput] = []
    for number in range(images):
        source = f"shelf/{number // 100:04}.tar"
        rows = _chain(choose, number, bases, layers_per_image)
        sources.setdefault(source, {}).update({legacy_id(name): layer for name, layer in rows})
        references = [f"acme/service-{number // 7:05}:{number % 7}"] if number % 9 else []
        inputs.append(image_input(source, rows, references))
    return build_report(
        tool_version="0.1.0",
        dry_run=True,
        started="2026-01-02T03:04:05Z",
        finished="2026-01-02T04:05:06Z",
        options={"format": "docker"},
        sources=[
            SourceInput(location=name, type="docker-archive", layers=by_content(layers))
            for name, layers in sources.items()
        ],
        images=inputs,
        failures=[_failure(number) for number in range(0, images, 100)],
        warnings=[],
    )


def _chain(choose: random.Random, number: int, bases: list[list[Row]], length: int) -> list[Row]:
    rows = list(bases[choose.randrange(len(bases))])
    for step in range(length - len(rows)):
        if step % 5 == 4:
            rows.append((f"empty {number} {step}", EMPTY))
        elif choose.random() < 0.3:  # a content that other images have too, under an ID of its own
            content = f"common {choose.randrange(500)}"
            rows.append((f"{content} of {number}", hashed(content, 100_000)))
        else:
            rows.append((f"own {number} {step}", hashed(f"own {number} {step}", choose.randrange(1024, 3_000_000))))
    return rows


def _failure(number: int) -> Failure:
    return Failure(
        source=f"shelf/{number // 100:04}.tar",
        references=(f"acme/broken-{number:05}:1",),
        legacy_id=legacy_id(f"broken {number}"),
        layer=None,
        error="missing-parent",
        message=f"the parent {legacy_id(f'parent {number}')} is not in the source",
    )
