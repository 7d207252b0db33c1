"""`--format oci` on sources that have manifests ready: Docker's media types become OCI's, with everything that hangs on
the digests of the old ones."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from migrate import api
from migrate.model.options import ConvertOptions, Format
from tests.archives import layer_tar
from tests.command import migrate
from tests.layouts import OCI, Layout, named
from tests.shelves import files_of

DOCKER = "application/vnd.docker"
MANIFEST, LIST = f"{DOCKER}.distribution.manifest.v2+json", f"{DOCKER}.distribution.manifest.list.v2+json"
ABOUT = "vnd.docker.reference.digest"


class DockerLayout(Layout):
    """A layout whose manifests have Docker's types, and members that no specification names."""

    def docker_image(
        self, name: str, architecture: str = "amd64", config_type: str = f"{DOCKER}.container.image.v1+json"
    ) -> dict[str, Any]:
        tar = layer_tar(name)
        described = super().image(tar, architecture)
        old = json.loads((self.root / "blobs/sha256" / described["digest"][7:]).read_bytes())
        packed = self.blob(gzip.compress(tar, mtime=0))
        manifest = {
            "mediaType": MANIFEST,
            "schemaVersion": 2,
            "annotations": {"org.example.<kept>": "1.0e3"},
            "config": {**old["config"], "mediaType": config_type, "annotations": {"a": "b"}},
            "layers": [{"mediaType": f"{DOCKER}.image.rootfs.diff.tar.gzip", **packed, "x-number": 1}],
        }
        return {"mediaType": MANIFEST, **self.blob(manifest), "platform": described["platform"]}

    def docker_list(self, *entries: dict[str, Any]) -> dict[str, Any]:
        document = {"schemaVersion": 2, "mediaType": LIST, "x-member": [1.50], "manifests": list(entries)}
        return {"mediaType": LIST, **self.blob(document)}

    def attestation(self, image: dict[str, Any]) -> dict[str, Any]:
        statement = {
            "mediaType": "application/vnd.in-toto+json",
            **self.blob(b'{"subject": "%s"}' % image["digest"].encode()),
        }
        config = {"os": "unknown", "architecture": "unknown", "rootfs": {"diff_ids": [statement["digest"]]}}
        manifest = {
            "schemaVersion": 2,
            "config": {"mediaType": f"{OCI}.config.v1+json", **self.blob(config)},
            "layers": [statement],
        }
        made = {"mediaType": f"{OCI}.manifest.v1+json", **self.blob(manifest)}
        return {
            **made,
            "platform": {"os": "unknown", "architecture": "unknown"},
            "annotations": {ABOUT: image["digest"], "vnd.docker.reference.type": "attestation-manifest"},
        }


