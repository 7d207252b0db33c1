"""Chooses the images of a source: the default, `--all`, `--image`, `--exclude`, `--container`. Reads nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from msgspec.structs import replace

from migrate.errors import UsageError
from migrate.model.legacy import Failure, LegacyImage, ReadyIndex, SourceListing
from migrate.model.reference import Reference


def select_images(
    listing: SourceListing, patterns: Sequence[str], *, all_layers: bool, exclude: Sequence[str] = ()
) -> tuple[list[LegacyImage], set[str]]:
    """The images to convert, in the listing's order, and the patterns that matched something here.

    A pattern is a reference (`app:1.0`), a name (`app`, with every tag), a glob over references (`team/*:1.*`), or a
    legacy ID or its prefix. An image loses the names that `exclude` matches, and is left out when it loses the last.
    With `all_layers` every legacy ID is an image of its own; those without a reference come last.
    """
    images = list(listing.images)
    # A legacy ID may be that of a parent layer, which becomes an image only if a pattern names it.
    if all_layers or any(_is_id_prefix(pattern) for pattern in patterns):
        named = {image.head for image in images if image.config is None}
        extra = [LegacyImage(head=legacy_id) for legacy_id in listing.layers if legacy_id not in named]
    else:
        extra = []
    candidates = [kept for image in images + extra if (kept := _without(image, exclude)) is not None]
    if not patterns:
        return candidates, set()
    chosen: list[LegacyImage] = []
    matched: set[str] = set()
    for image in candidates:
        hits = {pattern for pattern in patterns if _matches(pattern, image)}
        if hits:
            chosen.append(image)
            matched |= hits
    return chosen, matched


def _without(image: LegacyImage, exclude: Sequence[str]) -> LegacyImage | None:
    if not exclude:
        return image
    references = _not_excluded(image.references, exclude)
    if (image.references and not references) or any(_is_head(pattern, image.head) for pattern in exclude):
        return None
    return replace(image, references=references)


def unused_exclusions(listings: Iterable[SourceListing], exclude: Sequence[str]) -> list[str]:
    """The patterns of `exclude` that match no image of any source."""
    left = dict.fromkeys(exclude)
    for listing in listings:
        heads = [image.head for image in listing.images]
        references = [one for image in listing.images for one in image.references]
        references += [one for index in listing.indexes for one in index.references]
        references += [one for index in listing.indexes for child in index.children for one in child.references]
        for pattern in list(left):
            if _is_named(pattern, references) or any(_is_head(pattern, head) for head in heads):
                del left[pattern]
    return list(left)


def _not_excluded(references: Iterable[Reference], exclude: Sequence[str]) -> tuple[Reference, ...]:
    return tuple(one for one in references if not any(_is_named(pattern, [one]) for pattern in exclude))


def select_index(
    index: ReadyIndex, patterns: Sequence[str], exclude: Sequence[str] = ()
) -> tuple[ReadyIndex | None, Sequence[LegacyImage], set[str]]:
    """The manifest list if it is wanted, the images of it to convert, and the patterns that matched something here.

    A pattern that names the list chooses all its images. A pattern that names one of its images chooses that image,
    without the list. `exclude` removes names from the list, and all its images if no name is left. A list from which an
    image was removed is not kept, because it would name a manifest that is not in the target.
    """
    references = _not_excluded(index.references, exclude)
    if index.references and not references:
        return None, (), set()
    children = [kept for child in index.children if (kept := _without(child, exclude)) is not None]
    listed = replace(index, references=references) if len(children) == len(index.children) else None
    if not patterns:
        return listed, children, set()
    matched = {pattern for pattern in patterns if _is_named(pattern, references)}
    if matched:
        return listed, children, matched
    hits = [(child, {pattern for pattern in patterns if _matches(pattern, child)}) for child in children]
    return None, [child for child, found in hits if found], set().union(*(found for _, found in hits))


def select_failures(
    listing: SourceListing, patterns: Sequence[str], exclude: Sequence[str] = ()
) -> tuple[list[Failure], set[str]]:
    """The failures of the source that concern chosen images, and the patterns that matched something here.

    A failure that names no image may concern any image, so it is always included.
    """
    # `--exclude` also removes failures: an image that is not wanted must not change the exit code
    failures = [
        one
        for one in listing.failures
        if not one.references or _not_excluded((Reference.parse(text) for text in one.references), exclude)
    ]
    if not patterns:
        return failures, set()
    chosen: list[Failure] = []
    matched: set[str] = set()
    for failure in failures:
        references = [Reference.parse(text) for text in failure.references]
        hits = {
            pattern
            for pattern in patterns
            if _is_named(pattern, references) or _is_head(pattern, failure.legacy_id or "")
        }
        if hits or not (failure.references or failure.legacy_id):
            chosen.append(failure)
            matched |= hits
    return chosen, matched


def select_containers(
    listing: SourceListing, patterns: Sequence[str], *, all_containers: bool
) -> tuple[list[LegacyImage], set[str]]:
    """The containers to make images of, and the patterns that matched one here.

    A pattern is the name of a container, its ID or a prefix of its ID. Without patterns, `all_containers` chooses those
    that Docker had not begun to remove.
    """
    if not patterns:
        return [image for image in listing.containers if all_containers and not is_half_removed(image)], set()
    chosen: list[LegacyImage] = []
    matched: set[str] = set()
    for image in listing.containers:
        container = image.container
        hits = {
            pattern
            for pattern in patterns
            if container is not None and (pattern.strip("/") == container.name or _is_head(pattern, container.id))
        }
        if hits:
            chosen.append(image)
            matched |= hits
    return chosen, matched


def choose_containers(listing: SourceListing, patterns: Sequence[str], *, all_containers: bool) -> list[LegacyImage]:
    """As `select_containers`, for one source. Raises UsageError for a pattern that matches no container or several."""
    chosen, matched = select_containers(listing, patterns, all_containers=all_containers)
    check_containers([listing], patterns, matched)
    return chosen


def check_containers(listings: Sequence[SourceListing], patterns: Sequence[str], matched: Collection[str]) -> None:
    """Raises UsageError for a pattern of `--container` that is not in `matched`, or that matches several IDs."""
    for pattern, found in _ambiguous_containers(listings, patterns).items():
        raise UsageError(f"--container {pattern} matches several IDs: {', '.join(found[:5])}")
    unknown = [pattern for pattern in patterns if pattern not in matched]
    if unknown and listings:
        raise UsageError(
            f"no container matches --container {', '.join(unknown)}; `migrate inspect SOURCE` lists what is there"
        )


def is_half_removed(image: LegacyImage) -> bool:
    """True for a container that Docker had begun to remove, so that some of its files may be gone."""
    return image.container is not None and image.container.half_removed


def _ambiguous_containers(listings: Iterable[SourceListing], patterns: Sequence[str]) -> dict[str, list[str]]:
    """The patterns that are a prefix of several container IDs, and not a name, with those IDs."""
    containers = [image.container for listing in listings for image in listing.containers if image.container]
    names = {container.name for container in containers}
    ids = sorted({container.id for container in containers})
    found = {
        pattern: [one for one in ids if one.startswith(pattern)]
        for pattern in patterns
        if _is_id_prefix(pattern) and pattern.strip("/") not in names and pattern not in ids
    }
    return {pattern: matches for pattern, matches in found.items() if len(matches) > 1}


def ambiguous_prefixes(listings: Iterable[SourceListing], patterns: Sequence[str]) -> dict[str, list[str]]:
    """The patterns that are a prefix of several legacy IDs, and not a reference, with those IDs."""
    known: set[str] = set()
    names: set[str] = set()
    if not any(map(_is_id_prefix, patterns)):
        return {}
    # `beef` may be the name of an image and the beginning of IDs: as a name it is not ambiguous
    for listing in listings:
        known.update(listing.layers)
        known.update(image.head for image in listing.images)
        names.update(text for image in listing.images for one in image.references for text in one.spellings())
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
    return _is_named(pattern, image.references) or _is_head(pattern, image.head)


def _is_named(pattern: str, references: Iterable[Reference]) -> bool:
    return any(reference.matches(pattern) for reference in references)


def _is_head(pattern: str, head: str) -> bool:
    return head == pattern or (_is_id_prefix(pattern) and head.startswith(pattern))
