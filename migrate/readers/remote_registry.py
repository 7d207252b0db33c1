"""A registry over HTTP as a source: `docker://HOST[:PORT][/REPO[:TAG|@DIGEST]]`.

The location of a registry below a path, as in Artifactory and Nexus, has its version: `docker://HOST/PATH/v1/REPO`.

Without a repository, those in the registry's catalog (v1: its search) are read; without a tag, all tags of the
repository. Documents are fetched when the source is listed, layers when they are read.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import BinaryIO, Final, cast

from migrate.blobio.payload import Payload
from migrate.distribution.client import RegistryClient, open_client, open_session
from migrate.distribution.session import RegistryAnswerError, UnreachableError
from migrate.distribution.v1_client import PING, V1Client
from migrate.documents.json_text import shown
from migrate.documents.schema1 import OpenedManifest, open_manifest
from migrate.errors import (
    IntegrityError,
    MigrateError,
    MissingLayerError,
    SourceError,
    SourceUnreadableError,
    UsageError,
)
from migrate.model.digest import Digest
from migrate.model.legacy import LegacyID, LegacyLayer, Origin, PayloadRef, SourceListing, SourceType
from migrate.model.options import ReadOptions
from migrate.model.reference import Reference, is_repository_path, is_tag
from migrate.readers.base import LegacySource
from migrate.readers.manifest_source import ManifestSource
from migrate.readers.registry_images import RegistryImages, missing_blob, open_checked
from migrate.readers.registry_v1 import RegistryV1Source
from migrate.readers.registry_v1_http import V1RegistryFiles
from migrate.storage.tree import OpenedFile
from migrate.tar.known_blobs import known_blob

PREFIX: Final = "docker://"
_NOT_V2: Final = frozenset({200, 400, 403, 404, 405, 406, 410, 501})
"""The status of `/v2/` on servers that are no v2 registry. 200: a page that is not a registry's."""
_BASE: Final = re.compile(r"[^/]+/(.+?)/v[12](?:/|$)")


class NotV2Error(SourceUnreadableError):
    """The server answers, but has no `/v2/`."""


class NoRegistryError(SourceUnreadableError):
    """The server supports neither protocol."""


