"""Members located by their headers, compared with Python's own tar reader."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Callable

import pytest

from migrate.blobio import limits
from migrate.errors import DamagedError, LimitError, TruncatedError, UnsupportedError
from migrate.tar.header import BLOCK, parse_number, parse_pax
from migrate.tar.index import IsExpected, TarIndex, index_tar, looks_like_tar
from migrate.tar.members import MemberKind
from tests.archives import pax_header

LONG = "directory-of-some-length/" * 8 + "file"


def scan(content: bytes, is_expected: IsExpected | None = None) -> TarIndex:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        return index_tar(file.fileno(), "test.tar", is_expected)


def error_of(index: TarIndex) -> Exception | None:
    return index.damages[-1].error if index.damages else None


def build(fill: Callable[[tarfile.TarFile], None], format_: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format_) as archive:
        fill(archive)
    return buffer.getvalue()


def add(
    archive: tarfile.TarFile, name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname, member.mtime = kind, len(content), link, 1_400_000_000
    archive.addfile(member, io.BytesIO(content))


def sample(archive: tarfile.TarFile) -> None:
    add(archive, "dir", kind=tarfile.DIRTYPE)
    add(archive, "dir/one", b"1" * 1000)
    add(archive, "empty")
    add(archive, LONG, b"long" * 200)
    add(archive, "soft", kind=tarfile.SYMTYPE, link="dir/one")
    add(archive, "hard", kind=tarfile.LNKTYPE, link=LONG)
    add(archive, "pipe", kind=tarfile.FIFOTYPE)
    add(archive, "exact", b"x" * BLOCK)


@pytest.mark.parametrize("format_", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_dialect_is_read_as_python_reads_it(format_: int) -> None:
    content = build(sample, format_)
    index = scan(content)
    assert index.damages == []
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        expected = [(member.name, member.size, member.offset_data, member.linkname) for member in archive]
    assert [(one.name.rstrip("/"), one.size, one.offset, one.link) for one in index.members] == expected
    kinds = {one.name: one.kind for one in index.members}
    assert kinds["soft"] is MemberKind.SYMLINK
    assert kinds["hard"] is MemberKind.HARDLINK
    assert kinds["pipe"] is MemberKind.OTHER


def test_a_ustar_prefix_is_part_of_the_name() -> None:
    name = "p" * 90 + "/" + "n" * 60
    index = scan(build(lambda archive: add(archive, name, b"x"), tarfile.USTAR_FORMAT))
    assert [one.name for one in index.members] == [name]


def test_a_size_in_a_pax_header_overrides_the_field() -> None:
    member = tarfile.TarInfo("big")
    member.size = 700
    member.pax_headers = {"size": "700"}
    plain = member.create_pax_header(member.get_info(), "utf-8") + b"x" * 700 + bytes(324 + 2 * BLOCK)
    index = scan(plain)
    assert [(one.name, one.size) for one in index.members] == [("big", 700)]


@pytest.mark.parametrize(
    ("field", "value"),
    [(b"0000644\0", 0o644), (b" 644 \0\0\0", 0o644), (b"\0" * 8, 0), (b"\x80" + b"\0" * 6 + b"\x07", 7)],
)
def test_numbers_are_octal_or_base_256(field: bytes, value: int) -> None:
    assert parse_number(field) == value


def test_a_negative_base_256_number() -> None:
    assert parse_number(b"\xff" * 8) == -1


@pytest.mark.parametrize("field", [b"0000x44\0", b"-000644\0", b"00006 44"])
def test_other_numbers_are_refused(field: bytes) -> None:
    with pytest.raises(ValueError, match="octal"):
        parse_number(field)


def test_pax_records_keep_raw_values() -> None:
    assert parse_pax(b"12 path=a b\n14 size=12345\n", "x") == {"path": b"a b", "size": b"12345"}


@pytest.mark.parametrize("content", [b"5 path\n", b"999 path=a\n", b"x path=a\n", b"12 path=a b ", b"0 a=b\n"])
def test_malformed_pax_records_are_damage(content: bytes) -> None:
    with pytest.raises(DamagedError, match="malformed pax record"):
        parse_pax(content, "x")


def test_truncation_is_found_wherever_a_member_could_be_lost() -> None:
    content = build(sample, tarfile.GNU_FORMAT)
    whole = scan(content)
    last = whole.members[-1]
    end = last.offset + last.size
    for cut in range(0, end + 1, 37):
        index = scan(content[:cut])
        assert isinstance(error_of(index), TruncatedError), cut
        assert index.members == whole.members[: len(index.members)]
    assert scan(content[: end + 100]).damages == [], "only a part of the end marker is missing"


def test_a_damaged_header_ends_the_scan_and_keeps_what_came_before() -> None:
    content = bytearray(build(sample, tarfile.GNU_FORMAT))
    third = scan(bytes(content)).members[2].offset - BLOCK
    content[third + 3] ^= 0x20
    index = scan(bytes(content))
    (damage,) = index.damages
    assert isinstance(damage.error, DamagedError)
    assert "wrong checksum; what follows is lost" in damage.message
    assert len(index.members) == 2


def test_every_flipped_byte_of_a_header_is_noticed() -> None:
    content = build(lambda archive: add(archive, "name", b"x" * 10), tarfile.USTAR_FORMAT)
    for position in range(BLOCK):
        changed = bytearray(content)
        changed[position] ^= 0x01
        if 148 <= position < 156 and not 148 <= position < 154:
            continue  # the two bytes that end the checksum field carry no digit
        assert scan(bytes(changed)).damages, position


def test_sparse_members_are_refused_in_both_forms() -> None:
    gnu = bytearray(build(lambda archive: add(archive, "sparse"), tarfile.GNU_FORMAT))
    gnu[156:157] = b"S"
    checksum = 256 + sum(gnu[:148]) + sum(gnu[156:BLOCK])
    gnu[148:156] = b"%06o\0 " % checksum
    member = tarfile.TarInfo("sparse")
    member.pax_headers = {"GNU.sparse.major": "1"}
    pax = member.create_pax_header(member.get_info(), "utf-8") + bytes(2 * BLOCK)
    for content in (bytes(gnu), pax):
        damage = error_of(scan(content))
        assert isinstance(damage, UnsupportedError)
        assert "--sparse" in str(damage)


def test_the_rest_of_a_member_of_an_earlier_volume_is_refused_by_name() -> None:
    """`tar --multi-volume` begins a volume with it. Read as a file, it would be the end of a layer."""
    volume = tarfile.TarInfo("ab/layer.tar")
    volume.type = b"M"
    damage = error_of(scan(volume.tobuf(tarfile.GNU_FORMAT) + bytes(2 * BLOCK)))
    assert isinstance(damage, UnsupportedError)
    assert "the rest of 'ab/layer.tar'," in str(damage)
    assert "tar -xM" in str(damage)


def test_an_extended_header_has_a_limit() -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, limits.TAR_HEADER_BYTES + 1
    with pytest.raises(LimitError, match="extended header"):
        scan(header.tobuf(tarfile.GNU_FORMAT) + bytes(4 * BLOCK))


def test_the_number_of_members_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ARCHIVE_MEMBERS", 3)
    with pytest.raises(LimitError, match="more than 3 members"):
        scan(build(sample, tarfile.GNU_FORMAT))


def test_what_is_no_tar_does_not_look_like_one() -> None:
    content = build(sample, tarfile.GNU_FORMAT)
    assert looks_like_tar(content)
    assert looks_like_tar(bytes(1024))
    assert not looks_like_tar(content[:100])
    assert not looks_like_tar(os.urandom(1024))


# --- going on behind damage ------------------------------------------------------------------------------------------


def inner(archive: tarfile.TarFile) -> None:
    for name in ("m-2", "etc", "m-9"):
        add(archive, name, build(lambda deep: add(deep, "m-1"), tarfile.GNU_FORMAT))


def outer(archive: tarfile.TarFile) -> None:
    for number in range(6):
        add(archive, f"m-{number}", build(inner, tarfile.GNU_FORMAT) if number == 2 else b"x" * (number * 300))


def is_member(name: str) -> bool:
    return name.startswith("m-") and name != "m-9"


CONTENT = build(outer, tarfile.GNU_FORMAT)
WHOLE = [*scan(CONTENT).members]


def without(*numbers: int) -> list[str]:
    return [member.name for number, member in enumerate(WHOLE) if number not in numbers]


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("filling", [b"\xff", b"\0"])
def test_one_lost_header_loses_one_member(number: int, filling: bytes) -> None:
    content = bytearray(CONTENT)
    start = WHOLE[number].offset - BLOCK
    content[start : start + BLOCK] = filling * BLOCK
    index = scan(bytes(content), is_member)
    found = [member.name for member in index.members]
    if number == 2:  # the layer's own first entry has a member's name, and cannot be told from one
        assert found == ["m-0", "m-1", "m-2", "etc", "m-9", *without(0, 1, 2)]
        assert (len(index.damages), index.sound) == (2, 2)
        return
    assert index.members == [member for member in WHOLE if member is not WHOLE[number]]
    (damage,) = index.damages
    assert str(start) in damage.message.replace(",", "")
    assert index.sound == (None if number == 5 else number)


def test_nothing_inside_a_layer_is_taken_for_a_member() -> None:
    content = bytearray(CONTENT)
    start = WHOLE[2].offset - BLOCK
    content[start : start + BLOCK] = b"\xff" * BLOCK
    index = scan(bytes(content), lambda name: name in ("m-3", "m-1"))
    assert [member.name for member in index.members] == without(2), "m-1 stands in a file, not in a header's place"


def test_several_places_of_damage() -> None:
    content = bytearray(CONTENT)
    for number in (1, 4):
        content[WHOLE[number].offset - BLOCK + 1] ^= 0xFF
    index = scan(bytes(content), is_member)
    assert [member.name for member in index.members] == without(1, 4)
    assert (len(index.damages), index.sound) == (2, 1)
    assert all("reading continues at byte" in damage.message for damage in index.damages)


def test_behind_a_sound_end_nothing_is_found() -> None:
    assert scan(CONTENT + bytes(3 << 20), is_member).damages == []
    assert scan(CONTENT + os.urandom(BLOCK * 40), is_member).damages == []
    index = scan(CONTENT + CONTENT, is_member)
    assert [member.name for member in index.members] == without() * 2
    assert "where the archive does not end" in index.damages[0].message


@pytest.mark.parametrize("size", [b"9" * 6000, b"9" * 18, b"-5", b"1_0"])
def test_impossible_sizes_in_a_pax_header_are_damage(size: bytes) -> None:
    index = scan(pax_header(b"size", size) + build(lambda archive: add(archive, "a", b"x"), tarfile.USTAR_FORMAT))
    assert index.members == []
    assert "impossible size b'" in index.damages[0].message
    assert len(index.damages[0].message) < 200


def test_pseudo_entries_are_read_as_go_reads_them() -> None:
    """A GNU long name wins over a pax path, whichever comes first; of two pax headers the last one alone counts."""
    entry = tarfile.TarInfo("g" * 120)
    whole = entry.tobuf(tarfile.GNU_FORMAT)
    gnu, header = whole[:-512], whole[-512:]
    pax = pax_header(b"path", b"p")
    for before, name in (
        (gnu + pax, "g" * 120),
        (pax + gnu, "g" * 120),
        (pax, "p"),
        (pax + pax_header(b"comment", b"c"), "g" * 100),
        (pax_header(b"comment", b"c") + pax, "p"),
    ):
        index = scan(before + header + bytes(1024))
        assert ([member.name for member in index.members], index.damages) == ([name], [])
