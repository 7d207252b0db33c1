"""Files of a tree by names that are fixed by a format, such as a registry's storage.

Names are text. A symbolic link is followed if it stays below the root. Anything but a file or a folder counts as
absent.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from operator import attrgetter
from typing import Final

from msgspec import Struct

from migrate.errors import DamagedError, MissingLayerError, SourceError, SourceUnreadableError
from migrate.storage.tree import OpenedFile, Tree, TreeEntry

_KNOWN_FOLDERS: Final = 200_000


class Entry(Struct, frozen=True, order=True):
    """One name in a folder. A link that cannot be followed counts as a folder, so that opening it gives the error."""

    name: str
    is_folder: bool


class MissingFileError(MissingLayerError):
    """The tree has no such file."""

    code = "missing-file"


class NamedFiles:
    """Named files below a root. May be used from several threads. Every method raises SourceError."""

    is_remote: bool
    sizes_are_certain = True
    """False if a size is only a statement of a server, and the content may have another size."""

    def __init__(self, tree: Tree) -> None:
        self.location = tree.location
        self.is_remote = tree.is_remote
        self._tree = tree
        self._folders: dict[str, bytes | None] = {"": b""}

    def entries(self, folder: str, /) -> list[Entry]:
        """The names in `folder`, sorted; none if it is absent."""
        real = self._folder(folder.strip("/"))
        if real is None:
            return []
        try:
            found = self._tree.list_kinds(real)
        except MissingLayerError:
            return []
        prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
        entries = []
        for raw, kind in found.items():
            name = os.fsdecode(raw)
            is_folder = kind == stat.S_IFDIR
            if is_folder and len(self._folders) < _KNOWN_FOLDERS:
                self._folders[prefix + name] = real + b"/" + raw if real else raw
            elif kind == stat.S_IFLNK:
                try:
                    target = self._resolve(os.fsdecode(real + b"/" + raw if real else raw))
                    is_folder = target is not None and self._tree.is_folder(target)
                except SourceError:
                    is_folder = True  # opening it gives the error
            entries.append(Entry(name, is_folder))
        return sorted(entries, key=attrgetter("name"))

    def size(self, path: str, /) -> int | None:
        """Bytes of the file; None if there is no such file."""
        _, entry = self._find(path)
        return entry.size if entry is not None and entry.is_file else None

    def read(self, path: str, limit: int, /) -> bytes | None:
        """The whole file, None if it is absent; LimitError if it is larger than `limit` bytes."""
        content = self.read_many([path], limit).get(path)
        if isinstance(content, SourceError):
            raise content
        return content

    def read_many(self, paths: Sequence[str], limit: int, /) -> dict[str, bytes | SourceError]:
        """Many small files at once; absent ones are left out, each failure is in the place of its content."""
        contents: dict[str, bytes | SourceError] = {}
        candidates: dict[bytes, str] = {}
        for path in paths:
            try:
                real = self._candidate(path)
            except SourceError as exc:
                contents[path] = exc
            else:
                if real is not None:
                    candidates[real] = path
        for real, content in self._tree.read_many(list(candidates), limit).items():
            contents[candidates[real]] = content
        # A tree follows no links: for a link it gives a DamagedError. These few are resolved, and read one by one.
        links = [path for path, content in contents.items() if isinstance(content, DamagedError)]
        for path in links:
            del contents[path]
            try:
                found = self._resolve(path)
                if found is not None and (entry := self._tree.find(found)) is not None and entry.is_file:
                    contents[path] = self._tree.read(found, limit)
            except SourceError as exc:
                contents[path] = exc
        return contents

    @contextmanager
    def open(self, path: str, /) -> Iterator[OpenedFile]:
        """The file as a stream. MissingFileError if it is absent."""
        real, entry = self._find(path)
        if real is None or entry is None:
            raise MissingFileError(f"{self._shown(path)}: no such file")
        if not entry.is_file:
            raise MissingFileError(f"{self._shown(path)}: not a regular file")
        with self._tree.opened(real) as opened:
            yield opened

    def close(self) -> None:
        self._folders = {"": b""}
        self._tree.close()

    # --- links ---------------------------------------------------------------------------------------------------

    def _find(self, path: str) -> tuple[bytes | None, TreeEntry | None]:
        """(the real path of `path`, its entry). If the folder is known, this needs one lookup. Only links and names
        such as `..` are resolved from the root."""
        real = self._candidate(path)
        entry = None if real is None else self._tree.find(real)
        if real is not None and entry is not None and entry.is_link:
            real = self._resolve(os.fsdecode(real))
            entry = None if real is None else self._tree.find(real)
        return real, entry

    def _candidate(self, path: str) -> bytes | None:
        """The path of the file with the links of its folder resolved, and that of its own name not; None if the folder
        is absent."""
        folder, _, name = path.rpartition("/")
        if name in ("", ".", ".."):
            return self._resolve(path)
        real = self._folder(folder)
        return None if real is None else (real + b"/" + os.fsencode(name) if real else os.fsencode(name))

    def _folder(self, folder: str) -> bytes | None:
        """The real path of a folder; None if it is absent. DamagedError if a link leads out of the root."""
        known = self._folders  # another thread may put an empty table in its place
        if folder in known:
            return known[folder]
        if len(known) >= _KNOWN_FOLDERS:
            self._folders = {"": b""}
        real, entry = self._find(folder)
        found = self._folders[folder] = real if entry is not None and entry.is_folder else None
        return found

    def _resolve(self, path: str) -> bytes | None:
        """The real path; None if a part of it is absent."""

        def below(target: bytes) -> bytes:
            # An absolute link is accepted if it leads to a place below the root. The folder above the root is not part
            # of the source, and is another one on this machine than on that where the link was made.
            if self._root is None or not (target + b"/").startswith(self._root.rstrip(b"/") + b"/"):
                shown = os.fsdecode(target)
                raise DamagedError(f"{self._shown(path)}: a symbolic link leads out of the tree, to {shown}")
            return target[len(self._root) :]

        try:
            return self._tree.resolve(os.fsencode(path), below)
        except MissingLayerError:
            return None

    @cached_property
    def _root(self) -> bytes | None:
        """The real path of the root on this machine, None if it has none. Computed when it is needed, since it reads
        all folders above, and a search opens many roots."""
        root = self._tree.local_path(b"")
        return None if root is None else os.fsencode(os.path.realpath(root))

    def _shown(self, path: str) -> str:
        return f"{self.location.rstrip('/')}/{path}"


def require_readable(files: NamedFiles) -> None:
    """Raises SourceUnreadableError if the root itself cannot be listed."""
    try:
        if not files.entries(""):
            raise SourceUnreadableError(f"{files.location}: there is nothing in it, or it does not exist")
    except SourceUnreadableError:
        raise
    except SourceError as exc:
        raise SourceUnreadableError(exc.message) from exc
