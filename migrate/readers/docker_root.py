"""A Docker root of before 1.10 (`/var/lib/docker`): graph/, a tag store, and one storage driver's layers.

Nothing is mounted, nothing is written, and no daemon is needed. docs/formats/docker-root.md describes how
each part is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Final

from msgspec.structs import replace

from migrate.blobio.chunkstream import open_chunks
from migrate.blobio.observed import ObservedStream
from migrate.blobio.payload import Payload
from migrate.blobio.stopping import stoppable
from migrate.errors import (
    DamagedError,
    LimitError,
    MissingLayerError,
    PayloadRestartError,
    PermissionSourceError,
    SourceError,
    SourceUnreadableError,
    TruncatedError,
)
from migrate.model.container import Container, RunCommand, Volume
from migrate.model.digest import Digest
from migrate.model.legacy import (
    LegacyID,
    LegacyLayer,
    Origin,
    PayloadRef,
    SourceListing,
    SourceType,
    is_hex_id,
)
from migrate.model.options import ReadOptions
from migrate.readers.access import check_readable
from migrate.readers.base import LegacySource
from migrate.readers.containers import ContainerLayers
from migrate.readers.graph import Graph, is_scratch
from migrate.readers.graphdrivers.aufs import is_metadata
from migrate.readers.graphdrivers.changes import Budget, Comparison
from migrate.readers.graphdrivers.choose import choose_driver, count_layers
from migrate.readers.graphdrivers.driver import GraphDriver
from migrate.readers.graphdrivers.tree_tar import TreeTar, tar_of_changes, tar_of_tree
from migrate.readers.root_records import (
    list_images,
    new_format_drivers,
    read_tags,
    remapped_roots,
    running_daemon,
    tag_stores,
)
from migrate.storage.tree import OpenedFile, Tree, find_folder, open_inside
from migrate.tar import tarsplit
from migrate.tar.tarsum import TarSumCheck

_DIRECTORY_BYTES: Final = 4096
_REMAPPED_ROOT: Final = "a root of its own, of a daemon with user namespaces; name it, or choose it with --inside"
CHECKED_DRIVERS: Final = ("btrfs", "overlay", "vfs")
"""Drivers whose layers are whole file trees on disk, so that comparing an image with its tree is cheap."""


def is_docker_root(tree: Tree) -> bool:
    """True for a directory with a graph of legacy IDs, a tag store, or the images of Docker 1.10 and later."""
    if new_format_drivers(tree):
        return True
    graph = find_folder(tree, b"graph")
    if graph is None:
        return False
    return any(name.startswith("repositories") for name in tag_stores(tree)) or any(
        is_hex_id(os.fsdecode(name)) for name in graph.list_names(b"")
    )


class DockerRootSource(LegacySource):
    """A Docker root of before 1.10, read-only. Raises SourceUnreadableError if the whole root cannot be read."""

    source_type = SourceType.DOCKER_ROOT

    def __init__(self, location: str, tree: Tree, options: ReadOptions) -> None:
        """`location` is the text that the user gave; `tree`, the root, is taken over."""
        self.location = location
        self._root = tree
        graph = find_folder(tree, b"graph")
        if graph is None or not Graph(graph).contents.ids:
            raise SourceUnreadableError(_no_image_message(tree))
        self._graph = Graph(graph, tree, salvage=options.salvage)
        ids = self._graph.contents.ids
        self._counts = count_layers(tree, ids)
        if not self._counts:
            # All layer trees are lost. Docker 0.3 to 0.5 kept the pulled archives in the graph, and had only aufs.
            archives = sum(self._graph.archive(legacy_id) is not None for legacy_id in ids)
            self._counts = {"aufs": archives} if archives else {}
        self._driver = choose_driver(tree, self._counts, len(ids), options)
        self._salvage = options.salvage
        self._listing: SourceListing | None = None
        self._layers: dict[LegacyID, LegacyLayer] = {}
        self._failed: dict[bytes, str] = {}
        self._sizes: dict[bytes, tarsplit.Sizes | None] = {}
        self._budgets: dict[int, Budget] = {}
        self._access = threading.Lock()
        self._access_checked: set[bool] = set()
        self._access_refused: PermissionSourceError | None = None

    @property
    def driver(self) -> GraphDriver:
        return self._driver

    # --- listing -------------------------------------------------------------------------------------------------

    def listing(self) -> SourceListing:
        if self._listing is not None:
            return self._listing
        elsewhere: frozenset[LegacyID] = frozenset()
        # A layer that another driver has is left out with a warning. If there is no other driver, it is a loss.
        if any(name != self._driver.name for name in self._counts):
            ids = self._graph.contents.ids
            elsewhere = frozenset(one for one in ids if not self._driver.has_layer(one) and self._archive(one) is None)
        listing = list_images(
            location=self.location,
            parents=self._graph.parents,
            elsewhere=elsewhere,
            tags=read_tags(self._root, self._driver.name, self._counts),
            containers=self._containers.by_image,
            container_images=self._containers.images(),
            warnings=(
                *self._iter_warnings(elsewhere),
                *self._containers.problems,
                *(f"{self.location}: {name} is not read: {_REMAPPED_ROOT}" for name in remapped_roots(self._root)),
            ),
        )
        contents = self._root.contents()
        wrapping = (*contents, f"source: {self._root.location}") if contents else ()
        self._listing = replace(listing, wrapping=wrapping)
        return self._listing

    @cached_property
    def _containers(self) -> ContainerLayers:
        return ContainerLayers(self._root, self._graph, self._driver, salvage=self._salvage)

    def measure_container(self, container: Container, most: int | None = None, /) -> Container:
        return self._containers.measure(container, self._budget(most))

    def orphaned_volumes(self, most: int | None = None, /) -> Sequence[Volume]:
        return self._containers.orphaned_volumes(self._budget(most))

    def _budget(self, most: int | None) -> Budget:
        return Budget() if most is None else self._budgets.setdefault(most, Budget(most))

    def run_container(self, container: Container, image: str, /) -> RunCommand:
        return self._containers.run_command(container, image)

    def finish_container(self, container: Container, /) -> tuple[Container, tuple[str, ...]]:
        return self._containers.finish(container)

    def _archive(self, legacy_id: LegacyID) -> bytes | None:
        """The path of the layer's archive in the graph, if aufs has lost the layer's tree; else None. The tree has
        priority, because Docker's migration reads it."""
        if self._driver.name != "aufs" or self._driver.has_layer(legacy_id):
            return None
        return self._graph.archive(legacy_id)

    def _iter_warnings(self, elsewhere: frozenset[LegacyID]) -> Iterator[str]:
        if running := running_daemon(self._root):
            yield running
        if drivers := new_format_drivers(self._root):
            yield (
                f"Docker 1.10 or later has used this root (image/{', image/'.join(drivers)}): the old graph/ is read "
                "here; images that came after that migration are only in the new form, `docker save` them there"
            )
        if migrated := self._graph.migrated():
            yield (
                f"{migrated:,} layers have .migration-* files of an earlier migration; its tar-split is used for "
                "layers that have none of their own, where it gives the diffID that was recorded with it"
            )
        if elsewhere:
            others = ", ".join(name for name in sorted(self._counts) if name != self._driver.name)
            yield f"{len(elsewhere):,} layers are not in {self._driver.name} and are left out (look in {others})"
        # Layers with tar-split are not affected: the tar's headers, which have the capabilities, are recorded there.
        if self._root.has_no_xattrs and not all(map(self._graph.has_tar_split, self._graph.contents.ids)):
            yield (
                f"{self._root.location}: has no extended attributes: capabilities of files, if there were any, are not "
                "in layers that are made anew; `tar --xattrs --xattrs-include='*'` keeps them"
            )
        yield from self._root.problems()
        yield from self._driver.find_problems()
        yield from self._iter_shifts()
        leftovers = self._graph.contents.leftovers
        if scratch := [name for name in leftovers if is_scratch(name) and self._graph.holds_anything(name)]:
            yield f"graph/: half-written images or scratch files in {_first_three(scratch)} are ignored"
        if strange := [name for name in leftovers if not is_scratch(name)]:
            yield f"graph/: {len(strange):,} names that are no image ignored: {_first_three(strange)}"
        containers = self._containers.found
        known = {*self._graph.contents.ids, *containers, *(f"{name}-init" for name in containers)}
        known |= self._containers.volume_names()
        if loose := [name for name in self._driver.layer_ids() if name not in known]:
            yield (
                f"{self._driver.name}: {len(loose):,} names belong to no image and no container and are ignored: "
                f"{_first_three(loose)}"
            )

    def _iter_shifts(self) -> Iterator[str]:
        """A warning if a daemon with user namespaces shifted the owners of layers that have to be made anew.

        With tar-split the owners are those of the tar. Without, they are those of the files. The top directory of a
        layer belongs to user 0 of the container, so its owner on disk is the shift. Thin devices are not opened for
        this check.
        """
        if self._driver.name == "devicemapper":
            return
        tops: Counter[tuple[int, int]] = Counter()
        for legacy_id in self._graph.contents.ids:
            if self._driver.has_layer(legacy_id) and next(self._graph.tar_splits(legacy_id), None) is None:
                with contextlib.suppress(SourceError):
                    top = self._driver.layer_tree(legacy_id).stat(b"")
                    tops[top.uid, top.gid] += 1
        # Only if it is true for more than half of the layers: an image may give its top directory another owner.
        for (users, groups), layers in tops.most_common(1):
            if (users or groups) and layers * 2 > tops.total():
                yield (
                    f"{layers:,} layers have no tar-split, and all owners in them are {users:,} (users) and "
                    f"{groups:,} (groups) higher than in the containers, as with user namespaces: they are made anew "
                    "with the owners that the files have"
                )

    # --- layers --------------------------------------------------------------------------------------------------

    def read_layer(self, legacy_id: LegacyID, /) -> LegacyLayer:
        """All images that have the layer share one object: 2,000 images of 50 layers need 2,000 documents in memory and
        not 100,000."""
        if (known := self._layers.get(legacy_id)) is not None:
            return known
        if legacy_id in self._containers:
            layer = self._layers[legacy_id] = self._containers.read_layer(legacy_id)
            return layer
        self._graph.tree.require_whole(os.fsencode(legacy_id), names=True)
        document = self._graph.read_json(legacy_id)
        parent = self._graph.read_parent(legacy_id, document)
        written = document.identity().id
        warnings: tuple[str, ...] = ()
        if legacy_id in self._graph.salvaged:
            made = self._graph.salvaged[legacy_id] or "its json was lost, and is made of v1Compatibility"
            warnings = (f"graph/{legacy_id}: salvaged: {made}",)
        elif written not in (None, legacy_id):
            warnings = (f"graph/{legacy_id}: its JSON has another id, {written}",)
        layer = self._layers[legacy_id] = LegacyLayer(
            legacy_id=legacy_id,
            json=document,
            parent=parent,
            payload=PayloadRef(
                key=legacy_id, estimate=self._graph.layer_size(legacy_id), absent=self._why_absent(legacy_id)
            ),
            warnings=warnings,
        )
        return layer

    def _why_absent(self, legacy_id: LegacyID) -> str | None:
        if self._driver.has_layer(legacy_id) or self._archive(legacy_id) is not None:
            return None
        try:
            self._driver.layer_tree(legacy_id)
        except MissingLayerError as error:
            return error.message
        except SourceError:  # reading the layer reports that
            pass
        return None

    def check_access(self, *, containers: bool = False) -> None:
        """Raises PermissionSourceError if this user may not read all of the graph and of its layers. The check runs
        once; later calls raise the same error."""
        with self._access:
            # Called for every layer, from several threads: the first call walks the whole store.
            if containers not in self._access_checked:
                self._access_checked.add(containers)
                try:
                    graph = self._graph.tree.local_path(b"")
                    ids = list(self._graph.contents.ids)
                    places = [] if graph is None else [graph]
                    if containers:
                        records = self._root.local_path(b"containers")
                        places += [] if records is None else [records]
                        ids += [LegacyID(f"{one}{end}") for one in self._containers.found for end in ("-init", "")]
                    if places:
                        check_readable([*places, *self._driver.places(ids)])
                    self._driver.check_access()
                except PermissionSourceError as error:
                    self._access_refused = error
        if self._access_refused is not None:
            raise self._access_refused

    @contextmanager
    def open_payload(self, layer: LegacyLayer, /) -> Iterator[Payload]:
        self.check_access()
        archive = self._archive(layer.legacy_id)
        if archive is not None:
            with self._graph.tree.opened(archive) as opened:
                yield self._archive_payload(layer, self._graph.tree.shown(archive), opened)
            return
        trees: list[Tree] = []
        try:
            yield self._payload(layer, trees)
        finally:
            for tree in trees:
                tree.close()

    def _payload(self, layer: LegacyLayer, trees: list[Tree]) -> Payload:
        if layer.legacy_id in self._containers:
            changes = self._containers.changes(layer)
            trees.append(changes.tree)
            payload = self._new_tar_payload(layer, changes.tar(), changes.reasons)
        else:
            tree = self._layer_tree(layer.legacy_id, trees)
            payload = self._assembled_or_new_tar(layer, tree, trees)
        # A layer that is made by comparison with another tree also has the damage of that tree.
        doubts = self._driver.layer_doubts(layer.legacy_id)
        below = layer.parent if layer.legacy_id not in self._containers else LegacyID(f"{layer.legacy_id}-init")
        made_of = [layer.legacy_id, *([below] if below and payload.origin == Origin.DIFF else [])]
        damage = [found for one in made_of for found in self._driver.layer_damage(one)]
        payload.note = "; ".join([*damage, *doubts, *([payload.note] if payload.note else [])]) or None
        payload.damaged |= bool(damage)
        lost = self._graph.salvaged.get(layer.legacy_id)
        if lost and payload.origin == Origin.TAR_SPLIT:
            # The layer's bytes are right, but the image's history has lost the command that made the layer.
            payload.note = f"{payload.note}; {lost}" if payload.note else lost
            payload.exact = False
        if layer.legacy_id not in self._containers:
            self._compare_while_read(layer, payload)
        return payload

    def _compare_while_read(self, layer: LegacyLayer, payload: Payload) -> None:
        """Compares the layer's tar with the tarsum and the diffID that the graph records, while it is read."""
        recorded = self._graph.tarsum(layer.legacy_id, layer.json)
        diff_id = self._graph.migrated_sums(layer.legacy_id)[0] if payload.origin == Origin.TAR_SPLIT else None
        if recorded is None and diff_id is None:
            return
        tarsum = None if recorded is None else TarSumCheck(recorded, layer.json, f"layer {layer.legacy_id}")
        sha256 = hashlib.sha256()

        def observe(piece: memoryview) -> None:
            if tarsum is not None:
                tarsum.feed(piece)
            if diff_id is not None:
                sha256.update(piece)

        def finish() -> None:
            found = []
            # A whiteout that is made anew has the time 0 and not that of Docker's run, so a tarsum over times cannot
            # match.
            other = None if tarsum is None else tarsum.disagrees(ignore_whiteouts=payload.origin == Origin.DIFF)
            if other is not None:
                found.append(f"graph/{layer.legacy_id} records the checksum {recorded}, and its tar has {other}")
            if diff_id is not None and sha256.hexdigest() != diff_id.hex:
                found.append(f".migration-diffid records {diff_id}, and its tar has sha256:{sha256.hexdigest()}")
            if found:
                payload.damaged = True
                payload.exact = False
                payload.note = "; ".join([*([payload.note] if payload.note else []), *found])

        payload.stream = ObservedStream(payload.stream, sys.maxsize, observe, finish).as_binary()

    def _assembled_or_new_tar(self, layer: LegacyLayer, tree: Tree, trees: list[Tree]) -> Payload:
        for metadata, diff_id in self._graph.tar_splits(layer.legacy_id):
            if metadata in self._failed:
                continue
            sizes = self._tar_split_sizes(metadata)
            if sizes is not None and sizes.tar == 0 and not self._new_tar(layer, tree, trees).is_empty:
                # The metadata is sound, but describes a tar of no bytes. Docker accepts it, and pushes the layer
                # without its files.
                self._failed[metadata] = "it describes a tar of 0 bytes, while the store holds files of this layer"
                continue
            # The second metadata is that of a migration, with the diffID of its bytes. It is used if Docker's own one
            # does not fit.
            pieces = self._assemble(layer.legacy_id, metadata, diff_id, tree)
            misfits = self._tar_split_mismatches(layer.legacy_id)
            notes = [*misfits, "put together from the tar-split of an earlier migration"] if misfits else []
            wrong_sizes = self._wrong_sizes(layer, sizes, metadata) if sizes is not None else []
            notes += wrong_sizes
            return Payload(
                stream=open_chunks(pieces),
                origin=Origin.TAR_SPLIT.value,
                size=None if sizes is None else sizes.tar,
                exact=not misfits,
                damaged=bool(self._has_tar_split_mismatch(layer.legacy_id) or wrong_sizes),
                note="; ".join(notes) or None,
            )
        lost = self._graph.salvaged.get(layer.legacy_id)
        return self._new_tar_payload(layer, self._new_tar(layer, tree, trees), [lost] if lost else [])

    def _tar_split_mismatches(self, legacy_id: LegacyID) -> list[str]:
        return [
            f"tar-split does not fit what is stored ({self._failed[path]}): not the bytes that were "
            f"{'pulled or built' if diff_id is None else 'there when Docker migrated it'}"
            for path, diff_id in self._graph.tar_splits(legacy_id)
            if path in self._failed
        ]

    def _has_tar_split_mismatch(self, legacy_id: LegacyID) -> bool:
        """True if a tar-split file does not fit the layer's files. An empty file, as a power cut leaves it, does not
        count: it is no evidence of damaged files."""
        tree = self._graph.tree
        return any(path in self._failed and tree.stat(path).size for path, _ in self._graph.tar_splits(legacy_id))

    def _recorded_size(self, layer: LegacyLayer) -> int:
        return (layer.payload.estimate if layer.payload is not None else None) or 0

    def _wrong_sizes(self, layer: LegacyLayer, sizes: tarsplit.Sizes, metadata: bytes) -> list[str]:
        def read_links() -> int:
            with self._graph.tree.open(metadata) as stream:
                return tarsplit.link_bytes(stoppable(stream))

        recorded = {
            "layersize": self._recorded_size(layer),
            ".migration-size": self._graph.migrated_sums(layer.legacy_id)[1] or 0,
        }
        found = (_wrong_size(name, size, sizes.files, read_links) for name, size in recorded.items())
        return [wrong for wrong in found if wrong]

    def _layer_tree(self, legacy_id: LegacyID, trees: list[Tree]) -> Tree:
        tree = self._driver.layer_tree(legacy_id)
        trees.append(tree)
        return tree

    def _tar_split_sizes(self, metadata: bytes) -> tarsplit.Sizes | None:
        """The sizes that tar-split metadata records; None if it is damaged. Reading the layer reports the damage."""
        if metadata not in self._sizes:
            try:
                with self._graph.tree.open(metadata) as stream:
                    self._sizes[metadata] = tarsplit.read_sizes(stoppable(stream))
            except (DamagedError, LimitError):
                self._sizes[metadata] = None
        return self._sizes[metadata]

    def _assemble(
        self, legacy_id: LegacyID, metadata: bytes, diff_id: Digest | None, tree: Tree
    ) -> Generator[bytes, None, None]:
        hasher = hashlib.sha256()
        try:
            with self._graph.tree.open(metadata) as stream:
                for piece in tarsplit.assemble(stoppable(stream), lambda name: open_inside(tree, name)):
                    if diff_id is not None:
                        hasher.update(piece)
                    # Pieces are handed out before the whole is known to be right. An error at the end is therefore a
                    # restart.
                    yield piece
            if diff_id is not None and hasher.hexdigest() != diff_id.hex:
                raise DamagedError(f"it gives sha256:{hasher.hexdigest()}, and {diff_id} was recorded")
        except PermissionSourceError:
            raise
        except SourceError as error:
            # The bytes handed out so far are useless. The caller opens the layer again, and gets the next metadata, or
            # the tar made anew.
            self._failed[metadata] = error.message
            raise PayloadRestartError(
                f"{self._graph.tree.shown(metadata)}: {error.message}", layer=legacy_id
            ) from error

    def _archive_payload(self, layer: LegacyLayer, shown: str, opened: OpenedFile) -> Payload:
        if not opened.size:
            raise TruncatedError(f"{shown}: has 0 bytes")
        name = shown.rpartition("/")[2]
        note = f"{name}, as Docker 0.3 to 0.5 pulled it: the layer's tree, which Docker would read, is lost"
        payload = Payload(stream=opened.stream, origin=Origin.BLOB.value, size=opened.size, note=note)
        recorded = self._graph.archive_checksums.get(layer.legacy_id)
        if recorded is None:
            return payload
        # Docker up to 0.5 computed the checksum over the layer's JSON, a newline, and the layer as it came.
        sha256 = hashlib.sha256(layer.json + b"\n")

        def finish() -> None:
            if f"sha256:{sha256.hexdigest()}" != recorded:
                payload.damaged = True
                payload.note = f"{note}; graph/checksums records {recorded} of it, it has sha256:{sha256.hexdigest()}"

        payload.stream = ObservedStream(opened.stream, opened.size, sha256.update, finish).as_binary()
        return payload

    def _new_tar_payload(self, layer: LegacyLayer, tar: TreeTar, reasons: Sequence[str] = ()) -> Payload:
        payload = Payload(stream=open_chunks(iter(())), origin=Origin.DIFF.value, size=tar.size)
        payload.stream = open_chunks(self._read_new_tar(layer, tar, payload, reasons))
        return payload

    def _new_tar(self, layer: LegacyLayer, tree: Tree, trees: list[Tree]) -> TreeTar:
        tree.require_whole(b"")
        if not self._driver.holds_whole_trees:
            return tar_of_tree(tree, is_metadata)
        if layer.parent is None:
            return tar_of_tree(tree)
        parent = self._layer_tree(layer.parent, trees)
        parent.require_whole(b"")
        comparison = Comparison(tree, parent)
        changes = comparison.changes()
        in_seconds = tree.has_whole_seconds or parent.has_whole_seconds
        return tar_of_changes(tree, changes, comparison.copies if in_seconds else 0)

    def _read_new_tar(
        self, layer: LegacyLayer, tar: TreeTar, payload: Payload, known: Sequence[str]
    ) -> Generator[bytes, None, None]:
        """The tar made anew. `known`: reasons, besides those that the tar gives, why Docker's tar may be
        different."""
        yield from tar.read()
        reasons = [*known, *self._tar_split_mismatches(layer.legacy_id)]
        files, links = tar.counted()
        wrong_size = _wrong_size("layersize", self._recorded_size(layer), files, lambda: links)
        surplus = self._recorded_size(layer) - files - links
        # `layersize` may be larger than the files of a tar made anew although nothing is lost. A layer may have brought
        # files that were in the parent, unchanged: Docker counted them, and the comparison does not find them. Docker
        # before 0.7, which had aufs only, also counted 4096 bytes for each directory.
        whole = self._driver.holds_whole_trees
        if surplus > 0 and (layer.parent is not None if whole else surplus >= _DIRECTORY_BYTES):
            wrong_size = None
        if wrong_size:
            reasons.append(wrong_size)
        payload.damaged |= bool(self._has_tar_split_mismatch(layer.legacy_id) or wrong_size)
        if doubts := tar.doubts():
            reasons.append(f"Docker's bytes may differ: {'; '.join(doubts)}")
        payload.exact = not reasons
        if reasons:
            made = f"made anew from the file tree; {'; '.join(reasons)}"
            payload.note = f"{payload.note}; {made}" if payload.note else made

    # --- the whole file system -----------------------------------------------------------------------------------

    @property
    def holds_rootfs(self) -> bool:
        return self._driver.holds_whole_trees

    @property
    def checks_rootfs_by_default(self) -> bool:
        return self._driver.name in CHECKED_DRIVERS

    def open_rootfs(self, legacy_id: LegacyID, /) -> AbstractContextManager[Tree] | None:
        return self._driver.layer_tree(legacy_id) if self._driver.holds_whole_trees else None

    def close(self) -> None:
        self._driver.close()
        self._root.close()


def _no_image_message(root: Tree) -> str:
    inner = "".join(f"; {name} is not read: {_REMAPPED_ROOT}" for name in remapped_roots(root))
    if drivers := new_format_drivers(root):
        return (
            f"{root.location}: holds images in the form of Docker 1.10 and later only (image/"
            f"{', image/'.join(drivers)}); these are content-addressed already: start that "
            "Docker on it and `docker save` them, or copy them with `skopeo copy docker-daemon:NAME:TAG oci:DIR`"
            f"{inner}"
        )
    return f"{root.location}: graph/ holds no image{inner}"


def _wrong_size(name: str, recorded: int, files: int, read_links: Callable[[], int]) -> str | None:
    """The problem of a recorded size; None if it is right or unknown. `name`: the file that records it.

    Docker counted the bytes of regular files in the tar, or of symbolic links, too (moby, pkg/archive, UnpackLayer and
    ChangesSize). It wrote 0 for an unknown size.
    """
    # The links are counted last: that reads all of the tar-split metadata.
    if recorded in (0, files) or recorded == files + read_links():
        return None
    return f"{name} records {recorded:,} bytes of files, and there are {files:,}"


def _first_three(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (", …" if len(listed) > 3 else "")
