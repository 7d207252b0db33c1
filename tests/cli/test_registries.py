"""Registries on the command line: what is recognised, and what is refused in one line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.archives import V1Archive
from tests.cases import case
from tests.command import migrate
from tests.peers import free_port
from tests.registries import extract_tree
from tests.registry_content import RegistryContent
from tests.scripted import Reply, Request, answers, scripted_server
from tests.v1_registry import V1Tree
from tests.v1_server import V1Server


@pytest.mark.parametrize(
    ("name", "inside", "kind"),
    [
        ("registry-v1-pushed", "", "registry-v1"),
        ("registry-v2-schema1-2.1.1", "", "registry-v2"),
        ("registry-v2-schema1-2.1.1", "docker/registry/v2", "registry-v2"),
        ("registry-v2-schema1-2.1.1", "docker", "registry-v2"),
    ],
)
def test_storage_is_recognised_by_its_content(name: str, inside: str, kind: str, tmp_path: Path) -> None:
    root = extract_tree(case(name), tmp_path) / inside
    shown = migrate("inspect", root)
    assert shown.code == 0 and f": {kind}, " in shown.out.splitlines()[0]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("oci:somewhere", "push writes to docker://"),
        ("docker://", "name a host"),
        ("docker://host/UPPER", "not the beginning of a repository's name"),
    ],
)
def test_push_refuses_what_is_no_registry(target: str, said: str, tmp_path: Path) -> None:
    done = migrate("push", tmp_path, target)
    assert done.code == 2 and said in done.err


def test_a_registry_that_is_not_there(tmp_path: Path) -> None:
    host = f"127.0.0.1:{free_port()}"
    source = migrate("plan", f"docker://{host}/x")
    assert source.code == 4 and len(source.errors) == 1 and host in source.errors[0]
    (tmp_path / "a.tar").write_bytes(_archive())
    assert migrate("convert", "-q", tmp_path / "a.tar", tmp_path / "layout").code == 0
    target = migrate("push", tmp_path / "layout", f"docker://{host}")
    assert target.code == 5 and len(target.errors) == 1
    assert target.errors[0].count(host) == 1 and target.errors[0].count("http: ") == 1


def test_push_looks_at_the_layout_before_it_asks_the_registry(tmp_path: Path) -> None:
    done = migrate("push", tmp_path / "absent", f"docker://127.0.0.1:{free_port()}")
    assert done.code == 4 and f"{tmp_path}/absent: " in done.err


@pytest.mark.parametrize("location", ["docker:///x", "docker://host/UPPER CASE", "nonsense://x/y"])
def test_locations_that_name_nothing(location: str) -> None:
    done = migrate("plan", location)
    assert done.code == 2 and len(done.errors) == 1


def test_renames_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(_archive())
    done = migrate(
        "convert", "-q", "--rename", "^team/=moved/", tmp_path / "a.tar", f"registry-storage:{tmp_path / 'r'}"
    )
    assert done.code == 0, done.err
    assert (tmp_path / "r/docker/registry/v2/repositories/moved/app/_manifests/tags/1.0/current/link").is_file()


def write_layout_with_names_that_meet(directory: Path) -> None:
    """`layout` below `directory`: two images whose names differ in nothing but the host."""
    archive = V1Archive()
    archive.tag("reg1.example.com:5000/app", "1.0", archive.layer("one"))
    archive.tag("reg2.example.com:5000/app", "1.0", archive.layer("two"))
    (directory / "a.tar").write_bytes(archive.build())
    assert migrate("convert", "-q", directory / "a.tar", directory / "layout").code == 0


def test_push_sends_nothing_where_two_names_meet(tmp_path: Path) -> None:
    write_layout_with_names_that_meet(tmp_path)
    with scripted_server(answers()) as (host, seen):
        done = migrate("push", tmp_path / "layout", f"docker://{host}")
    assert done.code == 5 and len(done.errors) == 1
    assert "two images would be called app:1.0" in done.err and "reg2.example.com:5000/app:1.0" in done.err
    assert not seen


def test_push_sends_the_one_that_is_chosen(tmp_path: Path) -> None:
    write_layout_with_names_that_meet(tmp_path)
    upload = Reply(202, headers={"Location": "/v2/app/blobs/uploads/1"})
    methods = {"POST": upload, "PUT": Reply(201), "GET": Reply(), "HEAD": Reply(404)}
    with scripted_server(lambda request: methods[request.method]) as (host, seen):
        done = migrate("push", "--image", "reg1.*", tmp_path / "layout", f"docker://{host}")
    assert done.code == 0 and done.out.startswith("1 names pushed")
    assert [request.path for request in seen if request.method == "PUT"][-1] == "/v2/app/manifests/1.0"


@pytest.mark.parametrize("has_it", [False, True])
def test_a_dry_run_of_push_sends_nothing(has_it: bool, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(_archive())
    assert migrate("convert", "-q", tmp_path / "a.tar", tmp_path / "layout").code == 0
    blobs = {path.name: path.stat().st_size for path in (tmp_path / "layout" / "blobs" / "sha256").iterdir()}
    images = json.loads((tmp_path / "layout" / "index.json").read_bytes())["manifests"]
    digests = {image["annotations"]["org.opencontainers.image.ref.name"]: image["digest"] for image in images}

    def answer(request: Request) -> Reply:
        """A registry that is empty, or that has all of the layout."""
        if request.path == "/v2/":
            return Reply()
        repository, _, name = (
            request.path.removeprefix("/v2/").replace("/blobs/", "/manifests/").partition("/manifests/")
        )
        digest = digests.get(f"{repository}:{name}", name)
        if request.method != "HEAD" or not has_it:
            return Reply(404)
        size = str(blobs[digest.removeprefix("sha256:")])
        return Reply(headers={"Docker-Content-Digest": digest, "Content-Length": size})

    with scripted_server(answer) as (host, requests):
        done = migrate("push", "--dry-run", tmp_path / "layout", f"docker://{host}")
    assert done.code == 0, done.err
    assert {request.method for request in requests} <= {"GET", "HEAD"}
    *names, total = done.out.splitlines()
    if has_it:
        assert (names, total) == (
            [],
            f"0 of {len(digests)} names would be pushed: 0 blobs (0 bytes) to send, 0 to mount",
        )
        return
    assert names == [f"{name}  {digest}" for name, digest in sorted(digests.items())]
    sent = {name: size for name, size in blobs.items() if f"sha256:{name}" not in digests.values()}
    assert f"{len(sent)} blobs ({sum(sent.values()):,} bytes) to send" in total


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stuck", ["HEAD", "POST"])
def test_one_signal_ends_a_push_whose_requests_hang(stuck: str, number: int, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(_archive())
    assert migrate("convert", "-q", tmp_path / "a.tar", tmp_path / "layout").code == 0
    arrived, over = threading.Event(), threading.Event()

    def answer(request: Request) -> Reply:
        if request.method == stuck:
            arrived.set()
            return Reply(wait=over)
        return Reply(404 if request.method == "HEAD" else 200)

    with scripted_server(answer) as (host, _):
        _ends_at_a_signal(number, arrived, over, "push", "-q", str(tmp_path / "layout"), f"docker://{host}")


def test_one_signal_ends_a_conversion_whose_downloads_hang(tmp_path: Path) -> None:
    content = RegistryContent()
    for number in range(4):
        content.add("app", f"{number}", content.schema1(f"layer-{number}"))
    arrived, over = threading.Event(), threading.Event()

    def answer(request: Request) -> Reply:
        if "/blobs/" in request.path:
            arrived.set()
            return Reply(wait=over)
        return content.answer(request)

    with scripted_server(answer) as (host, _):
        _ends_at_a_signal(
            signal.SIGINT, arrived, over, "convert", "-q", "--jobs", "4", f"docker://{host}", str(tmp_path / "layout")
        )


@pytest.mark.parametrize("stuck", ["ancestry", "json"])
def test_one_signal_ends_a_listing_whose_requests_hang(stuck: str, tmp_path: Path) -> None:
    tree = V1Tree(tmp_path / "tree")
    tree.add_archive(_archive())
    server = V1Server(tree.root)
    arrived, over = threading.Event(), threading.Event()

    def answer(request: Request) -> Reply:
        if request.path.endswith(f"/{stuck}"):
            arrived.set()
            return Reply(wait=over)
        return server.answer(request)

    with scripted_server(answer) as (host, _):
        _ends_at_a_signal(signal.SIGINT, arrived, over, "plan", "-q", f"docker://{host}")


def _ends_at_a_signal(number: int, arrived: threading.Event, over: threading.Event, *arguments: str) -> None:
    process = subprocess.Popen([sys.executable, "-m", "migrate", *arguments], stderr=subprocess.PIPE)
    try:
        assert arrived.wait(60)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    finally:
        over.set()
        process.kill()
        process.wait()
    assert process.returncode == 130 and b"run the same command again" in said


def test_a_folder_with_other_things_is_no_target(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(_archive())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    done = migrate("convert", tmp_path / "a.tar", f"registry-storage:{tmp_path / 'full'}")
    assert done.code == 5 and "letter.txt" in done.err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["letter.txt"]


def _archive() -> bytes:
    archive = V1Archive()
    archive.tag("team/app", "1.0", archive.layer("base"))
    return archive.build()
