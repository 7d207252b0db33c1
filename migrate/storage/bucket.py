"""A tree in a bucket, through fsspec; and the choice between bucket and directory."""

from __future__ import annotations

import io
import os
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Final, NoReturn

from migrate.blobio.stream import ByteStream
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
from migrate.storage.tree import Facts, OpenedFile, Tree, TreeEntry, entries_of

_READ_BLOCK: Final = 8 * 1024 * 1024
_KEPT_BYTES: Final = 64 * 1024 * 1024
"""All small objects that are kept in memory, together."""
_BATCH: Final = 256
"""Small objects held at once while they are fetched."""
_CONNECTIONS: Final = 16


def is_url(location: str) -> bool:
    """`s3://bucket/prefix` and the like; never a plain path, nor the transports of `docker://`."""
    scheme, separator, _ = location.partition("://")
    return bool(separator) and scheme.isalnum() and scheme != "docker"


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
    try:
        _forget_other_settings(fsspec.get_filesystem_class(location.partition("://")[0]))
        # Listings are read once by BucketTree and must not be older than the run.
        filesystem, prefix = fsspec.core.url_to_fs(location, use_listings_cache=False)
    except ImportError as exc:
        raise UsageError(f"{location}: {exc}") from exc
    except ValueError as exc:
        raise UsageError(f"{location}: {exc}") from exc
    except Exception as exc:  # drivers that connect at once, such as FTP's, raise what their libraries do
        raise SourceUnreadableError(f"{location}: cannot be opened: {exc}") from exc
    return filesystem, str(prefix).rstrip("/")


_settings: dict[type, dict[str, str]] = {}


def _forget_other_settings(driver: Any) -> None:
    """fsspec keeps one file system for each thread, with its connections: making one for S3 takes longer than to read
    a small archive. It was made with the endpoint and credentials of that time, so a program that has changed its
    environment since gets a new one."""
    settings = dict(os.environ)
    if _settings.setdefault(driver, settings) != settings:
        _settings[driver] = settings
        driver.clear_instance_cache()


class BucketTree(Tree):
    """Reads through fsspec. The names below the prefix are listed once, when first needed, with their sizes.

    Every entry has owner 0, time 0 and plain permissions: a bucket records none.
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
            if size <= _READ_BLOCK:  # one request instead of two
                stream: Any = io.BytesIO(self._fs.cat_file(self._key(path)))
            else:
                stream = self._fs.open(self._key(path), "rb", block_size=_READ_BLOCK, cache_type="readahead")
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
        self._keep(fetched)
        return contents | fetched

    def close(self) -> None:
        self._names = None
        self._kept, self._kept_bytes = {}, 0

    def sizes(self) -> dict[bytes, int]:
        """Path and size of every object below the prefix."""
        return dict(self._index().sizes)

    def fetch(self, paths: Sequence[bytes]) -> dict[bytes, bytes | SourceError]:
        """Small objects, whose sizes are known to be small."""
        contents: dict[bytes, bytes | SourceError] = {}
        for start in range(0, len(paths), _BATCH):
            contents |= self._fetch(paths[start : start + _BATCH])
        return contents

    def _keep(self, fetched: Mapping[bytes, bytes | SourceError]) -> None:
        """Documents are wanted twice, for the listing and for the layer; a request costs more than their memory."""
        for path, content in fetched.items():
            if isinstance(content, bytes) and self._kept_bytes + len(content) <= _KEPT_BYTES:
                self._kept[path] = content
                self._kept_bytes += len(content)

    def _fetch(self, paths: Sequence[bytes]) -> Mapping[bytes, bytes | SourceError]:
        from concurrent.futures import ThreadPoolExecutor  # whoever has no bucket needs not wait for its import

        # not fsspec's own `cat` of many: it looks first whether each object is there
        with ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="objects") as pool:
            return dict(zip(paths, pool.map(self._fetch_one, paths), strict=True))

    def _fetch_one(self, path: bytes) -> bytes | SourceError:
        try:
            return bytes(self._fs.cat_file(self._key(path)))
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
    """The objects of a bucket by path, and the folders that follow from their names."""

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
    """An fsspec file whose errors are ours; closing it closes that file."""

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
    return SourceError(f"{where}: {type(exc).__name__}: {exc}")
