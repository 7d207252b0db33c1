from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from migrate.batch import journal
from migrate.batch.executors import ExecutorPool
from migrate.batch.journal import JournalEntry, Journals, JournalWriter, LinePlace, pack_record
from migrate.batch.ledger import Known, KnownSources, Ledger, MergeSources, Wants
from migrate.batch.plan import Candidate, Finished, Plan, Shard, SourceIdentity, SourceOutcome, Task
from migrate.batch.records import SourceRecord
from migrate.batch.run import TaskRun
from migrate.batch.status import read_status
from migrate.batch.task import WorkOrder, failed_entry
from migrate.errors import LimitError, TargetError
from migrate.model.options import ConvertOptions
from migrate.model.progress import Event, SilentProgress
from migrate.storage.directory_store import DirectoryStore
from migrate.storage.syscalls import SystemCalls
from tests.faults import FaultyFileSystem, raises


def entry(
    name: str, outcome: SourceOutcome = SourceOutcome.CONVERTED, order: int = 0, recipe: str = "r"
) -> JournalEntry:
    return JournalEntry(
        source=name,
        identity=SourceIdentity(10, "mtime 5"),
        recipe=recipe,
        order=order,
        outcome=outcome,
        type="docker-archive",
        content="sha256:0",
        figures={"images": 1, "failed": 0, "layers": 2, "tar_bytes": 3},
        seconds=0.5,
        packed=pack_record(SourceRecord(type="docker-archive", warnings=(name,))),
        error="chain" if outcome is SourceOutcome.FAILED else None,
        message='no "record":" here' if outcome is SourceOutcome.FAILED else None,
    )


def write(
    target: Path, *entries: JournalEntry, shard: Shard | None = None, notes: Sequence[Mapping[str, object]] = ()
) -> Path:
    with closing(DirectoryStore(target)) as store, closing(JournalWriter(store, shard)) as journal:
        for note in notes:
            journal.note(note)
        for each in entries:
            journal.append(each)
    return target / ".migrate" / journal.name


@contextmanager
def opened(target: Path) -> Iterator[Journals]:
    with closing(DirectoryStore(target)) as store, closing(Journals(store)) as journals:
        yield journals


def read(target: Path, wants: Wants | None = None) -> Ledger:
    with opened(target) as journals:
        return Ledger.read(journals, wants)


def records(path: Path) -> dict[str, SourceRecord]:
    with opened(path.parents[1]) as journals:
        return {line.fields["source"]: journals.read(line.place, "x") for line in journals.iter_lines(path.name)}


def test_a_line_is_json_with_the_figures_first_and_the_record_last(tmp_path: Path) -> None:
    path = write(tmp_path, entry("/a.tar"), entry("/b\udcff.tar", SourceOutcome.FAILED, 1))
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [line["source"] for line in lines] == ["/a.tar", "/b\udcff.tar"]
    assert [line["outcome"] for line in lines] == ["converted", "failed"]
    assert {"size", "mark", "content", "recipe", "order", "images", "seconds", "finished"} <= lines[0].keys()
    assert list(lines[0])[-1] == "record"


def test_records_are_read_by_place(tmp_path: Path) -> None:
    path = write(tmp_path, entry("/a.tar"), entry("/b.tar", SourceOutcome.FAILED))
    assert {name: record.warnings for name, record in records(path).items()} == {
        "/a.tar": ("/a.tar",),
        "/b.tar": ("/b.tar",),
    }


@pytest.mark.parametrize("length", [1, 1_000, 100_000])
def test_records_of_any_size_come_back(tmp_path: Path, length: int) -> None:
    record = SourceRecord(type="docker-archive", warnings=("w" * length,))
    path = write(tmp_path, replace(entry("/a.tar"), packed=pack_record(record)))
    assert path.stat().st_size < 20_000
    assert records(path) == {"/a.tar": record}


