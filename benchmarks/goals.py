"""What `python -m benchmarks` measures beside the corpus: each figure beside the goal that was set for it.

The ways in, second runs, content that is compressed already, tiny images, memory, the start, and push. Peers that are
not installed are left out.
"""

from __future__ import annotations

import io
import itertools
import os
import random
import re
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.corpus import Corpus, Layer, layer_of, write_archive, write_images
from benchmarks.measure import Sample, Series, remove, run, warm

MIGRATE = [sys.executable, "-m", "migrate"]
QUIET = ["-q", "--progress", "none"]
_COMPRESSED = (".gz", ".png", ".jar", ".deb", ".whl", ".xz", ".zip")
_COMPRESSED_BYTES = 65 * 1000 * 1000
_IMAGES_PUSHED = 10
_STARTS = 15


@dataclass(frozen=True)
class Goal:
    """`least`: the figure should be so much or more, else so much or less. `detail` is what it is made of."""

    name: str
    figure: float
    goal: float
    unit: str = ""
    least: bool = False
    detail: str = ""

    @property
    def holds(self) -> bool:
        return self.figure >= self.goal if self.least else self.figure <= self.goal

    def row(self) -> str:
        sign = "≥" if self.least else "≤"
        holds = "holds" if self.holds else "missed"
        figure, goal = (f"{value:,.4g}{self.unit}" for value in (self.figure, self.goal))
        return f"| {self.name} | {figure} | {sign} {goal} | {holds} | {self.detail} |"


@dataclass(frozen=True)
class Bench:
    """Where and how often to measure. `images` are those of the tiny archives, `many` those for the peak of memory."""

    directory: Path
    rounds: int
    jobs: int
    images: int
    many: int
    only: str = ""

    @property
    def out(self) -> Path:
        return self.directory / "out"

    def convert(self, source: Path | str) -> list[str]:
        return [*MIGRATE, "convert", *QUIET, "--jobs", str(self.jobs), str(source), str(self.out)]

    def wants(self, name: str) -> bool:
        return re.search(self.only, name) is not None

    def series(self, commands: dict[str, Callable[[], Sample]]) -> dict[str, Series]:
        """Each in turn, `rounds` times; what one wrote is removed before the next."""
        found = {name: Series() for name in commands}
        for number, (name, measure) in itertools.product(range(self.rounds), commands.items()):
            print(f"round {number + 1} of {self.rounds}: {name}", file=sys.stderr)
            found[name].samples.append(measure())
            remove(self.out)
        return found


def _ratios(one: Series, other: Series) -> tuple[float, float]:
    """(wall, CPU) of `one` over those of `other`, the median over rounds."""
    pairs = list(zip(one.samples, other.samples, strict=True))
    return (
        statistics.median(a.wall / b.wall for a, b in pairs),
        statistics.median(a.cpu / b.cpu for a, b in pairs),
    )


def _seconds(series: Series) -> str:
    return f"{series.wall():.2f} s / {series.cpu():.2f} s CPU"


# --- the ways in -----------------------------------------------------------------------------------------------------


def ways_in(bench: Bench, corpus: Corpus) -> Iterator[Goal]:
    """A pipe and compressed archives beside the file itself."""
    plain = corpus.v1
    packers = {"gz": ["gzip", "-1"], "zst": ["zstd", "-q", "-1"], "xz": ["xz", "-0", "-T0"]}
    packed = {}
    for suffix, packer in packers.items():
        if shutil.which(packer[0]):
            packed[suffix] = plain.with_suffix(f".tar.{suffix}")
            with plain.open("rb") as source, packed[suffix].open("wb") as target:
                subprocess.run([*packer, "-c"], stdin=source, stdout=target, check=True)
    warm(plain)
    pipe = f"cat {shlex.quote(str(plain))} | {shlex.join(bench.convert('-'))}"
    commands: dict[str, Callable[[], Sample]] = {
        "file": lambda: run(bench.convert(plain)),
        "pipe": lambda: run(["sh", "-c", pipe]),
        **{suffix: partial(run, bench.convert(path)) for suffix, path in packed.items()},
    }
    if "xz" in packed:
        commands["xz -dc"] = lambda: run(["xz", "-dkc", str(packed["xz"])])
    series = bench.series(commands)
    for path in packed.values():
        remove(path)
    for name, one in series.items():
        if name in ("pipe", "gz", "zst"):
            wall, cpu = _ratios(one, series["file"])
            detail = f"CPU {cpu:.2f}; {_seconds(one)}, the file {_seconds(series['file'])}"
            yield Goal(f"way in: {name}, times the plain file", wall, 1.2, detail=detail)
    if "xz" in series:
        wall, _ = _ratios(series["xz"], series["xz -dc"])
        yield Goal("way in: xz, times `xz -dc`", wall, 1.1, detail=f"{_seconds(series['xz'])}")


# --- second runs -----------------------------------------------------------------------------------------------------


