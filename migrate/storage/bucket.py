"""A tree in a bucket, through fsspec; `open_tree` opens a bucket or a directory."""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, BinaryIO, Final, NoReturn, cast

from migrate.blobio.several import in_threads
from migrate.blobio.stream import ByteStream, SeekableStream
from migrate.errors import (
    DamagedError,
    LimitError,
    MissingLayerError,
    PermissionSourceError,
    SourceError,
    SourceUnreadableError,
    UsageError,
)
from migrate.storage.directory_tree import DirectoryTree
from migrate.storage.ranges import RANGE_BYTES, RangeStream
from migrate.storage.store import is_url
from migrate.storage.tree import Facts, OpenedFile, Tree, TreeEntry, entries_of

_FIRST_BYTES: Final = 1024 * 1024
"""An object up to this size is read with one request."""
_KEPT_BYTES: Final = 64 * 1024 * 1024
"""Limit of the bytes of all small objects that are kept in memory."""
_BATCH: Final = 256
"""Number of small objects that are fetched at once, and held in memory meanwhile."""
_CONNECTIONS: Final = 16


def open_tree(location: str) -> Tree:
    """The tree at a path or URL. Raises UsageError if fsspec, or what it needs for the URL, is not installed."""
    if not is_url(location):
        return DirectoryTree(location)
    if location.startswith("file://"):
        return DirectoryTree(location.removeprefix("file://"))
    return BucketTree(*open_filesystem(location), location)


def open_filesystem(location: str) -> tuple[Any, str]:
    """An fsspec file system and the path in it; fsspec takes endpoint and credentials from the environment."""
    try:
        import fsspec
    except ImportError as exc:
        raise UsageError(f"{location}: needs fsspec: pip install 'docker-legacy-migrate[s3]'") from exc
    scheme, _, place = location.partition("://")
    try:
        driver = fsspec.get_filesystem_class(scheme)
        _forget_other_settings(driver)
        store = scheme, place.partition("/")[0], os.getpid()
        with _lock:
            shared = _shared.get(store)
        if shared is not None:
            return shared, str(shared._strip_protocol(location)).rstrip("/")
        # Without fsspec's cache of listings: a listing must not be older than the run. BucketTree keeps its own.
        filesystem, prefix = fsspec.core.url_to_fs(location, use_listings_cache=False)
    except ImportError as exc:
        raise UsageError(f"{location}: {exc}") from exc
    except ValueError as exc:
        raise UsageError(f"{location}: {exc}") from exc
    except Exception as exc:  # drivers that connect here, such as FTP's, raise the errors of their libraries
        raise SourceUnreadableError(f"{location}: cannot be opened: {exc}") from exc
    if _gives_ranges(filesystem):
        with _lock:
            _shared[store] = filesystem
    return filesystem, str(prefix).rstrip("/")


_lock = threading.Lock()
_shared: dict[tuple[str, str, int], Any] = {}
"""(scheme, bucket, process) → a file system that all threads share. fsspec itself makes one for each thread, and one
for S3 takes 10 MB, and longer than reading a small archive."""
_settings: dict[type, dict[str, str]] = {}


def _forget_other_settings(driver: Any) -> None:
    """Drops the file systems of a driver if the environment has changed since they were made: endpoint and credentials
    are read from it."""
    settings = dict(os.environ)
    with _lock:
        if _settings.setdefault(driver, settings) != settings:
            _settings[driver] = settings
            _shared.clear()
            driver.clear_instance_cache()


def open_object(filesystem: Any, key: str, size: int) -> BinaryIO:
    """Opens an object whose size is known. The call and the stream raise any error of the file system's driver."""
    if size <= RANGE_BYTES:  # with a range: without, newer drivers send another request for the size
        return io.BytesIO(_cat(filesystem, key, 0, size) if size else b"")
    if _gives_ranges(filesystem):
        return RangeStream(lambda start, end: _cat(filesystem, key, start, end), size).as_binary()
    with _turn(filesystem):
        stream = cast(BinaryIO, filesystem.open(key, "rb", block_size=RANGE_BYTES, cache_type="readahead"))
    return _StreamInTurn(filesystem, stream, size).as_binary()


