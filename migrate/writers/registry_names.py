"""The names that manifests get in a registry, each of them one manifest's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from migrate.errors import TargetError
from migrate.model.digest import Digest
from migrate.model.reference import Reference

UNTAGGED: Final = "untagged"
"""The repository of images without a reference; a tag there is the image ID's 64 digits."""


class RegistryNames:
    """Names that differ elsewhere can meet in a registry, where they have no host: the second is refused, not lost."""

    def __init__(self, way_out: str) -> None:
        """`way_out`: what a user can do about two images of one name."""
        self._way_out = way_out
        self._owners: dict[Reference, tuple[Digest, Reference]] = {}

    def claim(self, place: Reference, digest: Digest, reference: Reference) -> None:
        """`place` is the name in the registry, `reference` what the image was called before. Raises TargetError."""
        if place.is_digest:  # a digest is a name that only its own content can have
            place = Reference(place.name, str(digest))
        rival, other = self._owners.setdefault(place, (digest, reference))
        if rival != digest:
            raise TargetError(
                f"two images would be called {place}: {rival} (from {other}) and {digest} (from {reference});"
                f" {self._way_out}"
            )

    def __iter__(self) -> Iterator[tuple[Reference, Digest]]:
        """(place, manifest), sorted."""
        return iter(sorted((place, digest) for place, (digest, _) in self._owners.items()))

    def __len__(self) -> int:
        return len(self._owners)
