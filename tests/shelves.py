"""Small shelves for the tests of batch: archives that share layers, and layouts compared byte for byte."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from migrate.batch.batch import BatchRequest
from migrate.batch.executors import PoolRequest, open_pool
from migrate.batch.worker_pool import WorkerPool
from migrate.model.options import ConvertOptions
from migrate.model.progress import Event
from tests.archives import V1Archive, layer_json, layer_tar, legacy_id


class Recorder:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event, /) -> None:
        self.events.append(event)


def threads(asked: PoolRequest) -> WorkerPool:
    return open_pool(replace(asked, executor="threads"))


def request(shelf: Path, target: Path, jobs: int = 2, **changes: object) -> BatchRequest:
    options = ConvertOptions(jobs=jobs, exact_sizes=True)
    return replace(BatchRequest(target=str(target), options=options, locations=[str(shelf)]), **changes)


def archive(app: str, build: int = 0, *, created: str = "2014-05-06T07:08:09Z") -> bytes:
    """One build of `app`: a base that all apps share, the app's layer, and one of its own."""
    made = V1Archive()
    made.layer("base", tar=layer_tar("base.txt", content=b"base " * 4_000))
    made.layer(app, "base", tar=layer_tar(f"{app}.txt", content=app.encode() * 500))
    name = f"{app}-{build}"
    top = made.layer(name, app, raw=layer_json(legacy_id(name), legacy_id(app), created=created))
    made.tag(f"team/{app}", "latest", top)
    made.tag(f"team/{app}", f"b{build}", top)
    return made.build()


def write_shelf(directory: Path, apps: int = 3, builds: int = 4) -> Path:
    """`apps` x `builds` archives, a compressed one, a text file, and an archive that is cut off."""
    directory.mkdir()
    for app in range(apps):
        folder = directory / f"app{app}"
        folder.mkdir()
        for build in range(builds):
            content = archive(f"app{app}", build, created=f"201{build % 9}-01-02T03:04:05Z")
            (folder / f"{build}.tar").write_bytes(content)
    (directory / "packed.tar.gz").write_bytes(gzip.compress(archive("packed")))
    (directory / "readme.txt").write_bytes(b"not an archive\n")
    (directory / "cut.tar").write_bytes(archive("cut")[:20_000])
    return directory


def files_of(layout: Path) -> dict[str, bytes]:
    """Every file of a layout but the state in `.migrate/`; the report without its times."""
    found: dict[str, bytes] = {}
    for path in sorted(layout.rglob("*")):
        name = path.relative_to(layout).as_posix()
        if not path.is_file() or name.startswith(".migrate/"):
            continue
        found[name] = path.read_bytes()
    report: dict[str, Any] = json.loads(found["migration-report.json"])
    report["started"] = report["finished"] = ""
    found["migration-report.json"] = json.dumps(report).encode()
    return found


def journal_of(layout: Path, name: str = "journal.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (layout / ".migrate" / name).read_bytes().splitlines() if line]


def sources_in(journal: list[dict[str, Any]]) -> list[str]:
    """File names of the sources, one for each time that one was finished."""
    return sorted(Path(line["source"]).name for line in journal if "source" in line)
