"""Thin pools made without a kernel driver: blocks laid into a data file, metadata written by thin_restore."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

SECTOR = 512
BLOCK = 64 * 1024
METADATA_BYTES = 4 * 1024 * 1024


@dataclass(slots=True)
class PoolBuilder:
    """A pool in the making: each device is laid down block by block; equal blocks of the parent are shared.

    Blocks of zeros stay unmapped, as a discard would leave them.
    """

    directory: Path
    block: int = BLOCK
    devices: dict[int, dict[int, int]] = field(default_factory=dict)
    transactions: dict[int, int] = field(default_factory=dict)
    next_block: int = 1
    transaction: int = 0

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def metadata(self) -> Path:
        return self.directory / "metadata"

    def add(self, device: int, image: Path, parent: int | None = None) -> None:
        """Every device is a transaction of its own, as with Docker."""
        self.transaction += 1
        self.transactions[device] = self.transaction
        above = self.devices.get(parent, {}) if parent is not None else {}
        mapping: dict[int, int] = {}
        self.data.touch()
        with image.open("rb") as source, self.data.open("r+b") as target:
            for number, content in stored_blocks(source.fileno(), self.block):
                place = above.get(number)
                if place is not None and os.pread(target.fileno(), self.block, place * self.block) == content:
                    mapping[number] = place
                    continue
                mapping[number] = self.next_block
                os.pwrite(target.fileno(), content, self.next_block * self.block)
                self.next_block += 2 if number % 7 == 0 else 1  # holes in the pool, as after a discard
        self.devices[device] = mapping

    def write_metadata(self) -> None:
        os.truncate(self.data, max(self.data.stat().st_size, (self.next_block + 8) * self.block))
        total = self.data.stat().st_size // self.block
        document = self.directory / "metadata.xml"
        document.write_text(pool_xml(self.devices, self.transactions, self.transaction, total, self.block))
        restore(document, self.metadata)
        document.unlink()


def stored_blocks(fd: int, block: int) -> Iterator[tuple[int, bytes]]:
    """(number, content) of the blocks of an image that are not all zeros."""
    size, at = os.fstat(fd).st_size, 0
    while True:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA) // block * block
            end = os.lseek(fd, max(at, 0), os.SEEK_HOLE) if os.lseek(fd, at, os.SEEK_DATA) == at else at + block
        except OSError:  # no more data
            return
        while at < min(end, size):
            content = os.pread(fd, block, at).ljust(block, b"\0")
            if content.strip(b"\0"):
                yield at // block, content
            at += block


def pool_xml(
    devices: Mapping[int, Mapping[int, int]],
    transactions: Mapping[int, int],
    transaction: int,
    total: int,
    block: int = BLOCK,
) -> str:
    root = ElementTree.Element(
        "superblock",
        uuid="",
        time="1",
        transaction=str(transaction),
        data_block_size=str(block // SECTOR),
        nr_data_blocks=str(total),
    )
    for device, mapping in sorted(devices.items()):
        element = ElementTree.SubElement(
            root,
            "device",
            dev_id=str(device),
            mapped_blocks=str(len(mapping)),
            transaction=str(transactions.get(device, 0)),
            creation_time="0",
            snap_time="1",
        )
        for origin, target in sorted(mapping.items()):
            ElementTree.SubElement(
                element, "single_mapping", origin_block=str(origin), data_block=str(target), time=str(origin % 2)
            )
    return ElementTree.tostring(root, encoding="unicode")


def restore(document: Path, metadata: Path, size: int = METADATA_BYTES, *, check: bool = True) -> None:
    with metadata.open("wb") as stream:
        stream.truncate(size)
    run("thin_restore", "-i", str(document), "-o", str(metadata))
    if check:
        run("thin_check", "-q", str(metadata))


def dumped_mappings(metadata: Path) -> dict[int, dict[int, int]]:
    """What thin_dump reads from a metadata image: device → virtual block → pool block."""
    found: dict[int, dict[int, int]] = {}
    for device in ElementTree.fromstring(run("thin_dump", str(metadata))).iter("device"):
        mapping = found.setdefault(int(device.attrib["dev_id"]), {})
        for single in device.iter("single_mapping"):
            mapping[int(single.attrib["origin_block"])] = int(single.attrib["data_block"])
        for ranged in device.iter("range_mapping"):
            first, target = int(ranged.attrib["origin_begin"]), int(ranged.attrib["data_begin"])
            mapping.update((first + at, target + at) for at in range(int(ranged.attrib["length"])))
    return found


def run(*command: str, given: str | None = None) -> str:
    """A tool's output; what it says on stderr is in the failure."""
    done = subprocess.run(command, input=given, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
    return done.stdout


def write_record(store: Path, name: str, device: int, size: int, transaction: int = 1, **more: object) -> None:
    """`devicemapper/metadata/<name>` as Docker 1.9 wrote it: false under `initialized` for all but the base."""
    directory = store / "metadata"
    directory.mkdir(parents=True, exist_ok=True)
    document = {"device_id": device, "size": size, "transaction_id": transaction, "initialized": name == "base"}
    (directory / name).write_text(json.dumps({**document, "deleted": False, **more}))
