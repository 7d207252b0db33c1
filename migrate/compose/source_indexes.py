"""Manifest lists that stand in a source: which of them a target gets as they are. Pure.

A list is carried over whole where all its images are there and nobody else claims its names. Else its images claim the
names themselves, each for its platform, and the list that comes of it is a new one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from migrate.documents.oci import parse_index
from migrate.model.digest import Digest
from migrate.model.legacy import ReadyIndex
from migrate.model.reference import Reference


@dataclass(slots=True)
class CarriedLists:
    """Takes every finished image, then `decide`s. `split`: why a list, by its digest, is not whole."""

    split: dict[Digest, str] = field(default_factory=dict)
    _lists: dict[Digest, ReadyIndex] = field(default_factory=dict)
    _names: dict[Digest, frozenset[Reference]] = field(default_factory=dict)
    _children: dict[Digest, frozenset[Digest]] = field(default_factory=dict)
    _finished: set[Digest] = field(default_factory=set)
    _claimed: dict[Reference, set[Digest]] = field(default_factory=lambda: defaultdict(set))

    def see(self, image: Digest, claims: Iterable[Reference], index: ReadyIndex | None, names: set[Reference]) -> None:
        """An image, the names it claims by itself, and its list with the names of that."""
        self._finished.add(image)
        for reference in claims:
            self._claimed[reference].add(image)
        if index is not None:
            digest = Digest.of(index.content)
            self._lists[digest] = index
            self._names[digest] = frozenset(names)
            documents = (index.content, *(nested.content for nested in index.nested))
            named = {entry.descriptor.digest for content in documents for entry in parse_index(content).manifests}
            self._children[digest] = frozenset(named - {Digest.of(nested.content) for nested in index.nested})

    def decide(self, existing: Mapping[Reference, set[Digest]]) -> None:
        """`existing`: the images that the target holds already under a name."""
        owners: dict[Reference, set[Digest]] = defaultdict(set)
        for digest, names in self._names.items():
            for name in names:
                owners[name].add(digest)
        for digest in sorted(self._lists):
            missing = self._children[digest] - self._finished
            if missing:
                self.split[digest] = f"{', '.join(map(str, sorted(missing)))} could not be converted"
            elif any(self._is_contested(name, digest, owners, existing) for name in self._names[digest]):
                self.split[digest] = "other images claim its name"

    def _is_contested(
        self,
        name: Reference,
        digest: Digest,
        owners: Mapping[Reference, set[Digest]],
        existing: Mapping[Reference, set[Digest]],
    ) -> bool:
        rivals = self._claimed.get(name, set()) | existing.get(name, set())
        return len(owners[name]) > 1 or bool(rivals - self._children[digest])

    def whole(self) -> list[tuple[ReadyIndex, list[Reference]]]:
        """The lists to write, with the names they get."""
        return [
            (self._lists[digest], sorted(self._names[digest])) for digest in sorted(self._lists.keys() - self.split)
        ]

    def children(self, index: ReadyIndex) -> frozenset[Digest]:
        """The manifests that the list names, at any depth."""
        return self._children[Digest.of(index.content)]

    def is_split(self, index: ReadyIndex | None) -> bool:
        return index is not None and Digest.of(index.content) in self.split

    def warning(self, index: ReadyIndex | None) -> tuple[str, ...]:
        if index is None or not self.is_split(index):
            return ()
        names = ", ".join(map(str, sorted(index.references))) or str(Digest.of(index.content))
        return (f"the list {names} is not carried over as it is: {self.split[Digest.of(index.content)]}",)
