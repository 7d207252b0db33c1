"""The lock of the lowest versions follows pyproject.toml; with the lowest click, every command and completion loads."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from migrate.cli.main import COMMANDS
from tests.command import migrate

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?>=([0-9.]+)(?:\s*;.*)?")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def parts(version: str) -> list[int]:
    numbers = [int(number) for number in version.split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return numbers


def test_the_lock_has_the_minimum_of_each_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [
        *project["dependencies"],
        *(line for name in extras if name not in {"dev", "docs"} for line in extras[name]),
    ]
    lock = (ROOT / "requirements" / "lowest.lock").read_text()
    locked = dict(re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([0-9.]+)", lock, re.M))
    pins = {canonical(name): version for name, version in locked.items()}
    checked = 0
    for requirement in wanted:
        if requirement.startswith("docker-legacy-migrate["):
            continue
        match = REQUIREMENT.fullmatch(requirement)
        assert match is not None, f"{requirement}: not of the form NAME>=VERSION"
        assert parts(pins[canonical(match[1])]) == parts(match[2]), requirement
        checked += 1
    assert checked > 15


def test_help_of_convert_is_in_groups() -> None:
    lines = migrate("convert", "--help").out.splitlines()
    assert [line for line in lines if re.fullmatch(r"[A-Z][a-z]+:", line)] == [
        *("Source:", "Images:", "Names:", "Output:", "Safety:")
    ]
    assert lines.index("Names:") < next(place for place, line in enumerate(lines) if "--rename" in line)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_loads(command: str) -> None:
    result = migrate(command, "--help")
    assert result.code == 0
    assert result.out.startswith(f"Usage: migrate {command} ")
