"""Compares whole images with the store: each layer once, and then the differences that the top layer still has."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from migrate.errors import MigrateError, PayloadRestartError, SourceError
from migrate.model.legacy import LegacyID, LegacyLayer
from migrate.readers.base import LegacySource
from migrate.readers.graphdrivers.changes import walk_tree
from migrate.rehash.ports import LayerJob, TarObserver
from migrate.rootfs.compare import NOT_SHIFTED, LayerCheck, Shift, check_layer, content_crc
from migrate.rootfs.tar_listing import TarListing
from migrate.storage.tree import Tree
from migrate.tar.names import shown_name

_BLOCK = 1024 * 1024


class RunCheck:
    """`--check-rootfs` for all sources of a run. If `wanted` is None, only the sources whose check is cheap."""

    def __init__(self, sources: Mapping[int, LegacySource], wanted: bool | None) -> None:
        self._checks = {
            index: RootfsCheck(source)
            for index, source in sources.items()
            if source.holds_rootfs and (source.checks_rootfs_by_default if wanted is None else wanted)
        }

    def observer(self, job: LayerJob) -> TarObserver | None:
        """An ObserverFactory."""
        check = self._checks.get(job.source_index)
        return check.observer_for(job.layer) if check is not None else None

    def differences(self, source_index: int, chain: Sequence[LegacyLayer]) -> list[str]:
        """As RootfsCheck's; empty for a source that is not checked."""
        check = self._checks.get(source_index)
        return check.differences(chain) if check is not None else []

    def warnings(self) -> list[str]:
        """Warnings about whole sources that were checked."""
        return [warning for check in self._checks.values() for warning in check.warnings()]


class RootfsCheck:
    """Checks the images of one source. `observer_for` may be called from several threads, the rest from one."""

    def __init__(self, source: LegacySource) -> None:
        self._source = source
        self._listings: dict[LegacyID, TarListing] = {}
        self._checks: dict[LegacyID, LayerCheck] = {}
        self._shift = NOT_SHIFTED

    def warnings(self) -> list[str]:
        """A warning for each shift of owners that was found so far."""
        found = {check.shift for check in self._checks.values()} - {NOT_SHIFTED}
        more = {shift[:2] for shift in found if shift[2:] != shift[:2]}
        shown = [shift for shift in sorted(found) if shift[2:] != shift[:2] or shift[:2] not in more]
        return [f"{self._source.location}: {_shown_shift(shift)}" for shift in shown]

    def observer_for(self, layer: LegacyLayer) -> TarListing:
        """An observer that lists the layer's entries while it is hashed."""
        listing = self._listings[layer.legacy_id] = TarListing()
        return listing

    def differences(self, chain: Sequence[LegacyLayer]) -> list[str]:
        """The differences between the image of `chain` (base first) and the store's top layer, sorted by path.

        Empty if there are none. A layer that cannot be checked is a difference.
        """
        found: dict[bytes, str] = {}
        parent: LegacyID | None = None
        checks: list[LayerCheck] = []
        for layer in chain:
            if layer.payload is None:
                continue
            try:
                check = self._check(layer, parent)
            except MigrateError as error:
                return [f"layer {layer.legacy_id} could not be checked: {error.message}"]
            if found:
                # A difference in a lower layer that this layer covers does not exist in the image.
                for path in check.touched() & found.keys():
                    del found[path]
            found.update(check.differences)
            checks.append(check)
            parent = layer.legacy_id
        if any(check.copies for check in checks):
            found.update(self._changed_contents(chain[-1].legacy_id, checks))
        return [f"{shown_name(path)}: {found[path]}" for path in sorted(found)]

    def _check(self, layer: LegacyLayer, parent: LegacyID | None) -> LayerCheck:
        if layer.legacy_id not in self._checks:
            listing = self._listings.pop(layer.legacy_id, None) or self._read_listing(layer)
            if listing.problem is not None:
                raise SourceError(f"its tar is not understood: {listing.problem}")
            with ExitStack() as stack:
                tree = self._open(layer.legacy_id, stack)
                below = None if parent is None else self._open(parent, stack)
                check = check_layer(listing.entries, tree, below, self._shift)
            self._shift = check.shift
            self._checks[layer.legacy_id] = check
        return self._checks[layer.legacy_id]

    def _read_listing(self, layer: LegacyLayer) -> TarListing:
        """Reads the entries of a layer that was not hashed in this run."""
        for _ in range(3):  # again after a PayloadRestartError, in the next best form
            listing = TarListing()
            try:
                with self._source.open_payload(layer) as payload:
                    while block := payload.stream.read(_BLOCK):
                        listing.feed(memoryview(block))
            except PayloadRestartError:
                continue
            listing.finish()
            return listing
        raise SourceError("its layer cannot be read")

    def _open(self, legacy_id: LegacyID, stack: ExitStack) -> Tree:
        opened = self._source.open_rootfs(legacy_id)
        if opened is None:
            raise SourceError("the store has no whole tree of it")
        tree: Tree = stack.enter_context(opened)
        return tree

    def _changed_contents(self, top: LegacyID, checks: Sequence[LayerCheck]) -> dict[bytes, str]:
        """Differences of content in files of the top layer's tree that count as unchanged copies of a lower layer's.
        With vfs and btrfs every layer has its own copy, whose content was never compared."""
        contents: dict[bytes, tuple[int, int]] = {}
        for check in checks:
            contents.update(check.contents())
        own = checks[-1].touched()
        found: dict[bytes, str] = {}
        with ExitStack() as stack:
            tree = self._open(top, stack)
            for entry in walk_tree(tree):
                known = contents.get(entry.path) if stat.S_ISREG(entry.mode) and entry.path not in own else None
                if known is not None and known[0] == entry.size and content_crc(tree, entry.path) != known[1]:
                    found[entry.path] = "its content differs"
        return found


def _shown_shift(shift: Shift) -> str:
    above = ""
    if shift[2:] != shift[:2]:
        above = f" (those from 65,536 on {shift.high_users:,} and {shift.high_groups:,})"
    return (
        f"all owners are {shift.users:,} (users) and {shift.groups:,} (groups){above} higher in the store than in the "
        "images, as with user namespaces; that is no difference"
    )
