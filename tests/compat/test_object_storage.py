"""Registry storage in buckets: read, written, and continued after a run was killed, on an S3 server on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.buckets import write_files
from tests.cases import Case, case
from tests.command import migrate
from tests.registries import Server, docker_registry, extract_tree, proxy
from tests.s3 import download, empty_server, s3_client, s3_server

V1 = case("registry-v1-pushed")
V2 = case("registry-v2-mixed-2.8.2")

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with s3_server() as host:
        yield Server(host)


@pytest.fixture
def s3(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server, emptied, with one bucket called `old`."""
    empty_server(server.host, "old", monkeypatch)
    return server


def upload(root: Path, prefix: str) -> None:
    client = s3_client()
    for path in sorted(root.rglob("*")):
        if path.is_file():
            client.put_object(Bucket="old", Key=f"{prefix}/{path.relative_to(root)}", Body=path.read_bytes())


@pytest.mark.parametrize("source", [V1, V2], ids=lambda case: case.name)
def test_a_bucket_is_read_as_the_directory_is(source: Case, s3: Server, tmp_path: Path) -> None:
    del s3
    tree = extract_tree(source, tmp_path)
    upload(tree, "trees/one")
    local = migrate("plan", "--report", "-", "-q", tree)
    remote = migrate("plan", "--report", "-", "-q", "s3://old/trees/one")
    assert remote.code == local.code == 0, remote.err
    left, right = json.loads(local.out), json.loads(remote.out)
    assert [image["image_id"] for image in left["images"]] == [image["image_id"] for image in right["images"]]
    assert left["totals"] == right["totals"]
    assert [source["type"] for source in right["sources"]] == [source["type"] for source in left["sources"]]


def test_a_bucket_gets_the_same_storage_as_a_directory(s3: Server, tmp_path: Path) -> None:
    del s3
    tree = extract_tree(V2, tmp_path)
    assert migrate("convert", "-q", tree, f"registry-storage:{tmp_path / 'local'}").code == 0
    done = migrate("convert", "-q", tree, "registry-storage:s3://old/new")
    assert done.code == 0, done.err
    local = {
        str(path.relative_to(tmp_path / "local")): path.read_bytes()
        for path in (tmp_path / "local" / "docker").rglob("*")
        if path.is_file()
    }
    stored = download("old", "new")
    assert "migration-report.json" in stored
    assert {name: content for name, content in stored.items() if name.startswith("docker/")} == local


@pytest.mark.peer
def test_a_registry_serves_what_came_from_a_bucket(s3: Server, tmp_path: Path) -> None:
    del s3
    upload(extract_tree(V1, tmp_path), "v1")
    done = migrate("convert", "-q", "--empty-layers", "keep", "s3://old/v1", "registry-storage:s3://old/new")
    assert done.code == 0, done.err
    with docker_registry(write_files(download("old", "new"), tmp_path / "storage")) as registry:
        back = migrate("plan", "-q", "--report", "-", "--empty-layers", "keep", f"docker://{registry.host}")
    images = {ref: image["image_id"] for image in json.loads(back.out)["images"] for ref in image["references"]}
    assert images == {reference: row["image_id"] for reference, row in V1.expected["images"].items()}


def test_a_killed_run_is_continued(s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while it writes: no tag is visible; run again, it sends what was missing and no blob twice."""
    tree = extract_tree(V2, tmp_path)
    victim: list[subprocess.Popen[bytes]] = []
    puts = 0

    def kill_at_the_twentieth_put(number: int, method: str, path: str) -> str | None:
        nonlocal puts
        del number
        puts += method == "PUT" and "/blobs/" in path
        if puts == 20:
            os.kill(victim[0].pid, signal.SIGKILL)
            return "cut"
        return None

    command = [sys.executable, "-m", "migrate", "convert", "-q", str(tree), "registry-storage:s3://old/new"]
    with proxy(s3, kill_at_the_twentieth_put) as (host, _):
        victim.append(subprocess.Popen(command, env={**os.environ, "AWS_ENDPOINT_URL": f"http://{host}"}))
        assert victim[0].wait() == -signal.SIGKILL
    first = download("old", "new")
    assert 0 < len(first) < 20 and not any("/tags/" in name for name in first)
    with proxy(s3) as (host, passage):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}")
        assert migrate("convert", "-q", tree, "registry-storage:s3://old/new").code == 0
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3.host}")
    again = {path.partition("/new/")[2].partition("?")[0] for method, path in passage.requests if method == "PUT"}
    assert not again & first.keys()
    assert migrate("convert", "-q", tree, f"registry-storage:{tmp_path / 'local'}").code == 0
    assert sum(name.startswith("docker/") for name in download("old", "new")) == sum(
        path.is_file() for path in (tmp_path / "local" / "docker").rglob("*")
    )


@pytest.mark.parametrize("location", ["s3://old/nothing", "s3://missing/x", "s3://old/text"])
def test_what_is_no_storage_is_refused_in_one_line(location: str, s3: Server, tmp_path: Path) -> None:
    del s3
    s3_client().put_object(Bucket="old", Key="text/readme", Body=b"hello")
    done = migrate("convert", location, tmp_path / "out")
    assert done.code == 4 and len(done.errors) == 1 and location in done.errors[0]


def test_no_layer_comes_twice_from_a_bucket(s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(extract_tree(V1, tmp_path), "v1")
    with proxy(s3) as (host, passage):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}")
        assert migrate("convert", "-q", "s3://old/v1", tmp_path / "out").code == 0
    fetched = [path for method, path in passage.requests if method == "GET" and path.endswith("/layer")]
    assert fetched and len(fetched) == len(set(fetched))
