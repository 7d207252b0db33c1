"""The reference page, the parser and the contract say the same."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from migrate.cli.main import COMMANDS, cli
from tests.command import migrate
from tools.reference import render_reference

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "cli.md"

SHARED = {  # options that programs rely on, with their defaults, in each of convert, plan and batch
    "--format": "docker",
    "--compression": "gzip",
    "--compression-level": None,
    "--empty-layers": "drop",
    "--image": None,
    "--all": None,
    "--platform": "linux/amd64",
    "--fill-platform": None,
    "--on-conflict": "newest",
    "--jobs": None,
    "--report": None,
    "--html": None,
    "--progress": "auto",
    "-v": None,
    "-q": None,
    "--source-type": None,
}
CHOICES = {
    "--format": ["docker", "oci"],
    "--compression": ["gzip", "zstd", "none"],
    "--empty-layers": ["drop", "keep"],
    "--on-conflict": ["newest", "first", "fail", "keep-all"],
    "--progress": ["auto", "bar", "plain", "json", "none"],
    "--source-type": ["docker-archive", "docker-root", "registry-v1", "registry-v2", "dir"],
}


def options_of(name: str) -> dict[str, click.Option]:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    found = {}
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            found.update(dict.fromkeys([*parameter.opts, *parameter.secondary_opts], parameter))
    return found


def rows_of(name: str) -> dict[str, str]:
    """Option → default, as the page's table for one command has them."""
    section = re.search(rf"^## migrate {name}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S)
    assert section is not None
    rows = {}
    for line in section[1].splitlines():
        if line.startswith("| `-"):
            cells = re.split(r"(?<!\\)\|", line)
            for option in re.findall(r"`(--?[a-z-]+)`", cells[1]):
                rows[option] = cells[3].strip(" `")
    return rows


def test_the_page_is_what_the_program_says() -> None:
    assert PAGE.read_text() == render_reference()


@pytest.mark.parametrize("name", ["convert", "plan", "batch"])
def test_every_promised_option_is_there_with_its_default(name: str) -> None:
    parser, page = options_of(name), rows_of(name)
    for option, default in SHARED.items():
        assert option in parser, option
        assert option in page, option
        if default is not None:
            assert str(parser[option].default) == page[option] == default
    for option, values in CHOICES.items():
        kind = parser[option].type
        assert isinstance(kind, click.Choice)
        assert set(values) <= set(kind.choices)
    assert ("--dry-run" in parser) == (name != "plan")


def test_every_exit_code_is_told() -> None:
    codes = re.findall(r"^\| (\d+) \|", PAGE.read_text(), re.M)
    assert codes == ["0", "1", "2", "3", "4", "5", "130"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples(name: str) -> None:
    result = migrate(name, "--help")
    assert result.code == 0
    assert f"migrate {name}" in result.out
    assert "Examples:" in result.out


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_a_terminal_of_80_columns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    help_text = migrate(*filter(None, [name]), "--help").out
    assert [line for line in help_text.splitlines() if len(line) > 80] == []


def test_version_and_mistyped_commands() -> None:
    assert re.fullmatch(r"migrate, version \d+\.\d+\.\d+\S*\n", migrate("--version").out)
    result = migrate("convrt")
    assert result.code == 2
    assert "convert" in result.err
