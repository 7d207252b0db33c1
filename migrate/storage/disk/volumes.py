"""The content of a disk: partitions, LVM volumes and thin pools, and the file system in each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from msgspec import Struct, field

from migrate.errors import SourceError
from migrate.storage.disk.lvm import PhysicalVolume, is_physical_volume, read_groups, read_physical_volume
from migrate.storage.disk.partitions import read_partitions
from migrate.storage.filesystems.probe import probe_kind
from migrate.storage.pieces import BlocksPart

if TYPE_CHECKING:
    from migrate.storage.blocks import Blocks
    from migrate.storage.tree import PoolParts

FILE_SYSTEMS: Final = ("ext4", "xfs", "btrfs")
_ADVICE: Final = {
    "luks": "is encrypted (LUKS): open it with `cryptsetup open --readonly`, and convert /dev/mapper/NAME",
    "bitlocker": "is encrypted (BitLocker), and holds no Docker root that could be read here",
    "bcache": "belongs to a bcache, and may lack what is in its cache: attach both, and convert /dev/bcacheN",
    "md": "is a member of a RAID (md): assemble it with `mdadm --assemble --readonly`, and convert /dev/mdN",
    "zfs": "belongs to a ZFS pool: import it with `zpool import -o readonly=on`, mount its datasets, and convert the "
    "Docker root from there",
}
"""Kind → advice, for volumes that may have a source but are not read here."""


class DiskVolume(Struct, frozen=True):
    """A volume of a disk, which may have a file system. `kind` as of `probe_kind`, None if it is unknown.

    `group`: the volume's LVM group, or "".
    """

    name: str
    size: int
    kind: str | None
    blocks: Blocks | None = None
    group: str = ""
    error: SourceError | None = None

    @property
    def description(self) -> str:
        """One line for the user."""
        what = self.kind or "nothing that is known"
        if self.error is not None:
            what = self.error.message
        elif self.kind in _ADVICE:
            what = _ADVICE[self.kind]
        return f"{self.name} ({self.size:,} bytes): {what}"


class DiskContents(Struct):
    volumes: list[DiskVolume] = field(default_factory=list)
    pools: dict[str, list[PoolParts]] = field(default_factory=dict)
    """LVM group → its thin pools."""
    problems: list[str] = field(default_factory=list)

    @property
    def file_systems(self) -> list[DiskVolume]:
        return [volume for volume in self.volumes if volume.kind in FILE_SYSTEMS and volume.blocks is not None]


def read_contents(disk: Blocks) -> DiskContents:
    """Reads partition tables and labels. No file system is opened."""
    found = DiskContents()
    physical: list[PhysicalVolume] = []
    for volume in _iter_places(disk, found):
        # A damaged volume must not make the others unreadable: its error becomes a problem of this volume.
        if volume.kind == "lvm" and volume.blocks is not None:
            try:
                physical.append(read_physical_volume(volume.blocks))
            except SourceError as exc:
                found.problems.append(f"{volume.name}: {exc.message}")
        found.volumes.append(volume)
    try:
        groups = read_groups(physical)
    except SourceError as exc:
        found.problems.append(f"the LVM metadata cannot be read: {exc.message}")
        groups = []
    for group in groups:
        found.problems.extend(group.problems)
        found.pools[group.name] = group.pools
        for name, blocks in group.volumes.items():
            shown = f"LVM volume {group.name}/{name}"
            if isinstance(blocks, SourceError):
                found.volumes.append(DiskVolume(shown, 0, None, None, group.name, blocks))
            else:
                found.volumes.append(_probed(shown, blocks, group.name))
        found.volumes.extend(
            DiskVolume(f"LVM thin pool {group.name}/{pool.name}", pool.data.size, "thin pool", None, group.name)
            for pool in group.pools
        )
    return found


def looks_like_disk(blocks: Blocks) -> bool:
    """True for a raw disk or partition of a known kind."""
    try:
        return probe_kind(blocks) is not None or read_partitions(blocks) is not None
    except SourceError:
        return False


def _iter_places(disk: Blocks, found: DiskContents) -> Iterator[DiskVolume]:
    """The partitions of a disk; also the whole disk, if it has a file system or an LVM label."""
    table = read_partitions(disk)
    # A file system without partitions may have bytes in its boot sector that look like a table. Both are listed then.
    whole = _probed("the whole disk", disk)
    if whole.kind is not None and (table is None or whole.kind in (*FILE_SYSTEMS, "lvm")):
        yield whole
    if table is None:
        if whole.kind is None:
            yield whole
        return
    if table.problem:
        found.problems.append(table.problem)
    for partition in table.partitions:
        name = f"partition {partition.number} ({table.scheme})"
        if partition.is_cut:
            found.problems.append(f"{name}: reaches beyond the end of the disk; was the image cut off?")
        yield _probed(name, BlocksPart(disk, partition.start, partition.size))


def _probed(name: str, blocks: Blocks, group: str = "") -> DiskVolume:
    try:
        kind = probe_kind(blocks)
        if kind is None and is_physical_volume(blocks):
            kind = "lvm"
        return DiskVolume(name, blocks.size, kind, blocks, group)
    except SourceError as exc:
        return DiskVolume(name, blocks.size, None, None, group, exc)
