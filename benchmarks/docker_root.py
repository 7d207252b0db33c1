"""How fast a Docker root is read: files per second, and the time in units of plain `tar` and `find`.

    python benchmarks/docker_root.py [--files 60000] [--layers 2000] [--rounds 5]

Builds, in a temporary directory:
- a vfs root of two layers, each a whole copy of `--files` files, of which the upper one changes one in a hundred; read
  without tar-split, that is by comparing both trees;
- the same with hard links between the copies, as the overlay driver has it;
- an overlay root of `--layers` layers in chains of 25, with `--files` files in all, with and without tar-split.

The unit of the first two is what no reader can avoid: `tar` of the changed files to a pipe, and a stat of every file
of the layer, or of the layer and its parent (`find`). Rounds are interleaved and medians are printed; everything is in
the page cache.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fastcrc import crc64

from migrate.readers.docker_root import DockerRootSource
from migrate.rootfs.check import RootfsCheck
from tests.roots import open_docker_root

FILE_BYTES = 2_000
CHAIN = 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=60_000)
    parser.add_argument("--layers", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        compare_layers(Path(place), options.files, options.rounds)
        read_store(Path(place), options.files, options.layers)


# --- one layer against its parent --------------------------------------------------------------------------------


def compare_layers(place: Path, files: int, rounds: int) -> None:
    for driver in ("vfs", "overlay"):
        root = place / driver
        compare_with_tar(root, driver, files, rounds)
        shutil.rmtree(root)


def compare_with_tar(root: Path, driver: str, files: int, rounds: int) -> None:
    base, upper, changed = two_layers(root, driver, files, linked=driver == "overlay")
    names = root / "changed"
    names.write_bytes(b"".join(b"%b\0" % os.fsencode(name) for name in changed))
    below, above = layer_place(root, driver, base), layer_place(root, driver, upper)
    timings = interleaved(
        rounds,
        {
            "tar": lambda: run(f"tar -C {above} --null -T {names} -cf - | cat > /dev/null"),
            "find one": lambda: run(f"find {above} -printf %s > /dev/null"),
            "find both": lambda: run(f"find {below} {above} -printf %s > /dev/null"),
            "ours": lambda: read_upper(root, base, upper),
        },
    )
    print(
        f"{driver}: {files:,} files, {len(changed):,} changed: {timings['ours']:.3f} s, "
        f"{files / timings['ours']:,.0f} files/s; tar of the changed {timings['tar']:.3f} s, find over the layer "
        f"{timings['find one']:.3f} s, over layer and parent {timings['find both']:.3f} s; ratio to tar and find "
        f"{timings['ours'] / (timings['tar'] + timings['find one']):.2f} (layer) "
        f"{timings['ours'] / (timings['tar'] + timings['find both']):.2f} (layer and parent)"
    )


def read_upper(root: Path, base: str, upper: str) -> float:
    """The time for the upper layer, after the base: as in a conversion, where a parent comes before its children."""
    source = open_docker_root(root)
    read_layers(source, [base])
    began = time.perf_counter()
    read_layers(source, [upper])
    return time.perf_counter() - began


def two_layers(root: Path, driver: str, files: int, linked: bool) -> tuple[str, str, list[str]]:
    base, upper = identity("base"), identity("upper")
    add_image(root, base, None)
    add_image(root, upper, base)
    below, above = layer_place(root, driver, base), layer_place(root, driver, upper)
    fill(below, files)
    run(f"mkdir -p {above.parent} && cp -a{'l' if linked else ''} {below} {above}")
    changed = []
    for number in range(0, files, 100):
        path = file_path(number)
        (above / path).unlink()
        (above / path).write_bytes(os.urandom(FILE_BYTES))
        changed.append(path)
    return base, upper, changed


# --- a whole store -----------------------------------------------------------------------------------------------


def read_store(place: Path, files: int, layers: int) -> None:
    root = place / "store"
    ids = many_layers(root, files, layers)
    for tar_split in (False, True):
        if tar_split:
            add_tar_split(root, ids)
        source = open_docker_root(root)
        began = time.perf_counter()
        source.listing()
        listed = time.perf_counter()
        size = read_layers(source, ids)
        done = time.perf_counter()
        print(
            f"store of {layers:,} layers and {files:,} files, {'with' if tar_split else 'without'} tar-split: "
            f"listed in {listed - began:.2f} s, read and hashed in {done - listed:.2f} s, "
            f"{files / (done - listed):,.0f} files/s, {size / (done - listed) / 1e6:,.0f} MB/s"
        )
    check = RootfsCheck(source)
    chains = [ids[start : start + CHAIN] for start in range(0, len(ids), CHAIN)]
    began = time.perf_counter()
    for chain in chains:
        assert check.differences([source.read_layer(legacy_id) for legacy_id in chain]) == []  # type: ignore[arg-type]
    print(f"the same, every image's file system checked (layers read again): {time.perf_counter() - began:.2f} s")
    unit = interleaved(3, {"tar": lambda: run(f"tar -C {root} -cf - overlay | cat > /dev/null")})["tar"]
    print(f"tar of the store: {unit:.2f} s")


def many_layers(root: Path, files: int, layers: int) -> list[str]:
    per_layer = max(1, files // layers)
    ids: list[str] = []
    for number in range(layers):
        parent = ids[-1] if number % CHAIN else None
        legacy_id = identity(str(number))
        add_image(root, legacy_id, parent)
        tree = layer_place(root, "overlay", legacy_id)
        tree.parent.mkdir(parents=True)
        if parent is not None:
            run(f"cp -al {layer_place(root, 'overlay', parent)} {tree}")
        for name in range(per_layer):
            path = tree / f"usr/share/{number}/file{name}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(FILE_BYTES))
        ids.append(legacy_id)
    return ids


def add_tar_split(root: Path, ids: list[str]) -> None:
    """Writes the metadata that Docker 1.8 would have, from the tars that are read here."""
    source = open_docker_root(root)
    for legacy_id in ids:
        with source.open_payload(source.read_layer(legacy_id)) as payload:  # type: ignore[arg-type]
            tar = payload.stream.read()
        (root / "graph" / legacy_id / "tar-data.json.gz").write_bytes(gzip.compress(b"".join(tar_split_lines(tar)), 1))


def tar_split_lines(tar: bytes) -> list[bytes]:
    lines, position, raw = [], 0, b""
    while tar[position : position + 512].strip(b"\0"):
        header = tar[position : position + 512]
        name = header[:100].rstrip(b"\0").decode()
        size = int(header[124:135], 8)
        lines.append(json_line({"type": 2, "payload": base64.b64encode(raw + header).decode()}))
        content = tar[position + 512 : position + 512 + size]
        crc = base64.b64encode(crc64.go_iso(content).to_bytes(8, "big")).decode() if size else None
        lines.append(json_line({"type": 1, "name": name, **({"size": size} if size else {}), "payload": crc}))
        position += 512 + size
        raw = tar[position : position + -size % 512]
        position += -size % 512
    lines.append(json_line({"type": 2, "payload": base64.b64encode(raw + tar[position:]).decode()}))
    return [line.replace(b"}\n", b',"position":%d}\n' % number) for number, line in enumerate(lines)]


def json_line(value: dict[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


# --- parts -------------------------------------------------------------------------------------------------------


def read_layers(source: DockerRootSource, ids: list[str]) -> int:
    size = 0
    for legacy_id in ids:
        digest = hashlib.sha256()
        with source.open_payload(source.read_layer(legacy_id)) as payload:  # type: ignore[arg-type]
            while block := payload.stream.read(1 << 20):
                digest.update(block)
                size += len(block)
    return size


def identity(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def layer_place(root: Path, driver: str, legacy_id: str) -> Path:
    return root / ("vfs/dir" if driver == "vfs" else "overlay") / legacy_id / ("" if driver == "vfs" else "root")


def add_image(root: Path, legacy_id: str, parent: str | None) -> None:
    place = root / "graph" / legacy_id
    place.mkdir(parents=True)
    document = {"id": legacy_id, "created": "2014-05-06T07:08:09Z", **({"parent": parent} if parent else {})}
    (place / "json").write_text(json.dumps(document))


def file_path(number: int) -> str:
    return f"usr/share/{number // 1000}/{number % 1000 // 50}/file{number}"


def fill(tree: Path, files: int) -> None:
    for number in range(files):
        path = tree / file_path(number)
        if number % 50 == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(FILE_BYTES))


def run(command: str) -> float:
    began = time.perf_counter()
    subprocess.run(command, shell=True, check=True)
    return time.perf_counter() - began


def interleaved(rounds: int, steps: dict[str, Callable[[], float]]) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            taken[name].append(step())
    return {name: statistics.median(times) for name, times in taken.items()}


if __name__ == "__main__":
    main()
