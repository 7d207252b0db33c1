"""Names whose bytes are no UTF-8: of sources, targets, members, entries of layers, repositories and tags."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from urllib.parse import unquote_to_bytes

import orjson
import pytest

from migrate.cli.main import COMMANDS
from migrate.documents.json_text import text_of_uri
from tests.archives import V1Archive, layer_json, layer_tar, legacy_id
from tests.command import Result, migrate

ODD = "caf\udce9"
"""As the file system's `caf\\xe9` reads in Python."""


def odd_archive() -> bytes:
    """One image whose layer has odd names, one that is damaged, and members of odd names beside them."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as opened:
        opened.addfile(tarfile.TarInfo(f"etc/{ODD}"))
        link = tarfile.TarInfo(f"{ODD}-link")
        link.type, link.linkname, link.uname = tarfile.SYMTYPE, f"to/{ODD}", ODD
        opened.addfile(link)
    archive = V1Archive()
    archive.tag("team/web", "1.0", archive.layer("one", tar=tar.getvalue()))
    archive.tag("team/cut", "1.0", archive.layer("two", tar=tar.getvalue()[:700]))
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as opened:
        with tarfile.open(fileobj=io.BytesIO(archive.build())) as plain:
            for member in plain:
                opened.addfile(member, plain.extractfile(member))
        for name in (ODD, f"{ODD}/json", f"{ODD}/layer.tar"):
            opened.addfile(tarfile.TarInfo(name))
    return whole.getvalue()


def odd_registry(root: Path) -> None:
    """A v1 registry's storage whose only image has names that are no text."""
    identity = legacy_id("image")
    image = root / "images" / identity
    image.mkdir(parents=True)
    (image / "json").write_bytes(layer_json(identity))
    (image / "ancestry").write_text(json.dumps([identity]))
    (image / "layer").write_bytes(layer_tar("a"))
    repository = root / "repositories" / "library" / ODD
    repository.mkdir(parents=True)
    (repository / "_index_images").write_text(json.dumps([{"id": identity}]))
    (repository / f"tag_{ODD}").write_text(identity)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("names")
    (directory / f"{ODD}.tar").write_bytes(odd_archive())
    odd_registry(directory / f"{ODD}.v1")
    assert migrate("convert", f"{ODD}.tar", f"{ODD}.v1", f"{ODD}.out", cwd=directory).code == 3
    assert migrate("convert", f"{ODD}.tar", f"oci-archive:{ODD}.oci", cwd=directory).code == 3
    assert migrate("batch", f"{ODD}.tar", f"{ODD}.batch", cwd=directory).code == 3
    assert migrate("batch", f"{ODD}.tar", "--shard", "1/1", f"{ODD}.shard", cwd=directory).code == 3
    (directory / "foreign").mkdir()
    (directory / "foreign" / ODD).write_bytes(b"")
    (directory / "foreign" / "oci-layout").write_bytes(b"{}")
    return directory


