"""The graph of a Docker root: `graph/<id>/`, one directory for every layer and image, as Docker 0.1 to 1.9 wrote it.

moby 0.6 to 1.9, graph/graph.go and image/image.go; docs/formats/docker-root.md says which version wrote which file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from migrate.blobio.limits import JSON_BYTES, SMALL_FILE_BYTES, STATED_BYTES, parse_whole
from migrate.blobio.source_files import list_source, scan_source
from migrate.documents.v1_json import parse_parent
from migrate.errors import DamagedError, DocumentError, LimitError, MissingLayerError
from migrate.model.digest import Digest
from migrate.model.legacy import LegacyID, is_hex_id
from migrate.readers.regular_file import read_whole
from migrate.storage.directory_tree import translated

_SCRATCH = ("_tmp", ":tmp:", ":garbage:")
_MIGRATOR = (".migration-diffid", ".migration-size", ".migration-tardata")


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphContents:
    """`ids` are the directories with an ID for a name, sorted; `leftovers` every other name, sorted."""

    ids: tuple[LegacyID, ...]
    leftovers: tuple[str, ...]


class Graph:
    """Reads `graph/`, in which nothing is followed that is a symbolic link. Errors are SourceError."""

    def __init__(self, root: Path) -> None:
        self.path = root / "graph"

    @cached_property
    def contents(self) -> GraphContents:
        ids: list[LegacyID] = []
        leftovers: list[str] = []
        try:
            with scan_source(self.path) as entries:
                for entry in entries:
                    if is_hex_id(entry.name) and entry.is_dir(follow_symlinks=False):
                        ids.append(LegacyID(entry.name))
                    else:
                        leftovers.append(entry.name)
        except FileNotFoundError:
            return GraphContents(ids=(), leftovers=())
        except OSError as error:
            raise translated(error, str(self.path)) from error
        return GraphContents(ids=tuple(sorted(ids)), leftovers=tuple(sorted(leftovers)))

    @cached_property
    def _known(self) -> frozenset[LegacyID]:
        return frozenset(self.contents.ids)

    def holds_anything(self, name: str) -> bool:
        """False for an empty directory, such as Docker's `_tmp` after a clean stop."""
        try:
            return bool(list_source(self.path / name))
        except OSError:
            return True

    def __contains__(self, legacy_id: object) -> bool:
        return legacy_id in self._known

    def read_json(self, legacy_id: LegacyID) -> bytes:
        """The layer's `json`, verbatim. MissingLayerError if the graph has no such ID, DocumentError without `json`."""
        if legacy_id not in self:
            raise MissingLayerError(f"{self.path}: there is no {legacy_id}", layer=legacy_id)
        path = self.path / legacy_id / "json"
        try:
            return read_whole(path, JSON_BYTES)
        except MissingLayerError as error:
            raise DocumentError(f"{path}: this image has lost its JSON", layer=legacy_id) from error

    def read_parent(self, legacy_id: LegacyID, raw: bytes) -> LegacyID | None:
        """The effective parent: the `parent` file, else json `parent`, else the hex of json `parent_id`.

        Docker 1.8.3 and later wrote the file where an image that was pulled stands on a layer that was there before.
        """
        recorded = self._read_text(legacy_id, "parent")
        if recorded:
            return LegacyID(recorded)
        parent, parent_id = parse_parent(raw, str(self.path / legacy_id / "json"))
        if parent:
            return LegacyID(parent)
        return LegacyID(parent_id.rpartition(":")[2]) if parent_id else None

    @cached_property
    def parents(self) -> Mapping[LegacyID, LegacyID | None]:
        """The effective parent of every ID; None too where the JSON cannot be read (reading that layer says why)."""
        return dict(self._iter_parents())

    def _iter_parents(self) -> Iterator[tuple[LegacyID, LegacyID | None]]:
        for legacy_id in self.contents.ids:
            try:
                yield legacy_id, self.read_parent(legacy_id, self.read_json(legacy_id))
            except (DocumentError, DamagedError, LimitError, MissingLayerError):
                yield legacy_id, None

    def layer_size(self, legacy_id: LegacyID) -> int | None:
        """`layersize`: the bytes of the layer's files as its writer counted them. None where there is none, or -1."""
        text = self._read_text(legacy_id, "layersize")
        return parse_whole(text.encode(), STATED_BYTES) if text else None

    def tar_splits(self, legacy_id: LegacyID) -> Iterator[tuple[Path, Digest | None]]:
        """The layer's tar-split metadata, the best first, each with the diffID that stands beside it.

        First Docker's own. Then what a migration wrote of the tar that it made anew, and named the layer by ever since
        (moby 1.10, layer/migration.go, checksumForGraphIDNoTarsplit). Of a layer that is still in the graph, behind
        aufs's link, it made a tar of that link: such a record has no file of the layer.
        """
        place = self.path / legacy_id
        if _exists(path := place / "tar-data.json.gz"):
            yield path, None
        diff_id = None if _exists(place / "layer") else self._migrated_diff_id(legacy_id)
        if diff_id is not None and _exists(path := place / ".migration-tardata"):
            yield path, diff_id

    def archive(self, legacy_id: LegacyID) -> Path | None:
        """The tar as Docker 0.3 to 0.5 pulled it, compressed in any way in spite of its name (moby 0.3, image.go)."""
        return path if _exists(path := self.path / legacy_id / "layer.tar.xz") else None

    def _migrated_diff_id(self, legacy_id: LegacyID) -> Digest | None:
        try:
            return Digest.parse(self._read_text(legacy_id, ".migration-diffid") or "")
        except (ValueError, DamagedError, LimitError):
            return None

    def migrated(self) -> int:
        """How many IDs carry files of `docker/v1.10-migrator` or of Docker 1.10's own migration."""
        return sum(any(_exists(self.path / legacy_id / name) for name in _MIGRATOR) for legacy_id in self.contents.ids)

    def _read_text(self, legacy_id: LegacyID, name: str) -> str | None:
        try:
            return read_whole(self.path / legacy_id / name, SMALL_FILE_BYTES).decode("utf-8", "replace").strip()
        except MissingLayerError:
            return None


def is_scratch(name: str) -> bool:
    """True for names that Docker itself leaves in `graph/` and never takes for an image."""
    return name in _SCRATCH or name.startswith("_dockerinit") or name == "checksums"


def _exists(path: Path) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise translated(error, str(path)) from error
    return True
