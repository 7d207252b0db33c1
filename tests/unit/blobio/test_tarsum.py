from __future__ import annotations

import io
import tarfile

import pytest

from migrate.blobio.observed import ObservedStream
from migrate.blobio.tarsum import VERSIONS, tarsums
from migrate.errors import DamagedError, TruncatedError
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
    assert found == {version: checksum_tarsum(b"{}", tar, version) for version in VERSIONS}


def test_a_tar_without_entries_is_the_json_alone() -> None:
    expected = "tarsum+sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    for tar in (bytes(1024), b""):
        assert tarsums(io.BytesIO(tar), b"{}", ["tarsum+sha256"], "layer") == {"tarsum+sha256": expected}


def test_a_tar_cut_short_and_one_that_is_none() -> None:
    tar = tar_of_every_kind()
    for length in (700, 1100, 1030):
        with pytest.raises(TruncatedError):
            tarsums(io.BytesIO(tar[:length]), b"{}", VERSIONS, "layer")
    with pytest.raises(DamagedError):
        tarsums(io.BytesIO(b"x" * 1024), b"{}", VERSIONS, "layer")


@pytest.mark.parametrize("size", [10, 11])
def test_an_observed_stream_tells_every_block_and_the_end_once(size: int) -> None:
    seen = bytearray()
    ends = []
    stream = ObservedStream(io.BytesIO(b"0123456789"), size, lambda block: seen.extend(block), lambda: ends.append(1))
    assert stream.read(4) == b"0123" and not ends
    assert stream.read() == b"456789" and stream.read() == b""
    assert bytes(seen) == b"0123456789" and ends == [1]
