"""Every output through every tool at hand: the names, IDs and file systems that each makes of it.

docs/howto/tools.md describes what is tested here; the commands are the same.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from tests.cases import case
from tests.command import migrate
from tests.peers import docker_engine, need, run, tree_of, wait_until
from tests.registries import docker_registry

pytestmark = pytest.mark.peer

Tree = dict[str, tuple[object, ...]]


class Outputs:
    """One archive of several images, in each form. `ids` by name, as the report has them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        source = case("save-1.9.1-multi").write_plain(folder)
        self.layout = folder / "layout"
        self.oci = folder / "oci"
        self.zstd = folder / "zstd"
        self.archive = folder / "docker.tar"
        self.oci_archive = folder / "oci.tar"
        self.storage = folder / "storage"
        for target, options in {
            f"{self.layout}": [],
            f"{self.oci}": ["--format", "oci"],
            f"{self.zstd}": ["--format", "oci", "--compression", "zstd"],
            f"docker-archive:{self.archive}": [],
            f"oci-archive:{self.oci_archive}": ["--format", "oci"],
            f"registry-storage:{self.storage}": [],
        }.items():
            report = folder / "report.json"
            result = migrate("convert", *options, "--report", report, source, target)
            assert result.code == 0, result.err
        self.carried = folder / "carried"  # of images that come with manifests in Docker's types
        assert migrate("convert", "--format", "oci", self.layout, self.carried).code == 0
        images: list[dict[str, Any]] = json.loads(report.read_bytes())["images"]
        self.ids = {name: str(image["image_id"]) for image in images for name in image["references"]}
        self.diff_ids = {
            name: [row["diff_id"] for row in image["layers"] if row["blob_digest"]]
            for image in images
            for name in image["references"]
        }
        self.first = sorted(self.ids)[0]

    def tar_of(self, layout: Path) -> bytes:
        return run("tar", "-C", layout, "-c", ".").stdout

    @cached_property
    def first_tree(self) -> Tree:
        target = self.folder / "export.tar"
        assert migrate("export", self.oci, self.first, "-o", target).code == 0
        return normal(target.read_bytes())


def normal(tar: bytes) -> Tree:
    """What a tool has no choice about: names without `./` and `/` around them, modes without the type, hard links as
    the file that they are. Links of one file have one time, and tools differ in whose header gives it.
    """
    named = {_bare(name): value for name, value in tree_of(tar).items()}
    linked = {_bare(str(value[5])) for value in named.values() if value[0] == tarfile.LNKTYPE}
    found: Tree = {}
    for name, value in named.items():
        kind, mode, uid, gid, time, link, major, minor, content = value
        if kind == tarfile.LNKTYPE:
            kind, mode, uid, gid, time, link, major, minor, content = named[_bare(str(link))]
        mode = int(str(mode)) & 0o7777
        shared = name in linked or value[0] == tarfile.LNKTYPE
        found[name] = (kind, mode, uid, gid, None if shared else time, link, major, minor, content)
    return {name: value for name, value in found.items() if name not in _OF_THE_ENGINE}


_OF_THE_ENGINE = frozenset(
    {"", ".", "dev", "etc", "proc", "run", "sys", "etc/hostname", "etc/hosts", "etc/resolv.conf"}
)


def _bare(name: str) -> str:
    return name.removeprefix("./").rstrip("/")


def folder_tree(folder: Path) -> Tree:
    return normal(run("tar", "-C", folder, "--numeric-owner", "-c", ".").stdout)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    return Outputs(tmp_path_factory.mktemp("outputs"))


def full(name: str) -> str:
    """As containerd and Docker 25 name it."""
    first, slash, _ = name.partition("/")
    if slash and ("." in first or ":" in first):
        return name
    return f"docker.io/{name if slash else f'library/{name}'}"


def local(name: str) -> str:
    """As podman and buildah name what has no registry in its name."""
    return name if full(name) == name else f"localhost/{name}"


