"""A v1 registry's storage tree of any size, and what its conversion costs beside gunzip and sha256sum.

    python -m benchmarks.registry_v1 DIRECTORY [--repositories 1000] [--layers 5000] [--mib 1300] [--rounds 3]

makes DIRECTORY/tree once (the same arguments and installed Python give the same bytes), then runs, in turns, `migrate
convert DIRECTORY/tree registry-storage:…`, `gunzip` of every layer to nowhere, and `sha256sum` of every layer, each
over all cores. It prints the medians, and migrate's ratio to the slower of the two.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import deflate

SEED = 20131126
MIB = 1024 * 1024
_POOL_BYTES = 64 * MIB
_SHARED_BASES = 12
"""Images stand on a few bases, as in every real registry."""


def make_tree(root: Path, repositories: int, layers: int, tar_bytes: int) -> Path:
    """Writes the tree below `root`: `layers` images in chains, every repository with one tag or more."""
    chance = random.Random(SEED)
    sizes = _sizes(chance, layers, tar_bytes)
    parents = _parents(chance, layers, repositories)
    jobs = [(root, number, parents[number], sizes[number]) for number in range(layers)]
    with ProcessPoolExecutor() as pool:
        list(pool.map(_write_image, jobs, chunksize=16))
    _write_ancestries(root, parents)
    heads = sorted(set(range(layers)) - {parent for parent in parents if parent is not None})
    for number in range(repositories):
        _write_repository(root, number, heads[number % len(heads)], chance)
    return root


def legacy_id(number: int) -> str:
    return hashlib.sha256(f"image {number}".encode()).hexdigest()


def _sizes(chance: random.Random, layers: int, tar_bytes: int) -> list[int]:
    """Many small layers and few large ones, together about `tar_bytes`."""
    shares = [chance.lognormvariate(0, 1.6) for _ in range(layers)]
    scale = tar_bytes / sum(shares)
    return [max(1024, int(share * scale)) for share in shares]


def _parents(chance: random.Random, layers: int, repositories: int) -> list[int | None]:
    """A forest whose chains are about as many as the repositories."""
    parents: list[int | None] = [None] * min(_SHARED_BASES, layers)
    tips: list[int] = []
    for number in range(len(parents), layers):
        if len(tips) < repositories or not tips:
            parents.append(chance.randrange(min(_SHARED_BASES, number)))
            tips.append(number)
        else:
            place = chance.randrange(len(tips))
            parents.append(tips[place])
            tips[place] = number
    return parents


_pool_content = b""


def _content_pool() -> bytes:
    """Real bytes: the standard library's own files, as packages in layers have them."""
    global _pool_content
    if not _pool_content:
        found = io.BytesIO()
        for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*")):
            if path.suffix in (".py", ".so", ".pyc") and path.is_file() and "site-packages" not in path.parts:
                found.write(path.read_bytes())
                if found.tell() >= _POOL_BYTES:
                    break
        _pool_content = found.getvalue()
    return _pool_content


def _write_image(job: tuple[Path, int, int | None, int]) -> None:
    root, number, parent, size = job
    folder = root / "images" / legacy_id(number)
    folder.mkdir(parents=True)
    document = {
        "id": legacy_id(number),
        **({} if parent is None else {"parent": legacy_id(parent)}),
        "created": f"2014-{1 + number % 12:02}-{1 + number % 28:02}T10:00:00.{number + 1:09}Z",
        "container_config": {"Cmd": ["/bin/sh", "-c", f"#(nop) ADD dir:{number:x} in /"]},
        "docker_version": "1.6.2",
        "architecture": "amd64",
        "os": "linux",
        "Size": size,
    }
    raw = json.dumps(document, separators=(",", ":")).encode()
    layer = deflate.gzip_compress(_layer_tar(number, size), 6)
    (folder / "json").write_bytes(raw)
    (folder / "layer").write_bytes(layer)
    checksum = hashlib.sha256(raw + b"\n" + layer).hexdigest()
    (folder / "_checksum").write_text(json.dumps([f"sha256:{checksum}"]))


def _layer_tar(number: int, size: int) -> bytes:
    chance = random.Random(f"{SEED} {number}")
    pool = _content_pool()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        count = 0
        while tar.offset < size - 1024:
            length = min(int(chance.lognormvariate(9, 1.5)) + 1, size - tar.offset)
            start = chance.randrange(len(pool) - 1)
            entry = tarfile.TarInfo(f"usr/lib/{number:x}/{count}")
            content = pool[start : start + length]
            entry.size, entry.mtime = len(content), 1_400_000_000 + number
            tar.addfile(entry, io.BytesIO(content))
            count += 1
    return buffer.getvalue()


def _write_ancestries(root: Path, parents: list[int | None]) -> None:
    for number in range(len(parents)):
        chain = [number]
        while (parent := parents[chain[-1]]) is not None:
            chain.append(parent)
        ancestry = json.dumps([legacy_id(member) for member in chain])
        (root / "images" / legacy_id(number) / "ancestry").write_text(ancestry)


def _write_repository(root: Path, number: int, head: int, chance: random.Random) -> None:
    namespace = "library" if number % 10 == 0 else f"team{number % 37}"
    folder = root / "repositories" / namespace / f"app{number}"
    folder.mkdir(parents=True)
    for tag in ["latest", "1.0", "2.0"][: chance.randint(1, 3)]:
        (folder / f"tag_{tag}").write_text(legacy_id(head))
    (folder / "_index_images").write_text(json.dumps([{"id": legacy_id(head)}]))


# --- measuring -------------------------------------------------------------------------------------------------------


def _each_layer(tree: Path, command: str) -> list[str]:
    jobs = os.cpu_count() or 1
    return ["sh", "-c", f"find {tree}/images -name layer -print0 | xargs -0 -n 64 -P {jobs} {command} > /dev/null"]


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - started


def _rounds(tree: Path, target: Path, rounds: int) -> Iterator[tuple[str, float]]:
    for _ in range(rounds):
        convert = [sys.executable, "-m", "migrate", "convert", "-q", str(tree), f"registry-storage:{target}"]
        yield "migrate", _seconds(convert)
        shutil.rmtree(target)
        yield "gunzip", _seconds(_each_layer(tree, "gunzip -c"))
        yield "sha256sum", _seconds(_each_layer(tree, "sha256sum"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--repositories", type=int, default=1000)
    parser.add_argument("--layers", type=int, default=5000)
    parser.add_argument("--mib", type=int, default=1300, help="uncompressed bytes of all layers")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    tree = arguments.directory / "tree"
    if not tree.exists():
        make_tree(tree, arguments.repositories, arguments.layers, arguments.mib * MIB)
    stored = sum(path.stat().st_size for path in tree.glob("images/*/layer"))
    seconds: dict[str, list[float]] = {}
    for name, taken in _rounds(tree, arguments.directory / "target", arguments.rounds):
        seconds.setdefault(name, []).append(taken)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    slower = max(medians["gunzip"], medians["sha256sum"])
    for name, median in medians.items():
        print(f"{name:10} {median:7.2f} s {stored / median / 1e6:8.1f} MB/s of stored layers")
    print(f"migrate takes {medians['migrate'] / slower:.2f} times the slower of the two, on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
