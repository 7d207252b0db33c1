"""The documents of a Docker root: the tag store, the traces of a migration or of a running daemon; and its images."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from msgspec import Struct

from migrate.blobio.limits import JSON_BYTES, SMALL_FILE_BYTES, parse_whole
from migrate.documents.docker_root import TagRecord, parse_tag_store
from migrate.errors import DocumentError, MissingLayerError, SourceError
from migrate.model.digest import Digest
from migrate.model.legacy import Failure, LegacyID, LegacyImage, SourceListing
from migrate.model.reference import Reference
from migrate.storage.directory_tree import DirectoryTree
from migrate.storage.tree import Tree, find_folder

_BARE = "repositories"
_PID = b"docker.pid"
_REMAPPED = re.compile(r"[0-9]+\.[0-9]+")
_LARGEST_PID = (1 << 31) - 1


class TagStore(Struct):
    """`tags` are sorted. `losses` are parts that could not be read; `error` is set if the whole file could not be read.
    `problems` are about other drivers' files."""

    tags: tuple[TagRecord, ...] = ()
    losses: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    error: SourceError | None = None


def tag_stores(root: Tree) -> list[str]:
    """The names of the root's tag stores: `repositories-<driver>`, and the bare `repositories` before Docker 0.7."""
    names = map(os.fsdecode, root.list_names(b""))
    return sorted(name for name in names if name == _BARE or name.startswith("repositories-"))


def read_tags(root: Tree, driver: str, drivers: Collection[str]) -> TagStore:
    """The tags of `driver`. The file `repositories` is that of Docker 0.6, which had aufs only. `drivers`: those that
    have layers here.

    As in Docker, another driver's tags are not used: its images may not be in this driver.
    """
    present = tag_stores(root)
    own = next((name for name in (f"repositories-{driver}", _BARE) if name in present), None)
    if own is None:
        found = TagStore(problems=(f"{root.location}/repositories-{driver} is not there: no image has a tag",))
    else:
        found = _read_tag_store(root, own)
    # A driver that has no layers here cannot be chosen, so that its tags can only be reported.
    readable = {f"repositories-{name}": name for name in drivers if name != driver}
    if "repositories-aufs" not in present and "aufs" in drivers:
        readable[_BARE] = "aufs"
    known = frozenset(found.tags)
    unread = [_unread_tags_warning(root, name, readable.get(name), known) for name in present if name != own]
    found.problems += tuple(warning for warning in unread if warning is not None)
    return found


def _unread_tags_warning(root: Tree, store_name: str, driver: str | None, known: Collection[TagRecord]) -> str | None:
    """A warning about the tags that only another driver's file has; None if there are none. `driver`: the driver to
    choose for them, if there is one."""
    store = _read_tag_store(root, store_name)
    if store.error is not None:
        return f"{store.error.message}; tags that only this file has are lost"
    names = [str(Reference(record.name, record.tag)) for record in store.tags if record not in known]
    if not names:
        return None
    listed = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    way = f"--driver {driver} reads them" if driver else "no driver that has layers here reads them"
    return f"{root.location}/{store_name}: {len(names):,} tags are only in it and are not read ({listed}); {way}"


def _read_tag_store(root: Tree, name: str) -> TagStore:
    path = os.fsencode(name)
    try:
        tags, losses = parse_tag_store(root.read(path, JSON_BYTES), root.shown(path))
    except SourceError as error:
        return TagStore(error=error)
    return TagStore(tags=tags, losses=losses)


def new_format_drivers(root: Tree) -> list[str]:
    """The drivers for which Docker 1.10 or later keeps images here, content-addressed: `image/<driver>/`."""
    image = find_folder(root, b"image")
    if image is None:
        return []
    return [os.fsdecode(name) for name in list_folders(image) if image.is_folder(name + b"/imagedb")]


def remapped_roots(root: Tree) -> list[str]:
    """The roots in this one that a daemon with user namespaces made, each named by its users' and groups' numbers.

    moby 1.10, daemon/daemon_unix.go (setupDaemonRoot): `UID.GID`, with all that is in a root below it.
    """
    names = [os.fsdecode(name) for name in list_folders(root)]
    return [
        name
        for name in names
        if _REMAPPED.fullmatch(name) and any(root.is_folder(f"{name}/{part}".encode()) for part in ("graph", "image"))
    ]


