"""Batch after batch on one target: whatever ran there before, what comes out is whole, and is what was asked for."""

from __future__ import annotations

import dataclasses
import gzip
import json
import random
import shutil
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from migrate.batch.batch import BatchRequest, merge_batch, run_batch, unfinished_shards
from migrate.batch.executors import ExecutorPool
from migrate.batch.journal import JournalEntry, pack_record, unpack_record
from migrate.batch.plan import Shard, Task
from migrate.batch.task import WorkOrder
from migrate.convert.run import Conversion
from migrate.convert.sources import OpenedSource
from migrate.errors import UsageError
from migrate.model.image import Platform
from migrate.model.options import Compression, ConvertOptions, EmptyLayers, Format, OnConflict
from migrate.model.progress import SilentProgress
from migrate.readers.detect import open_source
from migrate.report.document import Report, ReportImage
from migrate.verify import verify
from migrate.writers.oci_layout import OciLayout
from tests.archives import V1Archive, layer_json, layer_tar, legacy_id
from tests.cases import case
from tests.shelves import files_of, journal_of, sources_in, threads

BASE = layer_tar("base.txt", content=bytes(random.Random(1).choices(range(32, 64), k=30_000)))
GZIP, PLAIN = ConvertOptions(exact_sizes=True), ConvertOptions(exact_sizes=True, compression=Compression.NONE)
ZSTD = ConvertOptions(exact_sizes=True, compression=Compression.ZSTD, format=Format.OCI)


def batch(
    target: Path, sources: Sequence[Path], options: ConvertOptions = GZIP, shard: Shard | None = None
) -> tuple[int, Report | None]:
    request = BatchRequest(target=str(target), options=options, locations=list(map(str, sources)), shard=shard)
    outcome = run_batch(request, SilentProgress(), threads)
    try:
        return outcome.exit_code, None if outcome.head is None else outcome.read_report()
    finally:
        outcome.close()


def merge(target: Path) -> int:
    outcome = merge_batch(str(target), SilentProgress())
    outcome.close()
    return outcome.exit_code


def findings(target: Path) -> list[str]:
    return [str(finding) for finding in verify(str(target), 1, SilentProgress())]


def entries(target: Path) -> list[dict[str, Any]]:
    index: dict[str, Any] = json.loads((target / "index.json").read_bytes())
    return list(index["manifests"])


def blob(target: Path, digest: object) -> Path:
    return target / "blobs" / "sha256" / str(digest).removeprefix("sha256:")


def write(path: Path, name: str, base: bytes) -> Path:
    """An archive whose lowest layer is stored as `base`."""
    made = V1Archive()
    made.layer("base", tar=base)
    made.tag(f"team/{name}", "1", made.layer(name, "base"))
    path.write_bytes(made.build())
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write(tmp_path / "plain.tar", "plain", BASE)


@pytest.fixture
def carrying(tmp_path: Path) -> Path:
    """It brings the base compressed, and worse than we would, so that our blob is the smaller one."""
    return write(tmp_path / "carrying.tar", "carrying", gzip.compress(BASE, 0, mtime=0))


# --- blobs that an earlier merge removed -------------------------------------------------------------------------


@pytest.mark.parametrize("options", [GZIP, PLAIN, ZSTD, dataclasses.replace(GZIP, compression_level=9)])
def test_a_blob_that_a_merge_removed_is_not_named_again(
    tmp_path: Path, plain: Path, carrying: Path, options: ConvertOptions
) -> None:
    target = tmp_path / "out"
    assert batch(target, [plain, carrying])[0] == 0
    assert batch(target, [plain, carrying], options)[0] == 0
    assert findings(target) == []


def test_nor_by_the_merge_of_a_target_with_several_batches(tmp_path: Path, plain: Path, carrying: Path) -> None:
    target = tmp_path / "out"
    other = write(tmp_path / "other.tar", "other", layer_tar("other.txt"))
    batch(target, [plain, carrying])
    assert batch(target, [other], PLAIN)[0] == 0
    assert merge(target) == 0
    assert unfinished_shards(str(target)) == []
    assert len(entries(target)) == 3
    assert findings(target) == []
    assert batch(target, [plain, carrying])[0] == 0
    assert len(entries(target)) == 3
    assert findings(target) == []