class RegistryOverHttp(LegacySource):
    """A registry at `location`, read by the v2 protocol, or by the v1 protocol if it does not support v2.

    `source_type` is final after `listing`, which is the first to use the network.
    """

    def __init__(
        self,
        location: str,
        options: ReadOptions,
        *,
        v1: bool = False,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """`v1`: use the v1 protocol, also if the registry supports v2."""
        self.location = location
        self._options = options
        self._sleep = sleep
        self._v1 = v1
        self._is_listed = False
        self._source: RemoteRegistrySource | RegistryV1Source = RemoteRegistrySource(location, options, sleep=sleep)

    @property
    def source_type(self) -> SourceType:
        return self._source.source_type

    def listing(self) -> SourceListing:
        if self._is_listed:
            return self._source.listing()
        self._is_listed = True
        if base := find_base(self.location):
            # `/v1/` or `/v2/` may also be a part of a repository's name, if there is no registry below the path.
            with suppress(NoRegistryError):
                return self._list_at(base)
        return self._list_at("")

    def _list_at(self, base: str) -> SourceListing:
        no_v2 = "not tried"
        if not self._v1:
            self._source = RemoteRegistrySource(self.location, self._options, base=base, sleep=self._sleep)
            try:
                return self._source.listing()
            except NotV2Error as exc:
                self._source.close()
                no_v2 = exc.message
        host, repository, tag = split_registry_location(self.location, base)
        try:
            session = open_session(host, PING, insecure=self._options.insecure, base=base, sleep=self._sleep)
        except SourceError as exc:
            reason = f"not a registry of the v2 protocol ({no_v2}), nor of v1 ({exc.message})"
            raise NoRegistryError(f"{self.location}: {reason}") from exc
        if tag is not None and tag.startswith("sha256:"):
            session.close()
            raise SourceUnreadableError(f"{self.location}: {host} has only the v1 protocol, which has no digests")
        files = V1RegistryFiles(self.location, V1Client(session), repository, tag)
        self._source = RegistryV1Source(self.location, files, self._options)
        return self._source.listing()

    def read_layer(self, legacy_id: LegacyID, /) -> LegacyLayer:
        return self._source.read_layer(legacy_id)

    def open_payload(self, layer: LegacyLayer, /) -> AbstractContextManager[Payload]:
        return self._source.open_payload(layer)

    def close(self) -> None:
        self._source.close()


class RemoteRegistrySource(ManifestSource):
    """A registry, one of its repositories, or one tag. `listing` is the first to use the network."""

    source_type = SourceType.REGISTRY_V2

    def __init__(
        self,
        location: str,
        options: ReadOptions | None = None,
        *,
        connect: Callable[..., RegistryClient] = open_client,
        base: str = "",
        repositories: Sequence[str] | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """`base`: the path below which the registry is, a part of `location`. `repositories` are read in place of those
        in the catalog."""
        super().__init__(location, options, is_remote=True)
        self._host, self._repository, self._tag = split_registry_location(location, base)
        self._base = base
        self._insecure = bool(options and options.insecure)
        self._connect = connect
        self._sleep = sleep
        self._client: RegistryClient | None = None
        self._repositories = repositories
        self.homes: dict[Digest, str] = {}
        """A repository for each blob that was listed."""

    def list_manifests(self, images: RegistryImages, /) -> None:
        repositories = self._repositories if self._repository is None else [self._repository]
        if repositories is None:
            client = self.client
            try:
                repositories = client.catalog()
            except SourceError as exc:
                raise SourceUnreadableError(
                    f"{self.location}: the registry gives no catalog; name a repository ({exc.message})"
                ) from exc
        for repository in repositories:
            if not is_repository_path(repository):
                images.fail(repository, _no_name(f"the catalog lists a repository {shown(repository)}"))
                continue
            for tag in self._tags(repository, images):
                self._add(repository, tag, images)

    @contextmanager
    def open_payload(self, layer: LegacyLayer, /) -> Iterator[Payload]:
        assert layer.payload is not None and layer.payload.digest is not None
        digest = layer.payload.digest
        with self._replay.opened(digest.hex, lambda: self._download(digest, layer.payload)) as opened:
            yield Payload(stream=opened.stream, origin=Origin.BLOB, size=opened.size or None, path=opened.path)

    @contextmanager
    def _download(self, digest: Digest, payload: PayloadRef | None) -> Iterator[OpenedFile]:
        try:
            download = self.client.open_blob(self.homes[digest], digest)
        except RegistryAnswerError as exc:
            made = known_blob(digest) if isinstance(_as_missing(exc, digest), MissingLayerError) else None
            if made is None:
                raise _as_missing(exc, digest) from exc
            yield OpenedFile(cast(BinaryIO, io.BytesIO(made)), len(made))
            return
        size = download.size or (payload.size if payload is not None else None) or 0
        with download:
            yield OpenedFile(download.as_binary(), size)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        super().close()

    @property
    def client(self) -> RegistryClient:
        if self._client is None:
            try:
                self._client = self._connect(self._host, insecure=self._insecure, base=self._base, sleep=self._sleep)
            except SourceError as exc:
                if isinstance(exc, RegistryAnswerError) and exc.status in _NOT_V2:
                    raise NotV2Error(exc.message) from exc
                raise SourceUnreadableError(exc.message) from exc
        return self._client

    # --- ManifestStore -------------------------------------------------------------------------------------------

    def fetch_blob(self, repository: str, digest: Digest, limit: int, /) -> bytes:
        try:
            return self.client.read_blob(repository, digest, limit)
        except RegistryAnswerError as exc:
            raise _as_missing(exc, digest) from exc

    def read_manifest(self, repository: str, digest: Digest, /) -> OpenedManifest:
        content = self.client.manifest(repository, str(digest)).content
        return open_checked(content, digest, f"manifest {digest}")

    def blob_size(self, repository: str, digest: Digest, /) -> int | None:
        """None: the size is not looked up. A request for each blob would be slow, and reading a missing blob gives the
        same error."""
        self.homes.setdefault(digest, repository)
        return None

    # --- listing -------------------------------------------------------------------------------------------------

    def _tags(self, repository: str, images: RegistryImages) -> list[str]:
        """The tags of a repository. An error fails the whole source if the user named this repository, and only the
        repository if it is from the catalog."""
        if self._tag is not None:
            return [self._tag]
        client = self.client
        try:
            return client.tags(repository)
        except SourceError as exc:
            if self._repository is not None or isinstance(exc, UnreachableError):
                raise SourceUnreadableError(exc.message) from exc
            # The catalog also lists repositories whose last tag was deleted. The registry answers 404 for their tags.
            if not (isinstance(exc, RegistryAnswerError) and exc.status == 404):
                images.fail(repository, exc)
            return []

    def _add(self, repository: str, tag: str, images: RegistryImages) -> None:
        reference = Reference(repository, tag)
        client = self.client
        try:
            if not (reference.is_digest or is_tag(tag)):
                raise _no_name(f"{repository} has a tag {shown(tag)}")
            fetched = client.manifest(repository, tag)
            manifest = open_manifest(fetched.content)
            # The digest of a signed schema-1 manifest is that of its payload, without the signatures.
            digest = Digest.of(manifest.payload)
            wanted = Digest.parse(tag) if reference.is_digest else fetched.digest
            if wanted is not None and wanted != digest:
                raise IntegrityError(f"manifest {reference} does not match its digest: expected {wanted}, got {digest}")
        except MigrateError as error:
            images.fail(reference, error)
            return
        images.add(repository, [] if reference.is_digest else [reference], digest, manifest)


def find_base(location: str) -> str:
    """The path in `docker://HOST/PATH/v1/REPO` (or `v2`); "" if there is none."""
    found = _BASE.match(location.removeprefix(PREFIX))
    return found[1] if found is not None and is_repository_path(found[1]) else ""


def split_registry_location(location: str, base: str = "") -> tuple[str, str | None, str | None]:
    """`docker://HOST[:PORT][/REPO[:TAG|@DIGEST]]` → (host, repository or None, tag or None). UsageError otherwise.

    `base`: as `find_base` gives it, not a part of the repository's name."""
    host, _, rest = location.removeprefix(PREFIX).partition("/")
    rest = rest[len(f"{base}/v1") if base else 0 :].strip("/")
    if not host:
        raise UsageError(f"source {location}: name a host")
    if not rest:
        return host, None, None
    reference = Reference.parse(rest)
    if not (is_repository_path(reference.name) and (reference.is_digest or is_tag(reference.tag))):
        raise UsageError(f"source {location}: {rest!r} is not a repository's name")
    has_tag = rest != reference.name
    return host, reference.name, reference.tag if has_tag else None


def _no_name(what: str) -> RegistryAnswerError:
    return RegistryAnswerError(f"{what}, which is no valid name")


def _as_missing(exc: RegistryAnswerError, digest: Digest) -> MigrateError:
    if exc.status == 404:
        return missing_blob(digest)
    return exc.at_layer(digest.hex)
