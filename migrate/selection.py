"""Which of a source's images are converted: `--all`, `--image` and the default. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from migrate.model.legacy import LegacyImage, SourceListing
from migrate.model.reference import Reference


def select_images(
    listing: SourceListing, patterns: Sequence[str], *, all_layers: bool
) -> tuple[list[LegacyImage], set[str]]:
    """The images to convert, in the listing's order, and the patterns that matched something here.

    A pattern is a reference (`app`, `app:1.0`), a glob over references (`team/*:1.*`), or a legacy ID or its prefix.
    With `all_layers` every legacy ID is an image of its own; those that no reference names follow after the others.
    """
    images = list(listing.images)
    if all_layers or any(_is_id_prefix(pattern) for pattern in patterns):
        named = {image.head for image in images if image.config is None}
        extra = [LegacyImage(head=legacy_id) for legacy_id in listing.layers if legacy_id not in named]
    else:
        extra = []
    if not patterns:
        return images + extra, set()
    chosen: list[LegacyImage] = []
    matched: set[str] = set()
    for image in images + extra:
        hits = {pattern for pattern in patterns if _matches(pattern, image)}
        if hits:
            chosen.append(image)
            matched |= hits
    return chosen, matched


def ambiguous_prefixes(listings: Iterable[SourceListing], patterns: Sequence[str]) -> dict[str, list[str]]:
    """ID prefixes that more than one legacy ID starts with (and that are no reference), with those IDs."""
    known: set[str] = set()
    names: set[str] = set()
    for listing in listings:
        known.update(listing.layers)
        known.update(image.head for image in listing.images)
        names.update(text for image in listing.images for text in _spellings(image.references))
    ambiguous: dict[str, list[str]] = {}
    for pattern in patterns:
        if not _is_id_prefix(pattern) or pattern in names or pattern in known:
            continue
        found = sorted(legacy_id for legacy_id in known if legacy_id.startswith(pattern))
        if len(found) > 1:
            ambiguous[pattern] = found
    return ambiguous


def _is_id_prefix(pattern: str) -> bool:
    return 0 < len(pattern) <= 64 and all(character in "0123456789abcdef" for character in pattern)


def _matches(pattern: str, image: LegacyImage) -> bool:
    if any(text == pattern or fnmatchcase(text, pattern) for text in _spellings(image.references)):
        return True
    return image.head == pattern or (_is_id_prefix(pattern) and image.head.startswith(pattern))


def _spellings(references: Iterable[Reference]) -> list[str]:
    """Each reference as the source has it, in the short form, in full, and as a bare name where its tag is `latest`."""
    spellings: list[str] = []
    for reference in references:
        familiar = reference.familiar()
        spellings += [str(reference), str(familiar), reference.full()]
        if reference.tag == "latest":
            spellings += [reference.name, familiar.name]
    return spellings
