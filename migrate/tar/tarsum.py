"""TarSum: the checksum of a layer's entries that Docker < 1.7 sent to v1 registries.

Source: moby `pkg/tarsum/{tarsum,versioning}.go` at v1.6.2. Version 0 hashes, for each entry, `name`, `mode`, `uid`,
`gid`, `size`, `mtime`, `typeflag`, `linkname`, `uname`, `gname`, `devmajor`, `devminor` (key and value, numbers in
decimal), then the content; the sorted hexadecimal sums follow the image's json in one last sha256. Version 1
leaves `mtime` out and appends the extended attributes, sorted.

If a path occurs twice, Docker 1.3 and later keep the archive's order among its entries (pkg/tarsum/fileinfosums.go,
SortBySums). docker-registry's Python version sorts all sums. A registry may have recorded either, so both are computed.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, BinaryIO, Final

from migrate.blobio.stopping import check_stop
from migrate.errors import DamagedError, LimitError, TruncatedError
from migrate.tar.entries import TarEntry, TarScanner

V0: Final = "tarsum+sha256"
V1: Final = "tarsum.v1+sha256"
DEV: Final = "tarsum.dev+sha256"
VERSIONS: Final = (V0, V1, DEV)
_BLOCK: Final = 1024 * 1024


def tarsums(tar: BinaryIO, image_json: bytes, versions: Sequence[str], what: str) -> dict[str, tuple[str, ...]]:
    """`{version: ("<version>:<hex>", …)}` of an uncompressed tar, read once from the start.

    One sum; or two, Docker's and docker-registry's, if a path occurs twice and they differ.

    Raises TruncatedError if the tar ends inside an entry or behind an extended header, DamagedError or LimitError if it
    is no tar. A tar with sparse files is a DamagedError, too: Docker hashed their holes as zeros, and a header of 512
    bytes can state a petabyte of them. Docker itself never wrote sparse files into a layer.
    """
    sums = _EntrySums(versions, what)
    while block := tar.read(_BLOCK):
        check_stop()
        sums.feed(memoryview(block))
    sums.finish()
    orders = {version: (sums.in_docker_order(version), sorted(found)) for version, found in sums.found.items()}
    return {
        version: tuple(dict.fromkeys(_final(version, image_json, order) for order in both))
        for version, both in orders.items()
    }


class TarSumCheck:
    """Compares a recorded tarsum with a tar: call `feed` with all of it, then `disagrees`.

    The sum may include `image_json`, as those that Docker sent to a v1 registry. Those in its own graph, which are for
    a v2 registry, do not (moby 1.5, graph/manifest.go).
    """

    def __init__(self, recorded: str, image_json: bytes, what: str) -> None:
        self._recorded = recorded
        self._json = image_json
        version = recorded.partition(":")[0]
        self._sums: _EntrySums | None = _EntrySums([version], what)

    def feed(self, piece: memoryview) -> None:
        try:
            if self._sums is not None:
                self._sums.feed(piece)
        except (DamagedError, LimitError):
            self._sums = None  # the tar has no tarsum, so nothing can be compared

    def disagrees(self, *, ignore_whiteouts: bool = False) -> str | None:
        """The tar's sum if none of its sums is the recorded one; None if one is, or if the tar has no tarsum.

        `ignore_whiteouts`: the tar was made anew. If the sum covers times, a tar with whiteouts is not compared, since
        their time is that of Docker's run.
        """
        sums = self._sums
        if sums is None:
            return None
        try:
            sums.finish()
        except DamagedError:
            return None
        (version,) = sums.found
        if version == V0 and ignore_whiteouts and sums.has_whiteouts:
            return None
        orders = (sums.in_docker_order(version), sorted(sums.found[version]))
        found = [_final(version, extra, order) for order in orders for extra in (b"", self._json)]
        return None if self._recorded in found else found[0]


def _final(version: str, image_json: bytes, sums: Sequence[str]) -> str:
    total = hashlib.sha256(image_json)
    for entry in sums:
        total.update(entry.encode("ascii"))
    return f"{version}:{total.hexdigest()}"


class _EntrySums(TarScanner):
    """The hexadecimal sums of all entries, for each version."""

    def __init__(self, versions: Sequence[str], what: str) -> None:
        super().__init__(what)
        self.found: dict[str, list[str]] = {version: [] for version in versions}
        self._hashes: dict[str, Any] = {}
        self._count = 0
        self._first: dict[int, int] = {}  # hash of a path → number of its first entry
        self._again: dict[int, list[int]] = defaultdict(list)  # hash of a path → numbers of its further entries
        self.has_whiteouts = False

    def in_docker_order(self, version: str) -> list[str]:
        """The sums sorted; then the places of a path's entries are filled in the archive's order.

        Docker's comparison is not transitive if sums of another path are between those of one path, and then its result
        depends on the sort algorithm. This is Docker's result for a tar in which a single path is repeated.
        """
        sums = self.found[version]
        order = sorted(range(len(sums)), key=sums.__getitem__)
        for path, others in self._again.items():
            numbers = [self._first[path], *others]
            same = frozenset(numbers)
            places = [place for place, number in enumerate(order) if number in same]
            for place, number in zip(places, numbers, strict=True):
                order[place] = number
        return [sums[number] for number in order]

    def on_entry(self, entry: TarEntry) -> None:
        if self.is_sparse:
            raise DamagedError(f"{self._what}: no tarsum of a sparse file, {entry.name[:100]!r}")
        self.has_whiteouts |= posixpath.basename(entry.name).startswith(b".wh.")
        path = hash(posixpath.normpath(entry.name))
        if self._first.setdefault(path, self._count) != self._count:
            self._again[path].append(self._count)
        self._count += 1
        self._hashes = {version: hashlib.sha256(_header(entry, self.flag, version)) for version in self.found}

    def on_content(self, piece: memoryview) -> None:
        for entry in self._hashes.values():
            entry.update(piece)

    def on_end(self) -> None:
        for version, entry in self._hashes.items():
            self.found[version].append(entry.hexdigest())

    def finish(self) -> None:
        super().finish()
        if self.is_announced:
            raise TruncatedError(f"{self._what}: the tar ends behind an extended header, before its entry")


def _header(entry: TarEntry, flag: bytes, version: str) -> bytes:
    fields = [
        (b"name", entry.name),
        (b"mode", _number(entry.mode)),
        (b"uid", _number(entry.uid)),
        (b"gid", _number(entry.gid)),
        (b"size", _number(entry.size)),
        (b"mtime", _number(entry.mtime)),
        (b"typeflag", flag),
        (b"linkname", entry.link),
        (b"uname", entry.user),
        (b"gname", entry.group),
        (b"devmajor", _number(entry.major)),
        (b"devminor", _number(entry.minor)),
    ]
    # Version 1 leaves out the time, and adds the extended attributes, sorted (moby pkg/tarsum/versioning.go,
    # v1TarHeaderSelect).
    if version != V0:
        del fields[5]
        fields += sorted((key.encode("utf-8", "surrogateescape"), value) for key, value in entry.xattrs)
    return b"".join(key + value for key, value in fields)


def _number(value: int) -> bytes:
    return b"%d" % value