@pytest.mark.parametrize("kept", range(1, 400, 7))
def test_a_torn_last_line_is_passed_over_and_ended(tmp_path: Path, kept: int) -> None:
    path = write(tmp_path, entry("/a.tar"))
    whole = path.stat().st_size
    write(tmp_path, entry("/b.tar"))
    path.write_bytes(path.read_bytes()[: whole + kept])
    torn = path.stat().st_size < whole * 2
    assert list(records(path)) == (["/a.tar"] if torn else ["/a.tar", "/b.tar"])
    write(tmp_path, entry("/c.tar"))
    assert list(records(path))[-1] == "/c.tar"


@pytest.mark.parametrize(
    "garbage", [b"\0\0\0\n", b"{}\n", b"[1]\n", b'{"source":1}\n', b'{"source":"/x"}\n', b"\xff}\n"]
)
def test_lines_that_are_none_are_passed_over(tmp_path: Path, garbage: bytes) -> None:
    path = write(tmp_path, entry("/a.tar"))
    path.write_bytes(garbage + path.read_bytes() + garbage)
    assert list(read(tmp_path).sources) == ["/a.tar"]


OPENING = {
    "run": "2015-01-01T00:00:00Z",
    "version": "1",
    "sources": 1,
    "bytes": 10,
    "done_before": 0,
    "recipe": "r",
    "options": {},
    "reported": {},
}


def merged(ends: dict[str, int]) -> dict[str, object]:
    return {"merged": "2015-01-01T00:00:00Z", "images": 1, "failures": 0, "journals": ends, "recipes": ["old"]}


def whole_line(target: Path, kind: str) -> dict[str, Any]:
    if kind == "source":
        path = write(target, entry("/b.tar", SourceOutcome.FAILED))
    else:
        path = write(target, notes=[OPENING if kind == "run" else merged({"journal.jsonl": 1})])
    fields: dict[str, Any] = json.loads(path.read_bytes())
    path.unlink()
    return fields


LOST = object()


@pytest.mark.parametrize("value", [LOST, None, -1.5, True, [], {}, {"a": None}, "x"])
@pytest.mark.parametrize("kind", ["source", "run", "merged"])
def test_a_line_that_has_lost_a_field_is_passed_over(tmp_path: Path, kind: str, value: object) -> None:
    """Nor may a field of another type stop those who read a journal."""
    whole = whole_line(tmp_path, kind)
    path = write(tmp_path, entry("/a.tar"))
    before = path.read_bytes()
    for name in whole:
        line = {key: value if key == name else kept for key, kept in whole.items() if key != name or value is not LOST}
        path.write_bytes(before + json.dumps(line, separators=(",", ":")).encode() + b"\n")
        ledger = read(tmp_path)
        assert set(ledger.sources) <= {"/a.tar", "/b.tar", "x"}
        assert ledger.left_over() <= len(ledger.sources)
        assert [status.document(0)["journal"] for status in read_status(str(tmp_path))] == ["journal.jsonl"]
        if value is LOST:
            assert (list(ledger.sources), ledger.merges, ledger.runs) == (["/a.tar"], 0, {}), name


def test_a_damaged_record_is_a_target_error(tmp_path: Path) -> None:
    path = write(tmp_path, entry("/a.tar"))
    path.write_bytes(path.read_bytes().replace(b'"record":"', b'"record":"!!!'))
    with pytest.raises(TargetError, match=r"journal\.jsonl: the record of x is damaged"):
        records(path)


def test_one_run_at_a_time_writes_a_journal(tmp_path: Path) -> None:
    with opened(tmp_path) as journals:
        first = JournalWriter(journals.store, None)
        assert journals.is_running(first.name)
        with pytest.raises(TargetError, match="another run"):
            JournalWriter(journals.store, None)
        JournalWriter(journals.store, Shard(1, 2)).close()
        first.close()
        assert not journals.is_running(first.name)


def test_the_last_line_of_a_source_counts(tmp_path: Path) -> None:
    write(tmp_path, entry("/a.tar", SourceOutcome.FAILED), entry("/b.tar", order=1))
    write(tmp_path, entry("/a.tar"), shard=None)
    write(tmp_path, entry("/c.tar", order=2), shard=Shard(2, 3))
    with opened(tmp_path) as journals:
        assert journals.names() == ["journal-2-of-3.jsonl", "journal.jsonl"]
    ledger = read(tmp_path)
    assert list(ledger.in_order()) == ["/a.tar", "/b.tar", "/c.tar"]
    assert ledger.finished()["/a.tar"].outcome is SourceOutcome.CONVERTED
    assert ledger.outcomes()[SourceOutcome.CONVERTED] == ["/a.tar", "/b.tar", "/c.tar"]


