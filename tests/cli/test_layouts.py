"""One layout, one answer: every command that reads an OCI layout finds the same images under the same names."""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from migrate import api
from migrate.cli.completion import image_names, legacy_ids
from migrate.layout.view import LayoutView
from migrate.model.digest import Digest
from tests.archives import layer_tar
from tests.buckets import memory_bucket
from tests.cases import tar_of
from tests.command import migrate
from tests.layouts import OCI, Layout, named, named_by_docker
from tests.peers import run
from tests.registries import Registry, docker_registry

NAME = "acme/web:1.0"
FULL = f"docker.io/{NAME}"
DEPTH = 1_200
"""More than Python's stack holds."""


def _layer(text: str) -> bytes:
    return tar_of({"hello": text.encode()})


def _flat(layout: Layout) -> dict[str, Any]:
    return layout.image(_layer("one"))


def _list(layout: Layout) -> dict[str, Any]:
    return layout.index(_flat(layout), layout.image(_layer("two"), "arm64"))


def _nested(layout: Layout) -> dict[str, Any]:
    return layout.index(layout.index(_flat(layout)), layout.image(_layer("two"), "arm64"))


def _deep(layout: Layout) -> dict[str, Any]:
    entry = layout.image(_layer("one"))
    for _ in range(DEPTH):
        entry = layout.index(entry)
    return entry


CASES: dict[str, tuple[Callable[[Layout], dict[str, Any]], Callable[[dict[str, Any], str], dict[str, Any]], str]] = {
    "our name": (_flat, named, NAME),
    "Docker's name": (_flat, named_by_docker, FULL),
    "a list": (_list, named, NAME),
    "a list with Docker's name": (_list, named_by_docker, FULL),
    "an index in an index": (_nested, named, NAME),
    "an index in an index with Docker's name": (_nested, named_by_docker, FULL),
    "deeper than Python's stack": (_deep, named, NAME),
}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with docker_registry(tmp_path_factory.mktemp("registry") / "storage") as running:
        yield running


@pytest.mark.parametrize("wrapping", ["directory", "tar"])
@pytest.mark.parametrize("case", CASES)
def test_five_commands_give_one_answer(case: str, wrapping: str, registry: Registry, tmp_path: Path) -> None:
    build, name, text = CASES[case]
    layout = Layout(tmp_path / "layout")
    entry = build(layout)
    layout.write_index(name(entry, text))
    location = f"oci:{layout.root}"
    if wrapping == "tar":
        location = str(tmp_path / "layout.tar")
        with tarfile.open(location, "w") as archive:
            archive.add(layout.root, ".")
    count = 2 if case.startswith(("a list", "an index")) else 1

    assert migrate("verify", location).code == 0

    plain = location.removeprefix("oci:")
    listed = migrate("inspect", plain, "--json")
    assert listed.code == 0, listed.err
    assert set(_references(listed.json())) == {NAME}

    shown = migrate("show", location, NAME, "--platform", "linux/amd64", "--json")
    assert shown.code == 0, shown.err
    assert shown.json()["references"] == [NAME]

    pushed = migrate(
        "push", location, f"docker://{registry.host}/{case.replace(' ', '-').replace(chr(39), '').lower()}"
    )
    assert pushed.code == 0, pushed.err
    repository = f"{case.replace(' ', '-').replace(chr(39), '').lower()}/acme/web"
    accept = ", ".join([entry["mediaType"]])
    answer = httpx.head(f"http://{registry.host}/v2/{repository}/manifests/1.0", headers={"Accept": accept})
    assert answer.headers["Docker-Content-Digest"] == entry["digest"]

    converted = migrate("convert", plain, tmp_path / "new")
    assert converted.code == 0, converted.err
    report = json.loads((tmp_path / "new" / "migration-report.json").read_text())
    assert len(report["images"]) == count
    index = json.loads((tmp_path / "new" / "index.json").read_text())["manifests"]
    assert [(row["annotations"]["org.opencontainers.image.ref.name"], row["digest"]) for row in index] == [
        (NAME, entry["digest"])
    ]
    assert migrate("verify", tmp_path / "new").code == 0


PREFIXES = ("{folder}", "oci:{folder}", "file://{folder}", "{tar}", "oci-archive:{tar}", "docker-archive:{tar}")