def second_runs(bench: Bench, name: str, source: Path, goal: float) -> Iterator[Goal]:
    """The same command again on what the first one left."""
    warm(source)
    first, second = Series(), Series()
    for number in range(bench.rounds):
        print(f"round {number + 1} of {bench.rounds}: second run, {name}", file=sys.stderr)
        first.samples.append(run(bench.convert(source)))
        second.samples.append(run(bench.convert(source)))
        remove(bench.out)
    wall, cpu = _ratios(second, first)
    detail = f"CPU {100 * cpu:.1f} %; {_seconds(second)} after {_seconds(first)}"
    yield Goal(f"second run, {name}, of the first", 100 * wall, goal, unit=" %", detail=detail)


# --- content that is compressed already ------------------------------------------------------------------------------


def incompressible(bench: Bench) -> Iterator[Goal]:
    """What this machine has of compressed files, and random bytes where that is too little."""
    if not shutil.which("skopeo"):
        return
    layer = _compressed_layer(bench.directory / "compressed.tar")
    archive = bench.directory / "compressed-image.tar"
    write_archive(archive, [layer], "compressed", with_manifest=True)
    warm(archive)
    copy = ["skopeo", "copy", "-q", f"docker-archive:{archive}", f"oci:{bench.out}:bench"]
    series = bench.series({"migrate": lambda: run(bench.convert(archive)), "skopeo": lambda: run(copy)})
    remove(archive)
    remove(layer.path)
    wall, cpu = _ratios(series["migrate"], series["skopeo"])
    detail = f"wall {wall:.2f}; {_seconds(series['migrate'])}, skopeo {_seconds(series['skopeo'])}"
    yield Goal(f"compressed content, {layer.size / 1e6:.0f} MB: skopeo's CPU", cpu, 1.0, unit=" ×", detail=detail)


def _compressed_layer(path: Path) -> Layer:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for top in ("/usr", "/var/cache/apt/archives"):
            for directory, _, names in os.walk(top):
                for name in sorted(names):
                    file = Path(directory, name)
                    if file.suffix not in _COMPRESSED or file.is_symlink() or not file.is_file():
                        continue
                    if tar.offset + file.stat().st_size < _COMPRESSED_BYTES:
                        tar.add(file, recursive=False)
        rest = _COMPRESSED_BYTES - tar.offset
        if rest > _COMPRESSED_BYTES // 20:
            entry = tarfile.TarInfo("random")
            entry.size = rest
            tar.addfile(entry, io.BytesIO(random.Random(0).randbytes(rest)))
    return layer_of(path)


# --- tiny images -----------------------------------------------------------------------------------------------------


def tiny_images(bench: Bench) -> Iterator[Goal]:
    """Images a second, the second run over them, and the peak of memory with many more of them."""
    for form, command, least in (("one", "convert", 3_000), ("archives", "batch", 1_800)):
        if bench.wants(f"tiny images, {command}") or (command == "convert" and bench.wants("second run, tiny")):
            with _tiny(bench, form, bench.images) as source:
                if bench.wants(f"tiny images, {command}"):
                    series = bench.series({command: partial(run, _on_tiny(bench, command, source))})[command]
                    speed = bench.images / series.wall()
                    cpu = f"{1000 * series.cpu() / bench.images:.2f} ms CPU an image; {series.peak():.0f} MiB"
                    yield Goal(f"tiny images, {command}, a second", speed, least, least=True, detail=cpu)
                if command == "convert" and bench.wants("second run, tiny"):
                    yield from second_runs(bench, f"{bench.images:,} tiny images", source, 25)
        if bench.wants(f"memory, {command}"):
            with _tiny(bench, form, bench.many) as source:
                sample = run(_on_tiny(bench, command, source))
                remove(bench.out)
            detail = f"{bench.many / sample.wall:,.0f} images a second"
            yield Goal(f"memory, {command}, {bench.many:,} images", sample.peak, 250, unit=" MiB", detail=detail)


def _on_tiny(bench: Bench, command: str, source: Path) -> list[str]:
    return [*MIGRATE, command, *QUIET, "--jobs", str(bench.jobs), str(source), str(bench.out)]


@contextmanager
def _tiny(bench: Bench, form: str, count: int) -> Iterator[Path]:
    source = bench.directory / f"tiny-{form}"
    subprocess.run([sys.executable, "-m", "benchmarks.tiny", form, str(count), str(source)], check=True)
    try:
        yield source / "all.tar" if form == "one" else source
    finally:
        remove(source)


# --- the start -------------------------------------------------------------------------------------------------------


def start(bench: Bench) -> Iterator[Goal]:
    """Processor time of commands that have next to nothing to do."""
    with _tiny(bench, "one", 1) as source:
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "import click": [sys.executable, "-c", "import click"],
            "--help": [*MIGRATE, "--help"],
            "convert of one tiny image": bench.convert(source),
        }
        found: dict[str, list[float]] = {name: [] for name in commands}
        for _, (name, command) in itertools.product(range(_STARTS), commands.items()):
            found[name].append(1000 * run(command).cpu)
            remove(bench.out)
    least = {name: min(times) for name, times in found.items()}
    beside = (
        f"the least of {_STARTS}; Python itself {least['python -c pass']:.0f}, with click {least['import click']:.0f}"
    )
    yield Goal("start: --help, CPU", least["--help"], 25, unit=" ms", detail=beside)
    yield Goal("start: convert of one tiny image, CPU", least["convert of one tiny image"], 75, unit=" ms")


