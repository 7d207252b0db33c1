"""The kernel's dm-btree, read and checked node by node.

Source of the format: Linux, drivers/md/persistent-data/dm-btree-internal.h. Blocks have 4,096 bytes, all integers are
little-endian. A node: csum u32, flags u32 (1 internal, 2 leaf), blocknr u64, nr_entries, max_entries, value_size and
padding u32, then max_entries keys of u64, then max_entries values. An internal value is a block number.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator
from typing import Final, Protocol

from fastcrc import crc32
from msgspec import Struct

from migrate.errors import DamagedError, SourceError

BLOCK_SIZE: Final = 4096
NODE_CSUM_XOR: Final = 121107
_HEADER = struct.Struct("<IIQIIII")
_INTERNAL: Final = 1
_LEAF: Final = 2
_KEY_END: Final = 1 << 64


class ReadsBlocks(Protocol):
    def read_at(self, offset: int, size: int, /) -> bytes: ...


class BTreeNode(Struct, frozen=True):
    """A valid node. `keys` ascend; `values` has `value_size` bytes for each key."""

    block: int
    leaf: bool
    keys: array[int]
    value_size: int
    values: bytes

    def numbers(self) -> array[int]:
        """The values as u64 numbers; only for a `value_size` of 8."""
        return _integers(self.values)


class Loss(Struct, frozen=True):
    """A part of a tree that cannot be read: the keys from `first` to `end`, exclusive."""

    first: int
    end: int
    error: SourceError


def block_checksum(raw: bytes, xor: int) -> int:
    """The checksum of a metadata block: CRC-32C of all bytes behind the stored checksum, without the final complement,
    XOR-ed with the constant of the block's kind (Linux, dm_bm_checksum in dm-block-manager.c)."""
    return crc32.iscsi(raw[4:]) ^ 0xFFFFFFFF ^ xor


def read_node(image: ReadsBlocks, block: int) -> BTreeNode:
    """Reads and checks one node. Raises DamagedError with the block's number, TruncatedError beyond the end."""
    raw = image.read_at(block * BLOCK_SIZE, BLOCK_SIZE)
    csum, flags, number, entries, most, value_size, _ = _HEADER.unpack_from(raw)
    where = f"thin-pool metadata, block {block}"
    computed = block_checksum(raw, NODE_CSUM_XOR)
    if csum != computed:
        raise DamagedError(f"{where}: its checksum is {csum:#010x}, its content gives {computed:#010x}")
    if number != block:
        raise DamagedError(f"{where}: has the block number {number}")
    if flags not in (_INTERNAL, _LEAF):
        raise DamagedError(f"{where}: is no tree node (flags {flags:#x})")
    if entries > most or _HEADER.size + most * (8 + value_size) > BLOCK_SIZE:
        raise DamagedError(f"{where}: {entries} of {most} entries of {8 + value_size} bytes do not fit a block")
    if flags == _INTERNAL and (value_size != 8 or not entries):
        raise DamagedError(f"{where}: an internal node with {entries} entries of {value_size} bytes")
    keys = _integers(raw[_HEADER.size : _HEADER.size + entries * 8])
    if any(keys[at] >= keys[at + 1] for at in range(entries - 1)):
        raise DamagedError(f"{where}: its keys do not ascend")
    # The values begin behind the room for `most` keys, not behind the keys in use (struct btree_node).
    start = _HEADER.size + most * 8
    return BTreeNode(block, flags == _LEAF, keys, value_size, raw[start : start + entries * value_size])


def walk_leaves(image: ReadsBlocks, root: int, value_size: int) -> Iterator[BTreeNode | Loss]:
    """Every leaf of the tree, in ascending order of keys, and a Loss for every damaged part.

    No block is read twice, and the keys of every child must be within those of its parent, so that the walk ends for
    any input.
    """
    seen: set[int] = set()
    waiting = [(root, 0, _KEY_END)]
    while waiting:
        block, first, end = waiting.pop()
        try:
            if block in seen:
                raise DamagedError(f"thin-pool metadata, block {block}: is at two places of one tree")
            seen.add(block)
            node = read_node(image, block)
            if node.leaf and node.value_size != value_size:
                raise DamagedError(
                    f"thin-pool metadata, block {block}: values of {node.value_size} bytes instead of {value_size}"
                )
            if len(node.keys) and not (first <= node.keys[0] and node.keys[-1] < end):
                raise DamagedError(
                    f"thin-pool metadata, block {block}: keys {node.keys[0]} to {node.keys[-1]} are outside its "
                    f"parent's {first} to {end}"
                )
        except SourceError as exc:
            yield Loss(first, end, exc)
            continue
        if node.leaf:
            yield node
            continue
        # A child has the keys from its own one in this node up to the next one.
        bounds = [*node.keys, end]
        children = zip(node.numbers(), bounds, bounds[1:], strict=False)
        waiting.extend(reversed(list(children)))


def _integers(raw: bytes) -> array[int]:
    numbers = array("Q", raw)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
