"""The graph of a Docker root: `graph/<id>/`, one directory for every layer and image, as Docker 0.1 to 1.9 wrote it.

moby 0.6 to 1.9, graph/graph.go and image/image.go; docs/formats/docker-root.md has which version wrote which file.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from itertools import pairwise

from msgspec import Struct

from migrate.blobio.limits import JSON_BYTES, SMALL_FILE_BYTES, STATED_BYTES, parse_whole
from migrate.documents.docker_root import parse_checksum_map
from migrate.documents.json_text import encode_json
from migrate.documents.v1_json import KEPT_BYTES, LayerDocument
from migrate.errors import DamagedError, DocumentError, LimitError, MissingLayerError, SourceError
from migrate.model.digest import Digest
from migrate.model.legacy import LegacyID, is_hex_id
from migrate.storage.tree import Tree

_SCRATCH = ("_tmp", ":tmp:", ":garbage:")
_TARSUM = re.compile(r"tarsum(?:\.v1|\.dev)?\+sha256:[0-9a-f]{64}")
_BLANK = b"\0 \t\r\n"
"""A file that a power cut has emptied consists of these bytes. In a sound file they may be around the text."""
_MIGRATOR = (".migration-diffid", ".migration-size", ".migration-tardata")


class GraphContents(Struct, frozen=True, kw_only=True):
    """`ids` are the directories whose name is an ID, `leftovers` all other names; both sorted."""

    ids: tuple[LegacyID, ...]
    leftovers: tuple[str, ...]


class Graph:
    """Reads `graph/`. Symbolic links in it are not followed. Errors are SourceError."""

    def __init__(self, tree: Tree, root: Tree | None = None, *, salvage: bool = False) -> None:
        """`tree` is `graph/`. With `salvage`, a json that was lost in a power cut is made anew from the other records
        of the layer, in `tree` and in the drivers' files in `root`."""
        self.tree = tree
        self._root = root
        self._salvage = salvage
        self._documents: dict[LegacyID, LayerDocument] = {}
        self._document_bytes = 0
        self.salvaged: dict[LegacyID, str] = {}
        """Layer → what is lost with its json, for each layer whose json was made anew. Empty text: nothing is lost."""

    @cached_property
    def contents(self) -> GraphContents:
        ids: list[LegacyID] = []
        leftovers: list[str] = []
        for raw, facts in self.tree.list_facts(b"").items():
            name = os.fsdecode(raw)
            if is_hex_id(name) and stat.S_ISDIR(facts[0]):
                ids.append(LegacyID(name))
            else:
                leftovers.append(name)
        return GraphContents(ids=tuple(sorted(ids)), leftovers=tuple(sorted(leftovers)))

    @cached_property
    def _known(self) -> frozenset[LegacyID]:
        return frozenset(self.contents.ids)

    def holds_anything(self, name: str) -> bool:
        """False for an empty directory, such as Docker's `_tmp` after a clean stop."""
        try:
            return bool(self.tree.list_names(os.fsencode(name)))
        except SourceError:
            return True

    def __contains__(self, legacy_id: object) -> bool:
        return legacy_id in self._known

    def read_json(self, legacy_id: LegacyID) -> LayerDocument:
        """The layer's `json`, verbatim. MissingLayerError if the graph has no such ID, DocumentError without `json`."""
        document = self._documents.get(legacy_id)
        if document is None:
            document = self._read_json(legacy_id)
            # The chain of every image reads the documents of all its layers. A bounded number of bytes is kept.
            if self._document_bytes + len(document) <= KEPT_BYTES:
                self._documents[legacy_id] = document
                self._document_bytes += len(document)
        return document

    def _read_json(self, legacy_id: LegacyID) -> LayerDocument:
        if legacy_id not in self:
            raise MissingLayerError(f"{self.tree.location}: there is no {legacy_id}", layer=legacy_id)
        path = _path(legacy_id, "json")
        try:
            document = LayerDocument(self.tree.read(path, JSON_BYTES))
            # After a power cut ext4 and XFS may show a file with its new size and no data: 0 bytes, or only zeros.
            if not document.strip(_BLANK):
                raise DocumentError(f"{self.tree.shown(path)}: has {len(document)} bytes of JSON")
            document.identity(self.tree.shown(path))
            return document
        except MissingLayerError:
            error = DocumentError(f"{self.tree.shown(path)}: this image has lost its JSON")
        except DocumentError as exc:
            error = exc
        made = self._make_json(legacy_id)
        if made is None or not self._salvage:
            way = "" if made is None else ", as a power cut leaves it; --salvage makes it from what else is recorded"
            raise DocumentError(error.message + way, layer=legacy_id) from error
        document, self.salvaged[legacy_id] = made
        return document

    def _make_json(self, legacy_id: LegacyID) -> tuple[LayerDocument, str] | None:
        """A json made from other records, and what is lost with the old one; None if nothing records the layer.

        Of a pulled layer, `v1Compatibility` is the registry's json and gives the same image. Of other layers the
        drivers record the parent only: the command that made the layer is lost."""
        pulled = LayerDocument((self._read_text(legacy_id, "v1Compatibility") or "").encode())
        with suppress(DocumentError):
            pulled.identity()
            return pulled, ""
        parent = self._read_text(legacy_id, "parent")
        if not parent and (recorded := self._aufs_parents.get(legacy_id)):
            if len(recorded) > 1:
                return None
            (parent,) = recorded
        elif not parent:
            parent = self._read_root(f"overlay/{legacy_id}/lower-id").strip()
            if parent not in self:
                return None
        made = encode_json({"id": legacy_id, **({"parent": parent} if parent else {})})
        return LayerDocument(made), "its json is lost in a power cut, and with it what the layer was made by"

    @cached_property
    def _aufs_parents(self) -> Mapping[str, set[str]]:
        """Layer → its parents by all lists of ancestors that contain it; "" if it is the last of a list.

        The lists of all layers are used, because a power cut may have emptied the layer's own. An empty list proves
        nothing: a base layer has one, and a power cut leaves one."""
        found: dict[str, set[str]] = {}
        for legacy_id in self.contents.ids:
            # One ancestor on each line, the nearest first (moby 1.9, daemon/graphdriver/aufs/dirs.go).
            chain = [legacy_id, *self._read_root(f"aufs/layers/{legacy_id}").split()]
            if len(chain) == 1 or not all(map(is_hex_id, chain)):
                continue
            for layer, parent in pairwise([*chain, ""]):
                found.setdefault(layer, set()).add(parent)
        return found

    def _read_root(self, path: str) -> str:
        """A small file of a driver; "" if it cannot be read."""
        try:
            content = self._root.read(path.encode(), JSON_BYTES) if self._root is not None else b""
        except SourceError:
            return ""
        return content.decode("ascii", "replace")

    @cached_property
    def _by_registry_id(self) -> Mapping[str, LegacyID]:
        """The ID that the registry uses for a layer → its ID in the graph, for layers that 1.8.3 and later pulled."""
        found: dict[str, LegacyID] = {}
        for legacy_id in self.contents.ids:
            with suppress(SourceError):
                stated = LayerDocument((self._read_text(legacy_id, "v1Compatibility") or "").encode()).identity().id
                if stated is not None:
                    found[stated] = legacy_id
        return found

    def read_parent(self, legacy_id: LegacyID, document: LayerDocument) -> LegacyID | None:
        """The effective parent: the `parent` file, else json `parent`, else the hex of json `parent_id`.

        Docker 1.8.3 and later wrote the file when a pulled image has a parent that was in the graph before. The order
        is that of Docker 1.9 (loadImage) and of the migration of 1.10 (getParent).
        """
        recorded = self._read_text(legacy_id, "parent")
        if recorded:
            return LegacyID(recorded)
        _, parent, parent_id = document.identity(self.tree.shown(_path(legacy_id, "json")))
        if parent:
            # A json made of v1Compatibility names its parent by the registry's ID. Docker 1.8.3 and later keep pulled
            # layers under IDs of their own.
            is_registrys = self.salvaged.get(legacy_id) == ""
            return self._by_registry_id.get(parent, LegacyID(parent)) if is_registrys else LegacyID(parent)
        return LegacyID(parent_id.rpartition(":")[2]) if parent_id else None

    @cached_property
    def parents(self) -> Mapping[LegacyID, LegacyID | None]:
        """The effective parent of every ID. None for a base layer, and if the JSON cannot be read; reading the layer
        raises the error."""
        found: dict[LegacyID, LegacyID | None] = {}
        for legacy_id in self.contents.ids:
            try:
                found[legacy_id] = self.read_parent(legacy_id, self.read_json(legacy_id))
            except (DocumentError, DamagedError, LimitError, MissingLayerError):
                found[legacy_id] = None
        return found

    def layer_size(self, legacy_id: LegacyID) -> int | None:
        """`layersize`: the bytes of the layer's files as Docker counted them. None if there is no such file, or it has
        -1, Docker's number for unknown."""
        text = self._read_text(legacy_id, "layersize")
        return parse_whole(text.encode(), STATED_BYTES) if text else None

    def tarsum(self, legacy_id: LegacyID, raw: bytes) -> str | None:
        """The recorded tarsum of the layer's tar: the file `checksum` of Docker 1.5, the JSON's key of 1.4. None if
        there is none.

        Docker 1.6 and later wrote `sha256:…` into the file: the digest of the blob that was pushed or pulled last. Its
        compressed bytes cannot be made again, so it is not compared.
        """
        of_json = LayerDocument.of(raw).checksum() if b"tarsum" in raw else None
        for recorded in (self._read_text(legacy_id, "checksum"), of_json):
            if recorded and _TARSUM.fullmatch(recorded):
                return recorded
        return None

    def migrated_sums(self, legacy_id: LegacyID) -> tuple[Digest | None, int | None]:
        """The diffID and the bytes of the layer's files as a migration to Docker 1.10 recorded them.

        (None, None) if aufs has a link to the layer in the graph: the migration made a tar of the link itself.
        """
        if self._find(legacy_id, "layer") is not None:
            return None, None
        text = self._read_text(legacy_id, ".migration-size")
        size = parse_whole(text.encode(), STATED_BYTES) if text else None
        return self._migrated_diff_id(legacy_id), size

    def tar_splits(self, legacy_id: LegacyID) -> Iterator[tuple[bytes, Digest | None]]:
        """Paths of the layer's tar-split metadata, the best first, each with the diffID that is recorded beside it.

        Docker's own comes first. The second is that of a migration, which made the tar anew and named the layer by its
        diffID (moby 1.10, layer/migration.go, checksumForGraphIDNoTarsplit). It is not used if aufs has a link to the
        layer in the graph: the migration made a tar of the link, without the files of the layer.
        """
        if (path := self._find(legacy_id, "tar-data.json.gz")) is not None:
            yield path, None
        diff_id = self._migrated_diff_id(legacy_id) if self._find(legacy_id, "layer") is None else None
        if diff_id is not None and (path := self._find(legacy_id, ".migration-tardata")) is not None:
            yield path, diff_id

    def has_tar_split(self, legacy_id: LegacyID) -> bool:
        return self._find(legacy_id, "tar-data.json.gz") is not None

    def archive(self, legacy_id: LegacyID) -> bytes | None:
        """The path of the tar as Docker 0.3 to 0.5 pulled it. Despite the name it may have any compression (moby 0.3,
        image.go)."""
        return self._find(legacy_id, "layer.tar.xz")

    def _find(self, legacy_id: LegacyID, name: str) -> bytes | None:
        path = _path(legacy_id, name)
        return path if self.tree.find(path) is not None else None

    @cached_property
    def archive_checksums(self) -> Mapping[str, str]:
        """`checksums` of Docker 0.3 to 0.5: ID → `sha256:` of the json, a line end and the archive as stored."""
        try:
            return parse_checksum_map(self.tree.read(b"checksums", JSON_BYTES), self.tree.shown(b"checksums"))
        except SourceError:
            return {}

    def _migrated_diff_id(self, legacy_id: LegacyID) -> Digest | None:
        try:
            return Digest.parse(self._read_text(legacy_id, ".migration-diffid") or "")
        except (ValueError, DamagedError, LimitError):
            return None

    def migrated(self) -> int:
        """The number of layers with files of `docker/v1.10-migrator` or of Docker 1.10's own migration."""
        return sum(any(self._find(legacy_id, name) for name in _MIGRATOR) for legacy_id in self.contents.ids)

    def _read_text(self, legacy_id: LegacyID, name: str) -> str | None:
        try:
            limit = JSON_BYTES if name == "v1Compatibility" else SMALL_FILE_BYTES
            return self.tree.read(_path(legacy_id, name), limit).strip(_BLANK).decode("utf-8", "replace")
        except MissingLayerError:
            return None


def is_scratch(name: str) -> bool:
    """True for names that Docker itself leaves in `graph/`, which are no images."""
    return name in _SCRATCH or name.startswith("_dockerinit") or name == "checksums"


def _path(legacy_id: LegacyID, name: str) -> bytes:
    return f"{legacy_id}/{name}".encode()