@pytest.mark.parametrize("case", ["Docker's name", "an index in an index with Docker's name"])
@pytest.mark.parametrize("form", PREFIXES)
def test_every_command_takes_every_prefix(form: str, case: str, registry: Registry, tmp_path: Path) -> None:
    build, as_named, text = CASES[case]
    layout = Layout(tmp_path / "layout")
    layout.write_index(as_named(build(layout), text))
    assert migrate("convert", layout.root, tmp_path / "target").code == 0  # has a report and a map, too
    with tarfile.open(tmp_path / "target.tar", "w") as archive:
        archive.add(tmp_path / "target", ".")
    location = form.format(folder=tmp_path / "target", tar=tmp_path / "target.tar")
    linux = ("--platform", "linux/amd64")
    outputs = {}
    for command in (
        ("show", location, NAME, *linux, "--json"),
        ("show", location, FULL, *linux, "--json"),
        ("export", location, FULL, *linux),
        ("inspect", location, "--json"),
        ("verify", location, "--json"),
        ("plan", "--image", FULL, location, "--quiet"),
        ("push", "--dry-run", location, f"docker://{registry.host}/all"),
    ):
        done = migrate(*command)
        assert done.code == 0, (command, done.err)
        outputs[command[0], command[2]] = done.out
    assert outputs["show", NAME] == outputs["show", FULL]
    assert json.loads(outputs["show", NAME])["references"] == [NAME]
    for name, *rest in (("map",), ("find", FULL), ("report",), ("gc", "--dry-run")):
        done = migrate(name, location, *rest)
        if "{tar}" not in form:
            assert done.code == 0, (name, done.err)
        else:  # an archive has neither report nor map, and stays as it is
            assert done.code in (2, 3, 4) and done.errors, name


def test_a_layout_in_a_bucket_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.write_index(named_by_docker(_nested(layout), FULL))
    with memory_bucket() as filesystem:
        filesystem.put(str(layout.root), "/bucket/layout", recursive=True)
        view = LayoutView("memory://bucket/layout")
        assert {name for image in view.images() for name in image.references} == {NAME}
        assert len(view.layers(view.images()[0])) == 1
        view.close()
    for command in (("verify", "s3://bucket/x"), ("map", "s3://bucket/x"), ("report", "oci:s3://bucket/x")):
        done = migrate(*command)
        assert (done.code, len(done.errors)) == (2, 1)
        assert "copy it first" in done.err


def _references(document: dict[str, Any]) -> Iterator[str]:
    for source in document.get("sources", [document]):
        for image in source["images"]:
            yield from image["references"]


