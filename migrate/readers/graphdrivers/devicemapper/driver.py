"""The devicemapper driver of a Docker root: a layer's name → its thin device → the tree under `rootfs/`."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

from migrate.errors import DamagedError, MissingLayerError, PermissionSourceError, SourceError, UnsupportedError
from migrate.model.legacy import LegacyID
from migrate.readers.graphdrivers.devicemapper.catalogue import BASE, DeviceRecord, read_catalogue
from migrate.readers.graphdrivers.devicemapper.sharing import ParsedInodes, SharedFileSystem
from migrate.readers.graphdrivers.driver import GraphDriver
from migrate.storage.blocks import Blocks, FileBlocks, open_device
from migrate.storage.filesystems.image_tree import EmptyTree, ImageTree
from migrate.storage.filesystems.probe import open_file_system, probe_kind
from migrate.storage.thin.device import ThinDevice
from migrate.storage.thin.pool import DeviceMap, ThinPool
from migrate.storage.tree import PoolParts, Tree, find_folder

_OPEN_TREES: Final = 8
_ID_BYTES: Final = 256


class DevicemapperDriver(GraphDriver):
    """`directory` is `<root>/devicemapper`; `data` and `metadata` replace the loop files in it.

    The pool is opened when the first layer is read, so that a store whose pool is lost can still be listed.
    """

    name = "devicemapper"

    def __init__(self, directory: Tree, data: Path | None = None, metadata: Path | None = None) -> None:
        self._directory = directory
        self._data = _PoolPart(data, directory, b"data", lambda pool: pool.data, self._find_pool)
        self._metadata = _PoolPart(metadata, directory, b"metadata", lambda pool: pool.metadata, self._find_pool)
        self._catalogue = read_catalogue(directory)
        self._users = Counter(
            record.device_id for record in self._catalogue.records.values() if isinstance(record, DeviceRecord)
        )
        self._trees: OrderedDict[str, Tree] = OrderedDict()
        self._lock = threading.Lock()
        self._parsed = ParsedInodes()
        self._doubts: dict[str, list[str]] = {}
        self._damage: dict[str, list[str]] = {}

    def layer_ids(self) -> Sequence[str]:
        return sorted(name for name in self._catalogue.records if name != BASE)

    def has_layer(self, legacy_id: LegacyID) -> bool:
        return legacy_id in self._catalogue.records and legacy_id != BASE

    def layer_tree(self, legacy_id: LegacyID) -> Tree:
        with self._lock:
            tree = self._trees.get(legacy_id)
            if tree is None:
                tree = self._trees[legacy_id] = self._open_tree(legacy_id)
                if len(self._trees) > _OPEN_TREES:
                    self._trees.popitem(last=False)
            self._trees.move_to_end(legacy_id)
            return tree

    def layer_doubts(self, legacy_id: LegacyID) -> Sequence[str]:
        """The problems of a layer that can be read nevertheless. Complete after its tree was opened."""
        return tuple(self._doubts.get(legacy_id, ()))

    def layer_damage(self, legacy_id: LegacyID) -> Sequence[str]:
        """The damage of the pool's metadata that affects the layer. Complete after its tree was opened."""
        return tuple(self._damage.get(legacy_id, ()))

    def check_access(self) -> None:
        """Raises PermissionSourceError if this user may not read the pool. Reading a layer reports any other error."""
        for part in (self._metadata, self._data):
            try:
                part.image()
            except PermissionSourceError:
                raise
            except SourceError:
                continue

    def find_problems(self) -> Sequence[str]:
        """The problems of the pool as a whole. Reads a few blocks of its metadata."""
        try:
            return self._pool.problems
        except SourceError as exc:
            return (exc.message,)

    def open_device(self, name: str) -> ThinDevice:
        """The thin device of a layer, or of `base`: the bytes of its whole file system."""
        record = self._usable_record(name)
        device_map = self._pool.read_map(record.device_id)
        return ThinDevice(self._data.image(), device_map, self._pool.superblock.block_size, record.size)

    @property
    def bytes_read(self) -> int:
        """The number of bytes read from the data file or device so far; for tests and benchmarks."""
        image = self._data.image()
        return image.bytes_read if isinstance(image, FileBlocks) else 0

    def close(self) -> None:
        with self._lock:
            self._trees.clear()
        self._data.close()
        self._metadata.close()

    def _open_tree(self, name: str) -> Tree:
        record = self._usable_record(name)
        try:
            device = self.open_device(name)
            kind = probe_kind(device)
            if kind is None:
                raise DamagedError("holds no file system that Docker made (neither ext4 nor xfs)")
            if kind not in ("ext4", "xfs"):
                raise UnsupportedError(f"holds a {kind} file system; ext4 and xfs are read")
            inner = open_file_system(device, kind)
            file_system = SharedFileSystem(inner, self._parsed, device)
            tree = _open_rootfs(file_system, record)
        except SourceError as exc:
            raise exc.at_layer(name, f"thin device {record.device_id} of layer {name}: ") from exc
        self._damage[name] = list(self._iter_damage(record.device_id, device.device_map))
        doubts = list(self._iter_other_names(ImageTree(file_system, record.device_id)))
        if inner.doubt:
            doubts.append(f"its file system {inner.doubt}")
        self._doubts[name] = doubts
        return tree

    def _iter_damage(self, device_id: int, device_map: DeviceMap) -> Iterator[str]:
        if not self._pool.superblock.sound:
            yield from self._pool.superblock.problems
        for loss in device_map.losses:
            yield f"a part of its mapping is lost: {loss.error}"
        # The device's details have the number of its mapped blocks. A lost node of the tree makes the counts differ. If
        # the details themselves are damaged, the mappings are still complete.
        try:
            counted, mapped = self._pool.details(device_id).mapped_blocks, device_map.mapped_blocks
        except SourceError as exc:
            yield f"its device's details are lost: {exc.message}"
            return
        if not device_map.losses and counted != mapped:
            yield f"thin device {device_id} maps {mapped:,} blocks, but the pool counted {counted:,}"

    def _iter_other_names(self, top: ImageTree) -> Iterator[str]:
        """Problems of the file `id`. Docker writes it at a device's first mount, and snapshots inherit it, so it names
        the layer or one of its parents. Another name is a sign of another store's pool."""
        try:
            with top.open(b"id") as stream:
                found = stream.read(_ID_BYTES).decode("ascii", "backslashreplace").strip()
        except MissingLayerError:
            return
        except SourceError as exc:
            yield f"its `id` file cannot be read: {exc.message}"
            return
        if found not in self._catalogue.records:
            yield f"its device names {found!r} as its owner, which is not in the store"

    def _usable_record(self, name: str) -> DeviceRecord:
        record = self._catalogue.records.get(name)
        if record is None:
            raise MissingLayerError(f"the devicemapper store has no device for layer {name}", layer=name)
        if isinstance(record, SourceError):
            raise type(record)(record.message, layer=name) from record
        if record.deleted:
            raise MissingLayerError(f"layer {name}: its device was being deleted", layer=name)
        # Two layers cannot share a device. Which of the records is wrong cannot be found out.
        if self._users[record.device_id] > 1:
            raise DamagedError(f"layer {name}: another layer claims thin device {record.device_id} too", layer=name)
        pending = self._catalogue.transaction
        if pending is not None and (pending.name, pending.device_id) == (name, record.device_id):
            reached = self._pool.superblock.transaction_id
            # Docker records the transaction before it makes the device, and the pool counts it afterwards (moby 1.9.1,
            # deviceset.go, openTransaction).
            if pending.transaction_id > reached:
                raise MissingLayerError(
                    f"layer {name}: its device was being made in transaction {pending.transaction_id}, "
                    f"but the pool is at {reached}",
                    layer=name,
                )
        return record

    @cached_property
    def _pool(self) -> ThinPool:
        return ThinPool(self._metadata.image())

    def _find_pool(self) -> PoolParts | None:
        """The thin pool with the devices of this store on the disk that the root is on, as with direct-lvm."""
        # A disk may have pools of other programs, too. The pool with most of this store's devices is taken.
        ids = self._users.keys()
        found: list[PoolParts] = []
        most = 0
        for pool in self._directory.thin_pools():
            try:
                known = len(ids & ThinPool(pool.metadata).devices.keys())
            except SourceError:
                continue
            if known > most:
                found, most = [pool], known
            elif known and known == most:
                found.append(pool)
        if len(found) > 1:
            names = ", ".join(pool.name for pool in found)
            raise DamagedError(
                f"the thin pools {names} of this disk all have devices of this store; choose with --dm-data"
            )
        return found[0] if found else None


