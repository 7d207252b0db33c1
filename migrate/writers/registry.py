"""A registry as a target: `docker://HOST[:PORT][/PREFIX]`.

The repository that needs a blob is known only when its image is complete. Until then a blob is kept in a temporary
folder, or in its file in the source. All blobs are sent at the end of the run.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import IO

from migrate.distribution.client import RegistryClient, open_client
from migrate.errors import SourceError, TargetError, UsageError
from migrate.model.digest import Digest
from migrate.model.image import ComposedImage
from migrate.model.options import ConvertOptions
from migrate.model.reference import Reference
from migrate.model.rename import repository_reference
from migrate.rehash.ports import BlobWriter
from migrate.storage.directory_store import DirectoryStore
from migrate.storage.syscalls import target_errors
from migrate.writers.base import ImageTarget, index_entries
from migrate.writers.blob_store import BlobStore
from migrate.writers.push import PushedBlob, PushedManifest, Pusher, pushed_names
from migrate.writers.registry_names import UNTAGGED, RegistryNames


class RegistryTarget(ImageTarget):
    """A registry. Raises TargetError at once if it does not answer.

    Tags that this run uses are moved to its images, as `docker push` does. All other tags stay.
    """

    takes_files = True
    names_have_hosts = False

    def __init__(self, location: str, options: ConvertOptions, *, client: RegistryClient | None = None) -> None:
        host, self._prefix = split_registry_target(location)
        self._options = options
        self._lock = threading.Lock()
        self._linked: dict[Digest, str] = {}
        self._homes: Mapping[Digest, str] = {}
        self._manifests: dict[Digest, PushedManifest] = {}
        self._names = RegistryNames("--rename can give them different names")
        try:
            self.client = client or open_client(host, insecure=options.insecure)
        except SourceError as exc:
            raise TargetError(exc.message) from exc
        # TMPDIR, and not a directory beside the target as for archives: a registry has none on this machine
        with target_errors("the directory for temporary files"):
            self._spool = tempfile.mkdtemp(prefix="migrate-")
        self._store = DirectoryStore(self._spool, durable=False)
        self._blobs = BlobStore(self._store)

    def has_blob(self, digest: Digest, size: int, /) -> bool:
        return digest in self._linked or self._blobs.has(digest, size)

    def open_blob(self) -> AbstractContextManager[BlobWriter]:
        return self._blobs.open()

    def link_blob(self, path: str, digest: Digest, size: int, /) -> bool:
        """Notes the file, which is sent at the end. It is not read here: the registry checks the digest."""
        del size
        with self._lock:
            self._linked.setdefault(digest, path)
        return True

    def commit(self, image: ComposedImage, references: Sequence[Reference], /) -> None:
        config, manifest = image.image_id, image.manifest_digest
        self._blobs.put(image.config, config)
        blobs = (
            self._blob(config, len(image.config)),
            *(self._blob(layer.digest, layer.size) for layer in image.layers),
        )
        with self._lock:
            self._manifests[manifest] = PushedManifest(image.manifest, image.manifest_media_type, blobs)
            self._name(manifest, references or [Reference(UNTAGGED, image.image_id.hex)])

    def commit_index(self, content: bytes, media_type: str, references: Sequence[Reference], /) -> None:
        digest = Digest.of(content)
        children = tuple(entry.descriptor.digest for entry in index_entries(content))
        with self._lock:
            self._manifests[digest] = PushedManifest(content, media_type, children=children)
            self._name(digest, references or [Reference(UNTAGGED, digest.hex)])

    def note_blobs(self, repositories: Mapping[Digest, str], /) -> None:
        self._homes = repositories

    def finish(self, report: bytes, /) -> None:
        """Sends everything. A registry cannot store the report; `--report FILE` writes it elsewhere."""
        del report
        self._store.flush()
        Pusher(self.client, self._options.jobs).push(self._manifests, pushed_names(self._names))

    def close(self) -> None:
        self.client.close()
        self._store.close()
        shutil.rmtree(self._spool, ignore_errors=True)

    def place(self, reference: Reference, /) -> Reference:
        """The name of an image in the registry, with the prefix."""
        return placed(self._prefix, reference)

    def _name(self, digest: Digest, references: Sequence[Reference]) -> None:
        for reference in references:
            self._names.claim(self.place(reference), digest, reference)

    def _blob(self, digest: Digest, size: int) -> PushedBlob:
        if digest in self._linked:
            return PushedBlob(digest, size, opener(self._linked[digest]), self._homes.get(digest))
        if not self._blobs.has(digest, size):
            raise TargetError(f"blob {digest} was never written")
        return PushedBlob(digest, size, partial(self._blobs.open_published, digest), self._homes.get(digest))


def placed(prefix: str, reference: Reference) -> Reference:
    local = repository_reference(reference)
    return Reference(f"{prefix}{local.name}", local.tag)


def opener(path: str | Path) -> Callable[[], IO[bytes]]:
    def open_it() -> IO[bytes]:
        return open(path, "rb")

    return open_it


def split_registry_target(location: str) -> tuple[str, str]:
    """`HOST[:PORT][/PREFIX]` → (host, prefix that ends in `/` or is empty). Raises UsageError."""
    host, _, prefix = location.partition("/")
    prefix = prefix.strip("/")
    if not host:
        raise UsageError(f"target docker://{location}: name a host")
    if prefix and not Reference(prefix, "latest").is_valid:
        raise UsageError(f"target docker://{location}: {prefix!r} is not the beginning of a repository's name")
    return host, f"{prefix}/" if prefix else ""