def test_a_merge_tells_of_sources_that_were_read_with_other_options(
    tmp_path: Path, plain: Path, carrying: Path
) -> None:
    """It has no use for them, and no other merge has taken them in."""
    target = tmp_path / "out"
    batch(target, [carrying], shard=Shard(1, 1))
    batch(target, [plain], PLAIN, shard=Shard(1, 1))
    for _ in range(2):
        assert merge(target) == 0
        assert len(entries(target)) == 1
        (problem,) = unfinished_shards(str(target))
        assert problem.startswith("1 source was read with other options")


def test_a_source_whose_blob_has_gone_is_read_again(tmp_path: Path, plain: Path, carrying: Path) -> None:
    target = tmp_path / "out"
    _, report = batch(target, [plain, carrying])
    assert report is not None
    only = next(image.layers[1] for image in report.images if image.references == ("team/plain:1",))
    blob(target, only.blob_digest).unlink()
    assert batch(target, [plain, carrying])[0] == 0
    assert findings(target) == []
    assert sources_in(journal_of(target)) == ["carrying.tar", "plain.tar", "plain.tar"]


def test_a_blob_of_another_size_has_gone(tmp_path: Path, plain: Path) -> None:
    target = tmp_path / "out"
    _, report = batch(target, [plain])
    assert report is not None
    blob(target, report.images[0].layers[1].blob_digest).write_bytes(b"cut")
    assert batch(target, [plain])[0] == 0
    assert findings(target) == []