def test_a_merge_begins_a_generation(tmp_path: Path) -> None:
    path = write(tmp_path, entry("/a.tar"), entry("/b.tar"))
    assert [generation for _, generation in read(tmp_path).others(["/a.tar"])] == [0]
    write(tmp_path, entry("/a.tar"), notes=[merged({path.name: path.stat().st_size})])
    ledger = read(tmp_path)
    assert [generation for _, generation in ledger.others(["/a.tar"])] == [0, 0]
    (source,) = ledger.merge_sources(["/a.tar", "/gone.tar"])
    assert source.generation == 1


def test_a_merge_closes_what_it_has_read_of_every_journal(tmp_path: Path) -> None:
    """A shard's journal holds no merge, and its name sorts before the one that does."""
    first = write(tmp_path, entry("/a.tar"), shard=Shard(1, 2))
    write(tmp_path, entry("/c.tar"), notes=[merged({first.name: first.stat().st_size})])
    write(tmp_path, entry("/b.tar"), shard=Shard(2, 2))
    write(tmp_path, entry("/d.tar"), shard=Shard(1, 2))
    ledger = read(tmp_path)
    generations = {
        source.location: source.generation for source in ledger.merge_sources(["/a.tar", "/b.tar", "/c.tar", "/d.tar"])
    }
    assert generations == {"/a.tar": 0, "/b.tar": 1, "/c.tar": 1, "/d.tar": 1}
    assert sorted((place.journal, generation) for place, generation in ledger.others([])) == [
        (first.name, 0),
        (first.name, 1),
        ("journal-2-of-2.jsonl", 1),
        ("journal.jsonl", 1),
    ]


def test_of_two_journals_the_newer_line_of_a_source_counts(tmp_path: Path) -> None:
    path = write(tmp_path, entry("/a.tar", SourceOutcome.FAILED))
    write(tmp_path, notes=[merged({path.name: path.stat().st_size})])
    shard = write(tmp_path, entry("/a.tar"), shard=Shard(1, 2))
    ledger = read(tmp_path)
    assert ledger.sources["/a.tar"].place.journal == shard.name
    assert [place.journal for place, _ in ledger.replaced] == [path.name]
    assert ledger.finished()["/a.tar"].outcome is SourceOutcome.CONVERTED


def test_a_line_that_is_wanted_counts_before_a_newer_one(tmp_path: Path) -> None:
    """Two journals that were written within a second of each other do not tell which came first."""
    path = write(tmp_path, entry("/a.tar"), entry("/a.tar", SourceOutcome.FAILED), entry("/a.tar", recipe="other"))
    shard = write(tmp_path, entry("/a.tar", recipe="other"), shard=Shard(1, 2))
    ledger = read(tmp_path, lambda source, known: known.recipe == "r")
    assert ledger.finished()["/a.tar"].outcome is SourceOutcome.FAILED
    assert sorted(place.journal for place, _ in ledger.replaced) == [shard.name, path.name, path.name]


