"""Opening a file by a name that a tar gave it, inside a tree and nowhere else.

When the layer was unpacked, the tree was the whole world: a name that goes through a symbolic link went where that
link leads inside the tree. So do we, link by link, as openat2's RESOLVE_IN_ROOT does; a link out of the tree leads
to the tree's own root.
"""

from __future__ import annotations

import stat
from typing import BinaryIO

from migrate.blobio.limits import LINK_HOPS
from migrate.errors import LimitError, MissingLayerError
from migrate.readers.graphdrivers.tree import FileTree


def open_beneath(tree: FileTree, name: bytes) -> BinaryIO:
    """The regular file that `name` stands for. Raises SourceError."""
    path = _cleaned(name)
    try:
        return tree.open_file(path)
    except MissingLayerError:
        resolved = resolve_beneath(tree, path)
        if resolved == path:
            raise
    return tree.open_file(resolved)


def resolve_beneath(tree: FileTree, path: bytes) -> bytes:
    """`path` without symbolic links. MissingLayerError where a part of it is not there."""
    waiting = path.split(b"/")[::-1]
    done: list[bytes] = []
    hops = 0
    while waiting:
        part = waiting.pop()
        if part in (b"", b"."):
            continue
        if part == b"..":
            done = done[:-1]
            continue
        done.append(part)
        place = b"/".join(done)
        if not stat.S_ISLNK(tree.lstat(place).mode):
            continue
        hops += 1
        if hops > LINK_HOPS:
            raise LimitError(f"{path!r}: more than {LINK_HOPS} symbolic links in it")
        target = tree.read_link(place)
        done = [] if target.startswith(b"/") else done[:-1]
        waiting.extend(target.split(b"/")[::-1])
    return b"/".join(done)


def _cleaned(name: bytes) -> bytes:
    """As Go joins a name to a root: `..` is taken away before anything is looked up, and never leads above the root."""
    if name[:1] not in (b".", b"/") and b"//" not in name and b"/." not in name:
        return name.rstrip(b"/")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            parts = parts[:-1]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)
