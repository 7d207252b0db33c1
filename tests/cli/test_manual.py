"""Man pages and completion: made from the commands, so that they cannot say anything else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from migrate.cli.main import COMMANDS, cli
from tests.cases import case
from tests.command import migrate
from tools.manual import render_pages


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return render_pages()


def test_one_page_for_each_command(pages: dict[str, str]) -> None:
    assert sorted(pages) == sorted(["migrate.1", *(f"migrate-{name}.1" for name in COMMANDS)])


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_names_every_option_and_has_examples(pages: dict[str, str], name: str) -> None:
    page = pages[f"migrate-{name}.1"]
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert all(option.replace("-", "\\-") in page for option in parameter.opts)
    assert ".SH EXAMPLES\n.nf\n" in page
    assert f"migrate {name}" in page


def test_pages_are_sound_roff(pages: dict[str, str]) -> None:
    for name, page in pages.items():
        assert page.isascii(), name
        requests = {line.split()[0] for line in page.splitlines() if line.startswith(".")}
        assert requests <= {".TH", ".SH", ".TP", ".PP", ".B", ".BR", ".I", ".nf", ".fi"}, name
        assert page.count("\n.nf\n") == page.count("\n.fi\n"), name
        assert not re.search(r"(?<!\\)-\w", page.partition(".SH DESCRIPTION")[2].replace("\\-", "")), name


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    assert "_MIGRATE_COMPLETE" in _complete({"_MIGRATE_COMPLETE": f"{shell}_source"})


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("migrate con", ["convert"]),
        ("migrate convert --empty-l", ["--empty-layers"]),
        ("migrate convert --empty-layers ", ["drop", "keep"]),
        ("migrate report --h", ["--html", "--help"]),
    ],
)
def test_completion(words: str, found: list[str]) -> None:
    answer = _complete(
        {
            "_MIGRATE_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
        }
    )
    assert sorted(line.partition(",")[2] for line in answer.split()) == sorted(found)


def _complete(environment: dict[str, str]) -> str:
    program = "import sys; sys.argv[0] = 'migrate'; from migrate.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment}, capture_output=True, check=True
    )
    return done.stdout.decode()


def test_completion_of_files_and_names(tmp_path: Path) -> None:
    source = case("save-1.9.1-multi").write_plain(tmp_path)
    assert migrate("convert", source, tmp_path / "out", "-q").code == 0

    def complete(words: str) -> list[str]:
        environment = {"_MIGRATE_COMPLETE": "bash_complete", "COMP_WORDS": words}
        return _complete({**environment, "COMP_CWORD": str(len(words.split(" ")) - 1)}).split()

    assert complete("migrate convert arch") == ["file,arch"]
    assert complete(f"migrate show {tmp_path}/out team/web-") == ["plain,team/web-twin:a", "plain,team/web-twin:b"]
    (found,) = complete(f"migrate map {tmp_path}/out 10d5")
    assert found.startswith("plain,10d546078acd1390")
    assert complete(f"migrate show {tmp_path}/none x") == []