# --- push ------------------------------------------------------------------------------------------------------------


def push(bench: Bench, corpus: Corpus) -> Iterator[Goal]:
    """Images that share layers, from a layout into an empty docker-registry on loopback, beside one skopeo for each."""
    if not (shutil.which("skopeo") and shutil.which("docker-registry")):
        return
    archive, layout = bench.directory / "shared.tar", bench.directory / "shared"
    names = [f"bench/app-{number}" for number in range(_IMAGES_PUSHED)]
    own = [_own_layer(bench.directory / f"own-{number}.tar", number) for number in range(_IMAGES_PUSHED)]
    write_images(archive, {name: [*corpus.unique[3:7], layer] for name, layer in zip(names, own, strict=True)})
    run([*MIGRATE, "convert", *QUIET, "--format", "oci", str(archive), str(layout)])  # skopeo takes no other types

    def with_registry(command: Callable[[str], list[str]]) -> Sample:
        with _registry(bench.directory / "registry") as host:
            return run(command(host))

    def skopeo(host: str) -> list[str]:
        copies = [
            f"skopeo copy -q --dest-tls-verify=false oci:{layout}:{name}:latest docker://{host}/{name}:latest"
            for name in names
        ]
        return ["sh", "-ec", "; ".join(copies)]

    series = bench.series(
        {
            "push": lambda: with_registry(
                lambda host: [*MIGRATE, "push", *QUIET, "--insecure", str(layout), f"docker://{host}"]
            ),
            "skopeo": lambda: with_registry(skopeo),
        }
    )
    for path in (archive, layout, *(layer.path for layer in own)):
        remove(path)
    wall, cpu = _ratios(series["skopeo"], series["push"])
    detail = f"CPU {cpu:.2f}; {_seconds(series['push'])}, skopeo {_seconds(series['skopeo'])}"
    yield Goal(
        f"push of {_IMAGES_PUSHED} images that share layers, times faster than skopeo", wall, 1.3, "", True, detail
    )


def _own_layer(path: Path, number: int) -> Layer:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        entry = tarfile.TarInfo(f"app/{number}")
        entry.size = 2_000_000
        tar.addfile(entry, io.BytesIO(random.Random(number).randbytes(entry.size)))
    return layer_of(path)


@contextmanager
def _registry(root: Path) -> Iterator[str]:
    """An empty docker-registry of our own; gives its host and port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    root.mkdir()
    settings = root / "config.yml"
    settings.write_text(
        "version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: "
        f"{root}/data}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
    )
    process = subprocess.Popen(
        ["docker-registry", "serve", str(settings)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(300):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
        remove(root)


# --- of the corpus ---------------------------------------------------------------------------------------------------


def of_corpus(corpus: Corpus, series: dict[str, Series]) -> Iterator[Goal]:
    """The goals for what the tables of the corpora have."""
    size = f"{corpus.tar_bytes / 1e6:.0f} MB"
    if corpus.duplicate_share:
        return
    for name, limit, clock, processor in (
        ("migrate verify", "limit: gunzip", 92, None),
        ("migrate plan", "limit: hash", 70, 75),
    ):
        if name in series and limit in series:
            wall, cpu = (100 * ratio for ratio in _ratios(series[limit], series[name]))
            yield Goal(f"{name}, {size}, of the limit", wall, clock, " %", True, f"CPU {cpu:.0f} %")
            if processor is not None:
                yield Goal(f"{name}, {size}, of the limit by CPU", cpu, processor, " %", True)
    if "migrate, dual" in series and "skopeo, dual" in series:
        wall, cpu = _ratios(series["skopeo, dual"], series["migrate, dual"])
        yield Goal(f"gzip, {size}, times faster than skopeo", wall, 1.75, "", True, f"CPU {cpu:.2f}")


def measure_goals(bench: Bench, corpus: Corpus | None) -> Iterator[Goal]:
    """All but those of the corpora's tables, one after the other."""
    if corpus is not None:
        if bench.wants("way in"):
            yield from ways_in(bench, corpus)
        if bench.wants("second run, corpus"):
            yield from second_runs(bench, f"{corpus.tar_bytes / 1e6:.0f} MB", corpus.v1, 5)
        if bench.wants("push"):
            yield from push(bench, corpus)
    if bench.wants("compressed content"):
        yield from incompressible(bench)
    yield from tiny_images(bench)
    if bench.wants("start"):
        yield from start(bench)


def table(goals: list[Goal]) -> str:
    head = ["### Goals", "", "| | measured | goal | | beside it |", "|---|---|---|---|---|"]
    return "\n".join([*head, *(goal.row() for goal in goals)])
