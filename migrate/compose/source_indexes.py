"""Manifest lists that are in a source: which of them a target gets, as they are or in other media types. Pure.

A list is carried over whole where all its images are there and no other image claims its names. Else its images claim
the names themselves, each for its platform, and the list that comes of it is a new one.
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
from migrate.model.reference import Reference


class CarriedLists(Struct):
    """Takes every finished image, then `decide`s. `split`: why a list, by its digest, is not whole.

    `in_oci_types`: the lists get OCI's media types, as the manifests in them have. Lists are named by the digests that
    they have in the source; images by those of the target.
    """

    in_oci_types: bool = False
    split: dict[Digest, str] = field(default_factory=dict)
    _lists: dict[Digest, ReadyIndex] = field(default_factory=dict)
    _names: dict[Digest, frozenset[Reference]] = field(default_factory=dict)
    _children: dict[Digest, frozenset[Digest]] = field(default_factory=dict)
    _replaced: dict[Digest, Descriptor] = field(default_factory=dict)
    _finished: set[Digest] = field(default_factory=set)
    _written: dict[Digest, ReadyIndex] = field(default_factory=dict)

    def see(self, image: Digest, index: ReadyIndex | None = None, names: Iterable[Reference] = ()) -> None:
        """An image, and the list that names it with the names of that."""
        self._finished.add(image)
        if index is not None:
            digest = Digest.of(index.content)
            self._lists[digest] = index
            self._names[digest] = frozenset(names)
            named = {entry.descriptor.digest for content in index.contents for entry in parse_index(content).manifests}
            self._children[digest] = frozenset(named - {Digest.of(nested.content) for nested in index.nested})

    def replace_manifest(self, old: Digest, new: Descriptor) -> None:
        """What the lists have for a manifest of the source that is not carried over."""
        self._replaced[old] = new

    def decide(self, claimed: Mapping[Reference, set[Digest]]) -> None:
        """`claimed`: the images that claim a name by themselves, or have it in the target already."""
        owners: dict[Reference, set[Digest]] = defaultdict(set)
        for digest, names in self._names.items():
            for name in names:
                owners[name].add(digest)
        for digest in sorted(self._lists):
            missing = [child for child in self._children[digest] if self._in_target(child) not in self._finished]
            if missing:
                self.split[digest] = f"{', '.join(map(str, sorted(missing)))} could not be converted"
                continue
            own = self.children(self._lists[digest])
            if any(len(owners[name]) > 1 or claimed.get(name, set()) - own for name in self._names[digest]):
                self.split[digest] = "other images claim its name"

    def _in_target(self, manifest: Digest) -> Digest:
        return self._replaced[manifest].digest if manifest in self._replaced else manifest

    def whole(self) -> list[tuple[ReadyIndex, list[Reference]]]:
        """The lists to write, as they are in the source, with the names they get."""
        return [
            (self._lists[digest], sorted(self._names[digest])) for digest in sorted(self._lists.keys() - self.split)
        ]

    def written(self, index: ReadyIndex) -> ReadyIndex:
        """`index` as the target gets it."""
        digest = Digest.of(index.content)
        if digest not in self._written:
            self._written[digest] = self._in_oci_types(index) if self.in_oci_types else index
        return self._written[digest]

    def _in_oci_types(self, index: ReadyIndex) -> ReadyIndex:
        replaced = dict(self._replaced)
        nested: list[ReadyManifest] = []
        for one in index.nested:  # the innermost first, so each list finds the new ones that it names
            content, media_type = index_in_oci_types(one.content, one.media_type, replaced)
            nested.append(ReadyManifest(content=content, media_type=media_type))
            if content != one.content:
                new = Descriptor(media_type=media_type, digest=Digest.of(content), size=len(content))
                replaced[Digest.of(one.content)] = new
        content, media_type = index_in_oci_types(index.content, index.media_type, replaced)
        return replace(index, content=content, media_type=media_type, nested=tuple(nested))

    def lost_digest(self, index: ReadyIndex | None) -> tuple[Digest, ...]:
        """That of the list, where no document of the target has it: it is split, or has got other media types."""
        if index is None or (not self.is_split(index) and self.written(index).content == index.content):
            return ()
        return (Digest.of(index.content),)

    def children(self, index: ReadyIndex) -> frozenset[Digest]:
        """The manifests that the list names in the target, at any depth."""
        return frozenset(map(self._in_target, self._children[Digest.of(index.content)]))

    def is_split(self, index: ReadyIndex | None) -> bool:
        return index is not None and Digest.of(index.content) in self.split

    def warning(self, index: ReadyIndex | None) -> tuple[str, ...]:
        if index is None or not self.is_split(index):
            return ()
        names = ", ".join(map(str, sorted(index.references))) or str(Digest.of(index.content))
        return (f"the list {names} is not carried over as it is: {self.split[Digest.of(index.content)]}",)