def bring_object(location: str, spool: BinaryIO) -> bool:
    """Writes the object at a URL into `spool`, an empty file without a buffer. False if there is no such object (but
    perhaps a folder). Raises UsageError and SourceUnreadableError, and OSError if the disk of the file is full."""
    filesystem, key = open_filesystem(location)
    try:
        return _bring(filesystem, key, spool)
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _not_brought(location, exc) from exc
    except Exception as exc:
        raise _not_brought(location, exc) from exc


def _bring(filesystem: Any, key: str, spool: BinaryIO) -> bool:
    if not _gives_ranges(filesystem):
        if filesystem.isfile(key):
            filesystem.get_file(key, spool.name)
            return True
        return False
    try:
        first = _cat(filesystem, key, 0, _FIRST_BYTES)
    except FileNotFoundError:
        return False
    except Exception:  # noqa: BLE001 - some refuse a range of an empty object; another error comes again below
        first = None
    # Most archives of tests and small images end here, with one request and without asking for the size.
    if first is not None and len(first) < _FIRST_BYTES:
        _write(spool, first)
        return True
    try:
        before = filesystem.info(key)
    except FileNotFoundError:
        return False
    if before.get("type", "file") != "file":
        return False
    with open_object(filesystem, key, int(before["size"] or 0)) as stream:
        while block := stream.read(RANGE_BYTES):
            _write(spool, block)
    # The ranges of an object are separate requests. If it was replaced meanwhile, they belong to two objects.
    if _version(filesystem.info(key)) != _version(before):
        raise OSError("it was replaced while it was read")
    return True


def _write(spool: BinaryIO, block: bytes) -> None:
    """Writes all of `block`. One write to a file without a buffer may write a part of it."""
    view = memoryview(block)
    while len(view):
        view = view[spool.write(view) :]


def _version(facts: Mapping[str, Any]) -> tuple[object, ...]:
    return tuple(facts.get(name) for name in ("size", "ETag", "etag", "LastModified", "mtime", "generation"))


def _not_brought(location: str, exc: Exception) -> SourceUnreadableError:
    return SourceUnreadableError(f"{location}: cannot be brought here: {_in_words(exc)}")


def _gives_ranges(filesystem: Any) -> bool:
    """True for drivers that can send several requests at once. Not for web servers, which may ignore the range and send
    the whole file each time."""
    return bool(getattr(filesystem, "async_impl", False)) and "http" not in filesystem.protocol


def _cat(filesystem: Any, key: str, start: int, end: int) -> bytes:
    with _turn(filesystem):
        return bytes(filesystem.cat_file(key, start=start, end=end))


_one_reader = threading.Lock()


def _turn(filesystem: Any) -> AbstractContextManager[object]:
    """Held while a driver reads, if it is not made for threads: all of them share one connection, as with FTP, or one
    position in each object, as in memory."""
    return nullcontext() if getattr(filesystem, "async_impl", False) else _one_reader


class _StreamInTurn(SeekableStream):
    """An fsspec file with a position of its own. Closing it closes that file."""

    def __init__(self, filesystem: Any, source: BinaryIO, size: int) -> None:
        super().__init__(size)
        self._filesystem = filesystem
        self._source = source

    def read_block(self, limit: int, /) -> bytes:
        with _turn(self._filesystem):
            if self._source.tell() != self._position:
                self._source.seek(self._position)
            block = self._source.read(limit)
        self._position += len(block)
        return block

    def close(self) -> None:
        if not self.closed:
            with _turn(self._filesystem):
                self._source.close()
        super().close()


