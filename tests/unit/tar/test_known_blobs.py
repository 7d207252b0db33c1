"""Blobs of empty tars that are gone: made, where their bytes follow from their digest."""

from __future__ import annotations

import gzip
import io
import zlib

import pytest

from migrate.blobio.compression import HEAD_BYTES, detect_compression, open_decompressed
from migrate.model.digest import Digest
from migrate.tar import known_blobs
from tests.peers import run

EMPTY = {
    "Docker": "1f8b080000096e8800ff621805a360148c5800080000ffff2eafb5ef00040000",
    "Go": "1f8b08000000000000ff621805a360148c5800080000ffff2eafb5ef00040000",
    "gzip -n": "1f8b080000000000000363601805a360148c5400002eafb5ef00040000",
    "gzip -9n": "1f8b080000000000020363601805a360148c5400002eafb5ef00040000",
    "pigz -1n": "1f8b080000000000040363601805a321301a02233504002eafb5ef00040000",
    "pigz -11n": "1f8b08000000000002036318b160148c825100002eafb5ef00040000",
    "skopeo": "1f8b080000096e8800ff621805a360148c5800000000ffff03002eafb5ef00040000",
    "skopeo, level 1": "1f8b080000096e8804ff62601885a370148e5408000000ffff03002eafb5ef00040000",
    "skopeo, zstd": "28b52ffd0468400000000000000000000045000000015400022df509cdac85f0",
    "zstd": "28b52ffd6400034d00001000000100fb2b8005cdac85f0",
    "zstd, of 10,240 bytes from a pipe": "28b52ffd04584d00001000000100fb870758bcbd7ed6",
    "skopeo, of 10,240 bytes": (
        "1f8b080000096e8800ffecc0010d000000c220fba736c737180000000000000000009073000000ffff03009ade1d2700280000"
    ),
    "pigz -n, of 10,240 bytes": (
        "1f8b0800000000000003edc1010d000000c2a0f74f6d0e37a00000000000000000008037039ade1d2700280000"
    ),
    "skopeo, zstd:chunked": (
        "28b52ffd04784c00000800015401022dfc09010000cdac85f0502a4d182900000028b52ffd0400e100007b2276657273696f6e223a312c2265"
        "6e7472696573223a6e756c6c7dab589d23502a4d1828000000210000000000000029000000000000001c0000000000000001000000000000"
        "00476e556c496e5578"
    ),
    "no compression": "00" * 1024,
    "nothing": "",
}


@pytest.mark.parametrize("blob", EMPTY.values(), ids=EMPTY)
def test_what_tools_write_for_an_empty_tar(blob: str) -> None:
    content = bytes.fromhex(blob)
    assert known_blobs.known_blob(Digest.of(content)) == content


@pytest.mark.parametrize("size", [512, 1024, 10_240, 20_480])
@pytest.mark.parametrize(
    "command",
    [
        "gzip -cn",
        "gzip -cn -9",
        "bzip2 -c",
        "bzip2 -c -1",
        "zstd -qc",
        "zstd -qc -9",
        "zstd -qc --no-check",
        "busybox gzip -c",
    ]
    + [
        f"xz -c {threads} {level} --check={check}"
        for threads in ("-T1", "-T2")
        for level in ("-0", "-1", "-6", "-9e")
        for check in ("none", "crc32", "crc64", "sha256")
    ],
)
def test_what_commands_write_for_an_empty_tar(command: str, size: int) -> None:
    content = run(*command.split(), stdin=bytes(size)).stdout
    assert known_blobs.known_blob(Digest.of(content)) == content


def test_all_of_them_hold_zeros_alone() -> None:
    for blob in known_blobs._blobs().values():
        with open_decompressed(io.BytesIO(blob), detect_compression(blob[:HEAD_BYTES]), "blob") as tar:
            assert not tar.read().strip(b"\0")


@pytest.mark.parametrize(
    "other",
    [b"\0" * 1023, b"\0" * 1025, gzip.compress(b"x", mtime=0), zlib.compress(b"\0" * 1024)],
    ids=["1,023 zeros", "1,025 zeros", "gzip of x", "zlib"],  # xdist compares the names that its workers find
)
def test_nothing_else_is_known(other: bytes) -> None:
    assert known_blobs.known_blob(Digest.of(other)) is None
