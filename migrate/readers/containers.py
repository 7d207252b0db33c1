"""The containers of a Docker root: their records, what each changed in its image, and their volumes.

moby 0.6 to 1.9, daemon/daemon.go (createRootfs, Changes, Diff) and daemon/graphdriver; docs/formats/docker-root.md.
"""

from __future__ import annotations

import os
import re
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from migrate.blobio.limits import JSON_BYTES
from migrate.compose.container import commit_json
from migrate.compose.run_command import run_words, volume_names
from migrate.documents.containers import ContainerRecord, MountRecord, parse_container
from migrate.documents.docker_root import parse_migration_map
from migrate.errors import (
    ChainError,
    DocumentError,
    MissingLayerError,
    MissingParentError,
    SourceError,
    UnsupportedError,
)
from migrate.model.container import Container, RunCommand, Volume
from migrate.model.legacy import LegacyID, LegacyImage, LegacyLayer, PayloadRef, is_safe_name
from migrate.model.reference import Reference
from migrate.readers.access import may_read_trusted
from migrate.readers.graph import Graph
from migrate.readers.graphdrivers.aufs import is_metadata
from migrate.readers.graphdrivers.changes import Budget, Change, Comparison, differ, walk_tree
from migrate.readers.graphdrivers.choose import PLACES
from migrate.readers.graphdrivers.driver import GraphDriver
from migrate.readers.graphdrivers.tree_tar import TreeTar, tar_of_changes, tar_of_tree
from migrate.readers.graphdrivers.union import UnionTree
from migrate.readers.removals import Removals
from migrate.readers.root_records import list_folders
from migrate.storage.tree import Tree, TreeEntry, find_folder

_RECORDS: Final = (b"config.v2.json", b"config.json")
"""Docker 1.10 reads and writes the first one only, so the second one keeps the image's legacy ID."""
_MIGRATION_MAP: Final = b".migration-v1-images.json"
_WHITEOUT: Final = b".wh."
_OWN_FOLDERS: Final = frozenset({b"containers", b"vfs", b"volumes"})
_SHORT: Final = 12
_SHOWN: Final = 5
_BLOCK: Final = 256 * 1024
_DATA: Final = re.compile(rb"volumes/([^/]+)/_data")
_IN_ROOT: Final = re.compile(r"/(vfs/dir/[^/]+|volumes/[^/]+/(?:_data|layer))/?\Z")


class FoundContainer(Struct, frozen=True, kw_only=True):
    """`id` is the name of the directory. `image` is the legacy ID of the image, "" if none is recorded, and `sha256:…`
    if Docker 1.10 or later made the container. `record` is None if it is missing or cannot be read."""

    id: LegacyID
    image: str = ""
    record: ContainerRecord | None = None
    problem: str | None = None

    @property
    def name(self) -> str:
        """Docker 0.6.4 and earlier gave no names."""
        return (self.record.name if self.record is not None else "") or self.id[:_SHORT]

    @property
    def described(self) -> Container:
        record = self.record
        return Container(
            id=self.id,
            name=self.name,
            image=self.image,
            state="unknown" if record is None else record.state,
            created=None if record is None else record.created,
        )


def _read_containers(root: Tree) -> tuple[dict[LegacyID, FoundContainer], list[str]]:
    """All containers, by ID, and the problems of their records. A damaged record does not affect the others."""
    try:
        containers = find_folder(root, b"containers")
        if containers is None:
            return {}, []
        containers.entries(b"")
    except SourceError as error:
        return {}, [f"the containers cannot be listed: {error.message}"]
    try:
        # Docker 1.10 writes this map when it converts a store of an older version. Stores that were never converted
        # have none.
        migrated = parse_migration_map(root.read(_MIGRATION_MAP, JSON_BYTES), root.shown(_MIGRATION_MAP))
    except SourceError:
        migrated = {}
    found: dict[LegacyID, FoundContainer] = {}
    problems: list[str] = []
    for folder in list_folders(containers):
        container = _read_container(containers, folder, migrated)
        found[container.id] = container
        record_problems = container.record.problems if container.record is not None else ()
        problems += [f"container {container.id}: {one}" for one in (container.problem, *record_problems) if one]
    return found, problems


