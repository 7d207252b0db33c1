"""Every `migrate` command of the documentation is one that the program takes, and what can be run here is run.

Paths of the documentation are replaced by inputs of real engines. What needs a network, a scheduler or a device is
parsed only; what follows in a pipe is run as far as the tools are Debian's own.
"""

from __future__ import annotations

import importlib
import lzma
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from migrate.cli.main import COMMANDS, cli
from tests.cases import case
from tests.command import migrate
from tests.registry_content import RegistryContent

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
STAND_INS = {  # a path or name of the documentation → what stands there for the test
    "/mnt/old-disk/var/lib/docker": "docker-root",
    "/mnt/old/var/lib/docker": "docker-root",
    "docker-backup.tar.gz": "docker-backup.tar",
    "/srv/registry": "registry",
    "etc/nginx": "etc",
    "/srv/old-registry": "registry",
    "/var/lib/registry": "registry",
    ":/srv/new": ":new-registry",
    "/archives/": "shelf/",
    "/archives ": "shelf ",
    "acme/web": "team/web",
    " busybox": " team/web:1.0",
    "8c2e06607696": "28478d83989f",
    "--as-of 2014-03-01": "--as-of 2099-12-31",
    "legacy_fixtures/": f"{ROOT}/legacy_fixtures/",
}
ELSEWHERE = re.compile(
    r"docker://|s3://|https?://|tcp://|ssh |pip install|/var/lib/docker|pool-data|/dev/|old1\.tar|@|/shared/|--shard"
    r"|old-server"
)
KNOWN_TOOLS = {"migrate", "sha256sum", "head", "find", "sort", "cat", "tar"}