# --- podman and buildah ------------------------------------------------------------------------------------------

Run = Callable[..., str]


@contextmanager
def containers_storage(command: str) -> Iterator[Run]:
    """`podman` or `buildah` with a store of its own, below a short path: podman asks for that."""
    need(command)
    folder = Path(tempfile.mkdtemp())
    options = ["--root", str(folder / "root"), "--runroot", str(folder / "run"), "--storage-driver", "vfs"]

    def call(*arguments: str | Path) -> str:
        return run(command, *options, *arguments).stdout.decode().strip()

    try:
        yield call
    finally:
        run(command, *options, "rmi", "--all", "--force", check=False)
        shutil.rmtree(folder, ignore_errors=True)


def listed(call: Run) -> dict[str, str]:
    form = "{{.Repository}}:{{.Tag}} {{.ID}}" if "podman" in call("--version") else "{{.Name}}:{{.Tag}} {{.ID}}"
    lines = call("images", "--no-trunc", "--format", form).splitlines()
    return {name: f"sha256:{identity.removeprefix('sha256:')}" for name, identity in map(str.split, lines)}


@pytest.mark.parametrize("form", ["archive", "oci_archive"])
def test_podman_loads_every_image_of_an_archive(form: str, outputs: Outputs, tmp_path: Path) -> None:
    with containers_storage("podman") as podman:
        podman("load", "--input", getattr(outputs, form))
        assert listed(podman) == {local(name): image_id for name, image_id in outputs.ids.items()}
        container = podman("create", local(outputs.first), "/nothing")
        podman("export", "--output", tmp_path / "tree.tar", container)
        podman("rm", container)
        assert normal((tmp_path / "tree.tar").read_bytes()) == outputs.first_tree


@pytest.mark.parametrize("layout", ["oci", "zstd"])
@pytest.mark.parametrize("command", ["podman", "buildah"])
def test_podman_and_buildah_name_an_image_of_a_layout_after_the_folder(
    command: str, layout: str, outputs: Outputs, tmp_path: Path
) -> None:
    with containers_storage(command) as call:
        call("pull", "--quiet", f"oci:{getattr(outputs, layout)}:{outputs.first}")
        folder = f"localhost{getattr(outputs, layout)}"
        names = listed(call)
        assert list(names.values()) == [outputs.ids[outputs.first]]
        assert list(names) != [local(outputs.first)] and folder.rpartition("/")[2] in next(iter(names))


def test_buildah_opens_an_image_of_each_archive(outputs: Outputs, tmp_path: Path) -> None:
    with containers_storage("buildah") as buildah:
        for place in (f"docker-archive:{outputs.archive}", f"oci-archive:{outputs.oci_archive}"):
            container = buildah("from", "--quiet", f"{place}:{outputs.first}")
            mounted = Path(buildah("mount", container))
            tree = folder_tree(mounted)
            buildah("rm", container)
            assert tree == outputs.first_tree
        assert set(listed(buildah).values()) == {outputs.ids[outputs.first]}


# --- skopeo and umoci --------------------------------------------------------------------------------------------


def test_skopeo_finds_each_image_by_its_whole_name(outputs: Outputs, tmp_path: Path) -> None:
    need("skopeo")
    places = [
        f"oci:{outputs.oci}",
        f"oci:{outputs.zstd}",
        f"oci:{outputs.carried}",
        f"oci-archive:{outputs.oci_archive}",
        f"docker-archive:{outputs.archive}",
    ]
    for place in places:
        for name, image_id in outputs.ids.items():
            manifest = json.loads(run("skopeo", "inspect", "--raw", f"{place}:{name}").stdout)
            assert manifest["config"]["digest"] == image_id
            config = json.loads(run("skopeo", "inspect", "--config", "--raw", f"{place}:{name}").stdout)
            assert config["rootfs"]["diff_ids"] == outputs.diff_ids[name]
    refused = run("skopeo", "inspect", f"oci:{outputs.oci}", check=False)
    assert refused.returncode and b"more than one image" in refused.stderr


