"""Entries of a stream, held against Python's own tar reader."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import DamagedError, LimitError, MigrateError, TruncatedError
from migrate.tar.entries import TarEntry, TarScanner
from tests.archives import pax_header


class Collector(TarScanner):
    def __init__(self) -> None:
        super().__init__("layer")
        self.found: list[tuple[TarEntry, bytes]] = []
        self.ended = 0

    def on_entry(self, entry: TarEntry) -> None:
        self.found.append((entry, b""))

    def on_content(self, piece: memoryview) -> None:
        entry, content = self.found[-1]
        self.found[-1] = (entry, content + bytes(piece))

    def on_end(self) -> None:
        self.ended += 1
        assert self.ended == len(self.found)


def scan(tar: bytes, step: int = 1 << 20) -> list[tuple[TarEntry, bytes]]:
    collector = Collector()
    for start in range(0, len(tar), step):
        collector.feed(memoryview(tar)[start : start + step])
    collector.finish()
    assert collector.ended == len(collector.found)
    return collector.found


def odd_tar(form: int) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, content in (("plain", b"x" * 700), ("deep/" + "d" * 120 + "/" + "n" * 90, b"long"), ("empty", b"")):
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.uid, member.gid, member.mtime = (
                len(content),
                0o4755,
                1000,
                2000,
                1_400_000_000,
            )
            member.uname, member.gname = "user", "group"
            archive.addfile(member, io.BytesIO(content))
        for kind, link in (
            (tarfile.SYMTYPE, "t" * 150 if form != tarfile.USTAR_FORMAT else "t"),
            (tarfile.LNKTYPE, "plain"),
        ):
            member = tarfile.TarInfo("link")
            member.type, member.linkname = kind, link
            archive.addfile(member)
        member = tarfile.TarInfo("dev/null")
        member.type, member.devmajor, member.devminor = tarfile.CHRTYPE, 1, 3
        archive.addfile(member)
        member = tarfile.TarInfo("directory")
        member.type = tarfile.DIRTYPE
        archive.addfile(member)
    return stream.getvalue()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("step", [1, 511, 512, 4096, 1 << 20])
def test_as_pythons_reader(form: int, step: int) -> None:
    tar = odd_tar(form)
    found = scan(tar, step)
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        members = archive.getmembers()
        assert len(found) == len(members)
        for (entry, content), member in zip(found, members, strict=True):
            assert entry.name.rstrip(b"/").decode() == member.name
            assert bytes([entry.kind]) == member.type
            assert (entry.mode, entry.uid, entry.gid, entry.mtime) == (
                member.mode,
                member.uid,
                member.gid,
                member.mtime,
            )
            assert (entry.user.decode(), entry.group.decode()) == (member.uname, member.gname)
            assert (entry.major, entry.minor) == (member.devmajor, member.devminor)
            assert entry.link.decode() == member.linkname
            stream = archive.extractfile(member) if member.isreg() else None
            assert content == (stream.read() if stream else b"")


def test_attributes_of_pax_headers() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("ping")
        member.pax_headers = {"SCHILY.xattr.security.capability": "cap", "mtime": "12.75", "uid": "3000000"}
        archive.addfile(member)
    ((entry, _),) = scan(stream.getvalue())
    assert entry.xattrs == (("security.capability", b"cap"),)
    assert (entry.mtime, entry.uid) == (12, 3_000_000)


@given(st.binary(max_size=2000), st.integers(1, 700))
def test_any_bytes_give_entries_or_a_named_error(garbage: bytes, step: int) -> None:
    try:
        scan(odd_tar(tarfile.GNU_FORMAT)[:1536] + garbage, step)
    except MigrateError as error:
        assert error.message.startswith("layer: ")


def test_damage() -> None:
    tar = odd_tar(tarfile.USTAR_FORMAT)
    with pytest.raises(TruncatedError):
        scan(tar[:1000])
    with pytest.raises(DamagedError, match="checksum"):
        scan(tar[:124] + b"not octal!!!" + tar[136:])
    huge = tarfile.TarInfo("x")
    huge.type, huge.size = b"L", 1 << 30
    with pytest.raises(LimitError):
        scan(huge.tobuf(tarfile.GNU_FORMAT))


@pytest.mark.parametrize("key", [b"size", b"uid", b"gid", b"mtime"])
@pytest.mark.parametrize("value", [b"9" * 6000, b"-" + b"9" * 6000, b"9" * 19, b"1_0", b"-"])
def test_numbers_of_a_pax_header_that_are_none(key: bytes, value: bytes) -> None:
    with pytest.raises(DamagedError, match="layer: a damaged tar header"):
        scan(pax_header(key, value) + odd_tar(tarfile.USTAR_FORMAT))


def test_a_size_is_not_negative_and_fits_into_64_bits() -> None:
    header = bytearray(odd_tar(tarfile.USTAR_FORMAT))
    for size in (b"\xff" * 12, b"\x80" + b"\xff" * 11):
        header[124:136] = size
        with pytest.raises(DamagedError):
            scan(bytes(header))
    with pytest.raises(DamagedError):
        scan(pax_header(b"size", b"-5") + odd_tar(tarfile.USTAR_FORMAT))


def test_times_before_1970_are_whole_seconds() -> None:
    tar = pax_header(b"mtime", b"-86400.5") + odd_tar(tarfile.USTAR_FORMAT)
    assert scan(tar)[0][0].mtime == -86400


@pytest.mark.parametrize("order", [0, 1])
def test_a_gnu_long_name_or_link_wins_over_a_pax_record(order: int) -> None:
    """As in Go's archive/tar, whichever of them comes first."""
    link = tarfile.TarInfo("g" * 120)
    link.type, link.linkname = tarfile.SYMTYPE, "t" * 130
    whole = link.tobuf(tarfile.GNU_FORMAT)
    gnu, entry = whole[:-512], whole[-512:]
    for key in (b"path", b"linkpath"):
        before = (pax_header(key, b"p"), gnu)
        ((found, _),) = scan(before[order] + before[1 - order] + entry + bytes(1024))
        assert (found.name, found.link) == (b"g" * 120, b"t" * 130)


def test_of_two_pax_headers_the_last_one_alone_counts() -> None:
    raw = pax_header(b"path", b"first") + pax_header(b"gid", b"-2") + tarfile.TarInfo("own").tobuf(tarfile.USTAR_FORMAT)
    ((entry, _),) = scan(raw + bytes(1024))
    assert (entry.name, entry.gid) == (b"own", -2)