def _read_container(containers: Tree, folder: bytes, migrated: Mapping[str, str]) -> FoundContainer:
    container = LegacyID(os.fsdecode(folder))
    try:
        host = containers.read(folder + b"/hostconfig.json", JSON_BYTES)
    except SourceError:  # it has the options for `docker run` only, which are not in an image
        host = None
    records: list[ContainerRecord] = []
    problem: str | None = None
    for name in _RECORDS:
        path = folder + b"/" + name
        try:
            # Both records are read: the newer one may be lost, and the older one has the legacy ID of the image.
            records.append(parse_container(containers.read(path, JSON_BYTES), containers.shown(path), host))
        except MissingLayerError:
            continue
        except SourceError as error:
            problem = error.message
    if not records:
        return FoundContainer(id=container, problem=problem)
    # Docker 1.10 writes image IDs (`sha256:…`) into its own record, and leaves the legacy ID in the older one. Without
    # that one, the map of the migration leads back from the image ID to the legacy ID.
    images = [record.image for record in records if record.image]
    image = next((image for image in images if not image.startswith("sha256:")), None)
    if image is None:
        image = next((migrated.get(image, image) for image in images), "")
    return FoundContainer(id=container, image=image, record=records[0], problem=problem)


# --- what a container changed ----------------------------------------------------------------------------------------


class ContainerChanges(Struct, frozen=True, kw_only=True):
    """`changes` are the entries of the layer; if None, all of `tree` is the layer, without the paths that `skip`
    excludes. `unsure` as in `tar_of_changes`.

    `reasons`: why Docker may make another layer of the container.
    """

    tree: Tree
    changes: Sequence[Change] | None = None
    unsure: int = 0
    skip: Callable[[bytes], bool] | None = None
    reasons: tuple[str, ...] = ()

    def tar(self) -> TreeTar:
        if self.changes is not None:
            return tar_of_changes(self.tree, self.changes, self.unsure)
        return tar_of_tree(self.tree, self.skip)

    def entries(self) -> Iterator[TreeEntry]:
        """The entries of the layer, without deletions."""
        if self.changes is None:
            return walk_tree(self.tree, self.skip)
        return (change.entry for change in self.changes if change.entry is not None)