class BucketTree(Tree):
    """Reads through fsspec. The names below the prefix are listed once, when first needed, with their sizes.

    Every entry has owner 0, time 0 and default permissions, since a bucket records none.
    """

    is_remote = True
    keeps_attributes = False

    def __init__(self, filesystem: Any, prefix: str, location: str) -> None:
        self._fs = filesystem
        self._prefix = prefix
        self.location = location
        self._names: _Names | None = None
        self._lock = threading.Lock()
        self._kept: dict[bytes, bytes] = {}
        self._kept_bytes = 0

    # --- Tree ----------------------------------------------------------------------------------------------------

    def stat(self, path: bytes, /) -> TreeEntry:
        if not path:
            return TreeEntry(b"", *_facts(stat.S_IFDIR | 0o755, 0, 0))
        folder, _, name = path.rpartition(b"/")
        facts = self._index().folders.get(folder, {}).get(name)
        if facts is None:
            raise MissingLayerError(f"{self.shown(path)}: no such object")
        return TreeEntry(path, *facts)

    def entries(self, path: bytes, /) -> Sequence[TreeEntry]:
        return entries_of(path, self.list_facts(path))

    def list_facts(self, path: bytes, /) -> Mapping[bytes, Facts]:
        found = self._index().folders.get(path)
        if found is None:
            raise MissingLayerError(f"{self.shown(path)}: no such folder")
        return found

    def read_link(self, path: bytes, /) -> bytes:
        raise DamagedError(f"{self.shown(self.stat(path).path)}: is no symbolic link")

    def xattrs(self, path: bytes, /) -> Mapping[bytes, bytes]:
        self.stat(path)
        return {}

    def open(self, path: bytes, /) -> BinaryIO:
        size = self._file_size(path)
        try:
            stream = open_object(self._fs, self._key(path), size)
        except Exception as exc:  # noqa: BLE001 - each fsspec file system has errors of its own
            self._fail(exc, path)
        return _ObjectStream(stream, self.shown(path)).as_binary()

    # --- what a bucket does better -------------------------------------------------------------------------------

    @contextmanager
    def opened(self, path: bytes, /) -> Iterator[OpenedFile]:
        with self.open(path) as stream:
            yield OpenedFile(stream, self._file_size(path))

    def read(self, path: bytes, limit: int, /) -> bytes:
        self._file_size(path)
        content = self.read_many([path], limit)[path]
        if isinstance(content, SourceError):
            raise content
        return content

    def read_many(self, paths: Sequence[bytes], limit: int, /) -> dict[bytes, bytes | SourceError]:
        sizes = self._index().sizes
        contents: dict[bytes, bytes | SourceError] = {}
        wanted = []
        for path in paths:
            size = sizes.get(path)
            if size is not None and size > limit:
                contents[path] = LimitError(f"{self.shown(path)}: larger than the limit of {limit:,} bytes")
            elif path in self._kept:
                contents[path] = self._kept[path]
            elif size is not None:
                wanted.append(path)
        fetched = self.fetch(wanted)
        # Documents are kept in memory: they are read twice, for the listing and for the layer.
        for path, content in fetched.items():
            if isinstance(content, bytes) and self._kept_bytes + len(content) <= _KEPT_BYTES:
                self._kept[path] = content
                self._kept_bytes += len(content)
        return contents | fetched

    def close(self) -> None:
        self._names = None
        self._kept, self._kept_bytes = {}, 0

    def sizes(self) -> dict[bytes, int]:
        """Path and size of every object below the prefix."""
        return dict(self._index().sizes)

    def fetch(self, paths: Sequence[bytes]) -> dict[bytes, bytes | SourceError]:
        """The content, or the error, of objects that the caller knows to be small."""
        contents: dict[bytes, bytes | SourceError] = {}
        for start in range(0, len(paths), _BATCH):
            batch = paths[start : start + _BATCH]
            # Not fsspec's own `cat` of many objects: it first sends a request for each, to find out whether it exists.
            contents.update(zip(batch, in_threads(self._fetch_one, batch, _CONNECTIONS, "objects"), strict=True))
        return contents

    def _fetch_one(self, path: bytes) -> bytes | SourceError:
        try:
            size = self._index().sizes[path]
            return _cat(self._fs, self._key(path), 0, size) if size else b""
        except Exception as exc:  # noqa: BLE001 - each fsspec file system has errors of its own
            return _translated(exc, self.shown(path))

    def _file_size(self, path: bytes) -> int:
        size = self._index().sizes.get(path)
        if size is None:
            self.stat(path)
            raise DamagedError(f"{self.shown(path)}: is a folder and no file")
        return size

    def _index(self) -> _Names:
        with self._lock:
            if self._names is None:
                try:
                    found = self._fs.find(self._prefix, detail=True)
                except Exception as exc:  # noqa: BLE001 - each fsspec file system has errors of its own
                    self._fail(exc, b"")
                self._names = _Names(
                    {
                        key[len(self._prefix) :].lstrip("/").encode("utf-8", "surrogateescape"): int(item["size"] or 0)
                        for key, item in found.items()
                        if item.get("type", "file") == "file"
                    }
                )
            return self._names

    def _key(self, path: bytes) -> str:
        return f"{self._prefix}/{path.decode('utf-8', 'surrogateescape')}"

    def _fail(self, exc: Exception, path: bytes) -> NoReturn:
        raise _translated(exc, self.shown(path)) from exc


