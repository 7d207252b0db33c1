"""Finds the sources in a tree: at the well-known places first, else anywhere below its top."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from migrate.blobio.compression import detect_compression, open_decompressed
from migrate.blobio.stopping import check_stop
from migrate.errors import SourceError
from migrate.model.legacy import SourceType, is_hex_id
from migrate.model.options import ReadOptions
from migrate.storage.tree import Tree
from migrate.tar.index import begins_tar

Detect = Callable[[Tree], Sequence[SourceType]]
"""Gives the types of source that a tree may be, by the names at its top."""
WELL_KNOWN: Final = (
    b"",
    b"var/lib/docker",
    b"docker",
    b"lib/docker",
    b"srv/docker",
    b"@/var/lib/docker",
    b"mnt/sda1/var/lib/docker",
    b"var/lib/registry",
    b"srv/registry",
    b"registry",
)
_MOST_FILES: Final = 20_000
"""A search reads the first bytes of so many files at most."""
_HEAD_BYTES: Final = 128 * 1024
"""Enough for the superblock of every file system: that of btrfs begins at 64 KiB."""
_BLOCK_BYTES: Final = 4096
_MOST_FOLDERS: Final = 200_000
"""A search lists so many folders at most."""
_DEEPEST: Final = 12
_STORES: Final = (SourceType.DOCKER_ROOT, SourceType.REGISTRY_V1, SourceType.REGISTRY_V2)
"""A search prefers these types: many programs other than Docker have a `manifest.json`."""
_SIGNS: Final = frozenset(
    b"graph image repositories images docker registry v2 blobs manifest.json version index.json oci-layout".split()
)
"""Every source has one of these names, or an ID, at its top. A folder without them needs no further check."""


class FoundPlace(NamedTuple):
    path: bytes
    source_type: SourceType


def find_sources(tree: Tree, detect: Detect) -> list[FoundPlace]:
    """The sources at the well-known places. If there is none, all sources of the tree, without those inside others."""
    found: list[FoundPlace] = []
    for place in WELL_KNOWN:
        # A registry's storage is recognised at `registry/`, and at `docker/` and the top above it. The topmost folder
        # counts.
        if not any(place.startswith(one.path + b"/" if one.path else b"") for one in found):
            found += types_at(tree, place, detect)
    return found or _search(tree, detect)


def inside_of(options: ReadOptions) -> bytes | None:
    """`--inside` as a path of a tree, without `.` and empty parts."""
    if options.inside is None:
        return None
    return b"/".join(part for part in os.fsencode(options.inside).split(b"/") if part not in (b"", b"."))


def types_at(tree: Tree, path: bytes, detect: Detect) -> list[FoundPlace]:
    """The sources that the folder at `path` may be; an empty list if it is none, or cannot be read."""
    try:
        if path and not tree.is_folder(path):
            return []
        folder = tree.subtree(path) if path else tree
        return [FoundPlace(path, kind) for kind in detect(folder)]
    except SourceError:
        return []


def _search(tree: Tree, detect: Detect) -> list[FoundPlace]:
    found: list[FoundPlace] = []
    waiting = deque([b""])
    # Breadth first: a source near the top is found before the limit of folders is reached. A folder that cannot be
    # read, as on a damaged disk, does not end the search.
    for _ in range(_MOST_FOLDERS):
        if not waiting:
            break
        check_stop()
        folder = waiting.popleft()
        try:
            facts = tree.list_facts(folder)
        except SourceError:
            continue
        if any(name in _SIGNS or is_hex_id(os.fsdecode(name)) for name in facts):
            # Listing a folder is cheap. The check for a source reads further folders and files, so it runs only where a
            # name fits.
            here = types_at(tree, folder, detect)
            found.extend(here)
            if here:
                # What is inside a source is a part of it: vfs layers hold whole file systems, perhaps with sources in
                # them.
                continue
        if folder.count(b"/") + 1 < _DEEPEST:
            prefix = folder + b"/" if folder else b""
            waiting.extend(prefix + name for name in sorted(facts) if stat.S_IFMT(facts[name][0]) == stat.S_IFDIR)
    return [one for one in found if one.source_type in _STORES] or found


def find_wrappings(tree: Tree, ratio: int | None) -> list[bytes]:
    """The regular files of a tree that are tars (plain or compressed) or disk images, by their first bytes."""
    found: list[bytes] = []
    waiting = deque([b""])
    looked_at = 0
    while waiting and looked_at < _MOST_FILES:
        check_stop()
        # Breadth first: what the user meant is near the root, and the limit of files must not be used up in one deep
        # folder.
        folder = waiting.popleft()
        prefix = folder + b"/" if folder else b""
        try:
            kinds = tree.list_kinds(folder)
        except SourceError:
            continue
        files = sorted(prefix + name for name, kind in kinds.items() if kind == stat.S_IFREG)
        looked_at += len(files)
        found += [path for path in files[:_MOST_FILES] if _is_wrapping(tree, path, ratio)]
        if folder.count(b"/") + 1 < _DEEPEST:
            waiting.extend(sorted(prefix + name for name, kind in kinds.items() if kind == stat.S_IFDIR))
    return found


def _is_wrapping(tree: Tree, path: bytes, ratio: int | None) -> bool:
    """True for a tar, plain or compressed, and for a disk image. False for a file that cannot be read."""
    try:
        head = _read_head(tree, path, None, ratio)
        if (compression := detect_compression(head)) != "none":
            head = _read_head(tree, path, compression, ratio)
    except (OSError, SourceError):
        return False
    if begins_tar(head):
        return True
    from migrate.storage.disk.formats import looks_like_image

    return looks_like_image(head)


def _read_head(tree: Tree, path: bytes, compression: str | None, ratio: int | None) -> bytes:
    """The first bytes of a file, decompressed by `compression` if it is not None; of a damaged file those before the
    damage."""
    head = b""
    with tree.open(path) as stream, suppress(SourceError):
        plain = stream if compression is None else open_decompressed(stream, compression, tree.shown(path), ratio)
        # In small steps: where compressed data is damaged, one large read would lose the good bytes before the damage.
        while len(head) < _HEAD_BYTES and (more := plain.read(min(_BLOCK_BYTES, _HEAD_BYTES - len(head)))):
            head += more
    return head