def test_sources_that_were_read_with_other_options_are_told_apart(tmp_path: Path) -> None:
    path = write(tmp_path, entry("/merged.tar", recipe="old"))
    write(tmp_path, entry("/left.tar", recipe="old"), notes=[merged({path.name: path.stat().st_size})])
    write(tmp_path, entry("/a.tar"), notes=[OPENING])
    write(tmp_path, notes=[merged({path.name: path.stat().st_size}) | {"recipes": ["r"]}])
    ledger = read(tmp_path)
    assert ledger.current() == ["/a.tar"]
    assert ledger.left_over() == 1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"message": "no text \udcff", "error": "x"},
        {"seconds": 1 << 70},
        {"is_own": True, "is_completion": True, "worker": "w", "tries": 2, "duration": 1.5, "images": 3, "failed": 1},
        {"finished": Finished(SourceIdentity(None, "etag \udcff"), "r", SourceOutcome.SKIPPED)},
    ],
)
def test_a_source_is_the_same_when_it_is_made_again(changes: dict[str, Any]) -> None:
    finished = Finished(SourceIdentity(10, "mtime 1"), "recipe", SourceOutcome.FAILED)
    place = LinePlace("journal.jsonl", 100, 20)
    known = replace(Known(finished, place, order=1, generation=2, message=None, seconds=3), **changes)
    sources = KnownSources()
    sources["/a.tar"] = known
    sources["/b.tar"] = replace(known, place=LinePlace("journal-1-of-2.jsonl", 1, 1))
    assert dict(sources) == {"/a.tar": known, "/b.tar": replace(known, place=LinePlace("journal-1-of-2.jsonl", 1, 1))}
    assert sources["/a.tar"].finished.outcome is known.finished.outcome
    assert "/c.tar" not in sources and sources.get("/c.tar") is None
    merged = MergeSources(sources, ["/b.tar", "/a.tar"])
    assert not merged.are_sorted and merged.in_order_of_report().are_sorted
    assert [one.location for one in merged[1:]] == ["/a.tar"] == [merged[-1].location]


# --- journals that somebody else made --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["FIFO", "folder", "link", "socket"])
def test_a_journal_that_is_no_file_is_one_error_and_never_waited_for(kind: str, tmp_path: Path) -> None:
    path = tmp_path / ".migrate" / "journal.jsonl"
    path.parent.mkdir()
    (tmp_path / "elsewhere").write_bytes(b"")
    match kind:
        case "FIFO":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to(tmp_path / "elsewhere")
        case "socket":
            os.mknod(path, 0o140644)
    with opened(tmp_path) as journals:
        assert not journals.is_running(path.name)
        for use in (
            lambda: JournalWriter(journals.store, None),
            lambda: list(journals.iter_lines(path.name)),
            lambda: Ledger.read(journals),
            journals.check_owners,
            lambda: journals.read(LinePlace(path.name, 0, 10), "x"),
        ):
            with pytest.raises(TargetError, match=r"journal\.jsonl: a .* is there instead of a file"):
                use()
    assert (tmp_path / "elsewhere").read_bytes() == b""


def test_a_journal_of_another_user_is_not_believed(tmp_path: Path) -> None:
    path = write(tmp_path, entry("/a.tar"))
    with opened(tmp_path) as journals:
        journals.check_owners()
        os.chown(path, 12_345, 12_345)
        with pytest.raises(TargetError, match=r"belongs to user 12345.*not used"):
            journals.check_owners()


def test_a_line_without_end_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_LINE_BYTES", 10_000)
    path = write(tmp_path, entry("/a.tar"))
    with open(path, "ab") as stream:
        stream.write(b'{"source":"' + b"x" * 1_000_000 + b'"}\n')
    write(tmp_path, entry("/b.tar"))
    assert list(records(path)) == ["/a.tar", "/b.tar"]


def test_a_record_that_could_not_be_read_again_is_not_written() -> None:
    with pytest.raises(LimitError, match="the record of all images of this source"):
        pack_record(SourceRecord(warnings=("x" * 1_000_000,) * 300))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_an_error_at_any_call_that_changes_a_journal(number: int, tmp_path: Path) -> None:
    """What was appended before is read again, and the next run appends behind it."""

    def run(target: Path, files: SystemCalls) -> None:
        target.mkdir(exist_ok=True)
        with closing(DirectoryStore(target, files)) as store:
            with closing(JournalWriter(store, None, clock=iter(range(0, 1_000, 2)).__next__)) as journal:
                for name in ("/a.tar", "/b.tar", "/c.tar"):
                    journal.append(entry(name))

    counted = FaultyFileSystem()
    run(tmp_path / "undisturbed", counted)
    assert counted.calls >= 7
    for at in range(1, counted.calls + 1):
        target = tmp_path / str(at)
        try:
            run(target, FaultyFileSystem(at, raises(number)))
        except TargetError as exc:
            assert exc.exit_code == 5 and os.strerror(number) in exc.message
        else:
            assert at >= counted.calls - 1, f"the error of call {at} was lost"  # the last syncs, when it is closed
        run(target, SystemCalls())
        lines = (target / ".migrate" / "journal.jsonl").read_bytes().splitlines()
        assert [json.loads(line)["source"] for line in lines[-3:]] == ["/a.tar", "/b.tar", "/c.tar"]


