"""The examples of the pages on clusters and shards, run with programs and packages that only note what they are given.

A fake `sbatch` runs a job array here, fake packages call functions here, and a fake `migrate` notes its arguments.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = [f"{number}/50" for number in range(1, 51)]
PROGRAMS = {
    "migrate": """#!/bin/sh
echo "$@" >> CALLS
exit ${CODE:-0}
""",
    "sbatch": """#!/bin/bash
echo "$@" >> SUBMITTED
while [ $# -gt 0 ]; do
  case $1 in
    --parsable) parsable=1 ;;
    --dependency=afterany:77 | --mem=*) ;;
    --wrap) shift; sh -c "$1"; exit ;;
    -*) echo "unknown option $1" >&2; exit 1 ;;
    *) script=$1 ;;
  esac
  shift
done
[[ $(grep '^#SBATCH' "$script") =~ --array=([0-9]+)-([0-9]+)\\  ]] || exit 1
for number in $(seq ${BASH_REMATCH[1]} ${BASH_REMATCH[2]}); do
  SLURM_ARRAY_TASK_ID=$number bash "$script" || exit 1
done
echo ${parsable:+77}
""",
}
FAKES = {
    "ray": """
class _Function:
    def __init__(self, call): self._call = call
    def options(self, num_cpus): return self
    def remote(self, *given): return lambda: self._call(*given)
def init(runtime_env): assert runtime_env == {"working_dir": "."}
def remote(call): return _Function(call)
def get(calls): return [call() for call in calls]
""",
    "pyspark/__init__": "",
    "pyspark/sql": """
class _Data(list):
    def map(self, call): return _Data(map(call, self))
    def collect(self): return list(self)
class SparkSession:
    class builder:
        @staticmethod
        def getOrCreate(): return SparkSession()
    @property
    def sparkContext(self): return self
    def parallelize(self, values, count):
        assert len(values) == count
        return _Data(values)
    def stop(self): pass
""",
    "dask_jobqueue": """
class SLURMCluster:
    scheduler_address = "tcp://10.0.0.1:8786"
    def __init__(self, *, cores, processes, memory, walltime): assert cores == processes
    def scale(self, *, cores): assert cores == 40
""",
}


def example(page: str, language: str, word: str) -> str:
    text = (ROOT / "docs/howto" / page).read_text("utf-8")
    (found,) = (block for block in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) if word in block)
    return str(found)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bin").mkdir()
    for name, text in PROGRAMS.items():
        program = tmp_path / "bin" / name
        program.write_text(re.sub("CALLS|SUBMITTED", lambda found: str(tmp_path / found[0]), text))
        program.chmod(0o755)
    for name, text in FAKES.items():
        (tmp_path / f"{name}.py").parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path


def calls(place: Path) -> list[list[str]]:
    return [shlex.split(line) for line in (place / "CALLS").read_text().splitlines()]


def check_calls(place: Path, layout: str) -> None:
    """All parts, each once, with the same sources and target; then the merge."""
    *parts, merge = calls(place)
    assert sorted(call[call.index("--shard") + 1] for call in parts) == sorted(PARTS)
    assert {call[-1] for call in parts} == {layout}
    assert len({call[-2] for call in parts}) == 1
    assert merge == ["batch", "--merge", layout]


def test_a_job_array_of_slurm(place: Path) -> None:
    (place / "shard.sh").write_text(example("shards.md", "sh", "#SBATCH"))
    subprocess.run(["bash", "-ec", example("shards.md", "sh", "sbatch --parsable")], cwd=place, check=True)
    check_calls(place, "/scratch/new-layout/")
    assert "--dependency=afterany:77" in (place / "SUBMITTED").read_text()


def job_of(page: str, name: str) -> Any:
    yaml: Any = importlib.import_module("yaml")
    job = yaml.safe_load(example(page, "yaml", f"name: {name}\n"))
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    return job["spec"]


def test_an_indexed_job_of_kubernetes(place: Path) -> None:
    spec = job_of("shards.md", "migrate-shards")
    assert (spec["completionMode"], spec["completions"]) == ("Indexed", 50)
    (container,) = spec["template"]["spec"]["containers"]
    for index in range(50):
        variables = os.environ | {"JOB_COMPLETION_INDEX": str(index), "CODE": "3" if index % 2 else "0"}
        subprocess.run([*container["command"], *container["args"]], env=variables, check=True)
    broken = os.environ | {"JOB_COMPLETION_INDEX": "0", "CODE": "5"}
    assert subprocess.run([*container["command"], *container["args"]], env=broken, check=False).returncode == 5
    (place / "CALLS").write_text("".join((place / "CALLS").read_text().splitlines(keepends=True)[:50]))
    (merge,) = job_of("shards.md", "migrate-merge")["template"]["spec"]["containers"]
    subprocess.run(["migrate", *merge["args"]], check=True)
    check_calls(place, "s3://bucket/new-layout")


@pytest.mark.parametrize(
    ("page", "name"), [("shards.md", "migrate-merge"), ("cluster.md", "migrate-batch")], ids=["merge", "batch"]
)
def test_a_job_that_would_end_alike_is_not_tried_again(page: str, name: str) -> None:
    spec = job_of(page, name)
    assert spec["podFailurePolicy"]["rules"] == [
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2, 3, 4]}}
    ]


@pytest.mark.parametrize("package", ["ray", "pyspark"])
def test_a_program_of_ray_and_of_spark(package: str, place: Path) -> None:
    (place / "parts.py").write_text(example("shards.md", "python", "def part("))
    (place / "this.py").write_text(example("shards.md", "python", package))
    subprocess.run([sys.executable, "this.py"], cwd=place, env=os.environ | {"CODE": "3"}, check=True)
    check_calls(place, "/shared/new-layout/")


def test_a_dask_cluster_of_slurm_prints_its_address(place: Path) -> None:
    (place / "cluster.py").write_text(example("cluster.md", "python", "SLURMCluster"))
    with subprocess.Popen([sys.executable, "cluster.py"], cwd=place, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "tcp://10.0.0.1:8786\n"
        process.kill()
