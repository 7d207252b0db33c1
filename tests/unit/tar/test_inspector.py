"""Layer tars of every dialect, and what makes Docker refuse one. `tarfile` writes them; bytes are then bent."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.blobio.limits import TAR_HEADER_BYTES
from migrate.errors import DamagedError, LimitError, MigrateError, TruncatedError
from migrate.tar import inspector
from migrate.tar.inspector import TarFacts, TarInspector
from tests.archives import pax_header
from tests.layer_tars import ODD_ENTRIES, edited, tar_of, typed, with_checksum
from tests.unit.rehash.sources import make_tar

TWICE = ("entries-docker-refuses", "path-forms")


def inspect(content: bytes, step: int = 256 * 1024) -> TarFacts:
    scan = TarInspector("layer x")
    view = memoryview(content)
    for start in range(0, len(content), step):
        scan.feed(view[start : start + step])
    return scan.finish()


# --- whole tars ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", bytes(512), bytes(1024), bytes(10_240), bytes(3 * 1024 * 1024)])
def test_zeros_alone_are_an_empty_layer(content: bytes) -> None:
    assert inspect(content) == TarFacts(size=len(content), empty=True, flags=())


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("step", [1, 511, 512, 1000, 4096, 1 << 20])
def test_every_dialect_and_any_cutting_of_the_stream(format: int, step: int) -> None:
    long_name = "deep/" * 18 + "n" * 60
    link = typed("b", tarfile.SYMTYPE)
    link.linkname = "a"
    content = tar_of(
        ("a", 0), link, typed("d/", tarfile.DIRTYPE), (long_name, 1300), ("e", 512), ("f", 70_001), format=format
    )
    assert inspect(content, step) == TarFacts(size=len(content), empty=False, flags=())


@pytest.mark.parametrize("step", [512, 700, 1024, 1536, 1 << 20])
@pytest.mark.parametrize("name", ["n" * 99, "n" * 100, "n" * 101, "n" * 511, "n" * 512, "n" * 700])
def test_a_long_name_is_one_path_with_its_dotted_form(name: str, step: int) -> None:
    """Names up to 512 bytes go the short way, longer ones do not; all are the name of the entry behind them."""
    plain = tar_of(("a", 3), (name, 5), ("z", 0))
    assert inspect(plain, step).flags == ()
    assert inspect(tar_of(("a", 3), (name, 5), (f"./{name}", 5)), step).flags == TWICE


def test_a_long_name_of_no_bytes_and_one_without_its_entry() -> None:
    long_name = tar_of(typed("././@LongLink", b"L", 0))[:512]
    assert inspect(long_name + tar_of(("a", 5))).empty is False
    header = edited(long_name, 124, b"%011o\0" % 5)
    assert inspect(header + b"name\0".ljust(512, b"\0") + bytes(1024)).empty is True


def test_an_end_without_its_marker_is_tolerated() -> None:
    content = tar_of(("a", 700), ("b", 100))
    whole = 512 + 1024 + 512 + 512
    for end in (whole, whole + 512, whole - 412, 512 + 1024, 512 + 700):
        assert inspect(content[:end]).size == end


def test_sizes_in_base_256() -> None:
    content = edited(tar_of(("a", 700)), 124, b"\x80" + (700).to_bytes(11, "big"))
    assert inspect(content).flags == ()
    with pytest.raises(DamagedError, match="negative"):
        inspect(edited(content, 124, b"\xff" * 12))


def test_a_signed_checksum_is_accepted() -> None:
    name = "caf\xe9\xff".encode("latin-1")
    assert not inspect(edited(tar_of(("abcdef", 9)), 0, name, signed=True)).empty
    assert not inspect(edited(tar_of(("abcdef", 9)), 0, name)).empty


def test_pax_sizes_count() -> None:
    entry = typed("big", tarfile.REGTYPE, 3000)
    entry.pax_headers = {"size": "3000"}
    content = bytearray(tar_of(entry, ("next", 5), format=tarfile.PAX_FORMAT))
    header = content[1024:1536]
    content[1024:1536] = with_checksum(bytes(header[:124]) + b"00000000000\0" + bytes(header[136:]))
    assert inspect(bytes(content)).flags == ()
    content[1024:1536] = with_checksum(bytes(header[:124]) + b"00000000017\0" + bytes(header[136:]))
    assert inspect(bytes(content)).flags == ("conflicting-sizes",)


def test_old_gnu_sparse_maps_go_on_in_blocks_of_their_own() -> None:
    header = bytearray(tar_of(typed("s", b"S", 0))[:512])
    header[482] = 1
    header[257:265] = b"ustar  \0"
    header[124:136] = b"%011o\0" % 600
    more, last = bytearray(512), bytearray(512)
    more[0:24] = last[0:24] = b"%011o\0%011o\0" % (8192, 512)
    more[504] = 1
    content = with_checksum(bytes(header)) + bytes(more) + bytes(last) + b"x" * 600 + bytes(424)
    assert inspect(content + tar_of(("after", 3))).empty is False
    with pytest.raises(TruncatedError):
        inspect(content[:1024])
    with pytest.raises(TruncatedError):
        inspect(content[: 512 * 3 + 599])


# --- what two readers could see differently --------------------------------------------------------------------------


def test_content_behind_the_end_is_flagged() -> None:
    content = make_tar(1)
    assert inspect(content + bytes(2_000_000)).flags == ()
    for tail in (b"x", bytes(3_000_000) + b"x", make_tar(2)):
        assert inspect(content + tail).flags == ("bytes-after-end",)
    assert not inspect(bytes(1024) + make_tar(2)).empty


@pytest.mark.parametrize("name", ODD_ENTRIES)
def test_an_entry_that_docker_does_not_unpack_is_flagged(name: str) -> None:
    content, refused = ODD_ENTRIES[name]
    assert inspect(content).flags == (("entries-docker-refuses",) if refused else ())


def test_a_size_below_zero_counts_only_where_content_could_follow() -> None:
    minus_one = b"\xff" * 12
    link = edited(tar_of(typed("l", tarfile.SYMTYPE), ("a", 5)), 124, minus_one)
    assert inspect(link).flags == ("size-without-content",)
    assert inspect(pax_header(b"size", b"-1") + tar_of(typed("d", tarfile.DIRTYPE))).flags == ("size-without-content",)
    for content in (
        edited(tar_of(("a", 5)), 124, minus_one),
        edited(pax_header(b"mtime", b"1"), 124, minus_one),
        pax_header(b"size", b"-1") + tar_of(("a", 5)),
    ):
        with pytest.raises(DamagedError, match="negative"):
            inspect(content)


def test_a_directory_with_a_size_is_flagged() -> None:
    content = edited(tar_of(typed("d/", tarfile.DIRTYPE), ("a", 5)), 124, b"00000001000\0")
    assert inspect(content).flags == ("size-without-content",)


@pytest.mark.parametrize(
    ("names", "flagged"),
    [
        (["./", "./a", "./b"], False),
        (["./", "a", "b"], False),
        (["./a", "b"], False),
        (["a", "./a"], True),
        (["/etc/passwd", "etc/passwd"], True),
        (["./x", "/x"], True),
        (["x/y", "x//y"], True),
        (["x/./y", "x//y"], True),
        (["x/z/../y", "./x/y"], True),
        (["x/.y", "x/y", "x/.wh.y", "x/...", "..data"], False),
        (["d/" * 60 + "long", "./" + "d/" * 60 + "long"], True),
        (["n" * 100, "./" + "n" * 100], True),
        (["n" * 99, "./" + "n" * 99], True),
        (["d/", "d/e", "d2"], False),
        (["./", "./d/", "./d/e"], False),
        (["d/", "./d"], True),
        (["a//b/", "a/b"], True),
        (["./x\ny", "x\ny"], True),
    ],
)
def test_one_path_in_two_forms_is_flagged(names: list[str], flagged: bool) -> None:
    content = tar_of(*(typed(name, tarfile.DIRTYPE) if name.endswith("/") else (name, 3) for name in names))
    assert ("path-forms" in inspect(content).flags) is flagged


@pytest.mark.parametrize("late", ["./b", "/b", "x/../b", ".//b"])
def test_a_form_that_comes_late_is_held_against_all_names_before(late: str) -> None:
    early = [(name, 600) for name in ("a", "b", ".hidden", "c/.hidden", "d/e")]
    assert inspect(tar_of(*early), 512).flags == ()
    assert "path-forms" in inspect(tar_of(*early, (late, 3)), 512).flags
    assert inspect(tar_of(*early, (f"{late}-other", 3)), 512).flags == ()


@pytest.mark.parametrize("step", [700, 1 << 20])
def test_bytes_behind_the_end_of_a_name_hide_no_second_form(step: int) -> None:
    content = edited(tar_of(("a", 3), ("./a", 3)), 10, b"whatever")
    inspect(content, step)  # from the second time on, headers take the short way
    assert inspect(content, step).flags == TWICE


@pytest.mark.parametrize("step", [512, 700, 1 << 20])
@pytest.mark.parametrize(
    ("names", "twice"),
    [
        (["a", "b", "a"], "a"),
        (["d/", "d/f", "d/"], "d"),
        (["d/", "d/e", "d"], "d"),
        (["./d/", "./d/f", "./d/"], "./d"),
        (["./", "./a", "./"], "."),
        (["/a", "/b", "/a"], "/a"),
        (["a", "b", "./a"], "./a"),
        (["x/y", "x//y"], "x//y"),
        (["x/y/.", "x/y"], "x/y"),
        (["z/y/..", "z"], "z"),
        (["./z/y/..", "./z"], "./z"),
        (["x/../b", "b"], "b"),
        (["../b", "a", "../b"], "../b"),
        (["n" * 120, "b", "n" * 120], "n" * 100),
        (["a", "/a"], None),
        (["../b", "b"], None),
        (["a", "b", "A"], None),
    ],
)
def test_a_path_that_occurs_twice_is_flagged_with_its_name(names: list[str], twice: str | None, step: int) -> None:
    """Docker keeps the two apart only by filepath.Clean, in which `/a` is not `a`, nor `../b` `b`."""
    content = tar_of(*(typed(name, tarfile.DIRTYPE) if name.endswith("/") else (name, 3) for name in names))
    facts = inspect(content, step)
    assert ("entries-docker-refuses" in facts.flags) is (twice is not None)
    assert dict(facts.flagged).get("entries-docker-refuses") == (twice and f"{twice!r} occurs twice")


def test_a_path_twice_among_more_names_than_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspector, "_KEPT_NAME_BYTES", 100)
    facts = inspect(tar_of(*((f"file-{number}", 0) for number in range(40)), ("file-39", 0)), 512)
    assert (facts.flags, facts.flagged) == (
        ("entries-docker-refuses",),
        (("entries-docker-refuses", "occurs twice"),),
    )


@pytest.mark.parametrize("step", [512, 700, 1 << 20])
def test_an_entry_without_a_name_is_flagged(step: int) -> None:
    content = edited(tar_of(("a", 3), ("b", 3)), 0, bytes(100))
    for _ in range(2):
        facts = inspect(content, step)
        assert facts.flagged == (("entries-docker-refuses", "an entry has no name"),)


@pytest.mark.parametrize(
    "record", [b"no length\n", b"0 path=a\n", b"99 path=a\n", b"9 path=a_", b"5 =a\n", b"8 path\n"]
)
def test_a_tar_that_ends_behind_a_malformed_pax_header_is_flagged(record: bytes) -> None:
    """Inside a tar such a header is an error: what follows would be named wrongly."""
    header = pax_header(b"path", b"x" * (len(record) - 8))[:512]
    header = edited(header, 124, b"%011o" % len(record))
    whole = tar_of(("a", 3)).rstrip(b"\0").ljust(1024, b"\0")
    facts = inspect(whole + header + record)
    assert facts.flags == ("entries-docker-refuses",)
    assert "malformed pax record" in dict(facts.flagged)["entries-docker-refuses"]
    with pytest.raises(DamagedError, match="malformed pax record"):
        inspect(header + record.ljust(512, b"\0") + tar_of(("a", 3)))


def test_every_flag_that_is_about_an_entry_names_it() -> None:
    link = edited(tar_of(typed("l", tarfile.SYMTYPE), ("a", 5)), 124, b"00000001000\0")
    assert inspect(link).flagged == (("size-without-content", "'l'"),)
    sizes = edited(pax_header(b"size", b"5") + tar_of(("a", 5)), 0, b"p")
    changed = sizes[:1024] + edited(sizes[1024:], 124, b"00000000007\0")
    assert inspect(changed).flagged == (("conflicting-sizes", "'a'"),)
    for name, (content, refused) in ODD_ENTRIES.items():
        assert bool(inspect(content).flagged) is refused, name


def test_a_gnu_long_name_wins_over_a_pax_path() -> None:
    """As in Go, whichever comes first; seen here by which of the names occurs twice."""
    gnu = tar_of(("g" * 120, 0))[:1024]
    for before in (pax_header(b"path", b"p") + gnu, gnu + pax_header(b"path", b"p")):
        taken = inspect(before + tar_of(("short", 0), ("g" * 120, 0), ("q", 0)))
        assert taken.flags == ("entries-docker-refuses",)
        assert inspect(before + tar_of(("short", 0), ("p", 0))).flags == ()


def test_of_two_pax_headers_the_last_one_alone_counts() -> None:
    headers = pax_header(b"path", b"first") + pax_header(b"comment", b"second")
    assert inspect(headers + tar_of(("own", 0), ("first", 0))).flags == ()
    assert inspect(headers + tar_of(("own", 0), ("own", 0))).flags == ("entries-docker-refuses",)


def test_a_global_size_is_flagged() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"size": "77"}) as tar:
        tar.addfile(tarfile.TarInfo("a"))
    assert inspect(out.getvalue()).flags == ("conflicting-sizes",)


# --- what Docker refuses ---------------------------------------------------------------------------------------------


def test_every_cut_is_seen_or_harmless() -> None:
    content = tar_of(("a", 700), ("d/" * 70, 3), ("b", 100))
    whole_at = {0} | set(range(512 + 700, 512 + 1024 + 1))
    for end in range(0, 4 * 512, 4):
        if end in whole_at:
            inspect(content[:end])
        elif end < 512 + 1024:
            with pytest.raises(TruncatedError, match="layer x"):
                inspect(content[:end])


@pytest.mark.parametrize("content", [b"x" * 2000, b"#!/bin/sh\n" * 100, b"\0" * 512 + b"x" * 512, bytes(511) + b"\1"])
def test_what_is_no_tar_is_damage(content: bytes) -> None:
    with pytest.raises(DamagedError, match="layer x"):
        inspect(content)


def test_any_flip_in_a_header_is_damage() -> None:
    content = make_tar(3)
    for place in range(512):
        flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        if 148 <= place < 156:  # the checksum itself: its end and leading zeros may be spelled in several ways
            continue
        with pytest.raises(DamagedError):
            inspect(flipped)


@pytest.mark.parametrize("field", [b"0000000000x\0", b"99999999999\0", b"-0000000001\0", b"0_000000017\0", b"+17\0"])
def test_sizes_that_are_no_numbers_are_damage(field: bytes) -> None:
    with pytest.raises(DamagedError, match="size"):
        inspect(edited(tar_of(("a", 15)), 124, field))


def test_a_huge_long_name_meets_its_limit() -> None:
    header = tar_of(typed("././@LongLink", b"L", 0))[:512]
    content = edited(header, 124, b"%011o\0" % (TAR_HEADER_BYTES + 1))
    with pytest.raises(LimitError, match="1,048,576"):
        inspect(content + bytes(2 * TAR_HEADER_BYTES))


@pytest.mark.parametrize(
    "record", [b"17 size=x\n", b"9 size=5", b"x size=5\n", b"0 \n", b"12 size=-5  \n", b"99999999 size=5\n", b"6 =ab\n"]
)
def test_damaged_pax_records_are_damage(record: bytes) -> None:
    header = edited(tar_of(typed("pax", b"x", 0))[:512], 124, b"%011o\0" % len(record))
    with pytest.raises(DamagedError, match="pax"):
        inspect(header + record.ljust(512, b"\0") + tar_of(("a", 5)))


@pytest.mark.parametrize("size", [b"9" * 6000, b"9" * 19, b"9" * 18 + b"_9"])
def test_pax_sizes_of_too_many_digits_are_damage(size: bytes) -> None:
    with pytest.raises(DamagedError, match="a pax record's size is no number, or too large: b'9"):
        inspect(pax_header(b"size", size) + tar_of(("a", 5)))


def test_a_pax_size_with_leading_zeros_is_the_number_behind_them() -> None:
    assert inspect(pax_header(b"size", b"0" * 6000 + b"5") + tar_of(("a", 5))).flags == ()


@given(st.integers(0, 10_000), st.integers(1, 5000), st.sampled_from([0, 1, 128, 255]))
def test_bent_tars_give_our_errors_and_the_same_at_any_cutting(seed: int, step: int, value: int) -> None:
    chance = random.Random(seed)
    content = bytearray(tar_of(("a", 700), ("long/" * 30, 3), ("./b", 100), format=chance.choice([0, 1, 2])))
    for _ in range(chance.randrange(3)):
        content[chance.randrange(len(content))] = value
    cut = bytes(content[: chance.choice([len(content), chance.randrange(len(content))])])
    assert outcome(lambda: inspect(cut, step)) == outcome(lambda: inspect(cut))


def outcome(read: Callable[[], TarFacts]) -> object:
    try:
        return read()
    except MigrateError as exc:
        return type(exc)
