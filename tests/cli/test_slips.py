"""Each slip of `tests.cli.slips` gets its answer, and leaves nothing behind."""

from __future__ import annotations

import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.archives import V1Archive
from tests.cli.slips import SLIPS
from tests.command import migrate


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made")
    archive = V1Archive()
    archive.tag("team/web", "1.0", archive.layer("web"))
    archive.tag("app", "2", archive.layer("app"))
    (place / "A").write_bytes(archive.build())
    assert migrate("convert", "A", "L", cwd=place).code == 0
    return place


@pytest.mark.parametrize(("line", "code", "first"), SLIPS, ids=[line for line, _, _ in SLIPS])
def test_the_answer(line: str, code: int, first: str, made: Path, tmp_path: Path) -> None:
    for name in ("A", "L"):
        (tmp_path / name).symlink_to(made / name)
    (tmp_path / "D").mkdir()
    (tmp_path / "T").write_text("only text\n")
    (tmp_path / "E").write_bytes(b"")
    (tmp_path / "R" / "graph").mkdir(parents=True)
    (tmp_path / "R" / "repositories-aufs").write_text("{}")
    done = migrate(*shlex.split(line), cwd=tmp_path)
    assert done.code == code, done.err
    if code == 0:
        return
    assert done.errors, done.err
    assert re.match(first, done.errors[0].removeprefix("migrate: error: ")), done.errors[0]
    left = {path.name for path in tmp_path.iterdir()} - {"A", "L", "D", "T", "E", "R"}
    assert not left, f"a refused command made {left}"


@pytest.mark.parametrize("prefix", ["docker-archive", "oci-archive"])
@pytest.mark.parametrize(
    ("name", "plain"), [("x.tar.gz", "x.tar"), ("x.TGZ", "x.tar"), ("x.zip", "x.tar"), ("x.y.tar.zst", "x.y.tar")]
)
def test_an_archive_named_as_if_it_were_compressed(prefix: str, name: str, plain: str, made: Path) -> None:
    done = migrate("convert", "--dry-run", "A", f"{prefix}:{name}", cwd=made)
    assert done.code == 0
    assert f"{name}: is written as a plain tar; name it {plain}, or pipe {prefix}:- into a compressor" in (
        " ".join(done.out.split())
    )


@pytest.mark.parametrize("target", ["docker-archive:x.tar", "oci-archive:gz", "oci-archive:-", "oci:x.tar.gz"])
def test_other_names_of_targets(target: str, made: Path) -> None:
    assert "as a plain tar" not in migrate("convert", "--dry-run", "A", target, cwd=made).out


@pytest.fixture
def everybodys_folder() -> Iterator[Path]:
    """Outside pytest's own folder, which each pytest that starts closes to other users again."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.mark.parametrize("command", ["inspect", "plan", "convert"])
def test_what_a_user_may_not_read_is_counted(command: str, everybodys_folder: Path) -> None:
    """Of a directory, before anything is written; with the remedy."""
    for number in range(3):
        image = everybodys_folder / "root" / "graph" / f"{number:064x}"
        image.mkdir(parents=True)
        (image / "json").write_text(f'{{"id": "{number:064x}"}}')
        image.chmod(0o700)
    (everybodys_folder / "root" / "repositories-vfs").write_text("{}")
    (everybodys_folder / "root" / "vfs" / "dir").mkdir(parents=True)
    done = migrate(command, "root", *(["out"] if command == "convert" else []), cwd=everybodys_folder, user=65_534)
    assert done.code == 4
    first = f"root/graph/{0:064x}"
    assert f"3 files and folders may not be read by this user, first {first}: run as root" in done.errors[0], done.err
    assert not (everybodys_folder / "out").exists()


@pytest.mark.parametrize(
    "line", ["verify locked", "report locked/x", "inspect locked", "show locked x", "plan locked/x"]
)
def test_a_directory_that_is_closed(line: str, everybodys_folder: Path) -> None:
    (everybodys_folder / "locked").mkdir(mode=0o700)
    done = migrate(*line.split(), cwd=everybodys_folder, user=65_534)
    assert done.code == 4
    assert re.match("migrate: error: locked.*may not be read by this user: run as root", done.errors[0]), done.err
