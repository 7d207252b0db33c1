"""TarSum: the checksum of a layer's entries that Docker < 1.7 sent to v1 registries.

Source: moby `pkg/tarsum/{tarsum,versioning}.go` at v1.6.2. Version 0 hashes, for each entry, `name`, `mode`, `uid`,
`gid`, `size`, `mtime`, `typeflag`, `linkname`, `uname`, `gname`, `devmajor`, `devminor` (key and value, numbers in
decimal), then the content; the sorted hexadecimal sums follow the image's json in one last sha256. Version 1
leaves `mtime` out and appends the extended attributes, sorted.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final

from migrate.errors import DamagedError, MigrateError, TruncatedError

V0: Final = "tarsum+sha256"
V1: Final = "tarsum.v1+sha256"
DEV: Final = "tarsum.dev+sha256"
VERSIONS: Final = (V0, V1, DEV)
_CUT_SHORT: Final = ("unexpected end of data", "truncated header", "empty header", "missing or bad subsequent header")
_BLOCK: Final = 1024 * 1024
_XATTR: Final = "SCHILY.xattr."


def tarsums(tar: BinaryIO, image_json: bytes, versions: Sequence[str], what: str) -> dict[str, str]:
    """`{version: "<version>:<hex>"}` of an uncompressed tar, read once from the start.

    Raises TruncatedError if the tar ends within an entry and DamagedError if it is no tar.
    """
    sums: dict[str, list[str]] = {version: [] for version in versions}
    try:
        with tarfile.open(fileobj=tar, mode="r|", errors="surrogateescape", encoding="utf-8") as archive:
            for member in archive:
                hashes = {version: hashlib.sha256(_header(member, version)) for version in versions}
                for block in _content(archive, member):
                    for entry in hashes.values():
                        entry.update(block)
                for version, entry in hashes.items():
                    sums[version].append(entry.hexdigest())
    except MigrateError:
        raise
    except EOFError as exc:
        raise TruncatedError(f"{what}: the tar ends before it should") from exc
    except tarfile.ReadError as exc:
        if str(exc) != "empty file":  # Go's reader finds no entry in no bytes; Python's raises
            kind = TruncatedError if str(exc) in _CUT_SHORT else DamagedError
            raise kind(f"{what}: {exc}") from exc
    except (tarfile.TarError, ValueError, OverflowError, OSError) as exc:
        raise DamagedError(f"{what}: {exc}") from exc
    return {version: _final(version, image_json, found) for version, found in sums.items()}


def _final(version: str, image_json: bytes, sums: list[str]) -> str:
    total = hashlib.sha256(image_json)
    for entry in sorted(sums):
        total.update(entry.encode("ascii"))
    return f"{version}:{total.hexdigest()}"


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    if not member.isreg():
        return
    stream = archive.extractfile(member)
    if stream is None:
        return
    left = member.size
    while left:
        block = stream.read(min(left, _BLOCK))
        if not block:
            raise TruncatedError(f"the tar ends within {member.name!r}")
        left -= len(block)
        yield block


def _header(member: tarfile.TarInfo, version: str) -> bytes:
    device = member.ischr() or member.isblk()
    name = _bytes(member.name) + (b"/" if member.isdir() else b"")
    fields = [
        (b"name", name),
        (b"mode", _number(member.mode)),
        (b"uid", _number(member.uid)),
        (b"gid", _number(member.gid)),
        (b"size", _number(member.size if member.isreg() else 0)),
        (b"mtime", _number(int(member.mtime // 1))),
        (b"typeflag", member.type),
        (b"linkname", _bytes(member.linkname)),
        (b"uname", _bytes(member.uname)),
        (b"gname", _bytes(member.gname)),
        (b"devmajor", _number(member.devmajor if device else 0)),
        (b"devminor", _number(member.devminor if device else 0)),
    ]
    if version != V0:
        del fields[5]
        fields += sorted(_xattrs(member))
    return b"".join(key + value for key, value in fields)


def _xattrs(member: tarfile.TarInfo) -> Iterator[tuple[bytes, bytes]]:
    for key, value in member.pax_headers.items():
        if key.startswith(_XATTR):
            yield _bytes(key.removeprefix(_XATTR)), _bytes(value)


def _number(value: int) -> bytes:
    return b"%d" % value


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
