"""Decides which image gets a reference that several images claim. Pure functions.

Images with one reference and several platforms become one index. For one platform `--on-conflict` decides, and the
other images are kept in the target without that name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from migrate.model.digest import DiffID, Digest
from migrate.model.image import Platform
from migrate.model.options import TEMPLATE_FIELD, UNTAGGED_FIELD, NameOptions, OnConflict
from migrate.model.reference import Reference
from migrate.model.rename import map_reference, repository_reference


class Claim(Struct, frozen=True, kw_only=True):
    """A claim of one image to one reference. `order`: its place in the run; negative for images that the target had
    before. `created`: RFC 3339 with any offset, or None. `image_id`: the config's digest in hex, "" for an image of the
    target whose manifest has no config. `legacy_id`: of an image of this run, else "". `diff_ids`: empty if they are
    not known."""

    reference: Reference
    platform: Platform
    digest: Digest
    created: str | None
    order: int
    image_id: str = ""
    legacy_id: str = ""
    diff_ids: tuple[DiffID, ...] = ()

    def is_remade(self, other: Claim) -> bool:
        """True if both may be conversions of the same legacy image: they have the same time of creation, and the same
        layers in the same order, except that one of them may lack some, such as empty layers that were dropped."""
        if instant(self.created) != instant(other.created):
            return False
        few, many = sorted((self.diff_ids, other.diff_ids), key=len)
        rest = iter(many)
        return all(diff_id in rest for diff_id in few)


class NameConflict(Struct, frozen=True, kw_only=True):
    """Several claims to one name for one platform. `kept` gets the name; None if no image gets it (policy `fail`)."""

    reference: Reference
    platform: Platform
    kept: Claim | None
    others: tuple[Claim, ...]


class Names(Struct):
    """The decision. `by_digest`: manifest → its references. `indexes`: reference → one manifest for each platform,
    sorted. `refused`: manifests that the policy `fail` excludes from the run. `conflicts`: sorted by reference."""

    by_digest: dict[Digest, set[Reference]] = field(default_factory=lambda: defaultdict(set))
    indexes: dict[Reference, tuple[Claim, ...]] = field(default_factory=dict)
    refused: set[Digest] = field(default_factory=set)
    conflicts: list[NameConflict] = field(default_factory=list)


def wanted_reference(
    reference: Reference, created: str | None, options: NameOptions, *, hosts: bool = True
) -> Reference:
    """The name that an image should get: its reference after `--rename`, `--tag-template` and today's grammar; without
    its host if the target's names have no `hosts`.

    A template may have `{repo}`, `{tag}` and `{created:FORMAT}` (strftime's numbers: %Y %m %d %H %M %S %j; UTC; the
    date if there is no format). It gives a whole reference, or without `{repo}` a tag. A digest is not changed.
    """
    reference = map_reference(reference, options.renames)
    if options.tag_template is not None and not reference.is_digest:

        def value(match: re.Match[str]) -> str:
            if match[1] == "created":
                return _format_time(created, match[2] or "%Y%m%d")
            return reference.name if match[1] == "repo" else reference.tag

        text = re.sub(TEMPLATE_FIELD, value, options.tag_template)
        whole = "{repo}" in options.tag_template
        reference = map_reference(Reference.parse(text) if whole else replace(reference, tag=text))
    return reference if hosts else repository_reference(reference)


def untagged_reference(template: str, legacy_id: str, image_id: str, *, hosts: bool = True) -> Reference:
    """The name of `--name-untagged` for an image: the template with `{legacy_id}` and `{image_id}` (hex), whole or cut
    to the given number of characters, mapped to today's grammar. `hosts` as for `wanted_reference`."""
    values = {"legacy_id": legacy_id, "image_id": image_id}
    text = re.sub(UNTAGGED_FIELD, lambda match: values[match[1]][: int(match[2] or len(values[match[1]]))], template)
    return (map_reference if hosts else repository_reference)(Reference.parse(text))