def test_completion_offers_the_same_names(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.write_index(named_by_docker(_nested(layout), FULL))

    class Context:
        params = {"location": str(tmp_path)}  # noqa: RUF012

    assert [item.value for item in image_names(Context(), None, "acme")] == [NAME]  # type: ignore[arg-type]


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_document_that_is_lost_deep_inside_is_named_by_all(damage: str, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    lost = layout.image(_layer("one"))
    layout.write_index(named(layout.index(layout.index(lost)), NAME), named(layout.image(_layer("two")), "other:1"))
    path = layout.root / "blobs" / "sha256" / lost["digest"][7:]
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes().replace(b"schemaVersion", b"schemaversion"))
    for command in (["verify"], ["push", "TARGET"], ["show", NAME], ["convert", str(tmp_path / "new")]):
        arguments = [argument.replace("TARGET", "docker://127.0.0.1:1") for argument in command[1:]]
        done = migrate(command[0], layout.root, *arguments)
        assert done.code in (3, 4), command
        assert lost["digest"][7:] in done.out + done.err, command
    report = json.loads((tmp_path / "new" / "migration-report.json").read_text())
    assert [row["references"] for row in report["images"]] == [["other:1"]]
    assert [row["references"] for row in report["failures"]] == [[NAME]]


@pytest.mark.parametrize(
    "name", ["app$(touch x):1", "a;b:1", "a b:1", "`x`:1", "-x:1", "a\\b:1", "a\x1b[1m:1", "\u202ea:1"]
)
def test_completion_offers_no_name_that_a_shell_would_run(name: str, tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    entry = _flat(layout)
    layout.write_index(named(entry, name), named(entry, "good/name:1.0"))
    row = {
        "legacy_id": "ab" * 32,
        "image_id": entry["digest"],
        "manifest_digest": entry["digest"],
        "references": [name, "good/name:1.0"],
        "names": [],
        "containers": [],
        "platform": "linux/amd64",
        "sources": ["x"],
        "legacy_digests": [],
    }
    (tmp_path / "migration-map.json").write_text(json.dumps({"schema_version": 1, "images": [row]}))

    class Context:
        params = {"location": str(tmp_path)}  # noqa: RUF012

    assert [item.value for item in image_names(Context(), None, "")] == ["good/name:1.0"]  # type: ignore[arg-type]
    offered = legacy_ids(Context(), None, "")  # type: ignore[arg-type]
    assert [(item.value, item.help) for item in offered] == [("ab" * 32, "good/name:1.0"), ("good/name:1.0", None)]


@pytest.mark.parametrize("stated", ["tar", "tar+gzip", "tar+zstd"])
@pytest.mark.parametrize("actual", ["tar", "tar+gzip", "tar+zstd"])
def test_a_layer_that_is_packed_in_another_way_than_its_media_type_says(
    stated: str, actual: str, tmp_path: Path
) -> None:
    """The manifest is kept as it is. convert says what verify says of its result."""
    layout = Layout(tmp_path / "source")
    tar = layer_tar("a")
    packed = {"tar": tar, "tar+gzip": gzip.compress(tar), "tar+zstd": run("zstd", "-qc", stdin=tar).stdout}[actual]
    config = {"os": "linux", "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(tar))]}}
    manifest = {
        "schemaVersion": 2,
        "config": {"mediaType": f"{OCI}.config.v1+json", **layout.blob({**config, "architecture": "amd64"})},
        "layers": [{"mediaType": f"{OCI}.layer.v1.{stated}", **layout.blob(packed)}],
    }
    layout.write_index(named({"mediaType": f"{OCI}.manifest.v1+json", **layout.blob(manifest)}, "app:1"))
    outcome = api.convert(tmp_path / "source", tmp_path / "target")
    assert (outcome.exit_code, outcome.report.images[0].exact) == (0, True)
    assert api.plan(tmp_path / "source").report.images[0].warnings == outcome.report.images[0].warnings
    result = migrate("verify", tmp_path / "target")
    assert result.code == (0 if stated == actual else 3)
    for text in (result.out + result.err, *outcome.report.images[0].warnings):
        assert ("the media type is that of" in text) == (stated != actual)
    assert bool(outcome.report.images[0].warnings) == (stated != actual)


@pytest.mark.parametrize("config", [b"{}", b"", b'{"name":"chart","version":"1"}', b"not json"])
@pytest.mark.parametrize("place", ["beside", "in a list"])
def test_what_is_no_image_in_a_layout_is_named_and_loses_nothing_else(
    config: bytes, place: str, tmp_path: Path
) -> None:
    layout = Layout(tmp_path)
    image = layout.image(layer_tar("a"))
    kind = "application/vnd.cncf.helm.config.v1+json"
    manifest = {
        "schemaVersion": 2,
        "config": {"mediaType": kind, **layout.blob(config)},
        "layers": [{"mediaType": "application/vnd.cncf.helm.chart.content.v1.tar+gzip", **layout.blob(b"chart")}],
    }
    chart = {"mediaType": f"{OCI}.manifest.v1+json", **layout.blob(manifest)}
    entries = [image, chart] if place == "beside" else [layout.index(image, chart)]
    layout.write_index(*(named(entry, f"app:{number}") for number, entry in enumerate(entries)))
    report = api.plan(tmp_path).report
    assert [image.references for image in report.images] == [("app:0",)]
    (failure,) = report.failures
    assert failure.message.endswith(f"manifest: not an image: its config is of type '{kind}'")


@pytest.mark.parametrize("architectures", [["amd64"], ["amd64", "arm64"]])
def test_an_attestation_is_no_platform_to_choose(architectures: list[str], tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    images = [layout.image(layer_tar(name), name) for name in architectures]
    attested = [
        {**layout.image(name.encode(), "unknown"), "platform": {"os": "unknown", "architecture": "unknown"}}
        for name in architectures
    ]
    layout.write_index(named(layout.index(*images, *attested), "app:1"))
    for command in (["show"], ["export", "-o", "/dev/null"]):
        result = migrate(*command, tmp_path, "app:1")
        if len(architectures) == 1:
            assert (result.code, result.err) == (0, "")
        else:
            assert result.code == 2
            assert "app:1 has 2 platforms: choose one by --platform linux/amd64|linux/arm64" in result.err
