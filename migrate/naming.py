"""Who gets a reference that several images claim. Pure.

Images of one reference for several platforms become one index; on one platform `--on-conflict` decides, and the loser
stays in the target without that name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from migrate.model.digest import Digest
from migrate.model.image import Platform
from migrate.model.options import OnConflict
from migrate.model.reference import Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One image that wants one reference. `order` is its place in the run, before all of which stand those that the
    target held already (negative). `created` is RFC 3339 in any offset, or None."""

    reference: Reference
    platform: Platform
    digest: Digest
    created: str | None
    order: int
    image_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NameConflict:
    reference: Reference
    platform: Platform
    kept: Claim | None
    others: tuple[Claim, ...]


@dataclass(slots=True)
class Names:
    """`by_digest`: the references of each manifest; `indexes`: reference → one manifest for each platform, sorted;
    `refused`: digests that `fail` takes out of the run; `conflicts` in the order of their references."""

    by_digest: dict[Digest, set[Reference]] = field(default_factory=lambda: defaultdict(set))
    indexes: dict[Reference, tuple[Claim, ...]] = field(default_factory=dict)
    refused: set[Digest] = field(default_factory=set)
    conflicts: list[NameConflict] = field(default_factory=list)


def assign_names(claims: Iterable[Claim], policy: OnConflict) -> Names:
    """Gives every reference to one image (or to one index). Depends on the claims only, not on their order of arrival,
    but for `first`, which goes by `order`."""
    by_reference: dict[Reference, dict[Platform, dict[Digest, Claim]]] = defaultdict(lambda: defaultdict(dict))
    for claim in claims:
        rivals = by_reference[claim.reference][claim.platform]
        known = rivals.get(claim.digest)
        if known is None or claim.order < known.order:
            rivals[claim.digest] = claim
    names = Names()
    for reference in sorted(by_reference):
        winners = []
        for platform in sorted(by_reference[reference], key=str):
            winner = _settle(reference, platform, list(by_reference[reference][platform].values()), policy, names)
            if winner is not None:
                winners.append(winner)
        if len(winners) > 1:
            names.indexes[reference] = tuple(winners)
        else:
            for winner in winners:
                names.by_digest[winner.digest].add(reference)
    return names


def _settle(
    reference: Reference, platform: Platform, rivals: Sequence[Claim], policy: OnConflict, names: Names
) -> Claim | None:
    ranked = sorted(rivals, key=_by_order if policy is OnConflict.FIRST else _newest_first)
    if len(ranked) == 1:
        return ranked[0]
    if policy is OnConflict.FAIL:
        mine = [claim for claim in ranked if claim.order >= 0]
        names.refused.update(claim.digest for claim in mine)
        old = next((claim for claim in ranked if claim.order < 0), None)
        names.conflicts.append(NameConflict(reference=reference, platform=platform, kept=old, others=tuple(mine)))
        return old
    if policy is OnConflict.KEEP_ALL:
        for loser in ranked[1:]:
            names.by_digest[loser.digest].add(_numbered(reference, loser))
    names.conflicts.append(
        NameConflict(reference=reference, platform=platform, kept=ranked[0], others=tuple(ranked[1:]))
    )
    return ranked[0]


def _numbered(reference: Reference, loser: Claim) -> Reference:
    """`app:1.0` → `app:1.0-<12 digits of the image ID>`: the same on every run."""
    suffix = (loser.image_id or loser.digest.hex)[:12]
    return replace(reference, tag=f"{reference.tag[:115]}-{suffix}")


def _by_order(claim: Claim) -> tuple[object, ...]:
    return (claim.order, claim.digest)


def _newest_first(claim: Claim) -> tuple[object, ...]:
    return (tuple(-part for part in instant(claim.created)), claim.digest)


_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII)


def instant(created: str | None) -> tuple[int, int]:
    """(seconds, nanoseconds) in UTC of an RFC 3339 text, comparable across offsets; the far past for none."""
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
    """Days since 0000-03-01 in the proleptic Gregorian calendar; `datetime` knows neither year 0 nor nanoseconds."""
    shifted = year - (month <= 2)
    return 365 * shifted + shifted // 4 - shifted // 100 + shifted // 400 + (153 * ((month + 9) % 12) + 2) // 5 + day
