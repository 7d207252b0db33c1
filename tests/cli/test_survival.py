"""Real processes: killed at random times, out of room on a real file system, two and four on one target.

MIGRATE_SURVIVAL_RUNS multiplies the numbers (docs/reference/guarantees.md states those of a full run).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from migrate.model.progress import SilentProgress
from migrate.verify import verify
from tests.archives import V1Archive, layer_tar
from tests.command import migrate
from tests.peers import need, run

RUNS = int(os.environ.get("MIGRATE_SURVIVAL_RUNS", "1"))
SEED = int(os.environ.get("MIGRATE_SURVIVAL_SEED", "1"))


def archive(path: Path, name: str, layers: int = 12, size: int = 400_000) -> Path:
    """A chain whose every layer is tagged, of bytes that do not compress; all archives share the first layer."""
    made = V1Archive()
    parent: str | None = None
    for number in range(layers):
        own = f"{name}-{number}" if number else "base"
        content = random.Random(own).randbytes(size)
        identity = made.layer(own, parent, tar=layer_tar(f"{own}.bin", content=content))
        made.tag(f"team/{name}", f"v{number}", identity)
        parent = own
    path.write_bytes(made.build())
    return path


def start(*arguments: str | Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "migrate", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def clean(path: Path) -> bool:
    """An empty directory, which a run leaves that is ended in its first instant, is nothing that could be verified."""
    return not path.exists() or not os.listdir(path) or verify(str(path), 2, SilentProgress()) == []


def snapshot(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and ".migrate" not in file.parts and file.name != "migration-report.json"
    }


def names(path: Path) -> set[str]:
    index = json.loads((path / "index.json").read_bytes())
    return {entry["annotations"]["org.opencontainers.image.ref.name"] for entry in index["manifests"]}


# --- kills -----------------------------------------------------------------------------------------------------------


def wait_or_end(process: subprocess.Popen[bytes], seconds: float, how: int) -> int:
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(how)
        process.wait(timeout=60)
    assert process.stderr is not None
    process.stderr.close()
    return process.returncode


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes], float]:
    """The source, what an undisturbed run makes of it, and a little more than the seconds that it takes."""
    directory = tmp_path_factory.mktemp("kills")
    source = archive(directory / "source.tar", "app")
    before = os.times().elapsed
    assert migrate("convert", source, directory / "undisturbed").code == 0
    return source, snapshot(directory / "undisturbed"), 1.1 * (os.times().elapsed - before)


def test_killed_at_any_time_the_target_is_valid_and_completed_by_the_same_command(
    converted: tuple[Path, dict[str, bytes], float], tmp_path: Path
) -> None:
    source, expected, seconds = converted
    generator = random.Random(SEED)
    killed = 0
    for number in range(8 * RUNS):
        target = tmp_path / str(number)
        process = start("convert", source, target)
        killed += wait_or_end(process, generator.uniform(0.02, seconds), signal.SIGKILL) == -signal.SIGKILL
        assert clean(target)
        finished = {
            path.name: path.stat().st_mtime_ns for path in (target / "blobs" / "sha256").glob("*") if target.exists()
        }
        assert migrate("convert", source, target).code == 0
        assert snapshot(target) == expected
        assert {name: (target / "blobs/sha256" / name).stat().st_mtime_ns for name in finished} == finished
        assert os.listdir(target / ".migrate").count("lock") == 1
        assert not [name for name in os.listdir(target / ".migrate") if name.startswith("tmp-")]
        shutil.rmtree(target)
    assert killed
    print(f"{killed} of {8 * RUNS} runs were killed before they ended")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_ends_soon_and_says_how_to_go_on(
    converted: tuple[Path, dict[str, bytes], float], how: signal.Signals, tmp_path: Path
) -> None:
    source, expected, seconds = converted
    generator = random.Random(SEED)
    for number in range(4 * RUNS):
        target = tmp_path / f"{how}-{number}"
        process = start("convert", source, target)
        code = wait_or_end(process, generator.uniform(0.05, seconds), how)
        assert code in (0, 130) or not target.exists(), code  # Python itself had not started yet
        assert clean(target)
        assert migrate("convert", source, target).code == 0
        assert snapshot(target) == expected


# --- a full disk -----------------------------------------------------------------------------------------------------


@contextmanager
def small_ext4(directory: Path, size: str = "64M") -> Iterator[Path]:
    need("mkfs.ext4", "mount", "umount")
    image, mounted = directory / "disk.img", directory / "mounted"
    mounted.mkdir()
    run("truncate", "-s", size, image)
    run("mkfs.ext4", "-q", "-m", "0", image)
    run("mount", "-o", "loop", image, mounted)
    try:
        yield mounted
    finally:
        run("umount", mounted)


@pytest.mark.peer
def test_a_disk_that_is_full_in_the_middle(tmp_path: Path) -> None:
    source = archive(tmp_path / "source.tar", "app", size=1_000_000)
    assert migrate("convert", source, tmp_path / "undisturbed").code == 0
    with small_ext4(tmp_path) as disk:
        free = shutil.disk_usage(disk).free
        for number, room in enumerate([200_000, 2_000_000, 5_000_000, 9_000_000]):
            target = disk / f"target{number}"
            ballast = disk / "ballast"
            ballast.write_bytes(bytes(shutil.disk_usage(disk).free - room))
            if number == 0:
                refused = migrate("convert", source, target)
                assert refused.code == 5
                assert "too little free space in the target" in refused.errors[0]
                assert not list((target / "blobs" / "sha256").iterdir())
            result = migrate("convert", "--force", source, target)
            assert result.code == 5
            assert len(result.errors) == 1
            assert "make room, and run the same command again" in result.errors[0]
            assert clean(target)
            ballast.unlink()
            assert migrate("convert", source, target).code == 0
            assert clean(target)
            assert snapshot(target) == snapshot(tmp_path / "undisturbed")
            shutil.rmtree(target)
        assert free > 0


@pytest.mark.peer
@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_an_archive_needs_room_for_its_spool_too(tmp_path: Path, form: str) -> None:
    source = archive(tmp_path / "source.tar", "app", size=1_000_000)
    whole = tmp_path / "whole.tar"
    assert migrate("convert", "--compression", "none", source, f"{form}:{whole}").code == 0
    size = whole.stat().st_size
    with small_ext4(tmp_path) as disk:
        target = f"{form}:{disk / 'image.tar'}"
        ballast = disk / "ballast"
        for room, code in ((size * 3 // 2, 5), (size * 2 + 500_000, 0)):
            ballast.unlink(missing_ok=True)
            ballast.write_bytes(bytes(shutil.disk_usage(disk).free - room))
            result = migrate("convert", "--compression", "none", source, target)
            assert result.code == code
            assert (code == 5) == ("too little free space in the target" in result.err)
        assert (disk / "image.tar").read_bytes() == whole.read_bytes()


@pytest.mark.peer
def test_a_read_only_file_system(tmp_path: Path) -> None:
    source = archive(tmp_path / "source.tar", "app", layers=1)
    with small_ext4(tmp_path) as disk:
        run("mount", "-o", "remount,ro", disk)
        result = migrate("convert", source, disk / "target")
        assert result.code == 5
        assert "read-only" in result.errors[0]


# --- several at once -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_at_once_lose_no_image(processes: int, tmp_path: Path) -> None:
    sources = [
        archive(tmp_path / f"{number}.tar", f"app{number}", layers=3, size=50_000) for number in range(processes)
    ]
    for turn in range(2 * RUNS):
        target = tmp_path / f"target{turn}"
        started = [start("convert", source, target) for source in sources]
        for process in started:
            _, err = process.communicate(timeout=120)
            assert process.returncode == 0, err.decode()
        assert names(target) == {f"team/app{number}:v{tag}" for number in range(processes) for tag in range(3)}
        assert clean(target)
        shutil.rmtree(target)
