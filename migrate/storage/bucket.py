"""A registry's storage tree in a bucket, through fsspec; and the choice between bucket and directory."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NoReturn

from migrate.blobio.stream import ByteStream
from migrate.errors import LimitError, PermissionSourceError, SourceError, UsageError
from migrate.storage.local_tree import Entry, LocalTree, MissingFileError, OpenedFile, TreeStorage

if TYPE_CHECKING:
    from collections.abc import Mapping

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


def open_tree(location: str) -> TreeStorage:
    """The tree at a path or URL. Raises UsageError if fsspec, or what it needs for the URL, is not installed."""
    if not is_url(location):
        return LocalTree(location)
    if location.startswith("file://"):
        return LocalTree(location.removeprefix("file://"))
    filesystem, prefix = open_filesystem(location)
    return ObjectTree(filesystem, prefix, location)


def open_filesystem(location: str) -> tuple[Any, str]:
    """An fsspec file system and the path in it; fsspec takes endpoint and credentials from the environment."""
    try:
        import fsspec
    except ImportError as exc:
        raise UsageError(f"{location}: needs fsspec: pip install 'docker-legacy-migrate[s3]'") from exc
    try:
        # Listings are read once by ObjectTree and must not be older than the run.
        filesystem, prefix = fsspec.core.url_to_fs(location, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as exc:
        raise UsageError(f"{location}: {exc}") from exc
    except ValueError as exc:
        raise UsageError(f"{location}: {exc}") from exc
    return filesystem, str(prefix).rstrip("/")


class ObjectTree:
    """Reads through fsspec. The names below the prefix are listed once, when first needed, with their sizes."""

    def __init__(self, filesystem: Any, prefix: str, location: str) -> None:
        self._fs = filesystem
        self._prefix = prefix
        self.location = location
        self._sizes: dict[str, int] | None = None
        self._folders: dict[str, set[Entry]] = {}
        self._kept: dict[str, bytes] = {}
        self._kept_bytes = 0

    def entries(self, folder: str, /) -> list[Entry]:
        self._index()
        return sorted(self._folders.get(folder.strip("/"), ()))

    def size(self, path: str, /) -> int | None:
        return self._index().get(path)

    def read(self, path: str, limit: int, /) -> bytes | None:
        content = self.read_many([path], limit).get(path)
        if isinstance(content, SourceError):
            raise content
        return content

    def read_many(self, paths: Sequence[str], limit: int, /) -> dict[str, bytes | SourceError]:
        sizes = self._index()
        contents: dict[str, bytes | SourceError] = {}
        wanted = []
        for path in paths:
            size = sizes.get(path)
            if size is not None and size > limit:
                contents[path] = LimitError(f"{self._shown(path)}: larger than the limit of {limit:,} bytes")
            elif path in self._kept:
                contents[path] = self._kept[path]
            elif size is not None:
                wanted.append(path)
        fetched = self.fetch(wanted)
        self._keep(fetched)
        return contents | fetched

    @contextmanager
    def open(self, path: str, /) -> Iterator[OpenedFile]:
        size = self.size(path)
        if size is None:
            raise MissingFileError(f"{self._shown(path)}: no such object")
        try:
            if size <= _READ_BLOCK:  # one request instead of two
                stream: Any = io.BytesIO(self._fs.cat_file(self._key(path)))
            else:
                stream = self._fs.open(self._key(path), "rb", block_size=_READ_BLOCK, cache_type="readahead")
        except Exception as exc:  # noqa: BLE001 - each fsspec file system has errors of its own
            self._fail(exc, path)
        with stream:
            yield OpenedFile(_ObjectStream(stream, self._shown(path)).as_binary(), size)

    def close(self) -> None:
        self._sizes = None
        self._folders = {}
        self._kept, self._kept_bytes = {}, 0

    def sizes(self) -> dict[str, int]:
        """Path and size of every object below the prefix."""
        return dict(self._index())

    def fetch(self, paths: Sequence[str]) -> dict[str, bytes | SourceError]:
        """Small objects, whose sizes are known to be small."""
        contents: dict[str, bytes | SourceError] = {}
        for start in range(0, len(paths), _BATCH):
            contents |= self._fetch(paths[start : start + _BATCH])
        return contents

    def _keep(self, fetched: Mapping[str, bytes | SourceError]) -> None:
        """Documents are wanted twice, for the listing and for the layer; a request costs more than their memory."""
        for path, content in fetched.items():
            if isinstance(content, bytes) and self._kept_bytes + len(content) <= _KEPT_BYTES:
                self._kept[path] = content
                self._kept_bytes += len(content)

    def _fetch(self, paths: Sequence[str]) -> Mapping[str, bytes | SourceError]:
        # not fsspec's own `cat` of many: it asks for each object first whether it is there
        with ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="objects") as pool:
            return dict(zip(paths, pool.map(self._fetch_one, paths), strict=True))

    def _fetch_one(self, path: str) -> bytes | SourceError:
        try:
            return bytes(self._fs.cat_file(self._key(path)))
        except Exception as exc:  # noqa: BLE001 - each fsspec file system has errors of its own
            return _translated(exc, self._shown(path))

    def _index(self) -> dict[str, int]:
        if self._sizes is None:
            try:
                found = self._fs.find(self._prefix, detail=True)
            except Exception as exc:  # noqa: BLE001 - each fsspec file system has errors of its own
                self._fail(exc, "")
            self._sizes = {
                key[len(self._prefix) :].lstrip("/"): int(item["size"] or 0)
                for key, item in found.items()
                if item.get("type", "file") == "file"
            }
            self._folders = _folders_of(self._sizes)
        return self._sizes

    def _key(self, path: str) -> str:
        return f"{self._prefix}/{path}"

    def _shown(self, path: str) -> str:
        return f"{self.location.rstrip('/')}/{path}"

    def _fail(self, exc: Exception, path: str) -> NoReturn:
        raise _translated(exc, self._shown(path)) from exc


class _ObjectStream(ByteStream):
    """An fsspec file whose errors are ours."""

    def __init__(self, source: BinaryIO, what: str) -> None:
        self._source = source
        self._what = what

    def read_block(self, limit: int, /) -> bytes:
        try:
            return self._source.read(limit)
        except Exception as exc:
            raise _translated(exc, self._what) from exc


def _folders_of(paths: Iterator[str] | dict[str, int]) -> dict[str, set[Entry]]:
    folders: dict[str, set[Entry]] = {}
    for path in paths:
        is_folder = False
        while path:
            parent, _, name = path.rpartition("/")
            names = folders.setdefault(parent, set())
            entry = Entry(name, is_folder)
            if entry in names:
                break
            names.add(entry)
            path, is_folder = parent, True
    return folders


def _translated(exc: BaseException, where: str) -> SourceError:
    if isinstance(exc, FileNotFoundError):
        return MissingFileError(f"{where}: no such object")
    if isinstance(exc, PermissionError):
        return PermissionSourceError(f"{where}: access denied: {exc}")
    return SourceError(f"{where}: {type(exc).__name__}: {exc}")
