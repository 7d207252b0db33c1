"""Where in a tree the sources are: at well-known places first, else anywhere below its top."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from migrate.blobio.stopping import check_stop
from migrate.errors import SourceError
from migrate.model.legacy import SourceType, is_hex_id
from migrate.model.options import ReadOptions
from migrate.storage.tree import Tree

Detect = Callable[[Tree], Sequence[SourceType]]
"""The types of source that a tree is, by the names at its top."""
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
_MOST_FOLDERS: Final = 200_000
"""Folders that a search looks at."""
_DEEPEST: Final = 12
_STORES: Final = (SourceType.DOCKER_ROOT, SourceType.REGISTRY_V1, SourceType.REGISTRY_V2)
"""What a search takes before anything else: many programs have a `manifest.json`."""
_SIGNS: Final = frozenset(
    b"graph image repositories images docker registry v2 blobs manifest.json version index.json oci-layout".split()
)
"""One of these names, or an ID, is at the top of every source; a folder without is not looked at any further."""


class Found(NamedTuple):
    path: bytes
    source_type: SourceType


def find_sources(tree: Tree, detect: Detect) -> list[Found]:
    """Those at well-known places; where there are none, all that a search meets first on each way down."""
    found: list[Found] = []
    for place in WELL_KNOWN:
        # A registry's storage is recognised at each of the folders above it: the topmost one is its place.
        if not any(place.startswith(one.path + b"/" if one.path else b"") for one in found):
            found += types_at(tree, place, detect)
    return found or _search(tree, detect)


def inside_of(options: ReadOptions) -> bytes | None:
    """`--inside` as a path of a tree, without `.` and empty parts."""
    if options.inside is None:
        return None
    return b"/".join(part for part in os.fsencode(options.inside).split(b"/") if part not in (b"", b"."))


def types_at(tree: Tree, path: bytes, detect: Detect) -> list[Found]:
    """What the folder at `path` is; nothing where it is none, or cannot be read."""
    try:
        if path and not tree.is_folder(path):
            return []
        folder = tree.subtree(path) if path else tree
        return [Found(path, kind) for kind in detect(folder)]
    except SourceError:
        return []


def _search(tree: Tree, detect: Detect) -> list[Found]:
    found: list[Found] = []
    waiting = deque([b""])
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
            here = types_at(tree, folder, detect)
            found.extend(here)
            if here:
                continue
        if folder.count(b"/") + 1 < _DEEPEST:
            prefix = folder + b"/" if folder else b""
            waiting.extend(prefix + name for name in sorted(facts) if facts[name][0] & 0o170000 == 0o040000)
    return [one for one in found if one.source_type in _STORES] or found