class ContainerLayers:
    """The layers of a root's containers. May be used from several threads."""

    def __init__(self, root: Tree, graph: Graph, driver: GraphDriver, *, salvage: bool) -> None:
        self.found, self._record_problems = _read_containers(root)
        self._root = root
        self._graph = graph
        self._driver = driver
        self._salvage = salvage
        self._volume_sizes: dict[bytes, int | None] = {}
        self._warnings: dict[LegacyID, tuple[str, ...]] = {}
        self._tops: dict[bytes, Tree | None] = {}

    @property
    def by_image(self) -> Mapping[str, tuple[str, ...]]:
        """The image as a record names it → container IDs."""
        images: dict[str, list[str]] = defaultdict(list)
        for container in self.found.values():
            if container.image:
                images[container.image].append(container.id)
        return {image: tuple(ids) for image, ids in images.items()}

    def __contains__(self, legacy_id: object) -> bool:
        return legacy_id in self.found and legacy_id not in self._graph

    def images(self) -> list[LegacyImage]:
        """One image for each container. If no image can be made of it, reading its layer gives the reason."""
        removals = Removals(self._root, self._driver)
        images: list[LegacyImage] = []
        for container in self.found.values():
            # A container without a record and without a layer is an empty directory that a removal left.
            if container.id in self._graph or (container.record is None and not self._driver.has_layer(container.id)):
                continue
            removed = None if container.record is None else removals.reason(container.id, container.record)
            warnings: list[str] = []
            # On the disk of a machine that crashed the state is still "running". Docker commits such a container like
            # any other once it is stopped (moby 1.9.1, daemon/daemon.go, Register), so it is converted, with a warning.
            if container.described.state in ("running", "paused", "restarting"):
                warnings.append("it was running when this disk was last written: files may be half written")
            if removed is not None:
                warnings.append(
                    f"Docker had begun to remove it ({removed}): some of its files may be missing, and the image may "
                    "have deletions that the container did not make"
                )
            images.append(
                LegacyImage(
                    head=container.id,
                    references=(Reference(f"container/{container.name}", "latest"),),
                    container=replace(container.described, half_removed=removed is not None),
                    warnings=tuple(warnings),
                )
            )
        return images

    @property
    def problems(self) -> tuple[str, ...]:
        """The problems of records, and the containers that are left out."""
        twins = [container for container in self.found if container in self._graph]
        return (
            *self._record_problems,
            *(f"container {one}: graph/ has an image of the same ID; the container is left out" for one in twins),
        )

    def read_layer(self, container_id: LegacyID) -> LegacyLayer:
        """The layer on top of the container's image. Raises SourceError or ChainError if no image can be made."""
        container = self.found[container_id]
        try:
            parent = self._check(container)
            architecture = system = None
            if parent is not None:
                top = self._graph.read_json(parent).facts()
                # `docker commit` writes the daemon's own platform. The image of the container has the same one.
                architecture, system = top.architecture, top.os
            assert container.record is not None
            raw = commit_json(container.record, container_id, parent, architecture, system)
        except DocumentError as error:
            raise DocumentError(f"{container.described.title}: {error.message}", layer=container_id) from error
        return LegacyLayer(legacy_id=container_id, json=raw, parent=parent, payload=PayloadRef(key=container_id))

    def _check(self, container: FoundContainer) -> LegacyID | None:
        """The image of the container; None if it is lost and `salvage` makes one layer of the whole tree. Raises
        SourceError if no image can be made."""
        title, record = container.described.title, container.record
        if record is None:
            raise DocumentError(container.problem or "its record (config.json) is lost")
        # Source: moby 1.9.1, daemon/daemon.go (load).
        if record.id != container.id:
            raise DocumentError(f"its record is that of {record.id or 'no container'}; Docker does not load it")
        if container.image.startswith("sha256:"):
            raise UnsupportedError(
                f"{title}: Docker 1.10 or later made it, from image {container.image}; commit it there",
                layer=container.id,
            )
        # Docker before 0.7 had aufs only, and recorded no driver.
        driver = record.driver or "aufs"
        if record.driver and record.driver != self._driver.name:
            raise MissingLayerError(
                f"{title}: its layer belongs to the storage driver {driver}; what is read here is "
                f"{self._driver.name}, --driver {driver} reads the other one",
                layer=container.id,
            )
        # vfs, btrfs and devicemapper keep the whole file system of a container, so an image can be made without the
        # one below. With overlay the container's own directory, `upper`, has only the files that it changed.
        image = LegacyID(container.image)
        lost: LegacyID | None = image
        chain: set[LegacyID] = set()
        while lost is not None and lost in self._graph and lost not in chain:
            chain.add(lost)
            lost = self._graph.parents.get(lost)
        if lost is None or lost in chain:
            return image
        if self._salvage and self._driver.holds_whole_trees and self._driver.name != "overlay":
            return None
        what = "its image" if lost == image else f"layer {lost} of its image"
        raise MissingParentError(
            f"{title}: {what} {image or '(none is recorded)'} is not in graph/; {self._place_of_files(container.id)}",
            layer=container.id,
        )

    def _place_of_files(self, container_id: LegacyID) -> str:
        """The place of the files of a container whose image is lost, for the end of an error."""
        place = f"{PLACES[self._driver.name]}/{container_id}"
        if self._driver.name == "overlay":
            place += "/upper"
        elif self._driver.name == "aufs" and not self._driver.has_layer(container_id):
            place = f"containers/{container_id}/rw"
        place = self._root.shown(os.fsencode(place))
        if self._driver.name in ("aufs", "overlay"):
            return f"the files that it changed are in {place}"
        if self._driver.name == "devicemapper":
            return "its thin device holds the whole file system: --salvage makes an image of one layer of it"
        return f"{place} holds its whole file system: --salvage makes an image of one layer of it"

    def _tree(self, container_id: LegacyID) -> Tree:
        if self._driver.name == "aufs" and not self._driver.has_layer(container_id):
            # The place of Docker 0.6. If 0.7 could not move the directory, it left a link to here in aufs/diff.
            containers, place = self._locate(os.fsencode(f"containers/{container_id}/rw"))
            if containers.is_folder(place):
                return containers.subtree(place)
        return self._driver.layer_tree(container_id)

    def changes(self, layer: LegacyLayer, budget: Budget | None = None) -> ContainerChanges:
        """The content of the container's layer. Raises SourceError."""
        try:
            found = self._changes(layer, budget)
        except SourceError as error:
            message = f"{self.found[layer.legacy_id].described.title}: {error.message}"
            upper = os.fsencode(f"overlay/{layer.legacy_id}/upper")
            if isinstance(error, MissingLayerError) and self._driver.name == "overlay" and self._root.is_folder(upper):
                message += f"; {self._place_of_files(layer.legacy_id)}"
            raise type(error)(message, layer=layer.legacy_id) from error
        self._warnings[layer.legacy_id] = found.reasons
        return found

    def _changes(self, layer: LegacyLayer, budget: Budget | None) -> ContainerChanges:
        container_id = layer.legacy_id
        tree = self._tree(container_id)
        if not self._driver.holds_whole_trees:
            # aufs: the container's own directory is the layer, with whiteouts as files.
            return ContainerChanges(tree=tree, skip=is_metadata)
        if layer.parent is None:
            # Salvaged without its image: all of the tree is one layer. A file that is really called `.wh.NAME` would
            # delete NAME when the image is unpacked.
            marked = [entry.path for entry in walk_tree(tree) if _is_marked(entry.path)]
            return ContainerChanges(tree=tree, skip=_is_marked, reasons=tuple(_left_out(marked)))
        # Docker compares a container with `<id>-init`, the layer with the files that Docker puts into every container.
        # If that layer is lost, the image takes its place, and InitFiles leaves these files out.
        init = LegacyID(f"{container_id}-init")
        base = self._driver.layer_tree(init if self._driver.has_layer(init) else layer.parent)
        found = None if self._driver.has_layer(init) else InitFiles(tree)
        left_out: list[bytes] = []

        def is_left_out(path: bytes, entry: TreeEntry | None) -> bool:
            if b".wh." in path and any(_is_marked(name) for name in path.split(b"/")):
                left_out.append(path)
                return True
            return found is not None and entry is not None and found.is_made_by_docker(entry)

        comparison = Comparison(tree, base, budget)
        changes = comparison.changes(is_left_out)
        # Equal sizes and equal whole seconds are weaker evidence than equal nanoseconds. The report counts such files.
        unsure = comparison.copies if tree.has_whole_seconds or base.has_whole_seconds else 0
        if found is not None:
            changes = found.without_empty_parents(changes, base)
        reasons = [*_left_out(left_out), *self._opaque_warnings(tree)]
        base.close()
        return ContainerChanges(tree=tree, changes=changes, unsure=unsure, reasons=tuple(reasons))

    def _opaque_warnings(self, tree: Tree) -> Iterator[str]:
        """A reason for an overlay whose opaque directories cannot be recognised: the attribute `trusted.overlay.opaque`
        is hidden from this user, or the tar was written without extended attributes."""
        if not isinstance(tree, UnionTree):
            return
        again = "what was in them before may be in the image again"
        if tree.has_no_xattrs:
            yield (
                "the tar has no extended attributes, and the directories that the container replaced as a whole are "
                f"marked by them: {again}; `tar --xattrs --xattrs-include='*'` keeps them"
            )
        elif self._root.local_path(b"") is not None and not may_read_trusted():
            yield f"only root sees which directories the container replaced as a whole: {again}"

    def measure(self, container: Container, budget: Budget) -> Container:
        """As LegacySource."""
        legacy_id = LegacyID(container.id)
        try:
            found = self.changes(self.read_layer(legacy_id), budget)
            changed: int | None = _total(found.entries(), budget)
            found.tree.close()
        except (SourceError, ChainError):
            changed = None
        return replace(container, changed_bytes=changed, volumes=self._volumes(legacy_id, budget))

    def finish(self, container: Container) -> tuple[Container, tuple[str, ...]]:
        """As LegacySource."""
        legacy_id = LegacyID(container.id)
        if legacy_id not in self._warnings:
            # The warnings are found when the changes are computed.
            self.changes(self.read_layer(legacy_id)).tree.close()
        warnings = self._warnings[legacy_id]
        try:
            unseen = self._unseen(legacy_id)
        except SourceError as error:
            unseen = ()
            warnings += (f"changes that Docker does not see cannot be searched for: {error.message}",)
        if unseen:
            shown = ", ".join(unseen[:_SHOWN]) + (", …" if len(unseen) > _SHOWN else "")
            warnings += (
                "changes that Docker does not see, because size and time are the same, are not in the image: "
                f"{len(unseen):,}, {shown}",
            )
        return replace(container, volumes=self._volumes(legacy_id, Budget()), unseen=unseen), warnings

    def _unseen(self, container_id: LegacyID) -> tuple[str, ...]:
        """Paths whose content the container changed without changing size and time. Docker's comparison does not find
        them, so they are not in the image. Only with overlay they can be found: its `upper` has all files that the
        container wrote.
        """
        tree = self._tree(container_id)
        if not isinstance(tree, UnionTree):
            return ()
        found = []
        for entry in walk_tree(tree.upper):
            before = tree.lower.find(entry.path) if stat.S_ISREG(entry.mode) else None
            if before is not None and not differ(entry, before) and not _same_content(tree, entry.path):
                found.append(os.fsdecode(entry.path))
        tree.close()
        return tuple(found)

    def run_command(self, container: Container, image: str) -> RunCommand:
        """As LegacySource."""
        record = self.found[LegacyID(container.id)].record
        if record is None:
            return RunCommand(words=("docker", "run", image))
        names = volume_names(record, (volume.path for volume in container.volumes if volume.kind == "volume"))
        return RunCommand(
            words=run_words(record, image, names), volume_names=tuple(names.items()), image_name=record.image_name
        )

    # --- volumes -------------------------------------------------------------------------------------------------

    def _volumes(self, container_id: LegacyID, budget: Budget) -> tuple[Volume, ...]:
        """By path in the container."""
        record = self.found[container_id].record
        if record is None:
            return ()
        volumes: list[Volume] = []
        for mount in record.mounts:
            path = self._volume_place(mount, record)
            if path is not None:
                volumes.append(self._volume_at(path, mount.destination, budget))
            else:
                source = mount.source or mount.name
                volumes.append(
                    Volume(path=mount.destination, source=source, bytes=None, kind="volume" if mount.name else "bind")
                )
        return tuple(volumes)

    def orphaned_volumes(self, budget: Budget) -> tuple[Volume, ...]:
        """As LegacySource."""
        records = [container.record for container in self.found.values() if container.record is not None]
        named = {self._volume_place(mount, record) for record in records for mount in record.mounts}
        try:
            found = sorted(place for place in self._volume_places() if place not in named)
        except SourceError:  # such as a folder that this user may not read
            return ()
        return tuple(self._volume_at(place, "", budget) for place in found)

    def _volume_places(self) -> Iterator[bytes]:
        """The paths of all local volumes, as every version of Docker kept them."""
        volumes = find_folder(self._root, b"volumes")
        older = set()
        for name in () if volumes is None else list_folders(volumes):
            # In this order: `volumes/<name>/_data` of Docker 1.7 and later, `volumes/<id>/layer` up to 0.6,
            # `vfs/dir/<id>` from 0.7 to 1.6, where `volumes/<id>` has only a document.
            identity = os.fsdecode(name)
            place = self._data_place(identity, "") if is_safe_name(identity) else None
            if place is not None and self._holds_folder(place):
                yield place
            elif self._holds_folder(b"volumes/" + name + b"/layer"):
                yield b"volumes/" + name + b"/layer"
            else:
                older.add(name)
        vfs = find_folder(self._root, b"vfs/dir")
        # vfs also kept volumes whose document in `volumes/` is lost. Where vfs is the storage driver, `vfs/dir` has the
        # layers, too, and nothing distinguishes them.
        others = set() if vfs is None or self._driver.name == "vfs" else set(list_folders(vfs))
        yield from (place for name in older | others if self._holds_folder(place := b"vfs/dir/" + name))

    def _holds_folder(self, path: bytes) -> bool:
        tree, below = self._locate(path)
        return tree.is_folder(below)

    def volume_names(self) -> frozenset[str]:
        """The IDs and names of volumes. Up to Docker 1.6 `vfs/dir` has a directory of the same name."""
        volumes = find_folder(self._root, b"volumes")
        return frozenset(map(os.fsdecode, list_folders(volumes))) if volumes is not None else frozenset()

    def _locate(self, path: bytes) -> tuple[Tree, bytes]:
        """(tree, path in it) for a path of the root. `containers`, `vfs` and `volumes` may be symbolic links, as where
        an owner has moved them to another disk. Any other name comes from a record, and no link in it is followed."""
        top, _, below = path.partition(b"/")
        if top in _OWN_FOLDERS and top not in self._tops:
            self._tops[top] = find_folder(self._root, top)
        tree = self._tops.get(top)
        return (self._root, path) if tree is None else (tree, below)

    def _volume_at(self, path: bytes, destination: str, budget: Budget) -> Volume:
        tree, below = self._locate(path)
        if path not in self._volume_sizes:
            self._volume_sizes[path] = None
            with suppress(SourceError):
                if tree.is_folder(below):
                    self._volume_sizes[path] = _total(walk_tree(tree.subtree(below)), budget)
        return Volume(path=destination, source=tree.shown(below), bytes=self._volume_sizes[path])

    def _volume_place(self, mount: MountRecord, record: ContainerRecord) -> bytes | None:
        """The path of a volume's data in the root; None for a bind mount, and if a link leads out of the root."""
        try:
            if mount.source:
                place = self._path_in_root(mount.source, record.root)
                data = _DATA.fullmatch(place) if place is not None else None
                return place if data is None else self._data_place(os.fsdecode(data[1]), record.root)
            if not is_safe_name(mount.name) or mount.driver not in ("", "local"):
                return None
            return self._data_place(mount.name, record.root)
        except SourceError:  # such as a folder that this user may not read
            return None

    def _data_place(self, name: str, recorded_root: str) -> bytes | None:
        path = os.fsencode(f"volumes/{name}/_data")
        tree, below = self._locate(path)
        entry = tree.find(below)
        if entry is None or not entry.is_link:
            return path
        # Docker 1.7 and later leave the data of an older volume in their place, with an absolute link to them.
        return self._path_in_root(os.fsdecode(tree.read_link(below)), recorded_root)

    def _path_in_root(self, source: str, recorded_root: str) -> bytes | None:
        """`source`, an absolute path on the machine that Docker ran on, as a path below its Docker root; None if it was
        outside that root."""
        if recorded_root and source.startswith(f"{recorded_root}/"):
            below = source.removeprefix(f"{recorded_root}/").rstrip("/")
        # The record has no root, or an older one. The end of a volume's path identifies it.
        elif match := _IN_ROOT.search(source):
            below = match[1]
        else:
            return None
        path = os.fsencode(below)
        # Records are input: a `..` must not lead out of the root.
        if any(name in (b"", b".", b"..") for name in path.split(b"/")):
            return None
        tree, rest = self._locate(path)
        return path if tree.is_folder(rest) or _IN_ROOT.search(f"/{below}") else None


