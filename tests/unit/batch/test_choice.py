from __future__ import annotations

import itertools
from collections.abc import Collection

import pytest

from migrate.batch.choice import BlobChoice
from migrate.batch.records import LayerRecord, Role
from migrate.errors import IntegrityError
from migrate.model.digest import DiffID, Digest
from migrate.model.image import Descriptor, HashedLayer, StoredBlob
from migrate.model.legacy import LegacyID

DIFF_ID = DiffID(Digest.of(b"tar"))


def blob(name: str, size: int = 10, compression: str = "gzip") -> StoredBlob:
    return StoredBlob(digest=Digest.of(name.encode()), size=size, compression=compression)


def row(stored: StoredBlob, role: Role) -> LayerRecord:
    hashed = HashedLayer(diff_id=DIFF_ID, tar_size=1, empty=False, blob=stored, origin="archive")
    return LayerRecord(LegacyID("x"), hashed, role)


def choose(*rows: LayerRecord, generation: int = 0) -> BlobChoice:
    choice = BlobChoice("gzip")
    for each in rows:
        choice.take([each], generation)
    return choice


KEPT, CARRIED, SMALLER, MADE = blob("kept", 30), blob("carried", 20), blob("smaller", 19), blob("made", 5)
FOREIGN = blob("foreign", 1, "none")


@pytest.mark.parametrize("order", list(itertools.permutations(range(5))))
def test_the_order_of_arrival_decides_nothing(order: tuple[int, ...]) -> None:
    rows = [row(MADE, Role.MADE), row(CARRIED, Role.CARRIED), row(SMALLER, Role.CARRIED), row(MADE, Role.FOUND)]
    rows.append(row(CARRIED, Role.FOUND))
    choice = choose(*(rows[number] for number in order))
    assert choice.blob_of(DIFF_ID) == SMALLER
    assert list(choice.losers()) == sorted([MADE.digest, CARRIED.digest])


def test_a_kept_blob_serves_all_and_never_goes() -> None:
    choice = choose(row(SMALLER, Role.CARRIED), row(KEPT, Role.KEPT), row(MADE, Role.MADE))
    assert choice.blob_of(DIFF_ID) == KEPT
    assert list(choice.losers()) == sorted([SMALLER.digest, MADE.digest])
    other = blob("kept too", 20)
    choice = choose(row(KEPT, Role.KEPT), row(other, Role.KEPT))
    assert choice.blob_of(DIFF_ID) == other
    assert list(choice.losers()) == []


def test_a_kept_tar_serves_all_and_never_goes() -> None:
    """As in a single run: the target has it in any case."""
    plain = StoredBlob(digest=DIFF_ID, size=40, compression="none")
    choice = choose(row(MADE, Role.MADE), row(plain, Role.KEPT))
    assert choice.blob_of(DIFF_ID) == plain
    assert list(choice.losers()) == [MADE.digest]


def test_a_kept_blob_in_another_compression_serves_only_its_manifest() -> None:
    choice = choose(row(FOREIGN, Role.KEPT), row(MADE, Role.MADE))
    assert choice.blob_of(DIFF_ID) == MADE
    assert list(choice.losers()) == []
    assert choose(row(FOREIGN, Role.KEPT)).blob_of(DIFF_ID) == FOREIGN


def test_what_an_earlier_merge_settled_on_stays() -> None:
    choice = BlobChoice("gzip")
    choice.take([row(CARRIED, Role.CARRIED)], 1)
    choice.take([row(MADE, Role.MADE)], 0)
    assert choice.blob_of(DIFF_ID) == MADE
    assert list(choice.losers()) == [CARRIED.digest]


def test_layers_without_a_blob_have_no_say() -> None:
    hashed = HashedLayer(diff_id=DIFF_ID, tar_size=1_024, empty=True, blob=None, origin="archive")
    choice = choose(LayerRecord(LegacyID("e"), hashed), LayerRecord(LegacyID("t"), None))
    with pytest.raises(IntegrityError):
        choice.blob_of(DIFF_ID)


def test_a_blob_that_is_gone_is_not_chosen() -> None:
    """A merge removes what lost, and the records of its sources go on naming it."""
    for gone, chosen in ((KEPT, CARRIED), (CARRIED, KEPT), (MADE, KEPT)):
        choice = BlobChoice("gzip", lambda _, blob, gone=gone: blob != gone)  # type: ignore[misc]
        choice.take([row(MADE, Role.MADE), row(CARRIED, Role.CARRIED), row(KEPT, Role.KEPT)], 0)
        assert choice.blob_of(DIFF_ID) == chosen
        assert gone.digest not in set(choice.losers())
        named = [Descriptor(media_type="x", digest=KEPT.digest, size=30)]
        if gone is KEPT:
            with pytest.raises(IntegrityError, match=KEPT.digest.hex):
                choice.check(named)
        else:
            choice.check(named)


def test_where_no_blob_is_left_the_image_fails() -> None:
    choice = BlobChoice("gzip", lambda diff_id, blob: False)
    choice.take([row(MADE, Role.MADE)], 0)
    with pytest.raises(IntegrityError, match="is no longer in the target"):
        choice.blob_of(DIFF_ID)


def test_what_the_index_names_stays() -> None:
    """Also where no journal knows of it: another command has written it."""
    choice = BlobChoice("gzip", named={MADE.digest})
    choice.take([row(KEPT, Role.KEPT), row(CARRIED, Role.CARRIED)], 0)
    choice.take([row(MADE, Role.FOUND)], 1)
    assert choice.blob_of(DIFF_ID) == MADE


def test_another_compression_does_not_replace_the_one_that_is_asked_for() -> None:
    choice = BlobChoice("gzip", named={FOREIGN.digest})
    choice.take([row(FOREIGN, Role.CARRIED)], 0)
    choice.take([row(MADE, Role.MADE)], 1)
    assert choice.blob_of(DIFF_ID) == MADE


def test_what_another_command_has_named_is_asked_for() -> None:
    """No record tells of it; it is left alone where the chosen blob serves images of the index already."""
    asked: list[frozenset[Digest]] = []

    def find(diff_id: DiffID, named: Collection[Digest]) -> StoredBlob | None:
        assert diff_id == DIFF_ID
        asked.append(frozenset(named))
        return MADE

    choice = BlobChoice("gzip", named={MADE.digest, KEPT.digest})
    choice.take([row(CARRIED, Role.CARRIED), row(KEPT, Role.KEPT)], 0)
    choice.prefer_named(find)
    assert choice.blob_of(DIFF_ID) == MADE
    assert list(choice.losers()) == [CARRIED.digest]
    choice = BlobChoice("gzip", named={MADE.digest, CARRIED.digest})
    choice.take([row(CARRIED, Role.CARRIED)], 0)
    choice.prefer_named(find)
    assert choice.blob_of(DIFF_ID) == CARRIED
    assert asked == [frozenset({MADE.digest})]
    choose(row(CARRIED, Role.CARRIED)).prefer_named(find)
    assert len(asked) == 1
