"""What every store promises: named files that are whole or absent, in a directory or in a bucket."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest

from migrate.errors import TargetError
from migrate.storage import bucket_store, directory_store
from migrate.storage.bucket_store import BucketStore
from migrate.storage.directory_store import DirectoryStore, version_of
from migrate.storage.store import Store
from migrate.storage.syscalls import WrongKindError
from tests.buckets import memory_bucket
from tests.threads import switching_often

Open = Callable[[], Store]
LIMIT = 10_000_000


@pytest.fixture(params=["directory", "bucket"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the same place again and again."""
    if request.param == "directory":
        (tmp_path / "root").mkdir()
        yield lambda: DirectoryStore(tmp_path / "root")
    else:
        with memory_bucket():
            yield lambda: BucketStore("memory://bucket/root")


@pytest.fixture
def store(opened: Open) -> Iterator[Store]:
    store = opened()
    yield store
    store.close()


def write(store: Store, name: str, *blocks: bytes, replace: bool = True) -> None:
    with store.new_file() as file:
        for block in blocks:
            file.write(block)
        file.publish(name, replace=replace)


def test_an_absent_file_is_none(store: Store) -> None:
    assert store.open("a/b") is None
    assert store.read("a/b", LIMIT) is None
    assert store.names() == store.names("a") == []
    assert store.sizes("a") == {}
    assert store.read_many(["a", "b"], LIMIT) == {}
    store.remove(["a", "a/b"])


@pytest.mark.parametrize("size", [0, 1, 131_072, 131_073, 5_000_000])
def test_a_file_in_pieces(opened: Open, size: int) -> None:
    content = os.urandom(size)
    store = opened()
    with store.new_file() as file:
        buffer = bytearray(70_000)
        for at in range(0, size, len(buffer)):
            piece = content[at : at + len(buffer)]
            buffer[: len(piece)] = piece
            file.write(memoryview(buffer)[: len(piece)])
            buffer[:] = bytes(len(buffer))
        assert file.size == size
        file.publish("folder/deep/file")
    store.flush()
    assert store.read("folder/deep/file", LIMIT) == content
    store.close()
    again = opened()
    assert again.read("folder/deep/file", LIMIT) == content
    assert again.sizes("folder/deep") == {"file": size}
    assert again.names("folder") == ["deep"]
    again.close()


def test_put_is_there_after_flush_and_put_now_at_once(opened: Open) -> None:
    store, other = opened(), opened()
    store.put("a", b"1")
    store.put("x/b", b"2")
    store.flush()
    assert other.read_many(["a", "x/b", "c"], LIMIT) == {"a": b"1", "x/b": b"2"}
    store.put_now("x/y/c", b"3")
    assert other.read("x/y/c", LIMIT) == b"3"
    store.put("a", b"new")
    store.flush()
    store.put_now("x/b", b"new")
    assert other.read_many(["a", "x/b"], LIMIT) == {"a": b"new", "x/b": b"new"}
    store.close()
    other.close()


def test_what_is_not_published_leaves_no_trace(opened: Open) -> None:
    store = opened()
    for size in (10, 500_000):
        with pytest.raises(RuntimeError), store.new_file() as file:
            file.write(b"x" * size)
            raise RuntimeError
        with store.new_file() as file:
            file.write(b"x" * size)
    store.close()
    again = opened()
    assert [name for name in again.names() if name != ".migrate"] == []
    again.close()


def test_replace_and_remove(store: Store) -> None:
    store.replace("index", b"1", store.version("index"))
    store.replace("index", b"2", store.version("index"))
    assert store.read("index", LIMIT) == b"2"
    write(store, "folder/a", b"a")
    write(store, "folder/b", b"b")
    store.flush()
    store.remove(["folder/a", "folder/none"])
    assert store.names("folder") == ["b"]
    store.put_new("folder/new", b"new")
    store.flush()
    assert store.read("folder/new", LIMIT) == b"new"


def test_a_file_that_may_stay_is_whole_in_any_case(store: Store) -> None:
    write(store, "blob", b"the same", replace=False)
    write(store, "blob", b"the same", replace=False)
    store.flush()
    assert store.read("blob", LIMIT) == b"the same"
    write(store, "blob", b"damaged!")
    store.flush()
    write(store, "blob", b"the same", replace=True)
    store.flush()
    assert store.read("blob", LIMIT) == b"the same"


def test_a_file_over_the_limit_is_an_error_and_left_out_of_many(store: Store) -> None:
    store.replace("large", b"x" * 1_001)
    store.replace("small", b"x" * 1_000)
    assert store.read("small", 1_000) == b"x" * 1_000
    with pytest.raises(TargetError, match="larger than the limit of 1,000 bytes"):
        store.read("large", 1_000)
    assert set(store.read_many(["large", "small"], 1_000)) == {"small"}


