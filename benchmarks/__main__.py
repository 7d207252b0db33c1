"""This tool beside its peers and beside the limit, interleaved, on a corpus made on the spot.

    python -m benchmarks [--rounds 5] [--mib 520] [--images 10000] [--many 100000] [--only PATTERN] [--beside DIR]
                         [--directory DIR] [--jobs 2] [--json FILE]

With `--beside`, each measurement of a corpus is followed by the same one of the version whose checkout is in DIR.

Needs about ten times `--mib` of room in DIR, and 5 GB for `--many` tiny images. Peers that are not installed are left
out. Prints Markdown tables of medians, and one of all goals (benchmarks/goals.py): for ways in, second runs, compressed
content, tiny images, memory, the start and push. Ratios are taken within a round, and their median is printed. Nothing
else should run on the machine. What a command reads is in the page cache before its clock starts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.corpus import Corpus, make_corpora
from benchmarks.goals import MIGRATE, QUIET, Bench, Goal, measure_goals, of_corpus
from benchmarks.goals import table as goals_table
from benchmarks.measure import Engine, Sample, Series, docker_engine, remove, run, size_of, warm


@dataclass
class Contest:
    """One thing that is measured. `measure` reads `inputs`, and leaves what it wrote in `output`, which is then weighed
    and removed."""

    name: str
    measure: Callable[[], Sample]
    inputs: list[Path]
    output: Path | None = None


def _beside(contests: list[Contest], checkout: Path) -> list[Contest]:
    """Each contest of this tool, and behind it the same one with the modules of `checkout`."""

    def other(measure: Callable[[], Sample]) -> Callable[[], Sample]:
        def measured() -> Sample:
            before = dict(os.environ)
            os.environ.update(PYTHONPATH=str(checkout), PYTHONSAFEPATH="1")  # not the modules of this folder
            try:
                return measure()
            finally:
                os.environ.clear()
                os.environ.update(before)

        return measured

    found = []
    for contest in contests:
        found.append(contest)
        if contest.name.startswith("migrate"):
            found.append(replace(contest, name=f"{contest.name}{OTHER}", measure=other(contest.measure)))
    return found


def contests_for(corpus: Corpus, directory: Path, jobs: int, engine: Engine | None) -> list[Contest]:
    out = directory / "out"
    convert = [*MIGRATE, "convert", *QUIET, "--jobs", str(jobs)]
    verify = [*MIGRATE, "verify", *QUIET, "--jobs", str(jobs)]
    zstd = ["--format", "oci", "--compression", "zstd"]
    layout = directory / "verified"
    tars = [str(layer.path) for layer in corpus.layers]
    layers, v1, dual = [layer.path for layer in corpus.unique], [corpus.v1], [corpus.dual]

    def limit(step: str) -> Callable[[], Sample]:
        return lambda: _limit(step, jobs, tars)

    found = [
        Contest("limit: hash", limit("hash"), layers),
        Contest("migrate plan", lambda: run([*MIGRATE, "plan", *QUIET, "--jobs", str(jobs), str(corpus.v1)]), v1),
        Contest("limit: gzip", limit("gzip"), layers),
        Contest("migrate, v1 only", lambda: run([*convert, str(corpus.v1), str(out)]), v1, out),
        Contest("migrate, dual", lambda: run([*convert, str(corpus.dual), str(out)]), dual, out),
        Contest("limit: zstd", limit("zstd"), layers),
        Contest("migrate zstd", lambda: run([*convert, *zstd, str(corpus.dual), str(out)]), dual, out),
        Contest(
            "migrate gzip-fast",
            lambda: run([*convert, "--compression", "gzip-fast", str(corpus.dual), str(out)]),
            dual,
            out,
        ),
        Contest("limit: gunzip", lambda: _limit("gunzip", jobs, list(map(str, layers))), layers),
        Contest("migrate verify", lambda: run([*verify, str(layout)]), [layout]),
    ]
    run([*convert, str(corpus.v1), str(layout)])
    if shutil.which("skopeo"):
        copy = ["skopeo", "copy", "-q", f"docker-archive:{corpus.dual}", f"oci:{out}:bench"]
        found.append(Contest("skopeo, dual", lambda: run(copy), dual, out))
    if shutil.which("umoci"):
        script = _umoci_script(out, tars)
        found.append(Contest("umoci raw add-layer", lambda: run(["sh", "-ec", script]), layers, out))
    if engine is not None:
        found.append(Contest("docker load, v1 only", lambda: engine.load(corpus.v1), v1))
        found.append(Contest("docker load, dual", lambda: engine.load(corpus.dual), dual))
    return found


def _limit(step: str, jobs: int, tars: list[str]) -> Sample:
    command = [sys.executable, "-m", "benchmarks.limit", step, str(jobs), ",".join(tars)]
    told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return Sample(told["wall"], told["cpu"], 0)


def _umoci_script(out: Path, tars: list[str]) -> str:
    begin = f"umoci init --layout {out}; umoci new --image {out}:bench"
    return "; ".join([begin, *(f"umoci raw add-layer --image {out}:bench {tar}" for tar in tars)])


def measure(contests: list[Contest], rounds: int) -> dict[str, Series]:
    series = {contest.name: Series() for contest in contests}
    for number in range(rounds):
        for contest in contests[:: -1 if number % 2 else 1]:  # of two versions, neither is always the second
            print(f"round {number + 1} of {rounds}: {contest.name}", file=sys.stderr)
            for path in contest.inputs:
                warm(path)
            series[contest.name].samples.append(contest.measure())
            if contest.output is not None:
                series[contest.name].output_bytes = size_of(contest.output)
                remove(contest.output)
    return series


# --- what is printed -------------------------------------------------------------------------------------------------

LIMITS = {
    "migrate plan": "limit: hash",
    "migrate, v1 only": "limit: gzip",
    "migrate, dual": "limit: gzip",
    "migrate zstd": "limit: zstd",
    "migrate verify": "limit: gunzip",
}
PEER = "skopeo, dual"
OTHER = ", other version"


def table(corpus: Corpus, series: dict[str, Series]) -> str:
    rows = [
        f"### {corpus.tar_bytes / 1e6:.0f} MB in {len(corpus.layers)} layers,"
        f" {corpus.duplicate_share:.0%} of the bytes in duplicate layers",
        "",
        "| | wall s | CPU s | peak MiB | out, MB | times faster than skopeo: wall / CPU | of the limit: wall / CPU |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in series.items():
        against_peer = _ratio(series.get(PEER), one) if PEER in series and not name.startswith("limit") else ""
        against_limit = _ratio(series.get(LIMITS.get(name, "")), one, percent=True)
        peak = f"{one.peak():.0f}" if one.peak() else ""
        size = f"{one.output_bytes / 1e6:.1f}" if one.output_bytes else ""
        rows.append(
            f"| {name} | {one.wall():.2f} | {one.cpu():.2f} | {peak} | {size} | {against_peer} | {against_limit} |"
        )
    return "\n".join(rows)


def beside_table(series: dict[str, Series]) -> str:
    """Ratios within a round, below 100 % where this version needs less than the other one; then of the least of all
    rounds, which other work on the machine changes little."""
    rows = ["| | this / the other version, wall | CPU | least CPU, s | of it |", "|---|---|---|---|---|"]
    for name, one in series.items():
        other = series.get(f"{name}{OTHER}")
        if other is not None:
            ours, theirs = one.least_cpu(), other.least_cpu()
            ratios = _ratio(one, other, percent=True).replace(" / ", " | ")
            rows.append(f"| {name} | {ratios} | {ours:.2f} / {theirs:.2f} | {ours / theirs:.0%} |")
    return "\n".join(rows)


def _ratio(over: Series | None, one: Series, *, percent: bool = False) -> str:
    if over is None or over is one:
        return ""
    pairs = list(zip(over.samples, one.samples, strict=True))
    walls = statistics.median(a.wall / b.wall for a, b in pairs)
    cpus = statistics.median(a.cpu / b.cpu for a, b in pairs)
    return f"{walls:.0%} / {cpus:.0%}" if percent else f"{walls:.2f} / {cpus:.2f}"


def machine() -> str:
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{model}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, Linux {platform.release()},"
        f" Python {platform.python_version()}; load before the run {os.getloadavg()[0]:.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, default=520)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--images", type=int, default=10_000, help="tiny images, for speed")
    parser.add_argument("--many", type=int, default=100_000, help="tiny images, for the peak of memory")
    parser.add_argument("--only", default="", help="a regular expression: what to measure")
    parser.add_argument("--beside", type=Path, default=None, help="a checkout of another version")
    parser.add_argument("--directory", type=Path, default=None)
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    print(machine())
    results = {}
    goals: list[Goal] = []
    with tempfile.TemporaryDirectory(prefix="migrate-bench-", dir=given.directory) as name:
        directory = Path(name)
        with docker_engine(directory) as engine:
            corpora = make_corpora(directory, given.mib)
            for corpus in corpora:
                contests = contests_for(corpus, directory, given.jobs, engine)
                contests = [contest for contest in contests if re.search(given.only, contest.name)]
                if given.beside is not None:
                    contests = _beside(contests, given.beside.resolve())
                series = measure(contests, given.rounds)
                remove(directory / "verified")
                if series:
                    print(f"\n{table(corpus, series)}", flush=True)
                    if given.beside is not None:
                        print(f"\n{beside_table(series)}", flush=True)
                goals += of_corpus(corpus, series)
                results[corpus.name] = {
                    name: [[sample.wall, sample.cpu, sample.peak] for sample in one.samples]
                    for name, one in series.items()
                }
        bench = Bench(directory, given.rounds, given.jobs, given.images, given.many, given.only)
        for goal in measure_goals(bench, corpora[0]):
            print(goal.row(), file=sys.stderr, flush=True)
            goals.append(goal)
    print(f"\n{goals_table(goals)}", flush=True)
    if given.json is not None:
        given.json.write_text(
            json.dumps({"machine": machine(), "results": results, "goals": list(map(asdict, goals))}, indent=1)
        )


if __name__ == "__main__":
    main()