def _format_time(created: str | None, form: str) -> str:
    days, second = divmod(max(instant(created)[0], instant("0001-01-01T00:00:00Z")[0]), 86_400)
    # The inverse of `_days`: (year, month, day), computed from days since 0000-03-01 in eras of 400 years.
    era, day_of_era = divmod(days - 1, 146_097)
    year_of_era = (day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    year, month, day = (year_of_era + era * 400 + (month <= 2), month, day_of_year - (153 * shifted + 2) // 5 + 1)
    parts = {
        "Y": f"{year:04}",
        "m": f"{month:02}",
        "d": f"{day:02}",
        "H": f"{second // 3_600:02}",
        "M": f"{second // 60 % 60:02}",
        "S": f"{second % 60:02}",
        "j": f"{_days(year, month, day) - _days(year, 1, 1) + 1:03}",
        "%": "%",
    }
    return re.sub(r"%(.)", lambda directive: parts[directive[1]], form)


def assign_names(claims: Iterable[Claim], policy: OnConflict) -> Names:
    """Gives every reference to one image (or to one index). The result depends on the claims only, and not on the order
    in which they are given. The policy `first` uses `order`."""
    by_reference: dict[Reference, list[Claim]] = defaultdict(list)
    for claim in claims:
        by_reference[claim.reference].append(claim)
    # Sorted, so that the result does not depend on the order of `claims`.
    names = Names()
    for reference in sorted(by_reference):
        winners = []
        by_platform: dict[Platform, dict[Digest, Claim]] = defaultdict(dict)
        for claim in by_reference.pop(reference):
            rivals = by_platform[claim.platform]
            known = rivals.get(claim.digest)
            if known is None or claim.order < known.order:
                rivals[claim.digest] = claim
        for platform in sorted(by_platform, key=str):
            winner = _choose_claim(reference, platform, list(by_platform[platform].values()), policy, names)
            if winner is not None:
                winners.append(winner)
        if len(winners) > 1:
            names.indexes[reference] = tuple(winners)
        else:
            for winner in winners:
                names.by_digest[winner.digest].add(reference)
    return names


def _choose_claim(
    reference: Reference, platform: Platform, rivals: Sequence[Claim], policy: OnConflict, names: Names
) -> Claim | None:
    if policy is OnConflict.FIRST:
        ranked = sorted(rivals, key=lambda claim: (claim.order, claim.digest))
    else:
        ranked = sorted(rivals, key=lambda claim: newest_first(claim.created, claim.image_id, claim.digest))
    if len(ranked) == 1:
        return ranked[0]
    if policy is OnConflict.FAIL:
        # The target keeps the image that has the name already, and no image of this run gets it.
        mine = [claim for claim in ranked if claim.order >= 0]
        names.refused.update(claim.digest for claim in mine)
        old = next((claim for claim in ranked if claim.order < 0), None)
        names.conflicts.append(NameConflict(reference=reference, platform=platform, kept=old, others=tuple(mine)))
        return old
    if policy is OnConflict.KEEP_ALL:
        for loser in ranked[1:]:
            names.by_digest[loser.digest].add(numbered(reference, loser.image_id or loser.digest.hex))
    names.conflicts.append(
        NameConflict(reference=reference, platform=platform, kept=ranked[0], others=tuple(ranked[1:]))
    )
    return ranked[0]


def numbered(reference: Reference, image_id: str) -> Reference:
    """The name of the policy `keep-all` for another image: `app:1.0` → `app:1.0-<12 digits of the image ID>`, the same
    in every run."""
    return replace(reference, tag=f"{reference.tag[:115]}-{image_id[:12]}")


def newest_first(created: str | None, image_id: str, manifest: Digest) -> tuple[object, ...]:
    """The sort key of images that claim one name. For equal times the image ID decides, since a dry run has no
    manifests; for manifests of one image their digest."""
    return (tuple(-part for part in instant(created)), image_id, manifest)


_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII)


def instant(created: str | None) -> tuple[int, int]:
    """(seconds, nanoseconds) in UTC of an RFC 3339 text with any offset; before all other times for None."""
    match = _TIME.fullmatch(created) if created else None
    if match is None:
        return (-(1 << 62), 0)
    year, month, day, hour, minute, second = (int(match[group]) for group in range(1, 7))
    seconds = _days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second
    if match[8]:
        offset = int(match[9]) * 3_600 + int(match[10]) * 60
        seconds += offset if match[8] == "-" else -offset
    return (seconds, int((match[7] or "").ljust(9, "0")[:9]))


def _days(year: int, month: int, day: int) -> int:
    """Days since 0000-03-01 in the proleptic Gregorian calendar; `datetime` has neither year 0 nor nanoseconds."""
    shifted = year - (month <= 2)
    return 365 * shifted + shifted // 4 - shifted // 100 + shifted // 400 + (153 * ((month + 9) % 12) + 2) // 5 + day