def documents(layout: Path, digest: str) -> Iterator[dict[str, Any]]:
    document = json.loads((layout / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes())
    yield document
    for entry in document.get("manifests", ()):
        yield from documents(layout, entry["digest"])


def named_entries(layout: Path) -> dict[str, dict[str, Any]]:
    entries = json.loads((layout / "index.json").read_bytes())["manifests"]
    return {
        entry["annotations"]["org.opencontainers.image.ref.name"]: entry for entry in entries if "annotations" in entry
    }


def types(value: Any) -> Iterator[str]:
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if key == "mediaType":
            yield item
        elif isinstance(item, (dict, list)):
            yield from types(item)


def convert(command: str, source: Layout, target: Path | str, **options: Any) -> dict[str, Any]:
    """Its report. All went well, and a second run with the same options changes nothing."""
    given = ConvertOptions(**({"format": Format.OCI} | options))
    path = Path(str(target).rpartition(":")[2])
    before: dict[str, bytes] = {}
    for _ in range(2):
        if command == "convert":
            assert api.convert(source.root, target, given).exit_code == 0
        else:
            with ThreadPoolExecutor(2) as executor:
                outcome = api.batch(source.root, target, given, client=executor)
                outcome.close()
                assert outcome.exit_code == 0
        assert before in ({}, files_of(path))
        before = files_of(path)
    assert [str(finding) for finding in api.verify(target)] == []
    report: dict[str, Any] = json.loads(before["migration-report.json"])
    return report


def rows(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: row for row in report["images"] for name in row["references"]}


@pytest.fixture
def source(tmp_path: Path) -> DockerLayout:
    return DockerLayout(tmp_path / "source")


@pytest.mark.parametrize("command", ["convert", "batch"])
def test_every_type_becomes_ocis_and_nothing_else_changes(command: str, source: DockerLayout, tmp_path: Path) -> None:
    alone = source.docker_image("alone")
    early = source.docker_image("early", config_type="application/octet-stream")  # as Docker 1.10 pushed some
    amd, arm = source.docker_image("amd"), source.docker_image("arm", "arm64")
    inner = source.docker_list(arm)
    both = source.docker_list({**amd, "x-entry": {"k": "v"}}, inner)
    ready = source.image(layer_tar("ready"))
    entries = {"alone:1": alone, "early:1": early, "both:1": both, "ready:1": ready}
    source.write_index(*(named(entry, name) for name, entry in entries.items()))
    target = tmp_path / "target"
    report = convert(command, source, target)
    assert report["conflicts"] == []
    written = named_entries(target)
    for name, entry in entries.items():
        old, new = list(documents(source.root, entry["digest"])), list(documents(target, written[name]["digest"]))
        assert not [one for one in types(new) if DOCKER in one or "octet" in one]
        assert [_without_types(one) for one in new] == [_without_types(one) for one in old]
    assert written["ready:1"]["digest"] == ready["digest"]
    found = rows(report)
    assert found["ready:1"]["legacy_digests"] == []
    assert found["alone:1"]["legacy_digests"] == [alone["digest"]]
    assert found["alone:1"]["manifest_digest"] == written["alone:1"]["digest"] != alone["digest"]
    made = json.loads((target / "migration-map.json").read_bytes())["images"]
    for entry in (alone, amd, arm, both):
        assert [row for row in made if entry["digest"] in row["legacy_digests"]]


def _without_types(document: dict[str, Any]) -> dict[str, Any]:
    """Without what has to change: the types, and the digests and sizes of manifests."""
    kept = {key: value for key, value in document.items() if key not in ("mediaType", "manifests")}
    for part in ("config", "layers"):
        descriptors = document.get(part, [])
        for one in descriptors if isinstance(descriptors, list) else [descriptors]:
            one.pop("mediaType")
    children = [
        {key: value for key, value in entry.items() if key not in ("mediaType", "digest", "size")}
        for entry in document.get("manifests", ())
    ]
    return {**kept, "children": children}


def test_plan_convert_and_batch_give_one_result(source: DockerLayout, tmp_path: Path) -> None:
    amd, arm = source.docker_image("amd"), source.docker_image("arm", "arm64")
    both = source.docker_list(amd, arm, source.docker_list(amd))
    source.write_index(named(both, "both:1"), named(amd, "amd:1"))
    report = convert("convert", source, tmp_path / "one")
    other = convert("batch", source, tmp_path / "two")
    one, two = files_of(tmp_path / "one"), files_of(tmp_path / "two")
    assert {**one, "migration-report.json": b""} == {**two, "migration-report.json": b""}
    assert report["images"] == other["images"]
    planned = migrate("plan", "--exact-sizes", "--format", "oci", "--report", "-", source.root).json()
    assert planned["images"] == report["images"]


def test_a_registry_s_storage_gets_the_same(source: DockerLayout, tmp_path: Path) -> None:
    both = source.docker_list(source.docker_image("amd"), source.docker_list(source.docker_image("arm", "arm64")))
    source.write_index(named(both, "both:1"))
    digests = {
        row["manifest_digest"]
        for target in (tmp_path / "layout", f"registry-storage:{tmp_path / 'storage'}")
        for row in convert("convert", source, target)["images"]
    }
    assert len(digests) == 2


@pytest.mark.parametrize("command", ["convert", "batch"])
def test_another_format_later_leaves_one_entry_a_name(command: str, source: DockerLayout, tmp_path: Path) -> None:
    source.write_index(named(source.docker_image("a"), "a:1"))
    target = tmp_path / "target"
    for options in ({"format": Format.DOCKER}, {}, {"carry_manifests": True}, {}):
        assert convert(command, source, target, **options)["conflicts"] == []
    assert named_entries(target)["a:1"]["mediaType"] == f"{OCI}.manifest.v1+json"


def test_carry_manifests_keeps_every_byte(source: DockerLayout, tmp_path: Path) -> None:
    both = source.docker_list(source.docker_image("amd"), source.docker_image("arm", "arm64"))
    source.write_index(named(both, "both:1"))
    convert("convert", source, tmp_path / "target", carry_manifests=True)
    assert named_entries(tmp_path / "target")["both:1"]["digest"] == both["digest"]
    refused = migrate("convert", "--carry-manifests", source.root, tmp_path / "other")
    assert refused.code == 2 and "needs --format oci" in refused.err


@pytest.mark.parametrize("command", ["convert", "batch"])
def test_what_signs_the_old_digest_is_named(command: str, source: DockerLayout, tmp_path: Path) -> None:
    signed, quiet = source.docker_image("signed"), source.docker_image("quiet")
    referred, attested = source.docker_image("referred"), source.docker_image("attested")
    signature = source.image(layer_tar("signature"))
    subject = {"mediaType": MANIFEST, "digest": referred["digest"], "size": referred["size"]}
    about = json.loads((source.root / "blobs/sha256" / signature["digest"][7:]).read_bytes()) | {"subject": subject}
    attestation = source.attestation(attested)
    entries = {
        "team/app:1": signed,
        f"team/app:sha256-{signed['digest'][7:]}.sig": signature,
        "quiet:1": quiet,
        "referred:1": referred,
        "note:1": {"mediaType": f"{OCI}.manifest.v1+json", **source.blob(about)},
        "attested:1": source.docker_list(attested, attestation),
    }
    source.write_index(*(named(entry, name) for name, entry in entries.items()))
    expected = {
        "team/app:1": f"team/app:sha256-{signed['digest'][7:]}.sig",
        "referred:1": "note:1",
        "attested:1": attestation["digest"],
    }
    report = convert(command, source, tmp_path / "oci")
    told = {
        row["references"][0]: line
        for row in report["images"]
        for line in row.get("warnings", ())
        if "refer to the old digest" in line
    }
    assert told.keys() == expected.keys()
    for name, what in expected.items():
        assert what in told[name] and "--carry-manifests" in told[name]
    index = next(documents(tmp_path / "oci", named_entries(tmp_path / "oci")["attested:1"]["digest"]))
    image, provenance = index["manifests"]
    assert provenance["annotations"][ABOUT] == image["digest"]
    quiet_report = convert(command, source, tmp_path / "docker", format=Format.DOCKER)
    assert "refer to the old digest" not in json.dumps(quiet_report)


@pytest.mark.parametrize("command", ["convert", "batch"])
@pytest.mark.parametrize("format", [Format.DOCKER, Format.OCI])
def test_an_image_with_a_name_that_lists_name_too_is_one_row(
    format: Format, command: str, source: DockerLayout, tmp_path: Path
) -> None:
    amd, arm = source.docker_image("amd"), source.docker_image("arm", "arm64")
    entries = {"alone:1": amd, "also:1": amd, "one:1": source.docker_list(amd, arm), "two:1": source.docker_list(amd)}
    source.write_index(*(named(entry, name) for name, entry in entries.items()))
    report = convert(command, source, tmp_path / "target", format=format)
    assert sorted(row["names"] for row in report["images"]) == [sorted(entries), ["one:1"]]
    assert report["totals"]["images"] == report["sources"][0]["images"] == 2
