"""A store in a bucket, through fsspec.

An object appears whole or not at all, and is durable when its upload is acknowledged, so any number of workers may
write at once. If the bucket has conditional writes, a file that must not be replaced is only created, and `replace`
fails if another program has replaced the file meanwhile.
"""

from __future__ import annotations

import io
import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any, BinaryIO, ClassVar, Final, cast

from migrate.blobio.limits import SMALL_FILE_BYTES
from migrate.blobio.several import in_threads
from migrate.errors import SourceUnreadableError, TargetError
from migrate.storage.bucket import open_filesystem, open_object
from migrate.storage.store import NewFile, Store
from migrate.storage.syscalls import target_errors

_AT_ONCE: Final = 256
"""Number of small objects that are held in memory, to be written together."""
_WAITING_BYTES: Final = 16 * 1024 * 1024
"""Bytes of all small objects that are held in memory."""
_CONNECTIONS: Final = 16
_PART_BYTES: Final = 16 * 1024 * 1024
_PARTS: Final = 10_000
"""S3 accepts no more parts in one upload."""
_PARTS_AT_ONCE: Final = 3
_REMOVED_AT_ONCE: Final = 1_000
_MOST_PIECES: Final = 16
_PIECE_BYTES: Final = 256 * 1024 * 1024
"""Larger pieces of a record are not joined with others."""
_MOST_OWN: Final = 10_000
"""Limit of the remembered names of objects that this run has written. They are needed after a run that could read no
source, which writes only a few."""
_TEMPORARY: Final = "a temporary file"