def test_skopeo_names_an_image_in_the_store_of_podman(outputs: Outputs) -> None:
    need("skopeo")
    with containers_storage("podman") as podman:
        root, scratch = podman("info", "--format", "{{.Store.GraphRoot}} {{.Store.RunRoot}}").split()
        store = f"containers-storage:[vfs@{root}+{scratch}]{full(outputs.first)}"
        run("skopeo", "--insecure-policy", "copy", "-q", f"oci:{outputs.oci}:{outputs.first}", store)
        assert listed(podman) == {full(outputs.first): outputs.ids[outputs.first]}


def test_umoci_lists_and_unpacks_by_the_whole_name(outputs: Outputs, tmp_path: Path) -> None:
    need("umoci")
    for layout in (outputs.oci, outputs.carried):
        assert sorted(run("umoci", "ls", "--layout", layout).stdout.decode().split()) == sorted(outputs.ids)
        bundle = tmp_path / layout.name
        run("umoci", "unpack", "--image", f"{layout}:{outputs.first}", bundle)
        assert folder_tree(bundle / "rootfs") == outputs.first_tree


@pytest.mark.parametrize("layout", ["layout", "zstd"])
def test_umoci_refuses_docker_types_and_zstd(layout: str, outputs: Outputs, tmp_path: Path) -> None:
    need("umoci")
    place = f"{getattr(outputs, layout)}:{outputs.first}"
    assert run("umoci", "unpack", "--image", place, tmp_path / "bundle", check=False).returncode


# --- Docker and containerd ---------------------------------------------------------------------------------------


def test_docker_loads_every_image(outputs: Outputs) -> None:
    tars = [outputs.tar_of(outputs.layout), outputs.tar_of(outputs.oci), outputs.archive.read_bytes()]
    with docker_engine() as engine:
        for tar in (*tars, outputs.oci_archive.read_bytes()):
            engine.load(tar)
            form = "{{.Repository}}:{{.Tag}} {{.ID}}"
            lines = engine.docker("images", "--no-trunc", "--format", form).splitlines()
            assert dict(line.split() for line in lines) == outputs.ids
            container = engine.docker("create", outputs.first, "/nothing").strip()
            tree = normal(run("docker", "-H", f"unix://{engine.socket_path}", "export", container).stdout)
            engine.docker("rm", container)
            expected = outputs.first_tree
            assert {name: tree.get(name) for name in expected} == expected
            engine.remove_all()
        assert "invalid tar header" in engine.load(outputs.tar_of(outputs.zstd), check=False)


@contextmanager
def containerd(folder: Path) -> Iterator[Run]:
    need("containerd", "ctr")
    address = folder / "socket"
    config = folder / "config.toml"
    config.write_text(
        f'version = 2\nroot = "{folder / "root"}"\nstate = "{folder / "state"}"\n'
        f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\n  address = "{address}"\n'
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["containerd", "-c", str(config)], stdout=log, stderr=log)
        try:
            wait_until(process, lambda: run("ctr", "-a", address, "version", check=False), log.name)
            yield lambda *arguments: run("ctr", "-a", address, *arguments).stdout.decode()
        finally:
            process.terminate()
            process.wait(timeout=30)


