from __future__ import annotations

import hashlib
import io
import tarfile

import pytest

from migrate.blobio.observed import ObservedStream
from migrate.blobio.stopping import stopped_by
from migrate.errors import DamagedError, InterruptedRunError, TruncatedError
from migrate.tar.tarsum import VERSIONS, tarsums
from tests.archives import pax_header
from tests.v1_registry import checksum_tarsum


def tar_of_every_kind() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind, link in [
            ("dir", tarfile.DIRTYPE, ""),
            ("dir/file", tarfile.REGTYPE, ""),
            ("dir/hard", tarfile.LNKTYPE, "dir/file"),
            ("dir/soft", tarfile.SYMTYPE, "file"),
            ("dir/null", tarfile.CHRTYPE, ""),
            ("dir/fifo", tarfile.FIFOTYPE, ""),
            ("n" * 120 + "/" + "m" * 150, tarfile.REGTYPE, ""),
        ]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            member.mode, member.uid, member.gid, member.mtime = 0o100644, 1000, 3_000_000, 1_400_000_000
            member.uname, member.gname, member.devmajor, member.devminor = "user", "group", 1, 3
            member.size = 5 if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(b"hello"))
    return buffer.getvalue()


def test_all_versions_in_one_pass() -> None:
    tar = tar_of_every_kind()
    found = tarsums(io.BytesIO(tar), b"{}", VERSIONS, "layer")
    assert found == {version: (checksum_tarsum(b"{}", tar, version),) for version in VERSIONS}


def test_a_tar_without_entries_is_the_json_alone() -> None:
    expected = "tarsum+sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    for tar in (bytes(1024), b""):
        assert tarsums(io.BytesIO(tar), b"{}", ["tarsum+sha256"], "layer") == {"tarsum+sha256": (expected,)}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("names", [["f", "f"], ["d/", "d"], ["./f", "f"], ["a", "f", "f", "z"], ["f", "f", "f"]])
def test_entries_of_one_path_have_an_order(names: list[str], version: str) -> None:
    """As Docker sums them since 1.3; docker-registry sorts the sums alone, and its sum is known as well."""
    contents = [b"one", b"two", b"3", b"four"][: len(names)]
    found = set()
    for order in (contents, contents[::-1]):
        tar = b"".join(
            header(name, b"0", len(text)) + text.ljust(512, b"\0") for name, text in zip(names, order, strict=True)
        )
        sums = tarsums(io.BytesIO(tar + bytes(1024)), b"{}", [version], "layer")[version]
        assert checksum_tarsum(b"{}", tar + bytes(1024), version) in sums
        found.add(sums[0])
    assert len(found) == 2


def test_a_tar_cut_short_and_one_that_is_none() -> None:
    tar = tar_of_every_kind()
    for length in (700, 1100, 1030):
        with pytest.raises(TruncatedError):
            tarsums(io.BytesIO(tar[:length]), b"{}", VERSIONS, "layer")
    with pytest.raises(DamagedError):
        tarsums(io.BytesIO(b"x" * 1024), b"{}", VERSIONS, "layer")


def header(name: str, kind: bytes, size: int = 0, **changes: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    for key, value in changes.items():
        setattr(member, key, value)
    return member.tobuf(tarfile.GNU_FORMAT)


def with_checksum(raw: bytes | bytearray) -> bytes:
    fixed = bytearray(raw)
    fixed[148:156] = b" " * 8
    fixed[148:156] = b"%06o\0 " % sum(fixed)
    return bytes(fixed)


def test_any_number_of_long_names_before_one_entry() -> None:
    long_name = header("././@LongLink", b"L", 4)
    tar = (long_name + b"abc\0".ljust(512, b"\0")) * 2000 + header("f", b"0") + bytes(1024)
    once = long_name + b"abc\0".ljust(512, b"\0") + header("f", b"0") + bytes(1024)
    assert tarsums(io.BytesIO(tar), b"{}", VERSIONS, "layer") == tarsums(io.BytesIO(once), b"{}", VERSIONS, "layer")
    assert tarsums(io.BytesIO(once), b"{}", ["tarsum+sha256"], "layer") == {
        "tarsum+sha256": (checksum_tarsum(b"{}", once),)
    }


def test_holes_of_a_sparse_file_are_not_made_up() -> None:
    sparse = bytearray(header("sparse", b"S"))
    sparse[483:495] = b"\x80" + (1 << 50).to_bytes(11, "big")  # the file's size with its holes
    with pytest.raises(DamagedError, match="no tarsum of a sparse file, b'sparse'"):
        tarsums(io.BytesIO(with_checksum(sparse) + bytes(1024)), b"{}", VERSIONS, "layer")
    for record in (pax_header(b"GNU.sparse.realsize", b"1125899906842624"), pax_header(b"GNU.sparse.major", b"1")):
        with pytest.raises(DamagedError, match="sparse"):
            tarsums(io.BytesIO(record + header("f", b"0") + bytes(1024)), b"{}", VERSIONS, "layer")


def test_the_type_flag_counts_as_it_stands() -> None:
    """A v7 tar has NUL for files and for directories; Go 1.4 handed it on."""
    tar = header("f", b"\0", 5) + b"hello".ljust(512, b"\0") + bytes(1024)
    assert tarsums(io.BytesIO(tar), b"{}", VERSIONS, "layer") == {
        version: (checksum_tarsum(b"{}", tar, version),) for version in VERSIONS
    }


def test_a_name_in_two_parts_with_gnus_magic_as_old_go_wrote_it() -> None:
    raw = bytearray(header("n" * 90, b"0", uid=3_000_000))
    raw[345:500] = (b"p" * 90).ljust(155, b"\0")
    tar = with_checksum(raw) + bytes(1024)
    assert tarsums(io.BytesIO(tar), b"{}", VERSIONS, "layer") == {
        version: (checksum_tarsum(b"{}", tar, version),) for version in VERSIONS
    }


def test_extended_attributes_count_in_version_1() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("f")
        member.pax_headers = {"SCHILY.xattr.user.b": "2", "SCHILY.xattr.user.a": "1", "comment": "no"}
        archive.addfile(member)
    entry = hashlib.sha256(b"namefmode420uid0gid0size0typeflag0linknameunamegnamedevmajor0devminor0user.a1user.b2")
    expected = hashlib.sha256(b"{}" + entry.hexdigest().encode()).hexdigest()
    found = tarsums(io.BytesIO(buffer.getvalue()), b"{}", ["tarsum.v1+sha256"], "layer")
    assert found == {"tarsum.v1+sha256": (f"tarsum.v1+sha256:{expected}",)}


def test_reading_ends_where_the_thread_has_to_stop() -> None:
    def stop() -> None:
        raise InterruptedRunError("stopped")

    with pytest.raises(InterruptedRunError), stopped_by(stop):
        tarsums(io.BytesIO(tar_of_every_kind()), b"{}", VERSIONS, "layer")


@pytest.mark.parametrize("size", [10, 11])
def test_an_observed_stream_tells_every_block_and_the_end_once(size: int) -> None:
    seen = bytearray()
    ends = []
    stream = ObservedStream(io.BytesIO(b"0123456789"), size, lambda block: seen.extend(block), lambda: ends.append(1))
    assert stream.read(4) == b"0123" and not ends
    assert stream.read() == b"456789" and stream.read() == b""
    assert bytes(seen) == b"0123456789" and ends == [1]