class _PoolPart:
    """The data or the metadata of the pool: the file or device that the user named, else the loop file of the store.
    Opened once.

    A loop file must be a regular file. The content of a device or of a file outside the store would get into an image.
    """

    def __init__(
        self,
        named: Path | None,
        directory: Tree,
        name: bytes,
        part: Callable[[PoolParts], Blocks],
        find_pool: Callable[[], PoolParts | None],
    ) -> None:
        """`find_pool` gives the pool of a store without loop files, if it is on the same disk; `part` this part of
        it."""
        self._named = named
        self._part = part
        self._find_pool = find_pool
        self._directory = directory
        self._name = name
        self._image: Blocks | None = None
        self._lock = threading.Lock()

    def image(self) -> Blocks:
        with self._lock:
            if self._image is None:
                self._image = self._open()
            return self._image

    def _open(self) -> Blocks:
        if self._named is not None:
            return open_device(self._named)
        try:
            pool = find_folder(self._directory, b"devicemapper")
            if pool is None:
                raise MissingLayerError(f"{self._directory.location}/devicemapper: no such directory")
            return pool.open_blocks(self._name)
        except PermissionSourceError:
            raise
        except SourceError as exc:
            # With direct-lvm there are no files for the pool in devicemapper/. The pool may be on the disk image of the
            # root.
            if isinstance(exc, MissingLayerError) and (beside := self._find_pool()) is not None:
                return self._part(beside)
            raise type(exc)(
                f"{exc.message}; if the pool is in another place, as on block devices (direct-lvm), name its parts, or "
                "images of them, with --dm-data and --dm-metadata"
            ) from exc

    def close(self) -> None:
        with self._lock:
            if self._image is not None:
                self._image.close()


def _open_rootfs(file_system: SharedFileSystem, record: DeviceRecord) -> Tree:
    """The tree of the layer. A device without `rootfs/` is an empty layer if it is `initialized`, else it is
    unfinished.

    A device with `rootfs/` is never refused for its `initialized`: Docker 1.0 and later set it for the base device
    only, and not for snapshots (moby v1.9.1, createRegisterSnapDevice and MountDevice).
    """
    try:
        return ImageTree(file_system, record.device_id, b"rootfs")
    except MissingLayerError:
        if record.initialized:
            return EmptyTree(record.device_id)
        raise MissingLayerError("was never filled: it is not initialized, and has no rootfs/") from None
