"""Wheel, source distribution and Dockerfile: what they hold, and that the program runs from them.

Without an engine, the Dockerfile's steps are done one by one: only the files that it copies are there to build from.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from migrate import __version__
from migrate.cli.main import COMMANDS
from tests.archives import unpack

ROOT = Path(__file__).resolve().parents[2]
NAME = f"docker_legacy_migrate-{__version__}"


def run(*words: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(list(map(str, words)), cwd=cwd, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build directory as the Dockerfile's COPY instructions fill it."""
    directory = tmp_path_factory.mktemp("context")
    for word, rest in instructions():
        if word == "COPY" and not rest.startswith("--from"):
            *sources, target = rest.split()
            for source in sources:
                if (ROOT / source).is_dir():
                    ignore = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(ROOT / source, directory / target, ignore=ignore)
                else:
                    shutil.copy(ROOT / source, directory / target)
    return directory


@pytest.fixture(scope="module")
def wheel(context: Path) -> Path:
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", context / "out", cwd=context)
    return context / "out" / f"{NAME}-py3-none-any.whl"


def test_the_wheel_is_complete(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    code = {str(path.relative_to(ROOT)) for path in (ROOT / "migrate").rglob("*.py")}
    assert code <= set(names)
    assert {f"migrate/report/templates/report.{kind}" for kind in ("html", "css", "js")} <= set(names)
    assert "migrate/py.typed" in names
    manuals = {name.rpartition("/")[2] for name in names if "/share/man/man1/" in name}
    assert manuals == {"migrate.1", *(f"migrate-{name}.1" for name in COMMANDS)}
    assert not [name for name in names if name.startswith(("tests", "legacy_fixtures", "docs"))]


def test_the_program_runs_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False, system_site_packages=False)
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "pip", "-q", "--python", python, "install", "--no-deps", "--no-index", wheel)
    packages = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    here = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(here))  # the dependencies of this environment
    for script in ("migrate", "docker-legacy-migrate"):
        assert run(tmp_path / "venv" / "bin" / script, "--version", cwd=tmp_path) == f"migrate, version {__version__}\n"
    where = run(python, "-c", "import migrate; print(migrate.__file__)", cwd=tmp_path)
    assert where.startswith(str(tmp_path))
    assert (tmp_path / "venv" / "share" / "man" / "man1" / "migrate.1").exists()


def test_the_source_distribution_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path, cwd=ROOT)
    with tarfile.open(tmp_path / f"{NAME}.tar.gz") as archive:
        unpack(archive, tmp_path)
    run(sys.executable, "-m", "twine", "check", "--strict", tmp_path / f"{NAME}.tar.gz", wheel)
    source = tmp_path / NAME
    assert not (source / "legacy_fixtures").exists()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "out", cwd=source)
    again = zipfile.ZipFile(tmp_path / "out" / wheel.name).namelist()
    assert sorted(again) == sorted(zipfile.ZipFile(wheel).namelist())


def test_the_readme_shows_no_picture_that_an_index_would_not_find() -> None:
    assert not re.findall(r"!\[[^]]*\]\((?!https://)", (ROOT / "README.md").read_text("utf-8"))


def test_the_dockerfile_is_sound() -> None:
    steps = instructions()
    assert [word for word, _ in steps].count("FROM") == 2
    (base,) = (rest for word, rest in steps if word == "ARG" and rest.startswith("BASE="))
    assert re.fullmatch(r"BASE=python:[0-9.]+-slim-[a-z]+@sha256:[0-9a-f]{64}", base)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for word, rest in steps:
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in ignored, source
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (installed,) = (rest for word, rest in steps if word == "RUN")
    assert '".[${EXTRAS}]"' in installed
    (wanted,) = (rest[7:].split(",") for word, rest in steps if word == "ARG" and rest.startswith("EXTRAS="))
    assert set(wanted) <= set(extras)
    assert not any("dissect" in line for name in wanted for line in extras[name])  # AGPL: docs/licences.md
    assert ("ENTRYPOINT", '["/opt/migrate/bin/migrate"]') in steps


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" not in project
    assert project["dynamic"] == ["version"]
