"""Decides which manifest lists of a source are carried over, unchanged or with other media types. Pure functions.

A list is carried over whole if all its images are converted and no other image claims its names. Otherwise its images
claim the names themselves, each for its platform, and become a new list.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from msgspec import Struct, field
from msgspec.structs import replace

from migrate.compose.oci_types import index_in_oci_types
from migrate.documents.oci import parse_index
from migrate.model.digest import Digest
from migrate.model.image import Descriptor
from migrate.model.legacy import ReadyIndex, ReadyManifest
from migrate.model.packed import PackedTable, packed_digest
from migrate.model.reference import Reference


class CarriedLists(Struct):
    """Gets every finished image of a list by `see`; then `decide` is called. `split`: digest of a list → why it is not
    carried over.

    `in_oci_types`: the lists get OCI's media types, like the manifests in them. Digests of lists are those in the
    source, digests of images those in the target.
    """

    in_oci_types: bool = False
    split: dict[Digest, str] = field(default_factory=dict)
    _lists: dict[Digest, ReadyIndex] = field(default_factory=dict)
    _names: dict[Digest, frozenset[Reference]] = field(default_factory=dict)
    _children: dict[Digest, frozenset[Digest]] = field(default_factory=dict)
    _replaced: dict[Digest, Descriptor] = field(default_factory=dict)
    _written: dict[Digest, ReadyIndex] = field(default_factory=dict)

    def see(self, index: ReadyIndex, names: Iterable[Reference]) -> None:
        """Adds the list of an image, with the names that the list should get."""
        digest = Digest.of(index.content)
        self._lists[digest] = index
        self._names[digest] = frozenset(names)
        named = {entry.descriptor.digest for content in index.contents for entry in parse_index(content).manifests}
        self._children[digest] = frozenset(named - {Digest.of(nested.content) for nested in index.nested})

    def replace_manifest(self, old: Digest, new: Descriptor) -> None:
        """Sets the new descriptor of a manifest of the source that is not carried over."""
        self._replaced[old] = new

    def decide(self, claimed: Mapping[Reference, set[Digest]], finished: PackedTable) -> None:
        """Decides for all lists. `claimed`: name → the images that claim it directly, or have it in the target
        already. `finished`: all images of the run (`packed_digest`)."""
        owners: dict[Reference, set[Digest]] = defaultdict(set)
        for digest, names in self._names.items():
            for name in names:
                owners[name].add(digest)
        for digest in sorted(self._lists):
            missing = [
                child for child in self._children[digest] if packed_digest(self._in_target(child)) not in finished
            ]
            if missing:
                self.split[digest] = f"{', '.join(map(str, sorted(missing)))} could not be converted"
                continue
            own = self.children(self._lists[digest])
            if any(len(owners[name]) > 1 or claimed.get(name, set()) - own for name in self._names[digest]):
                self.split[digest] = "other images claim its name"

    def _in_target(self, manifest: Digest) -> Digest:
        return self._replaced[manifest].digest if manifest in self._replaced else manifest

    def whole(self) -> list[tuple[ReadyIndex, list[Reference]]]:
        """The lists to write, as in the source, with their names."""
        return [
            (self._lists[digest], sorted(self._names[digest])) for digest in sorted(self._lists.keys() - self.split)
        ]

    def written(self, index: ReadyIndex) -> ReadyIndex:
        """`index` as it is written into the target."""
        digest = Digest.of(index.content)
        if digest not in self._written:
            self._written[digest] = self._in_oci_types(index) if self.in_oci_types else index
        return self._written[digest]

    def _in_oci_types(self, index: ReadyIndex) -> ReadyIndex:
        replaced = dict(self._replaced)
        nested: list[ReadyManifest] = []
        for one in index.nested:  # innermost first, so that the new digests of inner lists are known
            content, media_type = index_in_oci_types(one.content, one.media_type, replaced)
            nested.append(ReadyManifest(content=content, media_type=media_type))
            if content != one.content:
                new = Descriptor(media_type=media_type, digest=Digest.of(content), size=len(content))
                replaced[Digest.of(one.content)] = new
        content, media_type = index_in_oci_types(index.content, index.media_type, replaced)
        return replace(index, content=content, media_type=media_type, nested=tuple(nested))

    def lost_digest(self, index: ReadyIndex | None) -> tuple[Digest, ...]:
        """The digest of the list if no document of the target has it: the list is split, or has other media types. Else
        ()."""
        if index is None or (not self.is_split(index) and self.written(index).content == index.content):
            return ()
        return (Digest.of(index.content),)

    def children(self, index: ReadyIndex) -> frozenset[Digest]:
        """The manifests in the list and in its nested lists, by their digests in the target."""
        return frozenset(map(self._in_target, self._children[Digest.of(index.content)]))

    def is_split(self, index: ReadyIndex | None) -> bool:
        return index is not None and Digest.of(index.content) in self.split

    def warning(self, index: ReadyIndex | None) -> tuple[str, ...]:
        if index is None or not self.is_split(index):
            return ()
        names = ", ".join(map(str, sorted(index.references))) or str(Digest.of(index.content))
        return (f"the list {names} is not carried over as it is: {self.split[Digest.of(index.content)]}",)
