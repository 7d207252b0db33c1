"""Who gets a reference that several images claim."""

from __future__ import annotations

import itertools

import pytest
from msgspec.structs import replace

from migrate.compose.names import Claim, assign_names, instant, untagged_reference, wanted_reference
from migrate.model.digest import Digest
from migrate.model.image import Platform
from migrate.model.options import NameOptions, OnConflict
from migrate.model.reference import Reference

AMD64 = Platform(os="linux", architecture="amd64")
ARM = Platform(os="linux", architecture="arm", variant="v7")
APP = Reference("app", "1.0")


def claim(letter: str, created: str | None, order: int = 0, platform: Platform = AMD64) -> Claim:
    return Claim(
        reference=APP, platform=platform, digest=Digest(letter * 64), created=created, order=order, image_id="9" * 64
    )


OLD = claim("a", "2013-05-01T00:00:00Z", 0)
NEW = claim("b", "2014-05-01T00:00:00Z", 1)


def test_the_newest_keeps_the_name_and_the_other_is_reported() -> None:
    names = assign_names([OLD, NEW], OnConflict.NEWEST)
    assert names.by_digest == {NEW.digest: {APP}}
    (conflict,) = names.conflicts
    assert (conflict.reference, conflict.platform, conflict.kept, conflict.others) == (APP, AMD64, NEW, (OLD,))


def test_the_order_of_arrival_does_not_matter() -> None:
    claims = [OLD, NEW, claim("c", None, 2), claim("d", "2014-05-01T00:00:00.5Z", 3)]
    results = {
        tuple(
            sorted((digest, tuple(refs)) for digest, refs in assign_names(order, OnConflict.NEWEST).by_digest.items())
        )
        for order in itertools.permutations(claims)
    }
    assert results == {((Digest("d" * 64), (APP,)),)}


def test_ties_are_settled_by_the_image_whatever_its_manifest_is() -> None:
    one, other = (replace(claim(letter, OLD.created), image_id=image * 64) for letter, image in ("a2", "b1"))
    assert assign_names([one, other], OnConflict.NEWEST).by_digest == {other.digest: {APP}}
    without = [replace(rival, digest=Digest(rival.image_id)) for rival in (one, other)]
    assert assign_names(without, OnConflict.NEWEST).by_digest == {Digest("1" * 64): {APP}}


def test_first_goes_by_the_order_of_sources() -> None:
    assert assign_names([NEW, OLD], OnConflict.FIRST).by_digest == {OLD.digest: {APP}}


def test_what_the_target_held_already_is_first() -> None:
    existing = claim("e", "2010-01-01T00:00:00Z", -5)
    assert assign_names([OLD, existing], OnConflict.FIRST).by_digest == {existing.digest: {APP}}


def test_fail_refuses_every_new_claim_and_keeps_the_old_one() -> None:
    existing = claim("e", "2010-01-01T00:00:00Z", -5)
    names = assign_names([OLD, NEW, existing], OnConflict.FAIL)
    assert names.refused == {OLD.digest, NEW.digest}
    assert names.by_digest == {existing.digest: {APP}}


def test_keep_all_gives_the_losers_names_of_their_own() -> None:
    names = assign_names([OLD, NEW], OnConflict.KEEP_ALL)
    assert names.by_digest == {NEW.digest: {APP}, OLD.digest: {Reference("app", "1.0-999999999999")}}


def test_two_platforms_become_one_index_without_a_conflict() -> None:
    arm = claim("c", "2012-01-01T00:00:00Z", 2, ARM)
    names = assign_names([OLD, NEW, arm], OnConflict.NEWEST)
    assert names.indexes == {APP: (NEW, arm)}
    assert names.by_digest == {}
    assert [conflict.platform for conflict in names.conflicts] == [AMD64]


def test_one_image_claiming_a_name_twice_is_no_conflict() -> None:
    assert assign_names([OLD, claim("a", "2013-05-01T00:00:00Z", 7)], OnConflict.FAIL).conflicts == []


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("2013-06-13T14:03:50.821769-07:00", "2013-06-13T21:03:51Z"),
        ("2013-06-13T23:00:00+02:00", "2013-06-13T21:00:01Z"),
        ("2014-01-01T00:00:00.1Z", "2014-01-01T00:00:00.10000001Z"),
        ("2012-02-29T23:59:59Z", "2012-03-01T00:00:00Z"),
        ("1969-12-31T23:59:59Z", "1970-01-01T00:00:00Z"),
        ("0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
    ],
)
def test_times_compare_across_offsets_and_fractions(earlier: str, later: str) -> None:
    assert instant(earlier) < instant(later)


def test_equal_moments_are_equal_and_no_time_is_the_far_past() -> None:
    assert instant("2013-06-13T14:03:50-07:00") == instant("2013-06-13T21:03:50.000Z")
    assert instant(None) == instant("yesterday") < instant("0001-01-01T00:00:00Z")


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{repo}:{tag}-{created:%Y%m%d}", "team/app:1.0-20130614"),
        ("archive/{repo}:{tag}", "archive/team/app:1.0"),
        ("{tag}-{created:%Y-%m-%dT%H%M%S}", "team/app:1.0-2013-06-14T000350"),
        ("{created}", "team/app:20130614"),
        ("{created:%j}", "team/app:165"),
    ],
)
def test_a_template_names_images_by_what_they_are(template: str, text: str) -> None:
    reference = Reference("team/app", "1.0")
    assert str(wanted_reference(reference, "2013-06-13T14:03:50.8-10:00", NameOptions(tag_template=template))) == text


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("untagged/{legacy_id:12}:latest", "untagged/abcdef012345:latest"),
        ("untagged:{image_id:8}", "untagged:01230123"),
        ("{legacy_id}", f"image-{'abcdef0123456789' * 4}:latest"),
        ("Lost/{legacy_id:4}-{image_id:99}", f"lost/abcd-{'0123' * 16}:latest"),
    ],
)
def test_a_template_names_images_that_have_no_name(template: str, text: str) -> None:
    assert str(untagged_reference(template, "abcdef0123456789" * 4, "0123" * 16)) == text


def test_an_image_without_a_date_was_made_at_the_beginning() -> None:
    assert str(wanted_reference(APP, None, NameOptions(tag_template="{repo}:{created:%Y-%m-%d}"))) == "app:0001-01-01"


def test_renames_come_first_and_what_the_grammar_refuses_is_mapped() -> None:
    assert str(wanted_reference(Reference("Team/App", "1.0"), None, NameOptions())) == "team/app:1.0"
    renamed = wanted_reference(Reference("old/app", "1"), None, NameOptions(renames=(("^old/", "new/"),)))
    assert str(renamed) == "new/app:1"
