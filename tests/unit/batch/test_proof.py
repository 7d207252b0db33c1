"""A journal that somebody prepared gives no name, config or list that its source does not have."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from migrate.batch.batch import BatchRequest, merge_batch, run_batch
from migrate.batch.plan import Shard
from migrate.errors import TargetError
from migrate.model.options import ConvertOptions
from migrate.model.progress import SilentProgress
from migrate.verify import verify
from tests.shelves import Recorder, archive, files_of, threads

Lines = list[dict[str, Any]]
Change = Callable[[dict[str, Any], Lines], object]
"""Of (the fields of a journal's line, the lines of its record), in place."""


def image_of(record: Lines) -> dict[str, Any]:
    found: dict[str, Any] = next(line["image"] for line in record if "image" in line)
    return found


def with_config(record: Lines, **changes: object) -> None:
    image = image_of(record)
    config = {**json.loads(base64.b64decode(image["config"])), **changes}
    image["config"] = base64.b64encode(json.dumps(config).encode()).decode()


CHANGES: dict[str, Change] = {
    "another name": lambda _, record: image_of(record).update(references=[["team/other", "latest"]]),
    "a name more": lambda _, record: image_of(record)["references"].append(["team/other", "latest"]),
    "a name less": lambda _, record: image_of(record)["references"].pop(),
    "another config": lambda _, record: with_config(record, config={"Cmd": ["/bin/evil"]}),
    "another time": lambda _, record: image_of(record).update(created="2030-01-01T00:00:00Z"),
    "another platform": lambda _, record: image_of(record).update(platform=["windows", "amd64", None]),
    "another ID": lambda _, record: image_of(record).update(id="f" * 64),
    "an old digest": lambda _, record: image_of(record).update(legacy_digests=["f" * 64]),
    "a container": lambda _, record: image_of(record).update(containers=["f" * 64]),
    "two layers swapped": lambda _, record: image_of(record).update(chain=[1, 0, 2]),
    "a layer less": lambda _, record: image_of(record)["chain"].pop(),
    "a manifest of its own": lambda _, record: image_of(record).update(manifest="e30=", layers=[]),
    "a list": lambda _, record: image_of(record).update(
        index={"content": "e30=", "type": "x", "references": [["team/list", "1"]], "nested": []}
    ),
    "one image twice": lambda _, record: record.insert(-1, next(line for line in record if "image" in line)),
    "no image": lambda _, record: record.remove(next(line for line in record if "image" in line)),
    "skipped": lambda fields, record: (fields.update(outcome="skipped"), record.__setitem__(slice(0, -1), [])),
}


def prepare(journal: Path, change: Change) -> None:
    lines = []
    for line in journal.read_bytes().splitlines():
        head, mark, packed = line.partition(b',"record":"')
        if mark:
            fields = json.loads(head + b"}")
            record = zlib.decompress(base64.b64decode(packed.removesuffix(b'"}')))
            documents = [json.loads(one) for one in record.splitlines()]
            if fields["images"]:
                change(fields, documents)
            record = b"".join(json.dumps(one).encode() + b"\n" for one in documents)
            head = json.dumps(fields).encode()[:-1]
            line = head + mark + base64.b64encode(zlib.compress(record)) + b'"}'
        lines.append(line)
    journal.write_bytes(b"\n".join(lines) + b"\n")


def request(shelf: Path, target: Path, shard: Shard | None = None) -> BatchRequest:
    options = ConvertOptions(jobs=1, exact_sizes=True)
    return BatchRequest(target=str(target), options=options, locations=[str(shelf)], shard=shard)


def batch(shelf: Path, target: Path) -> None:
    run_batch(request(shelf, target), SilentProgress(), threads).close()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shelf")
    (folder / "a.tar").write_bytes(archive("app"))
    (folder / "readme.txt").write_bytes(b"no archive")
    return folder


@pytest.fixture(scope="module")
def expected(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    target = tmp_path_factory.mktemp("expected") / "target"
    batch(shelf, target)
    return files_of(target)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("where", ["journal.jsonl", "journal-1-of-2.jsonl"])
def test_a_prepared_journal_changes_nothing(
    name: str, where: str, shelf: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    """In the target's own journal, or as that of a shard with a time in the future."""
    target = tmp_path / "target"
    batch(shelf, target)
    journal = target / ".migrate/journal.jsonl"
    prepare(journal, lambda fields, record: (CHANGES[name](fields, record), fields.update(finished=1 << 40)))
    journal.rename(journal.with_name(where))
    for kept in target.iterdir():  # a target that came with nothing else
        if kept.name not in (".migrate", "blobs"):
            kept.unlink()
    batch(shelf, target)
    assert files_of(target) == expected
    assert verify(str(target), 1, SilentProgress()) == []


def test_a_sound_journal_is_still_believed(shelf: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    batch(shelf, target)
    outcome = run_batch(request(shelf, target), SilentProgress(), threads)
    assert outcome.account.already_done == 2
    outcome.close()


@pytest.mark.parametrize("name", ["another name", "another config"])
def test_a_merge_of_shards_proves_what_is_here(name: str, shelf: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    run_batch(request(shelf, target, Shard(1, 1)), SilentProgress(), threads).close()
    journal = target / ".migrate/journal-1-of-1.jsonl"
    sound = journal.read_bytes()
    prepare(journal, CHANGES[name])
    with pytest.raises(TargetError, match="does not match the source"):
        merge_batch(str(target), SilentProgress())
    journal.write_bytes(sound)
    merge_batch(str(target), SilentProgress()).close()
    assert verify(str(target), 1, SilentProgress()) == []


def test_a_merge_says_that_sources_are_not_here(tmp_path: Path) -> None:
    shelf, target = tmp_path / "shelf", tmp_path / "target"
    shelf.mkdir()
    (shelf / "a.tar").write_bytes(archive("app"))
    (shelf / "empty.tar").touch()
    (shelf / "lost.tar").symlink_to("nowhere")
    (shelf / "readme.txt").write_bytes(b"text")
    run_batch(request(shelf, target, Shard(1, 1)), SilentProgress(), threads).close()

    def merged() -> list[str]:
        seen = Recorder()
        merge_batch(str(target), seen).close()
        return [event.message for event in seen.events if "not on this machine" in event.message]

    assert merged() == []  # what gave no image is not missed
    for path in shelf.iterdir():
        path.unlink()
    assert merged() == ["1 source is not on this machine: its images and names come from the journals"]
    names = [entry["annotations"] for entry in orjson.loads((target / "index.json").read_bytes())["manifests"]]
    assert len(names) == 2
