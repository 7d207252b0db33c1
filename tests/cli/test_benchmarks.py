"""The archives that the benchmarks make are archives that migrate converts, in both forms alike."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.batch_ways import Result, Target, names_of_objects, write_odd_files
from benchmarks.corpus import Layer, layer_of, write_archive, write_images
from benchmarks.goals import Bench, Goal, second_runs, table
from benchmarks.tiny import write_archives, write_one
from tests.command import migrate
from tests.shelves import archive
from tests.unit.rehash.sources import make_tar


def image_of(archive: Path, target: Path) -> list[str]:
    assert migrate("convert", archive, target).code == 0
    report = json.loads((target / "migration-report.json").read_bytes())
    (image,) = report["images"]
    return [layer["blob_digest"] for layer in image["layers"]]


def test_both_forms_hold_the_same_layers(tmp_path: Path) -> None:
    layers = []
    for number in (0, 1, 1):
        tar = make_tar(number, (80_000, 5))
        path = tmp_path / f"{number}.tar"
        path.write_bytes(tar)
        layers.append(Layer(path, len(tar), hashlib.sha256(tar).hexdigest()))
    write_archive(tmp_path / "v1.tar", layers, "x", with_manifest=False)
    write_archive(tmp_path / "dual.tar", layers, "x", with_manifest=True)
    v1 = image_of(tmp_path / "v1.tar", tmp_path / "v1")
    assert v1 == image_of(tmp_path / "dual.tar", tmp_path / "dual")
    assert len(v1) == 3 and len(set(v1)) == 2


def test_tiny_images_are_as_many_as_asked_for(tmp_path: Path) -> None:
    write_one(tmp_path / "one", 5)
    write_archives(tmp_path / "each", 5)
    for sources in ([tmp_path / "one" / "all.tar"], sorted((tmp_path / "each").iterdir())):
        target = tmp_path / f"out-{len(sources)}"
        assert migrate("convert", *sources, target).code == 0
        totals = json.loads((target / "migration-report.json").read_bytes())["totals"]
        assert (totals["images"], totals["legacy_layers"], totals["unique_layers"]) == (5, 15, 11)


def test_the_limit_is_told_in_seconds(tmp_path: Path) -> None:
    path = tmp_path / "layer.tar"
    path.write_bytes(make_tar(1))
    for step in ("hash", "gzip", "zstd", "gunzip"):
        command = [sys.executable, "-m", "benchmarks.limit", step, "2", f"{path},{path}"]
        told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        assert set(told) == {"wall", "cpu"}


def test_images_that_share_layers_share_them_in_the_target(tmp_path: Path) -> None:
    tars = []
    for number in range(3):
        (tmp_path / f"{number}.tar").write_bytes(make_tar(number))
        tars.append(layer_of(tmp_path / f"{number}.tar"))
    write_images(tmp_path / "a.tar", {"bench/a": tars[:2], "bench/b": [tars[0], tars[2]]})
    assert migrate("convert", tmp_path / "a.tar", tmp_path / "out").code == 0
    report = json.loads((tmp_path / "out" / "migration-report.json").read_bytes())
    assert [image["names"] for image in report["images"]] == [["bench/a:latest"], ["bench/b:latest"]]
    assert (report["totals"]["legacy_layers"], report["totals"]["unique_layers"]) == (4, 3)


def test_each_goal_is_one_that_holds_or_one_that_is_missed(tmp_path: Path) -> None:
    most, least = Goal("a", 24.9, 25, " %"), Goal("b", 1.29, 1.3, least=True)
    assert (most.holds, least.holds) == (True, False)
    assert table([most, least]).splitlines()[-2:] == [
        "| a | 24.9 % | ≤ 25 % | holds |  |",
        "| b | 1.29 | ≥ 1.3 | missed |  |",
    ]
    write_one(tmp_path / "one", 3)
    bench = Bench(tmp_path, rounds=1, jobs=1, images=3, many=3)
    (goal,) = second_runs(bench, "3 images", tmp_path / "one" / "all.tar", 25)
    assert goal.name == "second run, 3 images, of the first"
    assert goal.figure > 0 and not bench.out.exists()


def test_what_a_way_of_running_a_batch_has_lost_or_read_twice_is_named(tmp_path: Path) -> None:
    shelf, out = tmp_path / "shelf", tmp_path / "out"
    (shelf / "000").mkdir(parents=True)
    for build in range(7):
        (shelf / "000" / f"{build}.tar").write_bytes(archive("app", build))
    write_odd_files(shelf)
    assert len(names_of_objects(shelf)) == 13
    assert migrate("batch", "--executor", "threads", shelf, out).code == 3
    whole = Result.read(Target(str(out)), f"{shelf}/")
    assert len(whole.outcomes) == 17
    assert whole.faults(whole, 17, 17) == []
    assert whole.faults(whole, 18, 18) == ["1 sources lost"]
    assert whole.faults(whole, 17, 19) == ["2 read twice"]
    (out / "index.json").write_bytes(b"{}")
    assert Result.read(Target(str(out)), f"{shelf}/").faults(whole, 17, 17) == ["1 files with other bytes, index.json"]