def test_containerd_imports_every_image(outputs: Outputs, tmp_path: Path) -> None:
    of_an_archive = ""
    with containerd(tmp_path) as ctr:
        for number, tar in enumerate([outputs.layout, outputs.oci, outputs.zstd, outputs.archive, outputs.oci_archive]):
            archive = tar
            if tar.is_dir():
                archive = tmp_path / "layout.tar"
                archive.write_bytes(outputs.tar_of(tar))
            ctr("image", "import", "--snapshotter", "native", archive)
            digests = containerd_digests(ctr)
            names = list(digests)
            assert sorted(names) == sorted(full(name) for name in outputs.ids)
            for name, image_id in outputs.ids.items():
                manifest = json.loads(ctr("content", "get", digests[full(name)]))
                assert manifest["config"]["digest"] == image_id
            if tar.is_dir():
                index = json.loads((tar / "index.json").read_bytes())["manifests"]
                kept = {one["annotations"]["io.containerd.image.name"]: one["digest"] for one in index}
                assert digests == kept
            elif tar == outputs.archive:
                of_an_archive = digests[full(outputs.first)]
            mounted = tmp_path / f"mounted{number}"
            mounted.mkdir()
            ctr("image", "mount", "--snapshotter", "native", full(outputs.first), mounted)
            try:
                assert folder_tree(mounted) == outputs.first_tree
            finally:
                ctr("image", "unmount", "--rm", "--snapshotter", "native", mounted)
            ctr("image", "rm", "--sync", *names)
        for tar in (tmp_path / "layout.tar", outputs.archive):
            ctr("image", "import", "--snapshotter", "native", tar)
        # Its own manifest for the archive names what the store holds: the digest is no property of the archive.
        assert containerd_digests(ctr)[full(outputs.first)] != of_an_archive


def containerd_digests(ctr: Run) -> dict[str, str]:
    """By name."""
    rows = [line.split() for line in ctr("image", "ls").splitlines()[1:]]
    return {row[0]: row[2] for row in rows}


def test_the_distribution_registry_serves_every_image(outputs: Outputs) -> None:
    need("skopeo")
    with docker_registry(outputs.storage) as registry:
        for name, image_id in outputs.ids.items():
            repository = name.split("/", 1)[1] if full(name) == name else name
            place = f"docker://{registry.host}/{repository}"
            raw = run("skopeo", "inspect", "--tls-verify=false", "--raw", place).stdout
            assert json.loads(raw)["config"]["digest"] == image_id


# --- scanners ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory, outputs: Outputs) -> tuple[str, Path, Path]:
    """(name, docker-archive, layout) of one image alone."""
    folder = tmp_path_factory.mktemp("single")
    source = outputs.folder / "save.tar"
    source = source if source.exists() else case("save-1.9.1-multi").write_plain(folder)
    for target in (f"docker-archive:{folder / 'one.tar'}", str(folder / "one")):
        assert migrate("convert", "--format", "oci", "--image", outputs.first, source, target).code == 0
    return outputs.first, folder / "one.tar", folder / "one"


def syft(place: str, folder: Path, check: bool = True) -> dict[str, Any]:
    need("syft")
    environment = {**os.environ, "SYFT_CHECK_FOR_APP_UPDATE": "false"}
    command = ["syft", "scan", "-q", "-o", f"json={folder / 'syft.json'}", place]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (done.returncode == 0) == check, done.stderr.decode()
    return json.loads((folder / "syft.json").read_bytes())["source"]["metadata"] if check else {}


def test_syft_reads_one_image(single: tuple[str, Path, Path], outputs: Outputs, tmp_path: Path) -> None:
    name, archive, layout = single
    names = sorted(other for other, image_id in outputs.ids.items() if image_id == outputs.ids[name])
    for place, tags in ((f"docker-archive:{archive}", names), (f"oci-dir:{layout}", [])):
        found = syft(place, tmp_path)
        assert found["imageID"] == outputs.ids[name] and sorted(found["tags"]) == tags
        assert [layer["digest"] for layer in found["layers"]] == outputs.diff_ids[name]
    for place in (f"docker-archive:{outputs.archive}", f"oci-dir:{outputs.oci}"):
        syft(place, tmp_path, check=False)


def test_dive_shows_the_first_image_of_an_archive(
    single: tuple[str, Path, Path], outputs: Outputs, tmp_path: Path
) -> None:
    need("dive")
    for archive in (outputs.archive, single[1]):
        run("dive", "--source", "docker-archive", archive, "--json", tmp_path / "dive.json")
        shown = json.loads((tmp_path / "dive.json").read_bytes())
        assert len(shown["layer"]) == len(outputs.diff_ids[outputs.first])
