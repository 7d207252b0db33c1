"""A shelf of `docker save` archives, made from a seed: bases, apps on them, builds of the apps.

    python benchmarks/shelf.py DIRECTORY --builds 10000             small layers, about 1 GB
    python benchmarks/shelf.py DIRECTORY --builds 24 --large        archives of 50 to 500 MB, about 5 GB

Every build is one archive in the form of Docker 1.x with the whole chain of its image, as `docker save` writes it, so
that the layers of bases and apps come again and again. Each build claims `<app>:latest` and has a tag of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

POOL_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class Sizes:
    """Bytes of one layer's content: (least, most) for the layers of bases, apps and builds, base first; and how many
    bases and apps there are."""

    bases: int
    apps: int
    base: Sequence[tuple[int, int]]
    app: Sequence[tuple[int, int]]
    build: Sequence[tuple[int, int]]


SMALL = Sizes(
    bases=20,
    apps=300,
    base=((16_000, 30_000), (2_000, 8_000), (500, 2_000)),
    app=((4_000, 12_000), (1_000, 6_000), (500, 1_000)),
    build=((1_000, 6_000), (300, 900)),
)
LARGE = Sizes(
    bases=4,
    apps=8,
    base=((30_000_000, 120_000_000), (1_000_000, 20_000_000)),
    app=((10_000_000, 200_000_000), (1_000_000, 40_000_000)),
    build=((2_000_000, 60_000_000), (1_000, 200_000)),
)


class Shelf:
    """Makes archives one by one; equal seeds and numbers give equal bytes."""

    def __init__(self, seed: int, sizes: Sizes, cached: int = 4_000) -> None:
        self._seed = seed
        self._sizes = sizes
        self._pool = _pool(seed)
        self.layer = lru_cache(cached)(self._layer)

    def archive(self, number: int) -> bytes:
        """Build `number` as one archive."""
        app = self._random("app-of", number).randrange(self._sizes.apps)
        base = self._random("base-of", app).randrange(self._sizes.bases)
        steps = [
            *((f"base-{base}-{step}", size) for step, size in enumerate(self._sizes.base)),
            *((f"app-{app}-{step}", size) for step, size in enumerate(self._sizes.app)),
            *((f"build-{number}-{step}", size) for step, size in enumerate(self._sizes.build)),
        ]
        members: list[tuple[str, bytes]] = []
        parent: str | None = None
        for name, size in steps:
            identity, content = self.layer(name, size)
            document: dict[str, object] = {"id": identity, "created": self._created(name), "os": "linux"}
            if parent is not None:
                document["parent"] = parent
            document["architecture"] = "amd64"
            document["container_config"] = {"Cmd": ["/bin/sh", "-c", f"make {name}"]}
            members += [
                (f"{identity}/VERSION", b"1.0"),
                (f"{identity}/json", json.dumps(document).encode()),
                (f"{identity}/layer.tar", content),
            ]
            parent = identity
        tags = {f"team-{app % 12}/app-{app:03}": {"latest": parent, f"build-{number:07}": parent}}
        return _tar([*members, ("repositories", json.dumps(tags).encode())])

    def _layer(self, name: str, size: tuple[int, int]) -> tuple[str, bytes]:
        chance = self._random("layer", name)
        total = chance.randint(*size)
        files: list[tuple[str, bytes]] = []
        while total > 0:
            length = min(total, max(200, size[1] // chance.randint(2, 20)))
            files.append((f"srv/{name}/{len(files):04}", self._content(chance, length)))
            total -= length
        return hashlib.sha256(f"{self._seed} {name}".encode()).hexdigest(), _tar(files)

    def _content(self, chance: random.Random, length: int) -> bytes:
        parts = [chance.randbytes(16)]
        left = length - 16
        while left > 0:
            start = chance.randrange(POOL_BYTES - 4_096)
            part = self._pool[start : start + min(left, 512 * 1024)]
            parts.append(part)
            left -= len(part)
        return b"".join(parts)[:length]

    def _created(self, name: str) -> str:
        day = self._random("created", name)
        date = f"{day.randint(2013, 2015)}-{day.randint(1, 12):02}-{day.randint(1, 28):02}"
        return f"{date}T10:00:00.{day.randrange(10**9):09}Z"

    def _random(self, *parts: object) -> random.Random:
        return random.Random(" ".join(map(str, (self._seed, *parts))))


def _pool(seed: int) -> bytes:
    """Bytes that compress to about two fifths, as those of programs and texts do."""
    chance = random.Random(f"pool {seed}")
    words = [chance.randbytes(chance.randint(3, 24)) for _ in range(3_000)]
    parts: list[bytes] = []
    size = 0
    while size < POOL_BYTES:
        part = chance.choice(words) if chance.random() < 0.8 else chance.randbytes(8)
        parts.append(part)
        size += len(part)
    return b"".join(parts)[:POOL_BYTES]


def _tar(members: Sequence[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mtime = 1_400_000_000
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def write_shelf(directory: Path, builds: int, *, seed: int = 1, large: bool = False) -> int:
    """Writes `builds` archives into folders of 500; returns their bytes."""
    shelf = Shelf(seed, LARGE if large else SMALL, cached=8 if large else 4_000)
    total = 0
    for number, path in _paths(directory, builds):
        path.parent.mkdir(parents=True, exist_ok=True)
        content = shelf.archive(number)
        path.write_bytes(content)
        total += len(content)
    return total


def _paths(directory: Path, builds: int) -> Iterator[tuple[int, Path]]:
    for number in range(builds):
        yield number, directory / f"{number // 500:03}" / f"build-{number:07}.tar"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--builds", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--large", action="store_true")
    options = parser.parse_args()
    total = write_shelf(options.directory, options.builds, seed=options.seed, large=options.large)
    print(f"{options.builds:,} archives, {total:,} bytes")


if __name__ == "__main__":
    main()