def running_daemon(root: Tree) -> str | None:
    """A warning if a Docker daemon may be running on this root; None if not, or if the root is no directory of this
    machine."""
    place = root.local_path(b"")
    if place is None:
        return None
    # docker.pid is in /var/run for the default root, and may be in the root itself for others.
    for tree in [root, *([DirectoryTree("/var/run")] if os.path.realpath(place) == "/var/lib/docker" else [])]:
        try:
            pid = parse_whole(tree.read(_PID, SMALL_FILE_BYTES).strip(), _LARGEST_PID)
        except SourceError:
            continue
        if pid and _is_running(pid):  # kill(2) takes 0 for the caller's own process group
            return (
                f"{tree.shown(_PID)} names the running process {pid}: stop Docker first; its changes during the run "
                "may be missing"
            )
    return None


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def list_folders(tree: Tree) -> list[bytes]:
    """The names of the folders at the top of a tree, sorted; empty if the tree cannot be listed."""
    try:
        return [entry.name for entry in tree.entries(b"") if entry.is_folder]
    except SourceError:
        return []


# --- images ----------------------------------------------------------------------------------------------------------


def list_images(
    *,
    location: str,
    parents: Mapping[LegacyID, LegacyID | None],
    elsewhere: frozenset[LegacyID],
    tags: TagStore,
    containers: Mapping[str, tuple[str, ...]],
    container_images: Sequence[LegacyImage],
    warnings: Sequence[str],
) -> SourceListing:
    """The tagged images, the untagged heads, and those that containers were made from; always in the same order.

    `parents` has every ID of the graph; `elsewhere` the IDs whose layer only another driver has. `containers`: image,
    as the records name it → container IDs.
    """
    references: dict[LegacyID, list[Reference]] = defaultdict(list)
    failures: list[Failure] = []
    for record in tags.tags:
        legacy_id, reference = LegacyID(record.legacy_id), Reference(record.name, record.tag)
        if legacy_id in parents:
            references[legacy_id].append(reference)
        else:
            message = f"{location}: {reference} names {legacy_id!r}, which is not in graph/"
            similar = sorted(one for one in parents if legacy_id and one.startswith(legacy_id))[:3]
            if similar:
                message += f"; Docker reads whole IDs only, this one could be short for {' or '.join(similar)}"
            error = MissingLayerError(message)
            failures.append(Failure.of(error, location, references=[reference], legacy_id=legacy_id or None))
    if tags.error is not None:
        lost = f"{tags.error.message}; all tags are lost"
        failures.append(Failure.of(tags.error, location, message=lost))
    failures += [Failure.of(DocumentError(loss), location) for loss in tags.losses]
    made_of: dict[LegacyID, tuple[str, ...]] = {}
    unknown: list[str] = []
    for image, ids in sorted(containers.items()):
        if (legacy_id := LegacyID(image)) in parents:
            made_of[legacy_id] = ids
        else:
            noun, verb = ("container", "was") if len(ids) == 1 else ("containers", "were")
            unknown.append(f"{noun} {', '.join(ids)} {verb} made from image {image}, which is not in graph/")
    own = [legacy_id for legacy_id in sorted(parents) if legacy_id not in elsewhere]
    has_children = {parent for legacy_id in own if (parent := parents[legacy_id])}
    # A layer is an image if it has a name, if a container was made from it, or if it is no layer's parent.
    heads = sorted({*references, *made_of, *(one for one in own if one not in has_children)})
    return SourceListing(
        images=[
            LegacyImage(
                head=head,
                references=tuple(sorted(references.get(head, ()))),
                containers=made_of.get(head, ()),
                legacy_digests=tuple(
                    sorted({Digest.parse(one.tag) for one in references.get(head, ()) if one.is_digest})
                ),
            )
            for head in heads
        ],
        layers=own,
        containers=container_images,
        failures=failures,
        warnings=(*warnings, *tags.problems, *unknown),
    )
