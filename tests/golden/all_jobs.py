"""All shipped cases with one thread and with several: every target, report and event is the same.

    python -m tests.golden.all_jobs [ROUNDS [SEED]]

Each round takes every case, as it is, compressed, in a tar or on a disk, with options of chance, a third of them
damaged at random places and a quarter together with another case; once with one thread, and four times with 2 to 8
threads that are switched as often as possible. Takes some four minutes of one core for each round, for which the suite
has a sample (test_any_jobs.py). Prints a line for each difference, and the count.
"""

from __future__ import annotations

import gzip
import random
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from migrate.errors import MigrateError
from migrate.model.options import Compression, ConvertOptions, Format
from tests.disks import run
from tests.golden.test_any_jobs import outcome
from tests.golden.test_second_run import CASES, restored
from tests.stores import StoreShelf
from tests.threads import switching_often
from tests.wrappings import WITH_ALL


def wrapped(source: Path, place: Path) -> list[Path]:
    """The source in other forms."""
    if source.is_file():
        packed = place.with_name(f"{place.name}.tar.gz")
        packed.write_bytes(gzip.compress(source.read_bytes(), 1))
        return [packed]
    tar, disk = place.with_name(f"{place.name}.tar"), place.with_name(f"{place.name}.ext4")
    WITH_ALL["gnu-pax-sparse"](source, tar)
    run("mke2fs", "-q", "-t", "ext4", "-d", source, disk, "60M")
    return [tar, disk]


def damage(source: Path, copy: Path, chance: random.Random) -> None:
    """Makes a copy in which bits are turned, or which is cut."""
    subprocess.run(["cp", "-a", source, copy], check=True)
    files = [copy] if copy.is_file() else sorted(path for path in copy.rglob("*") if path.is_file())
    files = [path for path in files if not path.is_symlink() and path.stat().st_size]
    for path in chance.sample(files, min(len(files), chance.choice((1, 2, 4, 8)))):
        content = bytearray(path.read_bytes())
        if chance.random() < 0.3:
            content = content[: chance.randrange(len(content))]
        for _ in range(chance.choice((1, 3, 20)) if content else 0):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)


def options_of(chance: random.Random) -> ConvertOptions:
    options = ConvertOptions(
        all_layers=chance.random() < 0.5,
        containers=chance.random() < 0.5,
        salvage=chance.random() < 0.5,
        strict=chance.random() < 0.1,
        check_rootfs=chance.choice((None, True, False)),
    )
    if chance.random() < 0.3:
        return replace(options, format=Format.OCI, compression=chance.choice((Compression.NONE, Compression.ZSTD)))
    return options


def result(sources: list[Path], target: Path | None, options: ConvertOptions) -> object:
    try:
        return outcome(sources, target, options)
    except MigrateError as error:
        return repr(error)


def main(rounds: int = 1, seed: int = 0) -> int:
    chance = random.Random(seed)
    memory = Path("/dev/shm")
    runs = differences = 0
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        directory = Path(name)
        stores, damaged = StoreShelf(directory / "stores"), directory / "damaged"
        cases = [restored(case, stores, directory) for case in CASES]
        cases += [form for case, source in zip(CASES, cases, strict=True) for form in wrapped(source, directory / case)]
        for number in range(rounds):
            for source in chance.sample(cases, len(cases)):
                options, sources = options_of(chance), [source]
                if chance.random() < 0.35:
                    damage(source, damaged, chance)
                    sources = [damaged]
                elif chance.random() < 0.25:
                    sources.append(chance.choice(cases))
                target = chance.choice((None, directory / "target"))
                expected = result(sources, target, options)
                for jobs in (2, 4, 8, 4):
                    with switching_often():
                        found = result(sources, target, replace(options, jobs=jobs))
                    runs += 1
                    if found != expected:
                        differences += 1
                        print(f"round {number}, {sources}, {jobs} jobs, {options}", flush=True)
                if damaged.is_dir():
                    shutil.rmtree(damaged)
                damaged.unlink(missing_ok=True)
            print(f"{runs} runs, {differences} differences", flush=True)
    return differences > 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