def test_update_writes_what_differs(store: Store) -> None:
    store.update({"a/link": b"1", "b/link": b"2"})
    store.flush()
    store.update({"a/link": b"1", "b/link": b"3", "c/link": b"4"})
    store.flush()
    assert store.read_many(["a/link", "b/link", "c/link"], LIMIT) == {"a/link": b"1", "b/link": b"3", "c/link": b"4"}


def test_a_file_of_this_machine_is_taken_over_only_if_its_bytes_are_right(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "source"
    path.write_bytes(b"content")

    def right(stream: BinaryIO) -> bool:
        return stream.read() == b"content"

    assert store.take_over(str(path), "x/blob", right, hard=True)
    store.flush()
    assert store.read("x/blob", LIMIT) == b"content"
    path.write_bytes(b"changed")
    assert not store.take_over(str(path), "other", right, hard=True)
    assert not store.take_over(str(tmp_path / "absent"), "other", right, hard=True)
    store.flush()
    assert store.read("other", LIMIT) is None


def test_records_grow(opened: Open) -> None:
    """More often than a bucket keeps pieces of one."""
    assert opened().read_record(".migrate/record", LIMIT) == b""
    for number in range(40):
        store = opened()
        record = store.append_to(".migrate/record")
        record.append(b"one %d\n" % number)
        record.append(b"two %d\n" % number)
        record.close()
        record.close()
        content = store.read_record(".migrate/record", LIMIT)
        assert len(content.splitlines()) == 2 * (number + 1)
        assert store.read_record(".migrate/record", len(content) - 1) == b""
        store.close()
    assert set(content.splitlines()) == {b"%s %d" % (word, each) for word in (b"one", b"two") for each in range(40)}
    store = opened()
    assert isinstance(store, DirectoryStore) or len(store.names(".migrate/record")) < 40


def test_a_record_of_one_run_at_a_time_keeps_its_order(opened: Open) -> None:
    """What was appended is durable by `sync`, while the record grows, and read at any place."""
    name, lines = ".migrate/record", [b"%d\n" % number for number in range(60)]
    for run in range(0, 60, 20):
        store, other = opened(), opened()
        record = store.append_to(name, alone=True)
        for number in range(run, run + 20):
            record.append(lines[number])
            record.sync()
        found = other.open(name)
        if found is None:  # a bucket, where nothing grows
            whole = b"".join(other.read(f"{name}/{piece}", LIMIT) or b"" for piece in other.names(name))
        else:
            assert other.is_growing(name)
            with pytest.raises(TargetError, match="record: another run is at work on it"):
                other.append_to(name, alone=True)
            with found:
                found.seek(run)
                whole = b"".join(lines)[:run] + found.read()
        assert whole == b"".join(lines[: run + 20])
        record.close()
        record.close()
        assert not other.is_growing(name) and other.foreign_owner(name) is None
        store.close()
        other.close()


def test_an_absent_record_does_not_grow_and_has_no_owner(store: Store) -> None:
    assert not store.is_growing(".migrate/record")
    assert store.foreign_owner(".migrate/record") is None


def test_the_owner_of_a_file_is_foreign_if_this_user_has_not_made_it(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    path = tmp_path / "file"
    path.write_bytes(b"")
    for owner, foreign in ((0, None), (os.geteuid(), None), (12345, 12345)):
        os.chown(path, owner, -1)
        assert store.foreign_owner("file") == foreign
    store.close()
    assert os.listdir(tmp_path / ".migrate") == ["lock"]


def test_a_version_is_another_one_after_each_change(store: Store) -> None:
    assert store.version("file") is None
    seen = set()
    for content in (b"one", b"two", b"three"):
        write(store, "file", content)
        store.flush()
        seen.add(store.version("file"))
        assert store.version("file") in seen
    assert len(seen) == 3 or seen == {None}


def test_a_record_that_another_user_could_have_written_is_not_read(tmp_path: Path) -> None:
    def told() -> bytes:
        store = DirectoryStore(tmp_path)
        content = store.read_record(".migrate/record", LIMIT, private=True)
        assert store.read_record(".migrate/record", LIMIT) == b"line\n"
        store.close()
        return content

    store = DirectoryStore(tmp_path)
    record = store.append_to(".migrate/record")
    record.append(b"line\n")
    record.close()
    store.close()
    folder, path = tmp_path / ".migrate", tmp_path / ".migrate" / "record"
    assert told() == b"line\n"
    for mode in (0o664, 0o646, 0o666):
        path.chmod(mode)
        assert told() == b""
    path.chmod(0o644)
    folder.chmod(0o777)
    assert told() == b""
    folder.chmod(0o755)
    os.link(path, tmp_path / "elsewhere")
    assert told() == b""
    (tmp_path / "elsewhere").unlink()
    for place in (path, folder):
        os.chown(place, 12345, -1)
        assert told() == b""
        os.chown(place, os.geteuid(), -1)
    assert told() == b"line\n"


def test_where_times_are_whole_seconds_a_new_file_has_no_version(tmp_path: Path) -> None:
    now = time.time_ns()
    for ago, known in ((0, False), (1, False), (3, True)):
        changed = (now // 10**9 - ago) * 10**9
        status = os.stat_result(
            (0o100644, 7, 1, 1, 0, 0, 5, 0, changed // 10**9, changed // 10**9, 0, 0, 0, 0, changed, changed)
        )
        assert (version_of(status) is not None) is known


def test_what_several_threads_put_is_all_there(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one thread writes a group while others add to the next one."""
    monkeypatch.setattr(directory_store, "GROUP_FILES", 2)
    monkeypatch.setattr(bucket_store, "_AT_ONCE", 2)
    store = opened()

    def put(thread: int) -> None:
        for number in range(20):
            store.put(f"put/{thread}-{number}", b"x")
            write(store, f"new/{thread}-{number}", b"y", replace=False)

    with switching_often(), ThreadPoolExecutor(4) as pool:
        assert list(pool.map(put, range(4))) == [None] * 4
    store.flush()
    assert len(store.names("put")) == len(store.names("new")) == 80
    store.close()


class _OvertakenLock:
    """A lock, before which another thread flushes the store while this one waits for it."""

    def __init__(self, store: BucketStore) -> None:
        self._store = store
        self._lock = store._lock
        self._first = threading.get_ident()

    def __enter__(self) -> None:
        if threading.get_ident() == self._first:
            other = threading.Thread(target=self._store.flush)
            other.start()
            other.join()
        self._lock.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self._lock.release()


def test_an_object_is_not_lost_where_another_thread_takes_those_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with memory_bucket():
        store = BucketStore("memory://bucket/root")
        with monkeypatch.context() as patched:
            patched.setattr(store, "_lock", _OvertakenLock(store))
            for number in range(3):
                store.put(f"put/{number}", b"x")
                write(store, f"new/{number}", b"y", replace=False)
        store.flush()
        assert store.names("put") == store.names("new") == ["0", "1", "2"]
        store.close()


def test_every_file_and_its_version(opened: Open) -> None:
    store, other = opened(), opened()
    other.put("b/c/d", b"of a run that is at work")
    write(store, "a", b"12345")
    store.put("b/c/e", b"")
    store.flush()
    found = {name: (size, version) for name, size, version in store.iter_versions()}
    assert {name: size for name, (size, _) in found.items() if name in ("a", "b/c/e")} == {"a": 5, "b/c/e": 0}
    assert all(version == store.version(name) for name, (_, version) in found.items())
    assert not [name for name in found if "tmp-" in name]
    other.close()
    store.close()


def test_a_folder_is_listed_while_its_versions_are_read(opened: Open) -> None:
    """More names than one system call returns."""
    store = opened()
    names = {f"folder/{number}-{'n' * 200}" for number in range(600)}
    for name in names:
        store.put(name, b"")
    store.flush()
    found = []
    for name, _, _ in store.iter_versions():
        found.append(name)
        if name in names and len(found) % 100 == 1:
            assert len(store.names("folder")) == len(names)
    assert sorted(name for name in found if name.startswith("folder/")) == sorted(names)
    store.close()


def test_what_is_no_regular_file_has_no_version(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "file").write_bytes(b"x")
    os.mkfifo(tmp_path / "fifo")
    store = DirectoryStore(tmp_path)
    found = {name: version for name, _, version in store.iter_versions()}
    store.close()
    assert found == {"link": None, "fifo": None, "file": version_of((tmp_path / "file").stat())}


def test_many_threads(opened: Open) -> None:
    store = opened()
    names = [f"folder{number % 70}/file{number}" for number in range(1_500)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: write(store, name, name.encode() * 3_000), names))
        found = pool.map(lambda name: store.names(name.partition("/")[0]), names)
        assert all(isinstance(each, list) for each in found)
    store.flush()
    contents = store.read_many(names, LIMIT)
    assert contents == {name: name.encode() * 3_000 for name in names}
    store.close()


def test_a_lock_can_be_taken_again_and_closing_twice_is_nothing(opened: Open) -> None:
    store = opened()
    for _ in range(2):
        with store.lock():
            assert store.is_alone()
    assert store.free_bytes() is None or store.free_bytes()
    assert store.shown("name").endswith("root/name")
    store.close()
    store.close()


# --- what a directory can hold and a bucket cannot -----------------------------------------------------------------


IN_THE_WAY: dict[str, Callable[[Path], object]] = {
    "link": lambda path: path.symlink_to("/etc/passwd"),
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "FIFO": lambda path: os.mkfifo(path),
    "socket": lambda path: os.mknod(path, 0o140644),
    "folder": lambda path: path.mkdir(),
    "device": lambda path: os.mknod(path, 0o020600, os.makedev(1, 3)),
}


@pytest.fixture(params=sorted(IN_THE_WAY))
def in_the_way(request: pytest.FixtureRequest) -> Callable[[Path], object]:
    return IN_THE_WAY[request.param]


def test_what_is_no_file_is_never_read_or_written_through(in_the_way: Callable[[Path], object], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    store = DirectoryStore(tmp_path)
    for name in ("file", "folder/file"):
        in_the_way(tmp_path / name)
        with pytest.raises(WrongKindError, match=f"{name}: a.* is there instead of a file"):
            store.read(name, LIMIT)
        with pytest.raises(WrongKindError):
            store.open(name)
        for alone in (False, True):
            with pytest.raises(WrongKindError):
                store.append_to(name, alone=alone)
        with pytest.raises(WrongKindError):
            store.foreign_owner(name)
        assert not store.is_growing(name)
        with pytest.raises(WrongKindError):
            store.update({name: b"x"})
        assert store.read_many([name], LIMIT) == {}
        assert "file" not in store.sizes(name.rpartition("/")[0])
    store.close()


def test_a_file_replaces_what_is_in_its_way_but_a_folder(in_the_way: Callable[[Path], object], tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    in_the_way(tmp_path / "file")
    was_folder = (tmp_path / "file").is_dir() and not (tmp_path / "file").is_symlink()
    store.put("file", b"content")
    if was_folder:
        with pytest.raises(WrongKindError, match="a folder is there instead of a file"):
            store.flush()
    else:
        store.flush()
        assert (tmp_path / "file").read_bytes() == b"content"
        assert not (tmp_path / "file").is_symlink()
    store.close()


@pytest.mark.parametrize("name", ["folder", "folder/inner"])
@pytest.mark.parametrize("kind", ["link", "file", "FIFO"])
def test_no_folder_is_reached_through_a_link(name: str, kind: str, tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    (root / name).parent.mkdir(parents=True)
    if kind == "link":
        (root / name).symlink_to(outside)
    elif kind == "file":
        (root / name).write_bytes(b"")
    else:
        os.mkfifo(root / name)
    store = DirectoryStore(root)
    for use in (
        lambda: store.names(name),
        lambda: store.sizes(name),
        lambda: store.put_now(f"{name}/file", b"x"),
        lambda: store.append_to(f"{name}/file"),
        lambda: store.remove([f"{name}/file"]),
        lambda: store.read(f"{name}/file", LIMIT),
        lambda: store.make_folder(name),
    ):
        with pytest.raises(WrongKindError, match=f"{name}: a.* is there instead of a folder"):
            use()
    store.put(f"{name}/file", b"x")
    with pytest.raises(WrongKindError):
        store.flush()
    store.close()
    assert os.listdir(outside) == []


@pytest.mark.parametrize("replacement", ["link", "other folder", "nothing"])
def test_a_folder_that_is_swapped_during_the_run(replacement: str, tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    store = DirectoryStore(root)
    store.put("a/b/one", b"1")
    store.flush()
    (root / "a/b").rename(root / "a/old")
    if replacement == "link":
        (root / "a/b").symlink_to(outside)
    elif replacement == "other folder":
        (root / "a/b").mkdir()
    store.put("a/b/two", b"2")
    with pytest.raises(TargetError, match="a/b: "):
        store.flush()
    store.close()
    assert os.listdir(outside) == []


def test_the_state_folder_is_never_a_link(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    (root / ".migrate").symlink_to(outside)
    store = DirectoryStore(root)
    with pytest.raises(WrongKindError, match=r"\.migrate: a symbolic link"):
        store.put("file", b"x")
    with pytest.raises(WrongKindError), store.lock():
        pass
    store.close()
    assert os.listdir(outside) == []


def test_a_lock_that_is_no_file(in_the_way: Callable[[Path], object], tmp_path: Path) -> None:
    (tmp_path / ".migrate").mkdir()
    in_the_way(tmp_path / ".migrate" / "lock")
    store = DirectoryStore(tmp_path)
    with pytest.raises(WrongKindError), store.lock():
        pass
    store.close()


def test_folders_of_another_user_are_refused_where_it_matters(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.chown(tmp_path / "folder", 12_345, 12_345)
    DirectoryStore(tmp_path).names("folder")
    store = DirectoryStore(tmp_path, owner=os.geteuid())
    with pytest.raises(TargetError, match="folder: belongs to user 12345"):
        store.names("folder")
    store.close()
