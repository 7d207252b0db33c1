"""A run that was done before is not done again, and any change of what it rests on has it done anew."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from migrate import api
from migrate.blobio.source_files import settled_state
from migrate.convert.repeat import run_key
from migrate.convert.run import Conversion
from migrate.errors import TargetError
from migrate.model.digest import Digest
from migrate.model.options import ConvertOptions, OnConflict
from migrate.model.progress import Event, SilentProgress
from migrate.report.json import encode_report
from migrate.storage.bucket_store import BucketStore
from migrate.storage.directory_store import DirectoryStore
from migrate.storage.syscalls import SystemCalls
from migrate.verify import verify
from migrate.writers.run_memory import RUNS, dated, repeat_run
from tests.archives import V1Archive, layer_tar
from tests.buckets import memory_bucket
from tests.faults import KILLED, FaultyFileSystem, kills, raises

OPTIONS = ConvertOptions()
LATER = ("2031-01-02T03:04:05Z", "2031-01-02T03:04:06Z")
Change = Callable[[Path, Path], object]


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if all files had been there for a minute."""
    real = time.time_ns
    monkeypatch.setattr("migrate.blobio.source_files.time.time_ns", lambda: real() + 60 * 10**9)
    yield


class Events:
    def __init__(self) -> None:
        self.all: list[Event] = []

    def emit(self, event: Event, /) -> None:
        self.all.append(event)

    @property
    def kinds(self) -> set[str]:
        return {event.kind for event in self.all}


def archive(path: Path, *names: str, tar: bytes = b"") -> Path:
    made = V1Archive()
    made.layer("base", tar=tar or layer_tar("etc/base"))
    for name in names:
        made.tag(f"team/{name}", "1", made.layer(name, "base", tar=layer_tar(f"etc/{name}")))
    path.write_bytes(made.build())
    return path


def convert(source: Path, target: Path | str, options: ConvertOptions = OPTIONS, **rest: Any) -> bool:
    """Whether the run was done, rather than repeated."""
    events = Events()
    with Conversion.opened([str(source)], options, str(target), progress=events, **rest) as conversion:
        outcome = conversion.run()
    done = "stage" in events.kinds
    assert outcome.exit_code == 0
    assert done or outcome.present == len({image.image_id for image in outcome.report.images})
    return done


def content(target: Path) -> dict[str, bytes]:
    """Of all files; of the report without the time."""
    found = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    found["migration-report.json"] = dated(found["migration-report.json"], "", "")
    return {name: held for name, held in found.items() if not name.startswith(".migrate/")}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return archive(tmp_path / "a.tar", "one", "two", "three")


@pytest.fixture
def target(source: Path, tmp_path: Path) -> Path:
    assert convert(source, tmp_path / "target")
    return tmp_path / "target"


def test_a_repeated_run_gives_what_a_run_gives(source: Path, target: Path) -> None:
    before = content(target)
    events = Events()
    outcome = api.convert(source, target, progress=events)
    assert {event.kind for event in events.all} == {"source", "image"}
    assert content(target) == before
    raw = (target / "migration-report.json").read_bytes()
    assert encode_report(outcome.report) == raw
    proven = api.convert(source, target, dataclasses.replace(OPTIONS, check_existing=True))
    assert replace(outcome.report, started="", finished="") == replace(proven.report, started="", finished="")
    assert (outcome.exit_code, outcome.present) == (proven.exit_code, proven.present) == (0, 3)
    assert content(target) == before
    assert verify(str(target), 1, SilentProgress()) == []


def test_it_can_be_repeated_any_number_of_times(source: Path, target: Path) -> None:
    assert [convert(source, target) for _ in range(3)] == [False, False, False]


def test_the_report_has_the_time_of_the_repetition(target: Path, source: Path) -> None:
    with Conversion.opened([str(source)], OPTIONS, str(target)) as conversion:
        assert conversion.key is None  # it was repeated when it was opened
    old = (target / "migration-report.json").read_bytes()
    raw = dated(old, *LATER)
    document = json.loads(raw)
    assert (document["started"], document["finished"]) == LATER
    assert {**json.loads(old), "started": "", "finished": ""} == {**document, "started": "", "finished": ""}


