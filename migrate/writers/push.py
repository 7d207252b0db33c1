"""Uploads images to a registry: first the blobs, each once, then manifests, and tags last."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, TypeVar

from msgspec import Struct

from migrate.blobio.several import in_threads
from migrate.distribution.client import RegistryClient
from migrate.errors import MigrateError, TargetError
from migrate.model.digest import Digest
from migrate.model.progress import Event, Progress, SilentProgress
from migrate.writers.registry_names import RegistryNames

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class PushedBlob(Struct, frozen=True):
    """A blob. `open` can be called several times and gives a seekable stream. `home` is a repository of the registry
    that has it, if one is known."""

    digest: Digest
    size: int
    open: Callable[[], IO[bytes]]
    home: str | None = None


class PushedManifest(Struct, frozen=True):
    """A manifest with its blobs, or a list with the digests of its children."""

    content: bytes
    media_type: str
    blobs: tuple[PushedBlob, ...] = ()
    children: tuple[Digest, ...] = ()

    @property
    def digest(self) -> Digest:
        return Digest.of(self.content)


@dataclass(frozen=True, slots=True, order=True)
class PushedName:
    """The name of a manifest in the registry. Without a tag it can be pulled by its digest only."""

    repository: str
    tag: str | None
    digest: Digest = field(compare=False)


class PushPreview(Struct, frozen=True, kw_only=True):
    """What a push would do. `names`: tags that the registry lacks or that lead to another image there. `blobs`: number
    of blobs to send. `mounts`: number of blobs that a repository takes from another repository."""

    names: tuple[PushedName, ...]
    blobs: int
    blob_bytes: int
    mounts: int


def pushed_names(names: RegistryNames) -> list[PushedName]:
    return [PushedName(place.name, None if place.is_digest else place.tag, digest) for place, digest in names]


class Pusher:
    """Uploads to one registry, `jobs` blobs at a time. Raises TargetError."""

    def __init__(self, client: RegistryClient, jobs: int = 1, progress: Progress | None = None) -> None:
        self._client = client
        self._jobs = max(1, jobs)
        self._progress = progress or SilentProgress()

    def push(self, manifests: Mapping[Digest, PushedManifest], names: Sequence[PushedName]) -> None:
        """Uploads the manifests in `names` with their children and blobs, except for those that the registry has."""
        with _as_target_error():
            wanted = self._missing_manifests(manifests, names)
            places = _blob_places(wanted)
            total_bytes = sum(blob.size for blob, _ in places)
            self._progress.emit(Event(kind="stage", stage="push", total_bytes=total_bytes, total_items=len(places)))
            self._each(lambda place: self._push_blob(*place), places)
            self._push_manifests(wanted, manifests)
            tagged = [name for name in sorted(names) if name.tag is not None]

            def put_tag(name: PushedName) -> None:
                assert name.tag is not None
                manifest = manifests[name.digest]
                # A manifest that the registry lacked had no tag there.
                if (name.repository, name.digest) in wanted or not self._has_name(name):
                    self._client.put_manifest(name.repository, name.tag, manifest.content, manifest.media_type)

            self._each(put_tag, tagged)

    def preview(self, manifests: Mapping[Digest, PushedManifest], names: Sequence[PushedName]) -> PushPreview:
        """What `push` would do now. Only reads from the registry."""
        with _as_target_error():
            places = _blob_places(self._missing_manifests(manifests, names))
            missing = self._each(lambda place: self._lacking(*place), places)
            tagged = [name for name in sorted(names) if name.tag is not None]
            has_name = self._each(self._has_name, tagged)
        # A blob is uploaded only if no repository of the run has it; otherwise it is mounted from there.
        sent = [
            blob
            for (blob, repositories), lacking in zip(places, missing, strict=True)
            if len(lacking) == len(repositories)
        ]
        return PushPreview(
            names=tuple(name for name, there in zip(tagged, has_name, strict=True) if not there),
            blobs=len(sent),
            blob_bytes=sum(blob.size for blob in sent),
            mounts=sum(map(len, missing)) - len(sent),
        )

    def _missing_manifests(
        self, manifests: Mapping[Digest, PushedManifest], names: Iterable[PushedName]
    ) -> dict[tuple[str, Digest], PushedManifest]:
        """(repository, digest) → manifest, for all that the registry lacks, children before their lists."""
        needed: dict[tuple[str, Digest], PushedManifest] = {}
        for name in sorted(names, key=lambda name: (name.repository, name.digest)):
            for digest in _with_children(name.digest, manifests):
                needed[name.repository, digest] = manifests[digest]
        present = self._each(
            lambda place: self._client.manifest_digest(place[0], str(place[1]), "push") == place[1], list(needed)
        )
        return {place: manifest for (place, manifest), there in zip(needed.items(), present, strict=True) if not there}

    def _push_blob(self, blob: PushedBlob, repositories: Sequence[str]) -> None:
        """Uploads a blob into the first repository that lacks it, and mounts it from there into the others."""
        missing = self._lacking(blob, repositories)
        origin = next((name for name in repositories if name not in missing), blob.home)
        self._client.traffic.add(skipped=len(repositories) - len(missing))
        for repository in missing:
            session = None
            if origin is not None and origin != repository:
                session = self._client.mount_blob(repository, blob.digest, origin)
                if session is None:
                    continue
                # A registry may refuse a mount, and begins an upload instead (distribution specification).
            self._client.upload_blob(repository, blob.digest, blob.size, blob.open, session)
            origin = repository

    def _lacking(self, blob: PushedBlob, repositories: Sequence[str]) -> list[str]:
        return [name for name in repositories if self._client.blob_size(name, blob.digest, "push") != blob.size]

    def _push_manifests(
        self, wanted: Mapping[tuple[str, Digest], PushedManifest], manifests: Mapping[Digest, PushedManifest]
    ) -> None:
        """Uploads images, then lists of images, then lists of lists one by one: a registry refuses a manifest that
        names something which it does not have."""

        def put(place: tuple[str, Digest]) -> None:
            manifest = manifests[place[1]]
            self._client.put_manifest(place[0], str(place[1]), manifest.content, manifest.media_type)

        single = [place for place, manifest in wanted.items() if not manifest.children]
        lists = [(place, manifest) for place, manifest in wanted.items() if manifest.children]
        nested = {place for place, manifest in lists if any(manifests[child].children for child in manifest.children)}
        flat = [place for place, _ in lists if place not in nested]
        for group in (single, flat, *([place] for place, _ in lists if place in nested)):
            self._each(put, group)

    def _has_name(self, name: PushedName) -> bool:
        assert name.tag is not None
        return self._client.manifest_digest(name.repository, name.tag, "push") == name.digest

    def _each(self, step: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
        """As `in_threads`, with the threads of this push. The registry keeps blobs that were complete at an
        interruption."""
        # one call for each group, so that the next group begins when this one is complete
        return in_threads(step, items, self._jobs, "push")


def _blob_places(wanted: Mapping[tuple[str, Digest], PushedManifest]) -> list[tuple[PushedBlob, list[str]]]:
    """Each blob of `wanted` with the repositories that need it. The largest come first, so that all jobs end at about
    the same time."""
    places: dict[Digest, dict[str, None]] = defaultdict(dict)
    blobs: dict[Digest, PushedBlob] = {}
    for (repository, _), manifest in wanted.items():
        for blob in manifest.blobs:
            places[blob.digest][repository] = None
            blobs[blob.digest] = blob
    order = sorted(blobs.values(), key=lambda blob: (-blob.size, blob.digest))
    return [(blob, list(places[blob.digest])) for blob in order]


def _with_children(digest: Digest, manifests: Mapping[Digest, PushedManifest]) -> Iterator[Digest]:
    """Every manifest once, after those that it names."""
    seen: set[Digest] = set()
    pending = [(digest, False)]
    while pending:
        digest, children_done = pending.pop()
        if children_done:
            yield digest
        elif digest not in seen:
            seen.add(digest)
            pending.append((digest, True))
            for child in manifests[digest].children:
                if child not in manifests:
                    raise TargetError(f"the list {digest} names {child}, which is missing")
                pending.append((child, False))


@contextmanager
def _as_target_error() -> Iterator[None]:
    try:
        yield
    except TargetError:
        raise
    except MigrateError as exc:
        if exc.scope == "run":
            raise
        raise TargetError(exc.message) from exc
    except OSError as exc:
        raise TargetError(f"a blob cannot be read: {exc}") from exc