class BucketStore(Store):
    reads_cost: ClassVar[bool] = True

    def __init__(self, location: str) -> None:
        """Raises UsageError where fsspec, or its driver for the URL, is not installed."""
        self.location = location.rstrip("/")
        try:
            self._fs, self._prefix = open_filesystem(location)
        except SourceUnreadableError as exc:
            raise TargetError(exc.message) from exc
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._unwritten: dict[str, bytes] = {}
        self._new: dict[str, bytes] = {}
        """Objects that are created only if they do not exist. They are written before the others."""
        self._waiting_bytes = 0
        self._own: set[str] = set()

    # --- reading -------------------------------------------------------------------------------------------------

    def open(self, name: str, /) -> BinaryIO | None:
        with self._lock:
            content = self._new.get(name)
        if content is not None:
            # The file is still in memory, to be written together with others.
            return io.BytesIO(content)
        try:
            facts = self._fs.info(self._key(name))
            if facts.get("type", "file") != "file":
                return None
            stream = open_object(self._fs, self._key(name), int(facts["size"] or 0))
        except FileNotFoundError:
            return None
        except Exception as exc:
            raise self._error(name, exc) from exc
        return stream if isinstance(stream, io.BytesIO) else cast(BinaryIO, _ObjectReader(stream))

    def read(self, name: str, limit: int, /) -> bytes | None:
        if name in self._new:
            return super().read(name, limit)
        try:
            content = bytes(self._fs.cat_file(self._key(name), start=0, end=limit + 1))
        except FileNotFoundError:
            return None
        except Exception:  # noqa: BLE001 - some refuse a range of an empty object
            return super().read(name, limit)
        return self.within(name, content, limit)

    def read_many(self, names: Sequence[str], limit: int, /) -> dict[str, bytes]:
        def read(name: str) -> bytes | None:
            try:
                return self.read(name, limit)
            except TargetError:
                return None

        found = dict(zip(names, in_threads(read, names, _CONNECTIONS, "objects"), strict=True))
        return {name: content for name, content in found.items() if content is not None}

    def names(self, folder: str = "", /) -> list[str]:
        return sorted({self._last(key) for key, _ in self._listing(folder)} - {""})

    def sizes(self, folder: str, /) -> dict[str, int]:
        return {
            self._last(key): int(facts["size"] or 0)
            for key, facts in self._listing(folder)
            if facts.get("type", "file") == "file" and self._last(key)
        }

    def version(self, name: str, /) -> str | None:
        try:
            facts = self._fs.info(self._key(name))
        except FileNotFoundError:
            return None
        except Exception as exc:
            raise self._error(name, exc) from exc
        tag = facts.get("ETag")
        return str(tag) if tag else None

    def versions(self, folder: str, /) -> dict[str, tuple[int, str]]:
        return {
            name: (int(facts["size"] or 0), str(facts["ETag"]))
            for name, facts in self._find(self._key(folder)).items()
            if facts.get("ETag")
        }

    def iter_versions(self) -> Iterator[tuple[str, int, str | None]]:
        for name, facts in self._find(self._prefix).items():
            tag = facts.get("ETag")
            yield name, int(facts["size"] or 0), str(tag) if tag else None

    def _find(self, top: str) -> dict[str, Mapping[str, Any]]:
        """All objects whose keys begin with `top`, by their names in the store."""
        try:
            found = self._fs.find(top, detail=True)
        except FileNotFoundError:
            return {}
        except Exception as exc:
            raise self._error("", exc) from exc
        prefix = f"{self._prefix.strip('/')}/"
        return {str(key).lstrip("/").removeprefix(prefix): facts for key, facts in found.items()}

    def _listing(self, folder: str) -> list[tuple[str, Mapping[str, Any]]]:
        top = self._key(folder) if folder else self._prefix
        try:
            found = self._fs.ls(top, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except Exception as exc:
            raise self._error(folder, exc) from exc
        listed = [(str(facts["name"]).rstrip("/"), facts) for facts in found]
        # Some tools write an empty object with the name of the folder, as a marker.
        return [(key, facts) for key, facts in listed if key.lstrip("/") != top.strip("/")]

    # --- writing -------------------------------------------------------------------------------------------------

    def new_file(self) -> _SpooledFile:
        return _SpooledFile(self._upload, self._put_small)

    def put(self, name: str, content: bytes, /) -> None:
        with self._lock:
            self._unwritten.pop(name, None)
            full = self._wait(self._unwritten, name, content)
        if full:
            self.flush()

    def _put_small(self, name: str, content: bytes) -> None:
        with self._lock:
            full = self._wait(self._new, name, content)
        if full:
            self.flush()

    def _wait(self, waiting: dict[str, bytes], name: str, content: bytes) -> bool:
        """Adds an object; True if it is time to write. The caller holds `_lock` from before it has looked for
        `waiting`: a dict that `flush` has taken is written already, and what comes into it is lost."""
        waiting.setdefault(name, content)
        self._waiting_bytes += len(content)
        return len(waiting) >= _AT_ONCE or self._waiting_bytes >= _WAITING_BYTES

    def put_new(self, name: str, content: bytes, /) -> None:
        try:
            # A conditional write (`If-None-Match: *`), for which no request is needed to find out whether the object
            # exists.
            self._fs.pipe_file(self._key(name), content, mode="create")
            self._note_own([name])
        except FileExistsError:
            return
        except Exception as exc:  # noqa: BLE001 - each fsspec file system has errors of its own
            if not _is_precondition(exc):
                # A bucket without conditional writes refuses the condition: written without it.
                self.put_now(name, content)

    def put_now(self, name: str, content: bytes, /) -> None:
        try:
            self._fs.pipe_file(self._key(name), content)
        except Exception as exc:
            raise self._error(name, exc) from exc
        self._note_own([name])

    def _note_own(self, names: Iterable[str]) -> None:
        with self._lock:
            if len(self._own) < _MOST_OWN:
                self._own.update(names)

    def flush(self) -> None:
        with self._flushing:  # on return, what another thread had begun to write is written, too
            self._flush()

    def _flush(self) -> None:
        with self._lock:
            new, self._new = self._new, {}
            unwritten, self._unwritten = self._unwritten, {}
            self._waiting_bytes = 0
        if new:
            # Each of these files needs a conditional request of its own, so threads send several at once.
            in_threads(lambda name: self.put_new(name, new[name]), new, _CONNECTIONS, "objects")
        if not unwritten:
            return
        try:
            self._fs.pipe({self._key(name): content for name, content in unwritten.items()})
        except Exception as exc:
            raise self._error(next(iter(unwritten)), exc) from exc
        self._note_own(unwritten)

    def remove(self, names: Iterable[str], /) -> None:
        wanted = list(names)
        for start in range(0, len(wanted), _REMOVED_AT_ONCE):
            keys = [self._key(name) for name in wanted[start : start + _REMOVED_AT_ONCE]]
            try:
                self._fs.rm(keys)
            except FileNotFoundError:
                self._remove_each(keys)
            except Exception as exc:
                raise self._error(wanted[start], exc) from exc

    def _remove_each(self, keys: Iterable[str]) -> None:
        """Removes the objects one by one. If one of several is absent, the request for all of them removes none."""
        for key in keys:
            try:
                self._fs.rm_file(key)
            except FileNotFoundError:
                continue
            except Exception as exc:
                raise TargetError(f"{key}: {type(exc).__name__}: {exc}") from exc

    def replace(self, name: str, content: bytes, version: str | None = None, /) -> None:
        self.flush()
        if version is None:
            self.put_now(name, content)
            return
        try:
            self._fs.pipe_file(self._key(name), content, IfMatch=version)
        except Exception as exc:
            if _is_precondition(exc):
                raise TargetError(
                    f"{self.shown(name)}: another run has changed it meanwhile; run the same command again"
                ) from exc
            self.put_now(name, content)  # a bucket without conditional writes

    def replace_with(self, name: str, file: NewFile, version: str | None = None, /) -> None:
        assert isinstance(file, _SpooledFile)
        self.replace(name, file.content(), version)  # with a condition for the version, which no upload has

    def take_over(self, path: str, name: str, is_right: Callable[[BinaryIO], bool], /, *, hard: bool) -> bool:
        """Uploads the file itself, without a temporary copy."""
        del hard
        try:
            with open(path, "rb", buffering=0) as stream:
                if not is_right(cast(BinaryIO, stream)):
                    return False
        except OSError:
            return False
        self._upload(path, name, replace=True)
        return True

    def append_to(self, name: str, /, *, alone: bool = False) -> _Pieces:
        return _Pieces(self, name, is_ordered=alone)

    def read_record(self, name: str, limit: int, /, *, private: bool = False) -> bytes:
        del private  # a bucket's listing does not show who may write into it
        pieces = [f"{name}/{piece}" for piece in self.names(name)]
        content = b"".join(self.read_many(pieces, limit).values())
        return content if len(content) <= limit else b""

    def abandon(self, is_unused: Callable[[], bool], /) -> None:
        """Removes this run's objects only if there are no others: a bucket has no locks, so another object may be that
        of another run."""
        self.close()
        if is_unused() and self._find(self._prefix).keys() <= self._own:
            self.remove(self._own)

    def close(self) -> None:
        with self._lock:
            self._unwritten.clear()
            self._new.clear()

    def _upload(self, path: str, name: str, *, replace: bool) -> None:
        """Uploads a file of this machine."""
        parts: dict[str, int] = {}
        if "s3" in self._fs.protocol:  # with its defaults, s3fs holds 500 MB in memory
            size = os.path.getsize(path)
            parts = {"chunksize": max(_PART_BYTES, -(-size // _PARTS)), "max_concurrency": _PARTS_AT_ONCE}
        # An error other than a failed condition may mean that the bucket has no conditional writes. Then the file is
        # sent again without the condition, and only an error of this second upload is raised.
        if not replace:
            try:
                self._fs.put_file(path, self._key(name), mode="create", **parts)
                self._note_own([name])
                return
            except FileExistsError:
                return
            except Exception as exc:  # noqa: BLE001 - each fsspec file system has errors of its own
                if _is_precondition(exc):
                    return
        try:  # reached for buckets without conditional writes, too
            self._fs.put_file(path, self._key(name), **parts)
        except Exception as exc:
            raise self._error(name, exc) from exc
        self._note_own([name])

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    @staticmethod
    def _last(key: str) -> str:
        return key.rpartition("/")[2]

    def _error(self, name: str, exc: Exception) -> TargetError:
        return TargetError(f"{self.shown(name)}: {type(exc).__name__}: {exc}")


def _is_precondition(exc: BaseException) -> bool:
    """True for status 412: the condition of a conditional write is false (RFC 9110)."""
    seen: list[BaseException | None] = [exc, exc.__cause__, exc.__context__]
    return any("PreconditionFailed" in str(error) or "pre-conditions" in str(error) for error in seen if error)


class _ObjectReader(io.RawIOBase):
    """An fsspec file whose errors are translated to OSError."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        view = memoryview(buffer).cast("B")
        try:
            block = self._source.read(len(view))
        except OSError:
            raise
        except Exception as exc:
            raise OSError(f"{type(exc).__name__}: {exc}") from exc
        view[: len(block)] = block
        return len(block)

    def close(self) -> None:
        self._source.close()
        super().close()


class _Pieces:
    """A record: a folder with one object for each `sync`, since objects cannot grow. With `is_ordered` their names sort
    by time; otherwise many objects are joined to one."""

    def __init__(self, store: BucketStore, name: str, *, is_ordered: bool) -> None:
        self._store = store
        self._name = name
        self._blocks: list[bytes] = []
        self._number = len(store.names(name)) if is_ordered else None
        self._run = secrets.token_hex(4)

    def append(self, block: bytes, /) -> None:
        self._blocks.append(block)

    def sync(self) -> None:
        if not self._blocks:
            return
        if self._number is not None:
            self._store.put_now(f"{self._name}/{self._number + 1:09}-{self._run}", b"".join(self._blocks))
            self._number += 1
        else:
            before = [f"{self._name}/{piece}" for piece in self._store.names(self._name)]
            joined = self._store.read_many(before, _PIECE_BYTES) if len(before) >= _MOST_PIECES else {}
            self._store.put_now(f"{self._name}/{secrets.token_hex(8)}", b"".join([*joined.values(), *self._blocks]))
            # After the joined object is written: a run that is killed in between leaves lines twice, and none is lost.
            self._store.remove(joined)
        self._blocks = []

    def close(self) -> None:
        self.sync()


class _SpooledFile:
    """A file that is kept on this machine, in `TMPDIR`, until its name is known."""

    def __init__(self, upload: Callable[..., None], put_small: Callable[[str, bytes], None]) -> None:
        self._upload = upload
        self._put_small = put_small
        self._file: IO[bytes] | None = None
        self.size = 0

    def write(self, block: bytes | bytearray | memoryview, /) -> int:
        with target_errors(_TEMPORARY):
            view = memoryview(block)
            while len(view):
                view = view[self._opened().write(view) :]
        self.size += len(block)
        return len(block)

    def publish(self, name: str, /, *, replace: bool = True) -> None:
        if not replace and self.size <= SMALL_FILE_BYTES:
            self._put_small(name, self.content())
            return
        with target_errors(_TEMPORARY):
            file = self._opened()
        self._upload(file.name, name, replace=replace)

    def content(self) -> bytes:
        with target_errors(_TEMPORARY):
            file = self._opened()
            file.seek(0)
            return file.read()

    def _opened(self) -> IO[bytes]:
        if self._file is None:
            self._file = tempfile.NamedTemporaryFile(prefix="migrate-", buffering=0)  # noqa: SIM115
        return self._file

    def __enter__(self) -> _SpooledFile:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
