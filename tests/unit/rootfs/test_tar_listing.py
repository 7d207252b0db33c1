from __future__ import annotations

import io
import tarfile
import zlib

import pytest

from migrate.rootfs import tar_listing
from migrate.rootfs.tar_listing import ListedEntry, TarListing
from migrate.tar.names import below_root
from migrate.tar.writer import END, HeaderEncoder, TarHeader
from tests.archives import pax_header
from tests.layer_tars import edited

LONG = "d/" * 70 + "é" * 40


def listing(tar: bytes, size: int = 4096) -> TarListing:
    found = TarListing()
    for start in range(0, len(tar), size):
        found.feed(memoryview(tar[start : start + size]))
    found.finish()
    return found


def tar(format: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, kind, content in (
            ("./dir", tarfile.DIRTYPE, b""),
            (LONG, tarfile.REGTYPE, b"x" * 1000),
            ("link", tarfile.LNKTYPE, b""),
            ("sym", tarfile.SYMTYPE, b""),
            ("null", tarfile.CHRTYPE, b""),
            ("empty", tarfile.REGTYPE, b""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.size, info.uid, info.gid = kind, len(content), 1 << 22, 5
            info.devmajor, info.devminor = (1, 3) if kind == tarfile.CHRTYPE else (0, 0)
            info.linkname = {"link": f"./{LONG}", "sym": "../" * 60}.get(name, "")
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("size", [1, 100, 512, 513, 1 << 20])
def test_entries_are_those_of_the_tar_whatever_the_blocks(format: int, size: int) -> None:
    found = listing(tar(format), size)
    assert found.problem is None
    entries = list(found.entries())
    assert [(entry.path.decode(), entry.kind, entry.size) for entry in entries] == [
        ("dir", b"5", 0),
        (LONG, b"0", 1000),
        ("link", b"1", 0),
        ("sym", b"2", 0),
        ("null", b"3", 0),
        ("empty", b"0", 0),
    ]
    assert {(entry.uid, entry.gid) for entry in entries} == {(1 << 22, 5)}
    assert entries[1].crc == zlib.crc32(b"x" * 1000)
    assert entries[2].link.decode() == LONG
    assert entries[3].link == b"../" * 60
    assert entries[4].device == (1, 3)


def test_a_capability_is_kept_with_its_bytes() -> None:
    header = TarHeader(b"f", 0o100755, typeflag=b"0", xattrs={b"security.capability": b"\0=\n\xff"})
    (entry,) = listing(HeaderEncoder().encode(header) + END).entries()
    assert entry.capability == b"\0=\n\xff"


def test_a_prefix_with_gnus_magic_is_read_as_go_wrote_it() -> None:
    name = b"d" * 90 + b"/" + b"f" * 90
    (entry,) = listing(HeaderEncoder().encode(TarHeader(name, uid=1 << 30, typeflag=b"0")) + END).entries()
    assert entry.path == name


def test_sizes_of_sparse_files_are_unknown() -> None:
    info = tarfile.TarInfo("sparse")
    info.size, info.pax_headers = 3, {"GNU.sparse.major": "1"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(b"abc"))
    (entry,) = listing(buffer.getvalue()).entries()
    assert entry.size is None


@pytest.mark.parametrize("field", [slice(124, 136), slice(100, 108), slice(329, 337)])
def test_what_is_no_number_ends_the_listing_with_a_problem(field: slice) -> None:
    raw = bytearray(HeaderEncoder().encode(TarHeader(b"f", typeflag=b"3")) + END)
    raw[field] = b"8" * (field.stop - field.start)
    found = listing(bytes(raw))
    assert found.problem is not None and "entry 1" in found.problem


@pytest.mark.parametrize("record", [b"9 path=a\n", b"x path=a\n", b"5\n", b"99 path=a\n", b"0 a=b\n"])
def test_damaged_pax_records_are_a_problem(record: bytes) -> None:
    raw = HeaderEncoder().encode(TarHeader(b"x", size=len(record), typeflag=b"x")) + record.ljust(512, b"\0") + END
    assert listing(raw).problem is not None or list(listing(raw).entries()) == []


def test_more_entries_than_the_limit_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_listing, "CHECKED_ENTRIES", 3)
    encoder = HeaderEncoder()
    raw = [encoder.encode(TarHeader(b"f%d" % number, typeflag=b"0")) for number in range(4)]
    assert listing(b"".join(raw[:2]) + END).problem is None
    assert listing(b"".join(raw) + END).problem == "it has more than the limit of 3 entries"


def test_many_entries_stay_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_listing, "_PACKED_ENTRIES", 3)
    encoder = HeaderEncoder()
    raw = [encoder.encode(TarHeader(b"f%d" % number, typeflag=b"0")) for number in range(8)]
    assert [entry.path for entry in listing(b"".join(raw) + END).entries()] == [b"f%d" % n for n in range(8)]


def test_bytes_after_the_end_are_no_entries() -> None:
    raw = END + HeaderEncoder().encode(TarHeader(b"f", typeflag=b"0"))
    assert list(listing(raw).entries()) == []
    assert list(listing(b"").entries()) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [(b"a/b/", b"a/b"), (b"./a", b"a"), (b"/a", b"a"), (b"a//b", b"a/b"), (b"a/./b", b"a/b"), (b"../a/../b", b"b")],
)
def test_names_are_cleaned(name: bytes, expected: bytes) -> None:
    assert below_root(name) == expected


def test_entries_are_values() -> None:
    assert ListedEntry._fields[:2] == ("path", "kind")


@pytest.mark.parametrize(
    ("key", "value"), [(b"size", b"9" * 6000), (b"uid", b"9" * 6000), (b"gid", b"9" * 6000), (b"size", b"-5")]
)
def test_numbers_of_a_pax_header_that_are_none_end_the_listing(key: bytes, value: bytes) -> None:
    found = listing(pax_header(key, value) + tar(tarfile.GNU_FORMAT))
    assert found.problem is not None and "no number, or too large: b'" in found.problem


@pytest.mark.parametrize("form", ["pax", "base-256"])
@pytest.mark.parametrize(("number", "owner"), [(-2, 0xFFFF_FFFE), (-1, 0), (4_000_000_000, 4_000_000_000)])
def test_owners_are_what_chown_makes_of_them(number: int, owner: int, form: str) -> None:
    """Docker hands the number to chown(2), which takes 32 bits of it; -1 leaves the owner that made the file."""
    raw = HeaderEncoder().encode(TarHeader(b"f", typeflag=b"0"))
    if form == "pax":
        raw = pax_header(b"uid", b"%d" % number) + raw
    else:
        field = (number % (1 << 64)).to_bytes(8, "big")
        raw = edited(raw, 108, bytes((field[0] | 0x80,)) + field[1:])
    found = listing(raw + END)
    assert (found.problem, [entry.uid for entry in found.entries()]) == (None, [owner])


def test_of_two_pax_headers_the_last_one_alone_counts() -> None:
    raw = pax_header(b"path", b"first") + pax_header(b"uid", b"7") + HeaderEncoder().encode(TarHeader(b"own"))
    assert [(entry.path, entry.uid) for entry in listing(raw + END).entries()] == [(b"own", 7)]


def test_a_sparse_file_has_its_own_name() -> None:
    buffer = io.BytesIO()
    info = tarfile.TarInfo("GNUSparseFile.0/real")
    info.size, info.pax_headers = 3, {"GNU.sparse.major": "1", "GNU.sparse.name": "d/real"}
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(b"abc"))
    assert [(entry.path, entry.size) for entry in listing(buffer.getvalue()).entries()] == [(b"d/real", None)]