def _left_out(paths: Sequence[bytes]) -> Iterator[str]:
    if paths:
        names = ", ".join(path.decode("utf-8", "backslashreplace") for path in sorted(paths)[:_SHOWN])
        more = f" and {len(paths) - _SHOWN:,} more" if len(paths) > _SHOWN else ""
        yield f"names that would delete others in an image are left out: {names}{more}"


def _is_marked(path: bytes) -> bool:
    """True for a name that means a deletion in a layer's tar."""
    return path.rpartition(b"/")[2].startswith(_WHITEOUT)


def _total(entries: Iterable[TreeEntry], budget: Budget) -> int:
    """Bytes of regular files, each inode once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for entry in entries:
        budget.spend(1)
        if stat.S_ISREG(entry.mode) and (entry.device, entry.inode) not in seen:
            total += entry.size
            if entry.nlink > 1:
                seen.add((entry.device, entry.inode))
    return total


def _same_content(tree: UnionTree, path: bytes) -> bool:
    with tree.upper.open(path) as new, tree.lower.open(path) as old:
        while True:
            block = new.read(_BLOCK)
            if block != old.read(_BLOCK):
                return False
            if not block:
                return True


class InitFiles:
    """The files that Docker puts into every container (moby 1.9, daemon/daemon_unix.go, setupInitLayer), for a
    container whose layer `<id>-init` is lost."""

    _FOLDERS: Final = frozenset({b"dev", b"dev/pts", b"dev/shm", b"etc", b"proc", b"sys"})
    _FILES: Final = frozenset(
        {b".dockerenv", b".dockerinit", b"dev/console", b"etc/hostname", b"etc/hosts", b"etc/resolv.conf"}
    )
    _PARENTS: Final = (b"dev", b"etc")

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def is_made_by_docker(self, entry: TreeEntry) -> bool:
        """True for one of Docker's paths with exactly the type, mode and size that Docker gives it. False for `dev` and
        `etc`, which may have other files; see `without_empty_parents`."""
        if entry.path in self._PARENTS or (entry.uid, entry.gid) != (0, 0):
            return False
        if entry.path in self._FOLDERS:
            return entry.mode == stat.S_IFDIR | 0o755
        if entry.path in self._FILES:
            return entry.mode == stat.S_IFREG | 0o755 and entry.size == 0
        is_link = entry.path == b"etc/mtab" and stat.S_ISLNK(entry.mode)
        return is_link and self._tree.read_link(entry.path) == b"/proc/mounts"

    def without_empty_parents(self, changes: Sequence[Change], base: Tree) -> list[Change]:
        """`changes` without `dev` and `etc` if Docker made them only to put its own files into them."""
        used = {change.path.partition(b"/")[0] for change in changes if b"/" in change.path}
        return [
            change
            for change in changes
            if change.path not in self._PARENTS or change.path in used or base.find(change.path) is not None
        ]