class _Names:
    """The objects of a bucket by path, and the folders in their names. A bucket has no folders of its own."""

    def __init__(self, sizes: dict[bytes, int]) -> None:
        self.sizes = sizes
        self.folders: dict[bytes, dict[bytes, Facts]] = {b"": {}}
        for number, (path, size) in enumerate(sizes.items(), 1):
            place, facts = path, _facts(stat.S_IFREG | 0o644, size, 2 * number)
            while place:
                parent, _, name = place.rpartition(b"/")
                names = self.folders.setdefault(parent, {})
                if name in names and not stat.S_ISREG(facts[0]):
                    break
                names[name] = facts
                place, facts = parent, _facts(stat.S_IFDIR | 0o755, 0, 2 * number + 1)


def _facts(mode: int, size: int, number: int) -> Facts:
    return (mode, 0, 0, size, 0, 0, 0, number, 1)


class _ObjectStream(ByteStream):
    """An fsspec file whose errors are translated to SourceError. Closing it closes that file."""

    def __init__(self, source: BinaryIO, what: str) -> None:
        self._source = source
        self._what = what

    def read_block(self, limit: int, /) -> bytes:
        try:
            return self._source.read(limit)
        except Exception as exc:
            raise _translated(exc, self._what) from exc

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._source.seek(offset, whence)

    def tell(self) -> int:
        return self._source.tell()

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()


def _translated(exc: BaseException, where: str) -> SourceError:
    if isinstance(exc, FileNotFoundError):
        return MissingLayerError(f"{where}: no such object")
    if isinstance(exc, PermissionError):
        return PermissionSourceError(f"{where}: access denied: {exc}")
    return SourceError(f"{where}: {_in_words(exc)}")


_HTTP_ERRORS: Final = {
    "TooManyRedirects": "the server redirects without an end",
    "ServerDisconnectedError": "the server closed the connection",
    "ClientPayloadError": "the connection ended before all bytes had come",
}
"""aiohttp's errors, whose own texts have Python names and the URL again, perhaps with a signature in it."""


def _in_words(exc: BaseException) -> str:
    if (words := _HTTP_ERRORS.get(type(exc).__name__)) is not None:
        return words
    status = getattr(exc, "status", None)
    if isinstance(status, int) and status:
        reason = getattr(exc, "message", "")
        return f"the server answered {status}{f' ({reason})' if reason else ''}"
    return f"{type(exc).__name__}: {exc}"
