"""`migrate convert` and `plan` as a user runs them."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.archives import V1Archive, layer_tar, unpack
from tests.cases import case
from tests.command import migrate


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return case("save-1.9.1-multi").write_plain(tmp_path)


def digests(layout: Path) -> dict[str, str]:
    """Every file of a layout but for the report, the map and our own state."""
    return {
        str(path.relative_to(layout)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(layout.rglob("*"))
        if path.is_file() and ".migrate" not in path.parts and not path.name.startswith("migration-")
    }


def report_of(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((path / "migration-report.json").read_bytes())
    return document


def stable(report: dict[str, Any]) -> dict[str, Any]:
    """A report without what may differ from run to run: times, and where the input lay."""
    text = json.dumps({key: value for key, value in report.items() if key not in ("started", "finished", "dry_run")})
    for source in report["sources"]:
        quoted = json.dumps(source["location"])
        text = text.replace(quoted, '"SOURCE"')
        if len(quoted) > 3:  # not the - of standard input
            text = text.replace(quoted[1:-1], "SOURCE")
    document: dict[str, Any] = json.loads(text)
    document.pop("options")
    return document


def test_the_same_bytes_come_out_however_the_input_comes_in(archive: Path, tmp_path: Path) -> None:
    plain = archive.read_bytes()
    (tmp_path / "unpacked").mkdir()
    with tarfile.open(archive) as opened:
        unpack(opened, tmp_path / "unpacked")
    forms: dict[str, bytes] = {
        "gz": gzip.compress(plain),
        "two-members.gz": gzip.compress(plain[:100_000]) + gzip.compress(plain[100_000:]),
        "bz2": bz2.compress(plain),
        "xz": lzma.compress(plain),
        "zst": subprocess.run(["zstd", "-qc"], input=plain, capture_output=True, check=True).stdout,
    }
    assert migrate("convert", archive, tmp_path / "out").code == 0
    expected = digests(tmp_path / "out")
    assert expected
    for name, content in forms.items():
        source = tmp_path / f"archive.tar.{name}"
        source.write_bytes(content)
        assert migrate("convert", source, tmp_path / f"out-{name}").code == 0
        assert digests(tmp_path / f"out-{name}") == expected, name
    assert migrate("convert", tmp_path / "unpacked", tmp_path / "out-unpacked").code == 0
    assert digests(tmp_path / "out-unpacked") == expected
    for name, content in (("stdin", plain), ("stdin-gz", forms["gz"])):
        assert migrate("convert", "-", tmp_path / name, stdin=content).code == 0
        assert digests(tmp_path / name) == expected, name


@pytest.mark.parametrize("options", [[], ["--format", "oci", "--compression", "zstd"], ["--compression", "none"]])
def test_the_number_of_jobs_changes_nothing(options: list[str], archive: Path, tmp_path: Path) -> None:
    results = []
    for jobs in ("1", "2", "7"):
        target = tmp_path / f"jobs{jobs}"
        assert migrate("convert", "--jobs", jobs, *options, archive, target).code == 0
        results.append((digests(target), stable(report_of(target))))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_layer_of_many_blocks_is_the_same_with_any_number_of_jobs(kind: str, tmp_path: Path) -> None:
    archive = V1Archive()
    content = b"".join(hashlib.sha256(bytes([n % 251, n // 251])).digest() * 400 for n in range(500))
    archive.tag("big", "1", archive.layer("big", tar=layer_tar("a", "b", content=content)))
    (tmp_path / "big.tar").write_bytes(archive.build())
    options = ["--format", "oci", "--compression", kind]
    results = []
    for jobs in ("1", "2", "7"):
        target = tmp_path / f"jobs{jobs}"
        assert migrate("convert", "--jobs", jobs, *options, tmp_path / "big.tar", target).code == 0
        results.append(digests(target))
    assert results[0] == results[1] == results[2]
    (blob,) = [path for path in (tmp_path / "jobs1" / "blobs" / "sha256").iterdir() if path.stat().st_size > 10_000]
    tool = {"gzip": "gzip", "zstd": "zstd"}[kind]
    plain = subprocess.run([tool, "-dc"], input=blob.read_bytes(), capture_output=True, check=True).stdout
    assert plain == layer_tar("a", "b", content=content)


def test_a_dry_run_tells_what_the_real_run_does_and_writes_nothing(archive: Path, tmp_path: Path) -> None:
    dry = migrate("convert", "--dry-run", "--report", "-", archive, tmp_path / "out")
    assert dry.code == 0
    assert not (tmp_path / "out").exists()
    assert migrate("convert", archive, tmp_path / "out").code == 0
    told = dry.json()
    assert told["dry_run"] is True
    assert stable(told) == stable(report_of(tmp_path / "out"))


def test_plan_needs_no_target_and_gives_the_same_images(archive: Path, tmp_path: Path) -> None:
    planned = migrate("plan", "--report", "-", archive).json()
    assert migrate("convert", archive, tmp_path / "out").code == 0
    real = report_of(tmp_path / "out")
    assert [image["image_id"] for image in planned["images"]] == [image["image_id"] for image in real["images"]]
    for name in ("legacy_layers", "unique_layers", "duplicate_layers", "legacy_bytes", "unique_bytes", "saved_bytes"):
        assert planned["totals"][name] == real["totals"][name]
    assert planned["duplicates"] == real["duplicates"]
    exact = migrate("plan", "--exact-sizes", "--report", "-", archive).json()
    assert exact["totals"] == real["totals"]
    assert exact["images"] == real["images"]


def test_a_second_run_writes_no_blob_again(archive: Path, tmp_path: Path) -> None:
    assert migrate("convert", archive, tmp_path / "out").code == 0
    before = {path: path.stat() for path in (tmp_path / "out" / "blobs" / "sha256").iterdir()}
    content = digests(tmp_path / "out")
    assert migrate("convert", archive, tmp_path / "out").code == 0
    after = {path: path.stat() for path in (tmp_path / "out" / "blobs" / "sha256").iterdir()}
    assert {path: (s.st_ino, s.st_mtime_ns) for path, s in after.items()} == {
        path: (s.st_ino, s.st_mtime_ns) for path, s in before.items()
    }
    assert digests(tmp_path / "out") == content


def test_a_second_archive_joins_the_first(tmp_path: Path) -> None:
    for name in ("save-1.9.1-multi", "save-1.3.3-multi"):
        assert (
            migrate("convert", "--on-conflict", "keep-all", case(name).write_plain(tmp_path), tmp_path / "out").code
            == 0
        )
    both = {entry["digest"] for entry in json.loads((tmp_path / "out" / "index.json").read_bytes())["manifests"]}
    first = migrate("convert", tmp_path / "save-1.9.1-multi.tar", tmp_path / "one")
    second = migrate("convert", tmp_path / "save-1.3.3-multi.tar", tmp_path / "two")
    assert (first.code, second.code) == (0, 0)
    for single in ("one", "two"):
        entries = json.loads((tmp_path / single / "index.json").read_bytes())["manifests"]
        assert {entry["digest"] for entry in entries} <= both
    assert migrate("verify", tmp_path / "out").code == 0


def test_several_sources_become_one_target(tmp_path: Path) -> None:
    sources = [case(name).write_plain(tmp_path) for name in ("save-1.9.1-multi", "save-1.9.1-repo")]
    result = migrate("convert", *sources, tmp_path / "out")
    assert result.code == 0
    report = report_of(tmp_path / "out")
    assert [source["location"] for source in report["sources"]] == sorted(map(str, sources))
    totals = report["totals"]
    assert totals["legacy_layers"] == totals["unique_layers"] + totals["duplicate_layers"] + totals["empty_layers"]
    assert totals["saved_bytes"] == totals["legacy_bytes"] - totals["unique_bytes"]
    assert totals["duplicate_layers"] >= 10, "both archives hold the same base and application"


def test_one_bad_source_among_good_ones(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.tar").write_bytes(b"no tar\n" * 100)
    result = migrate("convert", tmp_path / "bad.tar", archive, tmp_path / "out")
    assert result.code == 3
    assert len(result.errors) == 1
    assert "bad.tar" in result.errors[0]
    assert len(report_of(tmp_path / "out")["images"]) == 4


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("metaonly", [["metaonly:latest"]]),
        ("team/*", [["localhost:5000/opsteam/tool:v1", "team/web:1.0"], ["team/web-twin:b"]]),
        ("10d546078acd", [["team/web-twin:b"]]),
        ("c4e2236ae408", [[]]),
    ],
)
def test_images_can_be_chosen(pattern: str, expected: list[list[str]], archive: Path, tmp_path: Path) -> None:
    assert migrate("convert", "--image", pattern, archive, tmp_path / "out").code == 0
    found = [image["references"] for image in report_of(tmp_path / "out")["images"]]
    for references in expected:
        assert references in found


def test_a_choice_that_matches_nothing_is_a_usage_error(archive: Path, tmp_path: Path) -> None:
    result = migrate("convert", "--image", "nothing:*", archive, tmp_path / "out")
    assert result.code == 2
    assert "nothing:*" in result.errors[0]
    assert "migrate inspect" in result.errors[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--compression", "zstd"],
        ["--compression-level", "13"],
        ["--platform", "linux"],
        ["--on-conflict", "oldest"],
        ["--jobs", "0"],
        ["--rename", "(=x"],
    ],
)
def test_what_does_not_go_together_is_a_usage_error(arguments: list[str], archive: Path, tmp_path: Path) -> None:
    result = migrate("convert", *arguments, archive, tmp_path / "out")
    assert result.code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compression", "gzip", "--compression-level", "13"], "--compression gzip takes 1 to 12"),
        (["--compression", "gzip-fast", "--compression-level", "0"], "--compression gzip-fast takes 1 to 3"),
        (["--compression", "none", "--compression-level", "3"], "--compression none has no levels"),
    ],
)
def test_levels_that_are_none(arguments: list[str], message: str, archive: Path) -> None:
    assert message in migrate("plan", *arguments, archive).errors[0]


@pytest.mark.parametrize("command", ["convert", "plan", "batch", "verify", "push"])
@pytest.mark.parametrize("jobs", ["0", "1025", "99999999999999999999999"])
def test_more_jobs_than_any_machine_has_work_for_are_refused(command: str, jobs: str, archive: Path) -> None:
    result = migrate(command, "-j", jobs, archive, "out")
    assert result.code == 2
    assert "is not in the range 1<=x<=1024" in result.err


def test_many_jobs_are_no_more_threads_than_layers_need(archive: Path, tmp_path: Path) -> None:
    assert migrate("plan", "-j", "1024", archive).code == 0
    assert migrate("convert", "-j", "1024", archive, tmp_path / "out").code == 0
    assert migrate("verify", "-j", "1024", tmp_path / "out").code == 0


def test_the_report_can_go_to_standard_output_alone(archive: Path, tmp_path: Path) -> None:
    result = migrate("convert", "--report", "-", "-q", archive, tmp_path / "out")
    assert result.err == ""
    assert result.json() == report_of(tmp_path / "out")


def test_quiet_says_nothing(archive: Path, tmp_path: Path) -> None:
    result = migrate("convert", "-q", archive, tmp_path / "out")
    assert (result.out, result.err) == ("", "")


def test_a_full_target_is_exit_5(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    result = migrate("convert", archive, tmp_path / "file" / "out")
    assert result.code == 5
    assert len(result.errors) == 1


def test_an_image_that_was_read_and_refused_is_exit_3(tmp_path: Path) -> None:
    for name in ("one", "two"):
        archive = V1Archive()
        archive.tag("team/web", "1.0", archive.layer(name))
        (tmp_path / f"{name}.tar").write_bytes(archive.build())
    assert migrate("convert", "-q", "one.tar", "out", cwd=tmp_path).code == 0
    for line in ("convert two.tar out", "convert one.tar two.tar new", "batch one.tar two.tar shelf"):
        command, *rest = line.split()
        result = migrate(command, "--on-conflict", "fail", "--report", "-", *rest, cwd=tmp_path)
        report = result.json()
        assert (result.code, report["totals"]["images"]) == (3, 0)
        assert {failure["error"] for failure in report["failures"]} == {"conflict"}


def test_a_foreign_directory_is_not_touched(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    result = migrate("convert", archive, tmp_path / "mine")
    assert result.code == 5
    assert any(str(tmp_path / "mine") in line and "letter.txt" in line for line in result.errors), result.err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_the_platform_goes_into_descriptors_and_not_into_the_config(tmp_path: Path) -> None:
    archive = V1Archive()
    archive.tag("app", "1", archive.layer("app"))
    (tmp_path / "a.tar").write_bytes(archive.build())
    assert migrate("convert", tmp_path / "a.tar", tmp_path / "one").code == 0
    assert migrate("convert", "--platform", "linux/arm/v7", tmp_path / "a.tar", tmp_path / "two").code == 0
    one, two = report_of(tmp_path / "one")["images"][0], report_of(tmp_path / "two")["images"][0]
    assert one["image_id"] == two["image_id"]
    assert one["platform"] == {"os": "linux", "architecture": "amd64"}
    assert two["platform"] == {"os": "linux", "architecture": "arm", "variant": "v7"}
    index = json.loads((tmp_path / "two" / "index.json").read_bytes())
    assert index["manifests"][0]["platform"] == {"architecture": "arm", "os": "linux", "variant": "v7"}
    filled = migrate("convert", "--fill-platform", "--platform", "linux/arm/v7", tmp_path / "a.tar", tmp_path / "three")
    assert filled.code == 0
    assert report_of(tmp_path / "three")["images"][0]["image_id"] != one["image_id"]


def test_one_reference_on_two_platforms_becomes_an_index(tmp_path: Path) -> None:
    sources = []
    for architecture in ("amd64", "arm64"):
        archive = V1Archive()
        identity = archive.layer(architecture)
        archive.members = [
            (name, content.replace(b'"docker_version"', f'"architecture": "{architecture}", "docker_version"'.encode()))
            if name.endswith("json") and isinstance(content, bytes)
            else (name, content)
            for name, content in archive.members
        ]
        archive.tag("app", "1", identity)
        sources.append(tmp_path / f"{architecture}.tar")
        sources[-1].write_bytes(archive.build())
    assert migrate("convert", *sources, tmp_path / "out").code == 0
    (entry,) = json.loads((tmp_path / "out" / "index.json").read_bytes())["manifests"]
    assert entry["mediaType"] == "application/vnd.docker.distribution.manifest.list.v2+json"
    assert migrate("verify", tmp_path / "out").code == 0
    for source in sources:
        assert migrate("convert", source, tmp_path / "apart").code == 0
    assert migrate("verify", tmp_path / "apart").code == 0
    assert (tmp_path / "apart" / "index.json").read_bytes() == (tmp_path / "out" / "index.json").read_bytes()


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    source = tmp_path / "secret.tar"
    source.write_bytes(b"x")
    source.chmod(0)
    dropped = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"]  # root, but without root's rights
    for command in (f"inspect {source}", f"convert {source} {tmp_path}/out", f"plan {source}"):
        done = subprocess.run(
            [*dropped, sys.executable, "-m", "migrate", *command.split()], capture_output=True, check=False, text=True
        )
        assert "Traceback" not in done.stderr
        assert done.returncode == 4
        assert f"migrate: error: {source}: may not be read by this user: run as root" in done.stderr.splitlines()


# --- names that several images claim ---------------------------------------------------------------------------------


@pytest.fixture
def twins(tmp_path: Path) -> list[Path]:
    """Archives whose images have one name and were created in the same second."""
    paths = [tmp_path / f"{name}.tar" for name in "abcdef"]
    for path in paths:
        made = V1Archive()
        made.tag("app", "1", made.layer(path.stem))
        path.write_bytes(made.build())
    return paths


def test_plan_knows_who_will_win(twins: list[Path], tmp_path: Path) -> None:
    assert migrate("convert", *twins, tmp_path / "out").code == 0
    planned = migrate("plan", "--report", "-", *twins).json()
    named = [
        {image["image_id"]: image["names"] for image in each["images"]}
        for each in (report_of(tmp_path / "out"), planned)
    ]
    assert named[0] == named[1]
    assert sorted(named[0].values()) == [[]] * 5 + [["app:1"]]


def test_the_names_of_keep_all_are_told(twins: list[Path], tmp_path: Path) -> None:
    assert migrate("convert", "--on-conflict", "keep-all", *twins, tmp_path / "out").code == 0
    entries = json.loads((tmp_path / "out" / "index.json").read_bytes())["manifests"]
    names = {entry["annotations"]["org.opencontainers.image.ref.name"]: entry["digest"] for entry in entries}
    assert len(names) == 6
    told = {
        name: image["manifest_digest"] for image in report_of(tmp_path / "out")["images"] for name in image["names"]
    }
    assert told == names
    for name, digest in names.items():
        assert digest in migrate("map", tmp_path / "out", name).out


def test_failures_of_images_that_were_not_asked_for(archive: Path, tmp_path: Path) -> None:
    made = V1Archive()
    made.tag("app", "1", made.layer("a"))
    made.tag("app", "lost", "9" * 64)
    path = tmp_path / "lost.tar"
    path.write_bytes(made.build())
    assert migrate("plan", path).code == 3
    assert migrate("plan", "--image", "app:1", path).code == 0
    asked = migrate("plan", "--image", "app:lost", path)
    assert asked.code == 4
    assert "app:lost" in asked.err
    assert "does not hold" in asked.err


@pytest.mark.parametrize("form", ["", "oci-archive:", "docker-archive:", "registry-storage:"])
def test_a_dry_run_tells_what_the_target_would_get(archive: Path, tmp_path: Path, form: str) -> None:
    made = V1Archive()
    made.tag("registry.example.com:8443/proj/svc", "Rel_1.2-rc.3", made.layer("another"))
    (tmp_path / "another.tar").write_bytes(made.build())
    sources = [archive, tmp_path / "another.tar"]
    rehearsed = migrate("convert", "--dry-run", "--report", "-", *sources, f"{form}{tmp_path / 'out'}").json()
    assert not (tmp_path / "out").exists()
    written = migrate("convert", "--report", "-", *sources, f"{form}{tmp_path / 'out'}").json()
    assert len(rehearsed["conflicts"]) == 1
    for report in (rehearsed, written):
        for name in ("dry_run", "started", "finished"):
            del report[name]
        del report["options"]["dry_run"]
    assert rehearsed == written


def test_a_dry_run_into_no_target(archive: Path) -> None:
    for target in ("docker-archive:", "ftp:/bucket/layout", "out.tar", "-"):
        assert migrate("convert", "--dry-run", archive, target).code == 2


def test_a_source_of_several_names_counts_once(archive: Path, tmp_path: Path) -> None:
    names = [str(archive), f"{archive.parent}/./{archive.name}", archive.name]
    once = migrate("plan", "--report", "-", archive).json()
    several = migrate("plan", "--report", "-", *names, cwd=archive.parent).json()
    assert stable(several) == stable(once)
    assert migrate("convert", "-q", *names, tmp_path / "out", cwd=archive.parent).code == 0
    assert report_of(tmp_path / "out")["totals"]["legacy_bytes"] == once["totals"]["legacy_bytes"]


def test_inspect_draws_a_tree_or_writes_json(archive: Path) -> None:
    result = migrate("inspect", "--tree", "--json", archive)
    assert (result.code, result.out) == (2, "")
    assert "--tree and --json exclude each other" in result.err