def documented() -> list[str]:
    """Commands in code blocks, one line each, without comments, and commands that fill a cell of a table; those of
    `--help` come with docs/reference/cli.md."""
    found: dict[str, None] = {}
    for page in PAGES:
        text = page.read_text("utf-8")
        cells = re.findall(r"(?<=\| )`((?:[\w-]+ )*migrate (?!COMMAND)[^`]+)`(?= \|)", text)
        found |= dict.fromkeys(cell.replace("\\|", "|") for cell in cells if not re.search(r"SOURCE|LAYOUT|…", cell))
        for block in re.findall(r"^```(?:sh|bash|console)?\n(.*?)^```", text, re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                text = re.sub(r"\s+#\s.*|\s{4,}[a-z].*$", "", line.strip().removeprefix("$ ")).strip()
                if re.search(r"(^|[\s/|])migrate [a-z]", text) and not re.search(r"\[OPTIONS\]|^migrate:", text):
                    found[" ".join(text.split())] = None
    return list(found)


def parts_of(line: str) -> list[str]:
    """The commands of a line of shell: split at `|`, `&&` and `;` outside of quotes."""
    return [part.strip() for part in re.split(r"""(?:\||&&|;)(?=(?:[^'"]|'[^']*'|"[^"]*")*$)""", line) if part.strip()]


def stages(line: str) -> Iterator[list[str]]:
    """The words of each `migrate` command in a line of shell."""
    for part in parts_of(line):
        words = shlex.split(part.partition(" > ")[0], comments=True)
        names = [index for index, word in enumerate(words) if word == "migrate" or word.endswith("/bin/migrate")]
        if names:
            yield words[names[0] + 1 :]


def test_there_are_examples_for_every_command() -> None:
    used = {words[0] for line in documented() for words in stages(line) if words}
    assert used >= set(COMMANDS)


@pytest.mark.parametrize("line", documented())
def test_the_program_takes_it(line: str) -> None:
    for name, *words in stages(line):
        if name.startswith("-"):
            continue
        command = cli.get_command(click.Context(cli), name)
        assert command is not None, name
        command.make_context(name, list(words), parent=click.Context(cli, info_name="migrate"))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("docs")
    (work / "shelf").mkdir()
    shutil.copy(ROOT / "docs" / "README.md", work)
    for name in ("docker-compose.yml", "app.service", "pinned-ids.txt"):
        (work / name).write_text("28478d83989f\n")
    plain = case("save-1.9.1-multi").write_plain(work).rename(work / "archive.tar")
    shutil.copy(plain, work / "shelf" / "one.tar")
    case("save-1.6.2-repo").write_plain(work / "shelf")
    shutil.copy(case("save-1.9.1-multi").path / "save.tar.xz", work / "archive.tar.xz")
    backup = lzma.decompress((ROOT / "legacy_fixtures/store-1.9.1-vfs/store.tar.xz").read_bytes())
    (work / "docker-backup.tar").write_bytes(backup)
    for name, source in (("docker-root", "store-1.9.1-vfs/store"), ("registry", "registry-v2-schema1-2.1.1/registry")):
        (work / name).mkdir()
        archive = ROOT / "legacy_fixtures" / f"{source}.tar.xz"
        subprocess.run(["tar", "-xf", archive, "-C", work / name], check=True)
    assert migrate("convert", plain, f"docker-archive:{work}/images.tar", "-q").code == 0
    content = RegistryContent()
    manifest = content.schema1("base", "app")
    for place, prefix in (("skopeo-dir", ""), ("skopeo-sync/app:1.0", ""), ("artifactory-export/app/1.0", "sha256__")):
        (work / place).mkdir(parents=True)
        (work / place / "manifest.json").write_bytes(manifest)
        for digest, blob in content.blobs.items():
            (work / place / f"{prefix}{digest[7:]}").write_bytes(blob)
    return work


def runnable() -> list[str]:
    """Lines that run here, those that are one command with stand-ins once."""
    return list({there: line for line in documented() if _is_here(there := _with_stand_ins(line))}.values())


def _is_here(line: str) -> bool:
    """True if the line names neither a network nor a place that only the reader has."""
    return not ELSEWHERE.search(line) and not re.search(r"(^|[\s:=])/", line.replace(str(ROOT), ""))


def _with_stand_ins(line: str) -> str:
    for path, stand_in in STAND_INS.items():
        line = line.replace(path, stand_in)
    line = line.replace(".venv/bin/migrate", "migrate")
    parts = parts_of(line)
    known = [part for part in parts if shlex.split(part)[0] in KNOWN_TOOLS]
    if known == parts:
        return line
    return " | ".join(known) if known and known == parts[: len(known)] else line


def test_most_examples_are_run() -> None:
    assert len(runnable()) > len(documented()) / 2


@pytest.fixture(scope="module")
def targets(workspace: Path) -> Path:
    """One target of each kind of run, of which each example gets a copy."""
    assert migrate("convert", "archive.tar", "targets/convert", "-q", cwd=workspace).code == 0
    assert migrate("batch", "shelf/", "targets/batch", "-q", cwd=workspace).code == 0
    return workspace / "targets"


@pytest.mark.parametrize("line", runnable())
def test_it_runs(line: str, workspace: Path, targets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if re.search(r"migrate (verify|map|show|report|push|find|export|gc)|--status|--retry|--merge", line):
        kind = "batch" if "migrate batch" in line else "convert"
        shutil.copytree(targets / kind, workspace / "new-layout")
    monkeypatch.chdir(workspace)
    line = _with_stand_ins(line)
    try:
        if re.search(r"[|<>;&*]|migrate export", line):
            code, err = _in_shell(line)
        else:
            (words,) = stages(line)
            done = migrate(*words)
            code, err = done.code, done.err
    finally:
        shutil.rmtree(workspace / "new-layout", ignore_errors=True)
    nothing_failed = 4 if "--from-file failed.txt" in line else 0  # then the list of what failed names no image
    assert code == nothing_failed, err


def _in_shell(line: str) -> tuple[int, str]:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return done.returncode, done.stderr.decode()


def test_the_first_command_prints_what_the_readme_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command, shown = re.findall(r"^```(?:sh)?\n(.*?)^```", PAGES[0].read_text("utf-8"), re.M | re.S)[:2]
    (words,) = stages(command.replace("legacy_fixtures/", f"{ROOT}/legacy_fixtures/"))
    done = migrate(*words)
    seconds = re.compile(r"\b\d+ s$", re.M)
    assert seconds.sub("N s", done.out) == seconds.sub("N s", shown)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_programs_and_configurations_can_be_read() -> None:
    yaml: Any = importlib.import_module("yaml")
    blocks = [
        block
        for page in PAGES
        for block in re.findall(r"^```(yaml|python)\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    ]
    assert {language for language, _ in blocks} == {"yaml", "python"}
    for language, text in blocks:
        if language == "yaml":
            assert all(isinstance(document, dict) for document in yaml.safe_load_all(text)), text
        else:
            compile(text, "a page", "exec")


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    named = re.findall(r"[\w./-]+\.md", (ROOT / "mkdocs.yml").read_text("utf-8"))
    assert sorted(named) == sorted(str(page.relative_to(ROOT / "docs")) for page in PAGES[1:])


def test_every_decision_is_in_their_list() -> None:
    decisions = ROOT / "docs" / "decisions"
    named = re.findall(r"\((\d\S+\.md)\)", (decisions / "README.md").read_text("utf-8"))
    assert named == sorted(page.name for page in decisions.glob("[0-9]*.md"))


def rows_of(text: str) -> list[list[str]]:
    """The cells of each row of every table, without the heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    heads = {index - 1 for index, line in enumerate(lines) if re.fullmatch(r"[|:-]+", line)}
    body = [line for index, line in enumerate(lines) if index not in heads and index - 1 not in heads]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in body]


def test_every_cell_of_the_comparison_has_a_source() -> None:
    tables, _, sources = (ROOT / "docs" / "comparison.md").read_text("utf-8").partition("## Sources")
    columns = re.findall(r"^\*\*(\w): ", sources, re.M)
    listed = re.findall(r"^- \[(\w\d+)\]", sources, re.M)
    rows = rows_of(tables)
    assert len(rows) > 40 and len(listed) == len(set(listed))
    for _, *cells in rows:
        for letter, cell in zip(columns, cells, strict=True):
            assert cell == "–" or re.search(rf"\[{letter}\d*\]", cell), cell
    assert set(re.findall(r"\[(\w\d+)\]", tables)) == set(listed)


def test_every_row_about_tools_states_how_it_was_found_out() -> None:
    rows = rows_of((ROOT / "docs" / "howto" / "tools.md").read_text("utf-8"))
    assert len(rows) > 20
    for *_, found in rows:
        assert re.match(r"[THS] \S", found), found