def _blob(target: Path, number: int) -> Path:
    return sorted((target / "blobs" / "sha256").iterdir())[number]


def _flip(path: Path) -> None:
    """One bit, with size and mtime put back."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _rewrite(path: Path) -> None:
    status = path.stat()
    archive(path, "one", "two", "seven")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_ino) == (status.st_size, status.st_ino)


def _replace(path: Path) -> None:
    """By a copy with the same bytes and mtime."""
    shutil.copy2(path, path.with_name("copy"))
    path.with_name("copy").rename(path)


def _tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


DOCUMENTS = ["index.json", "manifest.json", "migration-report.json", "migration-map.json"]


def _on_blob(number: int, change: Callable[[Path], object]) -> Change:
    return lambda _, target: change(_blob(target, number))


def _on_file(name: str, change: Callable[[Path], object]) -> Change:
    return lambda _, target: change(target / name)


OF_TARGET: dict[str, Change] = {
    **{f"blob {number} is gone": _on_blob(number, Path.unlink) for number in (0, 4, 7)},
    **{f"a bit of blob {number} is another": _on_blob(number, _flip) for number in (0, 4, 7)},
    **{f"{name} is gone": _on_file(name, Path.unlink) for name in DOCUMENTS if name != "index.json"},
    **{f"{name} is another file": _on_file(name, _replace) for name in DOCUMENTS},
    "a blob that nobody knows": lambda _, target: (target / "blobs" / "sha256" / ("0" * 64)).write_bytes(b"x"),
    "another file": lambda _, target: (target / "notes.txt").write_bytes(b"x"),
    "a link": lambda _, target: (target / "notes.txt").symlink_to("index.json"),
    "a link to a blob": lambda _, target: os.link(_blob(target, 0), target / "other name"),
    "the mode of a blob": lambda _, target: _blob(target, 1).chmod(0o600),
    "the record of layers": lambda _, target: (target / ".migrate" / "layers").unlink(),
    "the record of runs is gone": lambda _, target: (target / RUNS).unlink(),
    "the record of runs is torn": lambda _, target: _tear(target / RUNS),
    "a bit of the record of runs": lambda _, target: _flip(target / RUNS),
    "another user's record of runs": lambda _, target: os.chown(target / RUNS, 12_345, -1),
    "a record of runs that others may write": lambda _, target: (target / RUNS).chmod(0o666),
    "a record of runs with another name": lambda _, target: os.link(target / RUNS, target.with_name("runs")),
    "state that others may write": lambda _, target: (target / ".migrate").chmod(0o777),
}
OF_SOURCE: dict[str, Change] = {
    "the same bytes in another file": lambda source, _: _replace(source),
    "another mtime": lambda source, _: os.utime(source, ns=(0, 1)),
    "one more byte": lambda source, _: source.write_bytes(source.read_bytes() + b"\0"),
    "other images in the same size and mtime": lambda source, _: _rewrite(source),
}


@pytest.mark.parametrize("change", {**OF_TARGET, **OF_SOURCE}.items(), ids=lambda item: item[0])
def test_after_any_change_the_run_is_done(change: tuple[str, Change], source: Path, target: Path) -> None:
    change[1](source, target)
    expected = target.with_name("expected")
    shutil.copytree(target, expected, symlinks=True)
    assert convert(source, target)
    assert convert(source, expected, dataclasses.replace(OPTIONS, check_existing=True))
    assert content(target) == content(expected)


OTHER_OPTIONS = [
    dataclasses.replace(OPTIONS, all_layers=True),
    dataclasses.replace(OPTIONS, images=("team/one:1",)),
    dataclasses.replace(OPTIONS, renames=(("team", "other"),)),
    dataclasses.replace(OPTIONS, compression_level=1),
    dataclasses.replace(OPTIONS, check_existing=True),
    dataclasses.replace(OPTIONS, salvage=True),
    dataclasses.replace(OPTIONS, max_ratio=5_000),
]


@pytest.mark.parametrize("options", OTHER_OPTIONS)
def test_with_another_option_the_run_is_done(options: ConvertOptions, source: Path, target: Path) -> None:
    assert convert(source, target, options)


def test_options_that_change_nothing_are_no_others(source: Path, target: Path) -> None:
    assert not convert(
        source, target, dataclasses.replace(OPTIONS, jobs=7, force=True, temporary_directory=str(source.parent))
    )
    assert convert(source, target, report_options={"jobs": 7})


def test_by_another_version_the_run_is_done(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrate.convert.repeat.__version__", "99")
    assert convert(source, target)


def test_with_another_name_of_the_source_the_run_is_done(source: Path, target: Path) -> None:
    """It is in the report."""
    assert convert(source.parent / "." / "." / ".." / source.parent.name / source.name, target)


def test_a_copy_of_a_target_has_other_files(source: Path, target: Path) -> None:
    shutil.copytree(target, target.with_name("copied"))
    assert convert(source, target.with_name("copied"))
    assert not convert(source, target)


def test_another_run_between_the_two(source: Path, target: Path) -> None:
    assert convert(archive(source.with_name("b.tar"), "four"), target)
    assert convert(source, target)  # the map has one more image
    assert convert(source, target) is False


def test_two_sources_in_turn_take_a_name_from_each_other(source: Path, target: Path) -> None:
    """Who comes last has it: a run that would take it back is done."""
    other = archive(source.with_name("b.tar"), "one", tar=layer_tar("etc/other"))
    options = dataclasses.replace(OPTIONS, on_conflict=OnConflict.FIRST)
    for each in (other, source, other, source, source, source, other):
        expected = target.with_name("expected")
        shutil.rmtree(expected, ignore_errors=True)
        shutil.copytree(target, expected)
        convert(each, target, options)
        convert(each, expected, dataclasses.replace(options, check_existing=True))
        assert content(target) == content(expected)


def test_a_failure_is_found_again(tmp_path: Path) -> None:
    made = V1Archive()
    made.tag("team/good", "1", made.layer("good", tar=layer_tar("etc/good")))
    made.tag("team/bad", "1", made.layer("bad", "absent", tar=layer_tar("etc/bad")))
    source = tmp_path / "a.tar"
    source.write_bytes(made.build())
    for _ in range(3):
        events = Events()
        assert api.convert(source, tmp_path / "target", progress=events).exit_code == 3
        assert "failure" in events.kinds


@pytest.mark.parametrize(
    ("changed", "now", "is_settled"),
    [
        (7_000_000_001, 7_050_000_000, False),
        (7_000_000_001, 7_150_000_000, True),
        (7_000_000_000, 7_150_000_000, False),
        (7_000_000_000, 8_999_999_999, False),
        (7_000_000_000, 9_000_000_000, True),
        (9_000_000_001, 7_000_000_000, False),  # the clock was put back
    ],
)
def test_times_that_a_further_change_could_have_too(
    changed: int, now: int, is_settled: bool, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("migrate.blobio.source_files.time.time_ns", lambda: now)
    real = source.stat()
    status = os.stat_result(real[:10], {"st_mtime_ns": changed, "st_ctime_ns": changed})
    assert (settled_state(status) is not None) is is_settled


def test_a_file_without_a_name_is_not_remembered(source: Path) -> None:
    with source.open("rb") as stream:
        source.unlink()
        assert settled_state(os.fstat(stream.fileno())) is None


def test_a_file_that_changes_while_it_is_read_is_not_remembered(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    with Conversion.opened([str(source)], OPTIONS, str(target)) as conversion:
        os.utime(source)
        conversion.run()
    assert not (target / RUNS).exists()


@pytest.mark.parametrize("kind", ["folder", "FIFO", "link", "dangling"])
def test_a_record_in_another_form(kind: str, source: Path, target: Path, tmp_path: Path) -> None:
    (target / RUNS).unlink()
    match kind:
        case "folder":
            (target / RUNS).mkdir()
        case "FIFO":
            os.mkfifo(target / RUNS)
        case "link":
            (target / RUNS).symlink_to(source)
        case "dangling":
            (target / RUNS).symlink_to(tmp_path / "nothing")
    assert convert(source, target) or kind == "link"
    assert not (tmp_path / "nothing").exists()


def test_a_run_beside_another_one_is_not_remembered(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    other = DirectoryStore(target)
    other.put("notes.txt", b"x")  # it is at work from its first write
    try:
        assert convert(source, target)
        assert not (target / RUNS).exists()
    finally:
        other.close()


# --- faults ------------------------------------------------------------------------------------------------------


def _repeat(source: Path, target: Path, files: SystemCalls) -> bytes | None:
    key = run_key([str(source)], OPTIONS, {})
    assert key is not None
    return repeat_run(str(target), key, LATER[0], lambda: LATER[1], files)


def _check_ended(source: Path, target: Path, before: dict[str, bytes]) -> None:
    """The report is the one before or the new one, whole; the same run again ends well."""
    assert content(target) == before
    convert(source, target)
    assert content(target) == before
    assert [path.name for path in (target / ".migrate").iterdir() if path.name.startswith("tmp-")] == []


def test_a_repeated_run_that_is_killed_at_any_call(source: Path, target: Path) -> None:
    before = content(target)
    for number in range(1, 100):
        pid = os.fork()
        if not pid:
            try:
                _repeat(source, target, FaultyFileSystem(number, kills))
            finally:
                os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        _check_ended(source, target, before)
        assert not convert(source, target)
        if code == 0:
            break
        assert code == KILLED
    assert number > 5


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_repeated_run_on_a_target_that_fails_at_any_call(number: int, source: Path, target: Path) -> None:
    before = content(target)
    failed = 0
    calls = FaultyFileSystem()
    assert _repeat(source, target, calls) is not None
    for at in range(1, calls.calls + 1):
        try:
            _repeat(source, target, FaultyFileSystem(at, raises(number)))
        except TargetError:
            failed += 1
        _check_ended(source, target, before)
    assert failed > 3


# --- buckets -----------------------------------------------------------------------------------------------------


class Tagged(BucketStore):
    """The file system in memory has no ETags: these are as those of S3, of the content."""

    def iter_versions(self) -> Iterator[tuple[str, int, str | None]]:
        for name, (size, version) in self.versions("").items():
            yield name, size, version

    def versions(self, folder: str, /) -> dict[str, tuple[int, str]]:
        found = {name: self._fs.cat_file(key) for name, key in self._names(folder)}
        return {name: (len(held), Digest.of(held).hex) for name, held in found.items()}

    def version(self, name: str, /) -> str | None:
        return self.versions(name).get(name, (0, None))[1]

    def _names(self, folder: str) -> Iterator[tuple[str, str]]:
        top = f"{self._fs._strip_protocol(self._prefix)}/"
        for key in self._fs.find(self._key(folder) if folder else self._prefix):
            yield key.removeprefix(top), key


def test_in_a_bucket_by_etags(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = "memory://bucket/out"
    with memory_bucket() as filesystem:
        assert convert(source, place)
        assert convert(source, place)  # without tags nothing is remembered
        filesystem.rm("/bucket", recursive=True)
        monkeypatch.setattr("migrate.storage.bucket_store.BucketStore", Tagged)
        assert convert(source, place)
        assert not convert(source, place)
        assert not convert(source, place)
        blob = next(key for key in filesystem.find("/bucket/out/blobs"))
        held = bytearray(filesystem.cat_file(blob))
        held[-1] ^= 1
        filesystem.pipe_file(blob, bytes(held))
        assert convert(source, place)
        filesystem.rm(blob)
        assert convert(source, place)