class NoDisk(SystemCalls):
    """Syncs cost nothing."""

    def sync(self, descriptor: int) -> None:
        del descriptor


class Pieces:
    """A record in a bucket, of which each piece is kept with the time when it came."""

    def __init__(self) -> None:
        self.now = 0.0
        self.found: list[tuple[float, bytes]] = []
        self._waiting = b""

    def append(self, block: bytes, /) -> None:
        self._waiting += block

    def sync(self) -> None:
        self.found.append((self.now, self._waiting))
        self._waiting = b""

    def close(self) -> None:
        self.sync()


def test_a_piece_waits_for_a_hundredth_of_the_run(tmp_path: Path) -> None:
    """Whether lines come often, seldom, or one and then none: what a killed run loses is little, and so is what it asks
    of a bucket."""
    store, mirror = DirectoryStore(tmp_path, NoDisk()), Pieces()
    writer = JournalWriter(store, None, mirror, lambda: mirror.now)
    path = tmp_path / ".migrate" / writer.name
    published = 0
    for number, step in enumerate((*[0.25] * 400, *[5.0] * 700)):  # 100 s, and then an hour
        mirror.now += step
        before = len(mirror.found)
        if number % 3:
            writer.append(entry(f"/{mirror.now}"))
        else:  # the loop of the run, which a large source keeps waiting
            writer.settle()
        published += sum(len(piece) for _, piece in mirror.found[before:])
        last = mirror.found[-1][0] if mirror.found else 0.0
        assert published == path.stat().st_size or mirror.now - last < min(mirror.now / 100, 1.0)
    writer.append(entry("/last.tar"))
    mirror.now += 10
    writer.settle()
    assert b"".join(piece for _, piece in mirror.found) == path.read_bytes()
    assert all(piece for _, piece in mirror.found)
    assert len(mirror.found) <= 400 * 2 / 3 + 700
    assert writer.is_kept
    mirror.now += 3_600
    writer.append(entry("/late.tar"))
    assert mirror.found[-1][0] == mirror.now
    writer.append(entry("/end.tar"))
    assert not writer.is_kept
    writer.settle(at_once=True)  # all sources are read, and the merge begins
    assert b"".join(piece for _, piece in mirror.found) == path.read_bytes()
    writer.close()
    store.close()


def read_nothing(order: WorkOrder, task: Task) -> list[JournalEntry]:
    return [failed_entry(order, source, "read", "nothing was read") for source in task.sources]


@pytest.mark.parametrize("step", [0.0, 0.1, 30.0], ids=["at once", "often", "seldom"])
def test_a_source_is_reported_as_done_only_when_its_line_is_in_the_bucket(step: float, tmp_path: Path) -> None:
    """A run that is killed at any moment reads nothing again of which it has said that it is done."""
    mirror = Pieces()
    told: list[str] = []

    class Witness(SilentProgress):
        def emit(self, event: Event, /) -> None:
            mirror.now += step
            if event.kind == "finished":
                told.append(event.name)
                assert any(json.dumps(event.name).encode() in piece for _, piece in mirror.found), event.name

    tasks = [
        Task(number, tuple(Candidate(f"/{number}-{name}", SourceIdentity(1, "mark"), number) for name in "abc"))
        for number in range(20)
    ]
    order = WorkOrder(run="0" * 16, recipe="r", target=None, state="/", options=ConvertOptions())
    with (
        closing(DirectoryStore(tmp_path)) as store,
        closing(JournalWriter(store, None, mirror, lambda: mirror.now)) as journal,
        ThreadPoolExecutor(2) as threads,
    ):
        TaskRun(order, Plan(tuple(tasks)), ExecutorPool(threads, 2, work=read_nothing), journal, Witness()).run()
    assert sorted(told) == sorted(source.location for task in tasks for source in task.sources)
