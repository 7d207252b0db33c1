"""A registry of the v1 protocol, shown as the storage tree that `RegistryV1Source` reads.

The names in the tree are those of docker-registry's storage. `images/` has only the images that tags lead to, since the
protocol lists no others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import BinaryIO, Final, TypeVar, cast
from urllib.parse import quote

from migrate.blobio.limits import CHAIN_LENGTH
from migrate.blobio.several import in_threads
from migrate.distribution.session import RegistryAnswerError
from migrate.distribution.v1_client import ImageJson, UnstatedSizeError, V1Client
from migrate.documents.json_text import encode_json, shown
from migrate.documents.registry_v1 import parse_ancestry
from migrate.documents.v1_json import LayerDocument
from migrate.errors import (
    LimitError,
    MigrateError,
    MissingContentError,
    SourceError,
    SourceUnreadableError,
    TruncatedError,
)
from migrate.model.legacy import is_hex_id
from migrate.model.reference import is_repository_path
from migrate.storage.named_files import Entry, MissingFileError, NamedFiles
from migrate.storage.tree import OpenedFile

_Found = TypeVar("_Found")
_CONNECTIONS: Final = 16
_IMAGE_PATH: Final = re.compile(r"images/([0-9a-f]+)/(json|ancestry|layer|_checksum)")


class V1RegistryFiles(NamedFiles):
    """A registry, one of its repositories, or one tag. The first method that is called connects to it."""

    is_remote = True
    sizes_are_certain = False

    def __init__(self, location: str, client: V1Client, repository: str | None, tag: str | None) -> None:
        self.location = location
        self._client = client
        self._repository = repository
        self._tag = tag
        self._tags: dict[tuple[str, str], dict[str, str] | SourceError] | None = None
        self._homes: dict[str, str] = {}
        self._jsons: dict[str, ImageJson | SourceError | None] = {}
        self._ancestries: dict[str, bytes | SourceError | None] = {}
        self._images: list[str] | None = None

    # --- NamedFiles ----------------------------------------------------------------------------------------------

    def entries(self, folder: str, /) -> list[Entry]:
        steps = [step for step in folder.split("/") if step]
        if not steps:
            return [Entry("images", True), Entry("repositories", True)]
        if steps[0] == "images":
            if len(steps) == 1:
                return [Entry(image_id, True) for image_id in self._image_ids()]
            return [Entry("json", False)] if self._jsons.get(steps[1]) is not None else []
        names = self._all_tags()
        match steps[1:]:
            case []:
                return sorted({Entry(namespace, True) for namespace, _ in names})
            case [namespace]:
                return sorted({Entry(name, True) for space, name in names if space == namespace})
            case [namespace, name]:
                tags = names.get((namespace, name), {})
                if isinstance(tags, SourceError):
                    raise tags
                return sorted(Entry(f"tag_{tag}", False) for tag in tags)
        return []

    def size(self, path: str, /) -> int | None:
        """The size of a layer is the one in the server's headers, 0 if they have none."""
        found = _IMAGE_PATH.fullmatch(path)
        if found is None or found[2] != "layer":
            # Documents are fetched with the listing, so their size is that of their content.
            content = self.read(path, CHAIN_LENGTH * 1024)
            return None if content is None else len(content)
        document = self._json(found[1])
        if document is not None and document.layer_size:
            return document.layer_size
        try:
            return self._client.layer_size(self._homes[found[1]], found[1])
        except UnstatedSizeError:
            return 0

    def read(self, path: str, limit: int, /) -> bytes | None:
        content = self._read(path)
        if content is not None and len(content) > limit:
            raise LimitError(f"{self.location}: {path}: larger than the limit of {limit:,} bytes")
        return content

    def read_many(self, paths: Sequence[str], limit: int, /) -> dict[str, bytes | SourceError]:
        def read(path: str) -> bytes | SourceError | None:
            try:
                return self.read(path, limit)
            except SourceError as exc:
                return exc

        contents = dict(zip(paths, in_threads(read, paths, _CONNECTIONS, "documents"), strict=True))
        return {path: content for path, content in contents.items() if content is not None}

    @contextmanager
    def open(self, path: str, /) -> Iterator[OpenedFile]:
        found = _IMAGE_PATH.fullmatch(path)
        if found is None or found[2] != "layer":
            raise MissingFileError(f"{self.location}: {path}: no such file")
        document = self._json(found[1])
        size = document.layer_size if document is not None else None
        try:
            download = self._client.open_layer(self._homes[found[1]], found[1], size)
        except RegistryAnswerError as exc:
            if exc.status == 404:
                raise MissingContentError(f"image {found[1]}: the layer is missing", layer=found[1]) from exc
            exc.layer = found[1]
            raise
        with download:
            # An empty answer cannot be a layer: the smallest tar has 1,024 bytes of zeros.
            if download.is_empty():
                raise TruncatedError(f"image {found[1]}: the layer that came has 0 bytes", layer=found[1])
            yield OpenedFile(cast(BinaryIO, download), download.size or 0)

    def close(self) -> None:
        self._client.close()

    # --- repositories --------------------------------------------------------------------------------------------

    def _all_tags(self) -> dict[tuple[str, str], dict[str, str] | SourceError]:
        """(namespace, name), quoted as in the storage → the repository's tags, or the error of reading them."""
        if self._tags is None:
            found: dict[tuple[str, str], dict[str, str] | SourceError] = {}
            try:
                repositories = self._client.search() if self._repository is None else [self._repository]
            except SourceError as exc:
                raise SourceUnreadableError(
                    f"{self.location}: the registry lists no repositories; name one ({exc.message})"
                ) from exc
            for repository in repositories:
                namespace, slash, name = repository.partition("/")
                key = (namespace, quote(name, safe="")) if slash else ("library", repository)
                found[key] = self._tags_of(repository)
            self._tags = found
        return self._tags

    def _tags_of(self, repository: str) -> dict[str, str] | SourceError:
        try:
            if not is_repository_path(repository):
                raise RegistryAnswerError(f"the search lists a repository {shown(repository)}, which is no valid name")
            tags = self._client.tags(repository)
            if self._tag is not None:
                if self._tag not in tags:
                    raise RegistryAnswerError(f"{self._client.host}/{repository}: there is no tag {self._tag}")
                tags = {self._tag: tags[self._tag]}
        except SourceError as exc:
            if self._repository is not None:
                raise SourceUnreadableError(exc.message) from exc
            return exc
        for image_id in tags.values():
            self._homes.setdefault(image_id.strip(), repository)
        return tags

    # --- images --------------------------------------------------------------------------------------------------

    def _image_ids(self) -> list[str]:
        """The IDs of all images that tags lead to, by each image's ancestry and by the parents in the JSONs."""
        if self._images is not None:
            return self._images
        tags = [tags for tags in self._all_tags().values() if not isinstance(tags, SourceError)]
        heads = sorted({image_id.strip() for found in tags for image_id in found.values()})
        level = [head for head in heads if is_hex_id(head)]
        known: dict[str, None] = dict.fromkeys(level)
        # An ancestry is one request for a whole chain, whose JSONs can then be fetched in parallel.
        self._fetch(level, self._ancestries, self._client.ancestry)
        for head in level:
            raw = self._ancestries[head]
            ids: Sequence[str] = ()
            with suppress(MigrateError):  # the source reports the error
                ids = parse_ancestry(raw) if isinstance(raw, bytes) else ()
            for image_id in filter(is_hex_id, ids[:CHAIN_LENGTH]):
                self._homes.setdefault(image_id, self._homes[head])
                known.setdefault(image_id)
        level = list(known)
        while level:
            # An ancestry may be missing or wrong. The parents in the JSONs are followed until all are known.
            self._fetch(level, self._jsons, self._client.image_json)
            level = [parent for image_id in level if (parent := self._parent_of(image_id)) not in known]
            known |= dict.fromkeys(level)
        if not known:
            raise SourceUnreadableError(f"{self.location}: no tag leads to an image")
        self._images = sorted(known)
        return self._images

    def _parent_of(self, image_id: str) -> str:
        """The parent of an image; `image_id` itself if it has none, or if its JSON cannot be read."""
        document = self._jsons[image_id]
        if isinstance(document, ImageJson):
            with suppress(MigrateError):
                found = LayerDocument(document.content).identity().any_parent or ""
                if is_hex_id(found):
                    self._homes.setdefault(found, self._homes[image_id])
                    return found
        return image_id

    def _fetch(
        self, ids: Sequence[str], into: dict[str, _Found | SourceError], get: Callable[[str, str], _Found]
    ) -> None:
        def one(image_id: str) -> _Found | SourceError:
            try:
                return get(self._homes[image_id], image_id)
            except SourceError as exc:
                exc.layer = image_id
                return exc

        into.update(zip(ids, in_threads(one, ids, _CONNECTIONS, "documents"), strict=True))

    def _json(self, image_id: str) -> ImageJson | None:
        if image_id not in self._jsons:
            self._image_ids()
        document = self._jsons.get(image_id)
        if isinstance(document, SourceError):
            raise document
        return document

    def _read(self, path: str) -> bytes | None:
        found = _IMAGE_PATH.fullmatch(path)
        if found is None:
            match path.split("/"):
                case ["repositories", namespace, name, *rest] if rest and rest[0].startswith("tag_"):
                    tag = "/".join(rest).removeprefix("tag_")  # a server may send any text, also with `/`
                    tags = self._all_tags().get((namespace, name), {})
                    if not isinstance(tags, SourceError) and tag in tags:
                        return tags[tag].encode()
            return None
        if found[2] == "ancestry":
            raw = self._ancestries.get(found[1])
            if isinstance(raw, SourceError):
                raise raw
            return raw
        document = self._json(found[1])
        if document is None or found[2] == "layer":
            return None
        if found[2] == "json":
            return document.content
        return encode_json(list(document.checksums)) if document.checksums else None
