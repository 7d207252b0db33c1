"""What a source becomes, in a form in which two wrappings of one source can be compared."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from migrate import api
from migrate.model.options import ConvertOptions

Facts = dict[str, Any]


def facts(source: Path, options: ConvertOptions | None = None) -> Facts:
    """Every image with its layers and notes, and what failed; without the source's own path."""
    outcome = api.plan(source, replace(options or ConvertOptions(), all_layers=True))
    report = outcome.report

    def plain(text: str | None) -> str | None:
        return None if text is None else text.replace(str(source), "SOURCE")

    return {
        "images": [
            [image.legacy_id, list(map(str, image.references)), str(image.image_id), image.exact]
            + [[row.legacy_id, str(row.diff_id), row.origin, plain(row.note)] for row in image.layers]
            for image in report.images
        ],
        "failures": sorted([failure.legacy_id or "", failure.error] for failure in report.failures),
        "sources": [[str(source.type), source.images, source.failed] for source in report.sources],
        "exit_code": outcome.exit_code,
    }


def identities(found: Facts) -> list[Any]:
    """The images, their layers and how exact they are, without notes."""
    return [[*image[:4], *(row[:3] for row in image[4:])] for image in found["images"]]


def unprivileged(sources: Sequence[Path]) -> dict[str, Facts]:
    """`facts` of each, found by a process that has no capability: it can neither mount nor read past permissions."""
    done = subprocess.run(
        [
            *("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs"),
            *(sys.executable, "-m", "tests.wrapped", *map(str, sources)),
        ],
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Facts] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    json.dump({source: facts(Path(source)) for source in sys.argv[1:]}, sys.stdout)
