"""What a source becomes, in a form in which two wrappings of one source can be compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from migrate import api
from migrate.model.options import ConvertOptions
from tests import wrappings

Facts = dict[str, Any]


def facts(source: Path, inside: str | None = None) -> Facts:
    """Every image and container with its layers and notes, and what failed; without the source's own path."""
    outcome = api.plan(source, ConvertOptions(all_layers=True, containers=True, inside=inside))
    report = outcome.report
    where = os.path.join(source, inside) if inside else str(source)

    def plain(text: str | None) -> str | None:
        return None if text is None else text.replace(where, "SOURCE")

    return {
        "images": [
            [image.legacy_id, list(map(str, image.references)), str(image.image_id), image.exact]
            + [[row.legacy_id, str(row.diff_id), row.origin, plain(row.note)] for row in image.layers]
            for image in report.images
        ],
        "failures": sorted([failure.legacy_id or "", failure.error] for failure in report.failures),
        "sources": [[str(source.type), source.images, source.failed] for source in report.sources],
        "exit_code": outcome.exit_code,
        "containers": [
            [row.container.id, str(row.container.state), row.container.changed_bytes] for row in report.containers
        ],
    }


def identities(found: Facts) -> list[Any]:
    """The images, their layers and how exact they are, without notes."""
    return [[*image[:4], *(row[:3] for row in image[4:])] for image in found["images"]]


def same_images(found: Facts, expected: Facts, writer: str) -> None:
    """What a tar of this writer becomes, against its directory: the same, but for what the writer left out."""
    if writer in wrappings.WITH_ALL:
        assert found == expected
        return
    assert found["failures"] == expected["failures"]
    assert [image[:2] for image in found["images"]] == [image[:2] for image in expected["images"]]
    for image, same in zip(found["images"], expected["images"], strict=True):
        assert image[2] == same[2] or image[3] is False  # another image than Docker's is never called exact


Place = tuple[Path, str | None]
"""A source, and where in it (`--inside`)."""


def unprivileged(sources: Sequence[Path | Place]) -> list[Facts]:
    """`facts` of each, by a process without capabilities: it can neither mount nor read past permissions."""
    places = [source if isinstance(source, tuple) else (source, None) for source in sources]
    done = subprocess.run(
        [
            *("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs"),
            *(sys.executable, "-m", "tests.wrapped"),
        ],
        input=json.dumps([[str(source), inside] for source, inside in places]),
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: list[Facts] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    given = json.load(sys.stdin)
    json.dump([facts(Path(source), inside) for source, inside in given], sys.stdout)
