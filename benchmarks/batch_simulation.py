"""The parts of a batch of a million archives that need no archives: journal, plan, names, blobs and index.

    python benchmarks/batch_simulation.py WORKSPACE [--sources 1000000]

Each part runs in a process of its own; one JSON object a line tells its seconds and its peak memory. The journal's
lines are as long as those of the 10,000 archives of shelf.py (about 4 kB), so WORKSPACE needs 4 GB.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from migrate.batch.choice import BlobChoice
from migrate.batch.journal import JournalEntry, JournalWriter, pack_record
from migrate.batch.ledger import Ledger
from migrate.batch.plan import Candidate, SourceIdentity, SourceOutcome, plan_tasks
from migrate.batch.records import LayerRecord, Role, SourceRecord
from migrate.compose.names import Claim, assign_names
from migrate.documents.docker_archive import iter_archive_manifest
from migrate.documents.oci import encode_index, iter_index, parse_index
from migrate.layout.catalog import Catalog, entry_for
from migrate.layout.image_facts import ImageFacts
from migrate.model.digest import DiffID, Digest
from migrate.model.image import Descriptor, HashedLayer, MediaType, Platform, StoredBlob
from migrate.model.legacy import LegacyID
from migrate.model.options import ConvertOptions, OnConflict
from migrate.model.reference import Reference

AMD64 = Platform(os="linux", architecture="amd64")
LAYERS, OWN_LAYERS = 8, 2
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def digest(*parts: object) -> Digest:
    return Digest.of(" ".join(map(str, parts)).encode())


def location(number: int) -> str:
    return f"/archives/{number // 500:04}/build-{number:07}.tar"


def write_journal(workspace: Path, sources: int) -> dict[str, Any]:
    """One line for each source, all with a record of one size."""
    path = workspace / "journal.jsonl"
    path.unlink(missing_ok=True)
    journal = JournalWriter(workspace, None)
    filler = "".join(digest("filler", number).hex for number in range(44))
    packed = pack_record(SourceRecord(type="docker-archive", warnings=(filler,)))
    for number in range(sources):
        journal.append(
            JournalEntry(
                source=location(number),
                identity=SourceIdentity(150_000, f"mtime {number}"),
                recipe="0123456789abcdef",
                order=number,
                outcome=SourceOutcome.CONVERTED if number % 1_000 else SourceOutcome.FAILED,
                type="docker-archive",
                content=str(digest(number)),
                figures={"images": 1, "failed": 0, "layers": LAYERS, "tar_bytes": 130_000},
                seconds=0.01,
                packed=packed,
            )
        )
    journal.close()
    return {"bytes": path.stat().st_size}


def read_journal(workspace: Path, sources: int) -> dict[str, Any]:
    """What a run that continues does before its first task: the ledger, and the plan over all sources."""
    ledger = Ledger.read(workspace)
    candidates = [
        Candidate(location(number), SourceIdentity(150_000, f"mtime {number}"), number) for number in range(sources)
    ]
    plan = plan_tasks(candidates, ledger.finished(), "0123456789abcdef", workers=8, retry_failed=True)
    return {"lines": len(ledger.sources), "to_do": plan.sources}


def choose_blobs(workspace: Path, sources: int) -> dict[str, Any]:
    """The blobs of all layers: six shared ones and two of its own for each source."""
    del workspace
    choice = BlobChoice("gzip")
    for number in range(sources):
        own = [digest("own", number, step) for step in range(OWN_LAYERS)]
        shared = [digest("shared", number % 300, step) for step in range(LAYERS - OWN_LAYERS)]
        choice.take([row(diff_id) for diff_id in (*shared, *own)], 0)
    return {"losers": len(list(choice.losers()))}


def row(diff_id: Digest) -> LayerRecord:
    blob = StoredBlob(digest=diff_id, size=10, compression="gzip")
    hashed = HashedLayer(diff_id=DiffID(diff_id), tar_size=10, empty=False, blob=blob, origin="archive")
    return LayerRecord(LegacyID("x"), hashed, Role.MADE)


def assign(workspace: Path, sources: int) -> dict[str, Any]:
    """Two names for each source, of which one is claimed by 33 others."""
    del workspace
    claims = (
        Claim(
            reference=Reference(f"team/app-{number % (sources // 33 + 1)}", tag),
            platform=AMD64,
            digest=digest(number),
            created=f"2014-01-02T03:04:{number % 60:02}Z",
            order=number,
        )
        for number in range(sources)
        for tag in ("latest", f"build-{number:07}")
    )
    names = assign_names(claims, OnConflict.NEWEST)
    return {"named": len(names.by_digest), "conflicts": len(names.conflicts)}


def merge_index(workspace: Path, sources: int) -> dict[str, Any]:
    """index.json and manifest.json of as many images, half of which stood there before."""
    catalog = Catalog(ConvertOptions())
    shared = [Descriptor(media_type="layer", digest=digest("shared", step), size=10) for step in range(LAYERS)]
    theirs = []
    began = time.monotonic()
    for number in range(sources):
        manifest = Descriptor(media_type=MANIFEST, digest=digest(number), size=1_500)
        config = Descriptor(media_type=MediaType.DOCKER_CONFIG, digest=digest("c", number), size=9)
        reference = Reference(f"team/app-{number % 300}", f"build-{number:07}")
        if number % 2:
            catalog.commit(manifest, config, shared, AMD64, [reference])
        else:
            catalog.images.add(manifest.digest, ImageFacts.of(config, shared, AMD64))
            theirs.append(entry_for(manifest, AMD64, reference))
    merged = catalog.merge(theirs, lambda digests: {})
    index = sum(map(len, iter_index(merged)))
    archive = sum(map(len, iter_archive_manifest(catalog.archive_manifest(merged))))
    seconds = time.monotonic() - began
    del workspace
    return {"merge_seconds": round(seconds, 1), "index_bytes": index, "manifest_bytes": archive}


def read_index(workspace: Path, sources: int) -> dict[str, Any]:
    """Reading the index back, as the next run does."""
    del workspace
    entries = [
        entry_for(
            Descriptor(media_type=MANIFEST, digest=digest(number), size=1_500),
            AMD64,
            Reference(f"team/app-{number % 300}", f"build-{number:07}"),
        )
        for number in range(sources)
    ]
    index = encode_index(entries)
    del entries
    return {"entries": len(parse_index(index, len(index)).manifests)}


PARTS: list[Callable[[Path, int], dict[str, Any]]] = [
    write_journal,
    read_journal,
    choose_blobs,
    assign,
    merge_index,
    read_index,
]


def run_part(part: Callable[[Path, int], dict[str, Any]], workspace: Path, sources: int, answer: Any) -> None:
    began = time.monotonic()
    try:
        result = part(workspace, sources)
    except Exception as error:  # noqa: BLE001 - a limit that is met is a result
        result = {"error": f"{type(error).__name__}: {error}"[:200]}
    seconds = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    answer.send({"part": part.__name__, "sources": sources, "seconds": round(seconds, 1), "peak_bytes": peak, **result})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--sources", type=int, default=1_000_000)
    options = parser.parse_args()
    options.workspace.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    for part in PARTS:
        answer, question = context.Pipe(duplex=False)
        process = context.Process(target=run_part, args=(part, options.workspace, options.sources, question))
        process.start()
        question.close()
        print(json.dumps(answer.recv()), flush=True)
        process.join()
    (options.workspace / "journal.jsonl").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
