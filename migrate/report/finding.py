"""`migrate find`: all images in a map that ever claimed a name, and which of them has it now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from fnmatch import fnmatchcase

from msgspec import Struct

from migrate.compose.names import instant
from migrate.documents.image_map import MappedImage
from migrate.model.reference import Reference


class NameClaim(Struct, frozen=True):
    """An image that claims or claimed `name`. `has_it`: the name leads to it now; `why`: the reason."""

    name: str
    image: MappedImage
    has_it: bool
    why: str


def matcher(pattern: str) -> Callable[[str], bool]:
    """A function that is true for names that match `pattern`, in any of their forms. A pattern without a tag matches
    every tag; `*` and `?` match any characters."""
    reference = Reference.parse(pattern)
    has_tag = "@" in pattern or ":" in pattern.rpartition("/")[2]
    if any(sign in pattern for sign in "*?["):
        text = pattern if has_tag else f"{pattern}:*"
        return lambda name: fnmatchcase(name, text) or fnmatchcase(str(Reference.parse(name).familiar()), text)
    if has_tag:
        full = reference.full()
        return lambda name: name == pattern or Reference.parse(name).full() == full
    repository = Reference(reference.name, "").full()
    return lambda name: Reference(Reference.parse(name).name, "").full() == repository


def find_claims(rows: Iterable[MappedImage], wanted: Callable[[str], bool]) -> list[NameClaim]:
    """The claims on all wanted names, sorted by name, for each name the newest image first."""
    claims: dict[str, list[MappedImage]] = {}
    for row in rows:
        for name in {*row.references, *row.names}:
            if wanted(name):
                claims.setdefault(name, []).append(row)
    found: list[NameClaim] = []
    for name, images in sorted(claims.items()):
        owners = [image for image in images if name in image.names]
        images.sort(key=lambda image: (instant(image.created), image.key[:2]), reverse=True)
        found += [NameClaim(name, image, name in image.names, _why(name, image, owners)) for image in images]
    return found


def as_of(found: Sequence[NameClaim], moment: datetime) -> list[NameClaim]:
    """For each name and platform, the newest image that was created by `moment`."""
    limit = instant(moment.isoformat())
    newest: dict[tuple[str, str], NameClaim] = {}
    for one in found:  # the newest come first
        if one.image.created is not None and instant(one.image.created) <= limit:
            newest.setdefault((one.name, one.image.platform), one)
    return list(newest.values())


def _why(name: str, image: MappedImage, owners: Sequence[MappedImage]) -> str:
    if name in image.names:
        return "has the name"
    if image.removed:
        return "removed from the layout by migrate gc"
    # Images for different platforms share a name in an index, so only those of the same platform are rivals.
    rivals = [owner for owner in owners if owner.platform == image.platform]
    if not rivals:
        kept = [one for one in image.names if one not in image.references]
        return f"has the name {', '.join(kept)} now" if kept else "no image has the name now"
    same = [owner for owner in rivals if owner.legacy_id == image.legacy_id]
    if same:
        return "a later run converted the same legacy image again"
    if instant(image.created) < instant(rivals[0].created):
        return "older than the image that has the name"
    if instant(image.created) == instant(rivals[0].created):
        return "as old as the image that has the name"
    return "newer than the image that has the name: --on-conflict chose that one"