@pytest.fixture(autouse=True)
def strict_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in every locale but C and POSIX."""
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")


TEXTS = [
    ("plan @.tar", 3),
    ("plan --deep @.tar @.v1", 3),
    ("plan -vv --progress bar @.tar", 3),
    ("plan --check-rootfs --report - @.tar", 3),
    ("plan --html - @.tar @.v1", 3),
    ("plan --deep --html - @.tar", 3),
    ("plan --image @ @.tar", 4),
    ("plan --platform linux/@ @.tar", 2),
    ("plan --source-type @ @.tar", 2),
    ("plan @.none", 4),
    ("convert --html page.html @.tar again", 3),
    ("convert --report @.json --html @.html @.tar @.again", 3),
    ("convert @.tar docker-archive:@.docker", 3),
    ("convert @.v1 registry-storage:@.registry", 0),
    ("convert --rename web=@ --tag-template @-{tag} @.tar @.renamed", 3),
    ("convert @.tar @.tar/inside", 2),
    ("inspect @.tar", 3),
    ("inspect --tree @.tar", 3),
    ("inspect @.v1", 0),
    ("inspect @.none", 4),
    ("verify @.out", 0),
    ("find @.out team/web", 0),
    ("gc --dry-run @.out", 0),
    ("export @.out team/web:1.0 nothing", 2),
    ("verify @.oci", 0),
    ("verify foreign", 3),
    ("verify @.none", 4),
    ("show @.out team/web:1.0", 0),
    ("show @.out team/web:1.0 --layers", 0),
    ("show @.out team/web:1.0 --files", 0),
    ("show @.out @", 2),
    ("show @.none x", 4),
    ("map @.out", 0),
    ("map @.out team/web:1.0", 0),
    ("map --csv @.out", 0),
    ("map @.out @@@@", 2),
    ("report @.out", 0),
    ("report --html - @.out", 0),
    ("report --html @.page @.out", 0),
    ("report @.none", 4),
    ("batch @.tar @.v1 @.shelf", 3),
    ("batch --dry-run -v --html - @.tar @.none", 3),
    ("batch --status @.batch", 0),
    ("batch --status @.none", 2),
    ("batch --shard 1/1 @.tar @.part", 3),
    ("batch --merge @.shard", 3),
    ("batch --failed-list @.list --converted-list @.more @.tar @.listed", 3),
    ("push @.out docker://@", 2),
    ("push @.out @", 2),
]
DOCUMENTS = [
    ("inspect --json @.tar", 3),
    ("inspect --json @.v1", 0),
    ("plan --report - --deep --check-rootfs @.tar @.v1", 3),
    ("verify --json @.out", 0),
    ("verify --json @.oci", 0),
    ("verify --json foreign", 3),
    ("show @.out team/web:1.0 --json", 0),
    ("show @.out team/web:1.0 --layers --json", 0),
    ("map --json @.out", 0),
    ("map --json @.out team/web:1.0", 0),
    ("report --json @.out", 0),
    ("batch --dry-run --report - @.tar @.v1 @.none", 3),
    ("batch --status --json @.batch", 0),
]
EVENTS = [
    ("plan -q --progress json @.tar @.v1 @.none", 3),
    ("convert -q --dry-run --progress json @.tar @.none", 3),
    ("batch -q --dry-run --progress json @.tar @.v1 @.none", 3),
]


def run(line: str, workspace: Path) -> Result:
    return migrate(*(word.replace("@", ODD) for word in line.split()), cwd=workspace)


@pytest.mark.parametrize(("line", "code"), TEXTS)
def test_text(line: str, code: int, workspace: Path) -> None:
    result = run(line, workspace)
    assert result.code == code
    assert not any(0xD800 <= ord(character) < 0xE000 for character in result.out)
    assert "\\udce9" not in result.out


@pytest.mark.parametrize(("line", "code"), DOCUMENTS)
def test_json_has_the_replacement_character(line: str, code: int, workspace: Path) -> None:
    result = run(line, workspace)
    assert result.code == code
    assert result.json()
    assert "\\ud" not in result.out
    shown = "caf�" in result.out or "\\ufffd" in result.out
    assert shown == ("@" in line and not line.startswith(("show", "map --json @.out team")))


@pytest.mark.parametrize(("line", "code"), EVENTS)
def test_events_have_the_replacement_character(line: str, code: int, workspace: Path) -> None:
    result = run(line, workspace)
    events = [orjson.loads(line) for line in result.err.splitlines() if line.startswith("{")]
    assert result.code == code
    assert "caf�" in "".join(str(event) for event in events)


def test_files_as_json_and_rows_as_csv(workspace: Path) -> None:
    rows = [orjson.loads(row) for row in run("show @.out team/web:1.0 --files --json", workspace).out.splitlines()]
    assert [(row["name"], row["link"]) for row in rows] == [("etc/caf�", None), ("caf�-link", "to/caf�")]
    images = list(csv.DictReader(io.StringIO(run("map --csv @.out", workspace).out)))
    assert {image["sources"] for image in images} == {"caf%E9.tar", "caf%E9.v1"}


def test_files_whose_names_differ_in_such_bytes_alone_are_told_apart(workspace: Path, tmp_path: Path) -> None:
    """By the map; a report, which is read where there is no map, has what is text of them."""
    names = [os.fsdecode(name) for name in (b"caf\xe8.tar", b"caf\xe9.tar")]
    for name in names:
        (tmp_path / name).write_bytes((workspace / f"{ODD}.tar").read_bytes())
    assert migrate("convert", "-q", "--report", "-", *names, "out", cwd=tmp_path).code == 3
    for expected in ({"caf%E8.tar", "caf%E9.tar"}, {"caf�.tar"}):
        found = migrate("find", "out", "*", "--json", cwd=tmp_path).json()["found"]
        assert {source for row in found for source in row["image"]["sources"]} == expected
        shown = migrate("find", "--no-trunc", "out", "*", cwd=tmp_path).out
        assert all(name in shown for name in expected)
        (tmp_path / "out/migration-map.json").unlink(missing_ok=True)


@pytest.mark.parametrize("command", ["convert", "batch"])
def test_a_second_run_leaves_the_map_and_the_report_leads_to_the_file(
    command: str, workspace: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    maps = []
    for _ in range(2):
        assert migrate(command, "-q", f"{ODD}.tar", f"{ODD}.v1", target, cwd=workspace).code == 3
        maps.append((target / "migration-map.json").read_bytes())
    assert maps[0] == maps[1]
    rows = orjson.loads((target / "migration-report.json").read_bytes())["sources"]
    found = [os.path.basename(unquote_to_bytes(row["uri"].removeprefix("file://"))) for row in rows]
    assert found == [os.fsencode(f"{ODD}.tar"), os.fsencode(f"{ODD}.v1")]
    assert all(os.path.exists(os.path.join(os.fsencode(workspace), name)) for name in found)


@pytest.mark.parametrize(
    ("command", "folder", "others"),
    [
        pytest.param("convert", "@/", ["a%41.tar"], id="absolute"),
        pytest.param("convert", "", ["caf\ufffd.tar"], id="a file that really has U+FFFD keeps it"),
        pytest.param("batch", "old 100%/", ["a%41.tar"], id="relative"),
    ],
)
def test_a_run_after_an_upgrade_gives_each_source_once(
    command: str, folder: str, others: list[str], workspace: Path, tmp_path: Path
) -> None:
    """Earlier versions wrote such names into the map with U+FFFD."""
    (tmp_path / folder.strip("@/")).mkdir(exist_ok=True)
    names = [f"{folder.replace('@', str(tmp_path))}{name}" for name in (f"{ODD}.tar", *others)]
    for name in names:
        shutil.copyfile(workspace / f"{ODD}.tar", tmp_path / name)
    written = tmp_path / "out/migration-map.json"
    assert migrate(command, "-q", *names, "out", cwd=tmp_path).code == 3
    new = written.read_bytes()
    document = orjson.loads(new)
    for row in document["images"]:
        assert len(row["sources"]) == 2
        row["sources"] = sorted({text_of_uri(source) or source for source in row["sources"]})
        assert "caf\ufffd.tar" in "".join(row["sources"])
        assert "%E9" not in "".join(row["sources"])
    written.write_bytes(orjson.dumps(document))
    assert migrate(command, "-q", *names, "out", cwd=tmp_path).code == 3
    assert written.read_bytes() == new


def test_the_lists_of_a_batch_keep_the_bytes(workspace: Path) -> None:
    assert run("batch -q --failed-list failed --dry-run @.tar @.none", workspace).code == 3
    assert (workspace / "failed").read_bytes() == os.fsencode(f"{ODD}.tar") + b"\n"


def test_messages_send_no_control_characters(tmp_path: Path) -> None:
    archive = V1Archive()
    archive.tag("x", "1", archive.layer("one", raw=b"{"))
    path = tmp_path / "a\x1b[31m.tar"
    path.write_bytes(archive.build())
    result = migrate("inspect", path)
    assert result.code == 4
    assert "a\\x1b[31m.tar" in result.err
    assert "\x1b" not in result.err


def test_every_command_is_tried() -> None:
    assert {line.split()[0] for line, _ in TEXTS} == set(COMMANDS)