def test_any_damaged_blob_of_the_right_size_is_made_anew(tmp_path: Path, plain: Path, carrying: Path) -> None:
    target = tmp_path / "out"
    batch(target, [plain, carrying])
    whole = named_files(target)
    blobs = sorted((target / "blobs/sha256").iterdir())
    assert len(blobs) == 7
    for each in blobs:
        content = bytearray(each.read_bytes())
        content[len(content) // 2] ^= 1
        each.write_bytes(content)
    assert batch(target, [plain, carrying])[0] == 0
    assert findings(target) == []
    assert {name: whole[name] for name in whole if name.startswith("blobs/")} == {
        name: content for name, content in named_files(target).items() if name.startswith("blobs/")
    }


def test_a_journal_that_gives_a_layer_another_blob_is_not_believed(tmp_path: Path, plain: Path, carrying: Path) -> None:
    """The blob is in the target, whole and of the stated size, and it is another layer's."""
    target = tmp_path / "out"
    batch(target, [plain, carrying])
    whole = named_files(target)
    path = target / ".migrate" / "journal.jsonl"
    lines = []
    for line in path.read_bytes().splitlines():
        head, mark, packed = line.partition(b',"record":"')
        if mark:
            record = unpack_record(packed.removesuffix(b'"}'), "x")
            one, two = (row for row in record.layers if row.hashed is not None)
            assert one.hashed is not None and two.hashed is not None
            swapped = [
                replace(one, hashed=replace(one.hashed, blob=two.hashed.blob)),
                replace(two, hashed=replace(two.hashed, blob=one.hashed.blob)),
            ]
            line = head + mark + pack_record(replace(record, layers=tuple(swapped))).encode() + b'"}'
        lines.append(line)
    path.write_bytes(b"\n".join(lines) + b"\n")
    assert batch(target, [plain, carrying])[0] == 0
    assert findings(target) == []
    assert {name: content for name, content in named_files(target).items() if name != "migration-report.json"} == {
        name: content for name, content in whole.items() if name != "migration-report.json"
    }


def test_a_carried_manifest_whose_blob_has_gone_is_read_again(tmp_path: Path) -> None:
    case("made-oci-layout").write_plain(tmp_path)
    source, target = tmp_path / "made-oci-layout.tar", tmp_path / "out"
    _, report = batch(target, [source])
    assert report is not None
    blob(target, report.images[0].layers[0].blob_digest).unlink()
    assert batch(target, [source])[0] == 0
    assert findings(target) == []


def test_a_merge_alone_fails_the_images_whose_blobs_have_gone(tmp_path: Path, plain: Path, carrying: Path) -> None:
    target = tmp_path / "out"
    batch(target, [plain], shard=Shard(1, 1))
    batch(target, [carrying], shard=Shard(1, 1))
    _, alone = batch(tmp_path / "alone", [plain])
    assert alone is not None
    blob(target, alone.images[0].layers[1].blob_digest).unlink()
    assert merge(target) == 3
    assert [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in entries(target)] == [
        "team/carrying:1"
    ]
    assert findings(target) == []
    assert batch(target, [plain, carrying])[0] == 0
    assert len(entries(target)) == 2
    assert findings(target) == []


def test_what_another_command_has_named_stays(tmp_path: Path, plain: Path, carrying: Path) -> None:
    """No journal knows of it."""
    target = tmp_path / "out"
    batch(target, [plain])
    (target / ".migrate" / "journal.jsonl").unlink()
    batch(target, [plain, carrying])
    assert len(entries(target)) == 2
    assert findings(target) == []


def test_what_the_index_names_stays_when_the_next_shard_brings_better(
    tmp_path: Path, plain: Path, carrying: Path
) -> None:
    """Shard, merge, shard, merge: the second merge sees a carried blob that the first one did not."""
    target = tmp_path / "out"
    twin = write(tmp_path / "twin.tar", "plain", gzip.compress(BASE, 9, mtime=0))
    batch(target, [plain], shard=Shard(1, 1))
    assert merge(target) == 0
    before = entries(target)
    batch(target, [plain, twin], shard=Shard(1, 1))
    assert merge(target) == 0
    assert entries(target) == before
    assert findings(target) == []


# --- pairs of options --------------------------------------------------------------------------------------------


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "oci": {"format": Format.OCI},
    "none": {"compression": Compression.NONE},
    "zstd": {"compression": Compression.ZSTD, "format": Format.OCI},
    "fast": {"compression": Compression.GZIP_FAST},
    "level": {"compression_level": 9},
    "keep": {"empty_layers": EmptyLayers.KEEP},
    "image": {"images": ("team/plain",)},
    "all": {"all_layers": True},
    "platform": {"platform": Platform(os="linux", architecture="arm", variant="v7")},
    "fill": {"fill_platform": True},
    "first": {"on_conflict": OnConflict.FIRST},
    "keep-all": {"on_conflict": OnConflict.KEEP_ALL},
    "rename": {"renames": (("^team/", "group/"),)},
    "untagged": {"name_untagged": "untagged/{legacy_id:12}:latest", "all_layers": True},
    "template": {"tag_template": "{repo}:{tag}-{created:%Y}"},
    "strict": {"strict": True},
    "salvage": {"salvage": True},
    "ratio": {"max_ratio": 3},
}
"""Every option of `ConvertOptions` that changes what comes out of an archive."""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layer that one archive carries compressed, an empty one, a manifest of its own, a name that two claim, an
    image that names no platform, one that lost a layer, a layer that compresses a hundredfold, a file that is none."""
    folder = tmp_path_factory.mktemp("repeated") / "shelf"
    folder.mkdir()
    write(folder / "1.tar", "plain", BASE)
    write(folder / "2.tar", "carrying", gzip.compress(BASE, 0, mtime=0))
    made = V1Archive()
    made.layer("base", tar=BASE)
    made.layer("empty", "base", tar=layer_tar())
    made.tag("team/plain", "1", made.layer("newer", "empty", raw=layer_json(legacy_id("newer"), legacy_id("empty"))))
    made.layer("cut", "base", tar=b"cut")
    made.tag("team/lost", "1", made.layer("top", "cut"))
    (folder / "3.tar").write_bytes(made.build())
    write(folder / "4.tar", "zeros", gzip.compress(layer_tar("zeros", content=bytes(100_000)), 9, mtime=0))
    case("made-oci-layout").write_plain(folder)
    (folder / "note.txt").write_bytes(b"none\n")
    return folder


@pytest.fixture(scope="module")
def fresh(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Report]]:
    """What a first batch makes with each of the options."""
    made = {}
    for name, changes in OPTIONS.items():
        target = tmp_path_factory.mktemp(name) / "out"
        _, report = batch(target, [shelf], dataclasses.replace(GZIP, **changes))
        assert report is not None
        assert findings(target) == []
        made[name] = (target, report)
    return made


@pytest.mark.parametrize("second", OPTIONS)
@pytest.mark.parametrize("first", OPTIONS)
def test_the_second_of_two_batches_makes_what_a_fresh_one_makes(
    shelf: Path, fresh: dict[str, tuple[Path, Report]], tmp_path: Path, first: str, second: str
) -> None:
    target = shutil.copytree(fresh[first][0], tmp_path / "out")
    _, report = batch(target, [shelf], dataclasses.replace(GZIP, **OPTIONS[second]))
    assert report is not None
    assert findings(target) == []
    expected_target, expected = fresh[second]
    assert told(target, report) == told(expected_target, expected)
    assert report.failures == expected.failures
    assert report.sources == expected.sources
    listed = {entry["digest"] for entry in every_entry(target)}
    assert {str(image.manifest_digest) for image in report.images} <= listed


def told(target: Path, report: Report) -> list[tuple[object, ...]]:
    """The images of a report but for the bytes of their blobs, of which those stay that stood there."""
    return [(*identity(image), *media_types(target, image)) for image in report.images]


def identity(image: ReportImage) -> tuple[object, ...]:
    layers = [(layer.legacy_id, layer.diff_id, layer.empty, layer.blob_digest is None) for layer in image.layers]
    return (image.source, image.references, image.legacy_id, image.image_id, image.platform, image.created, layers)


def media_types(target: Path, image: ReportImage) -> tuple[object, ...]:
    manifest = json.loads(blob(target, image.manifest_digest).read_bytes())
    descriptors = [manifest["config"], *manifest["layers"]]
    return (manifest.get("mediaType"), [descriptor["mediaType"] for descriptor in descriptors])


def every_entry(target: Path) -> list[dict[str, Any]]:
    found = entries(target)
    for entry in list(found):
        if "list" in entry["mediaType"] or "index" in entry["mediaType"]:
            found += json.loads(blob(target, entry["digest"]).read_bytes())["manifests"]
    return found


# --- rows of batches ---------------------------------------------------------------------------------------------


class Interrupted(ExecutorPool):
    """Ctrl-C before the second task. What runs then is waited for, as no process ends here."""

    _submitted = 0

    def submit(self, order: WorkOrder, task: Task, /, avoid: Collection[str] = ()) -> Future[list[JournalEntry]]:
        self._submitted += 1
        if self._submitted > 1:
            raise KeyboardInterrupt
        return super().submit(order, task, avoid)

    def stop(self, *, at_once: bool) -> None:
        super().stop(at_once=False)


def convert(target: Path, sources: Sequence[Path], options: ConvertOptions) -> None:
    opened = [OpenedSource(str(path), open_source(str(path))) for path in sources]
    layout = OciLayout(target, options)
    Conversion(opened, options, layout).run()
    layout.close()
    for each in opened:
        each.close()


def named_files(target: Path) -> dict[str, bytes]:
    """Without the blobs that nothing names: shards that no merge could take in left them."""
    files = files_of(target)
    documents = b"".join(content for content in files.values() if content.startswith(b"{"))
    return {
        name: content
        for name, content in files.items()
        if not name.startswith("blobs/") or Path(name).name.encode() in documents
    }


def take_step(target: Path, kind: str, sources: Sequence[Path], options: ConvertOptions, workers: int) -> None:
    request = BatchRequest(
        target=str(target), options=dataclasses.replace(options, jobs=workers), locations=list(map(str, sources))
    )
    match kind:
        case "convert":
            with suppress(UsageError):  # none of them may hold what --image names
                convert(target, sources, options)
        case "interrupted":
            with suppress(KeyboardInterrupt):
                run_batch(
                    request,
                    SilentProgress(),
                    lambda asked: Interrupted(ThreadPoolExecutor(asked.workers), asked.workers),
                ).close()
        case "shard":
            request = replace(request, shard=Shard(1, 1))
            run_batch(request, SilentProgress(), threads).close()
            with suppress(UsageError):  # the shards before it may have had other options
                merge(target)
        case _:
            run_batch(request, SilentProgress(), threads).close()


@pytest.mark.parametrize("kinds", [("batch", "batch", "shard", "convert"), ("batch", "interrupted", "shard")])
@pytest.mark.parametrize("seed", range(12))
def test_any_row_of_commands_leaves_a_target_that_is_whole(
    shelf: Path, tmp_path: Path, seed: int, kinds: tuple[str, ...]
) -> None:
    """With any number of workers; what an interrupted run has done by then depends on them."""
    chance = random.Random(seed)
    archives = sorted(shelf.glob("*.tar"))
    names = [name for name in OPTIONS if name != "fast"]  # the one way to compress that may give other bytes
    steps = [
        (chance.choice(kinds), chance.sample(archives, chance.randint(1, 4)), chance.choice(names)) for _ in range(5)
    ]
    for workers in (1, 3):
        target = tmp_path / str(workers)
        for kind, sources, name in steps:
            take_step(target, kind, sources, dataclasses.replace(GZIP, jobs=workers, **OPTIONS[name]), workers)
            assert findings(target) == []
    if "interrupted" not in kinds:
        one, other = (named_files(tmp_path / workers) for workers in ("1", "3"))
        assert one == other
