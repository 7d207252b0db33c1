"""The names of manifests in a registry, each for one manifest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from migrate.errors import TargetError
from migrate.model.digest import Digest
from migrate.model.reference import Reference

UNTAGGED: Final = "untagged"
"""The repository of images without a reference; a tag there is the image ID's 64 digits."""


class RegistryNames:
    """Names of this run. Names in a registry have no host, so two different references can become the same name there:
    the second one is an error, because it would replace the first."""

    def __init__(self, remedy: str) -> None:
        """`remedy`: what a user can do about two images with one name, for the error."""
        self._remedy = remedy
        self._owners: dict[Reference, tuple[Digest, Reference]] = {}

    def claim(self, place: Reference, digest: Digest, reference: Reference) -> None:
        """`place` is the name in the registry, `reference` the name in the source. Raises TargetError."""
        if place.is_digest:  # a name by digest leads to the manifest with this digest, whatever the source had
            place = Reference(place.name, str(digest))
        rival, other = self._owners.setdefault(place, (digest, reference))
        if rival != digest:
            raise TargetError(
                f"two images would be called {place}: {rival} (from {other}) and {digest} (from {reference});"
                f" {self._remedy}"
            )

    def __iter__(self) -> Iterator[tuple[Reference, Digest]]:
        """(place, manifest), sorted."""
        return iter(sorted((place, digest) for place, (digest, _) in self._owners.items()))

    def __len__(self) -> int:
        return len(self._owners)
