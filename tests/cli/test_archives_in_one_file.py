"""Two outputs of `docker save` in one file, each with its end marker: both are converted, and a warning says so."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from migrate import api
from migrate.model.digest import Digest
from migrate.report.document import Report
from tests.archives import Members, V1Archive, build_tar, layer_json, layer_tar, legacy_id
from tests.command import migrate

Builder = Callable[..., bytes]
LARGE = 2 * 1024 * 1024


def v1(name: str, *layers: str, content: bytes = b"v1") -> bytes:
    archive = V1Archive()
    for layer, below in zip(layers, (None, *layers), strict=False):
        archive.layer(layer, below, tar=layer_tar(layer, content=content))
    archive.tag("app", name, legacy_id(layers[-1]))
    return archive.build()


def modern(name: str, *layers: str, content: bytes = b"") -> bytes:
    """All names but the image's are the same in every such archive, as some builders write them."""
    tars = [layer_tar(f"{name}-{layer}", content=content or name.encode()) for layer in layers]
    config = {
        "os": "linux",
        "config": {"Env": [f"A={name}"]},
        "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(tar)) for tar in tars]},
    }
    paths = [f"{number:064x}.tar" for number in range(len(tars))]
    entry = {"Config": f"{'c' * 64}.json", "RepoTags": [f"app:{name}"], "Layers": paths}
    return build_tar(
        [
            *zip(paths, tars, strict=True),
            (f"{'c' * 64}.json", json.dumps(config).encode()),
            ("manifest.json", json.dumps([entry]).encode()),
        ]
    )


def numbered(name: str, *layers: str, content: bytes = b"", first: bool = False) -> bytes:
    """Folders 0/, 1/ and c.json in every one, as other tools than Docker name them; manifest.json last or first."""
    tars = [layer_tar(f"{name}-{layer}", content=content or name.encode()) for layer in layers]
    diff_ids = [str(Digest.of(tar)) for tar in tars]
    config = {"config": {"Env": [f"A={name}"]}, "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    paths = [f"{number}/layer.tar" for number in range(len(tars))]
    manifest = json.dumps([{"Config": "c.json", "RepoTags": [f"app:{name}"], "Layers": paths}], indent=1).encode()
    members: Members = [*zip(paths, tars, strict=True)]
    members.append(("c.json", json.dumps(config, indent=2).encode()))
    document: Members = [("manifest.json", manifest)]
    return build_tar(document + members if first else members + document)


def manifest_first(name: str, *layers: str, content: bytes = b"") -> bytes:
    return numbered(name, *layers, content=content, first=True)


def same_names(name: str, *layers: str, content: bytes = b"") -> bytes:
    """A v1 archive whose IDs are in every one, with other layers behind them; `repositories` is in the middle."""
    below: str | None = None
    members: Members = []
    for number, layer in enumerate(layers):
        tar = layer_tar(f"{name}-{layer}", content=content or name.encode())
        members += [(f"l{number}/layer.tar", tar), (f"l{number}/json", layer_json(f"l{number}", below, comment=name))]
        below = f"l{number}"
        if not number:
            members.append(("repositories", json.dumps({"app": {name: f"l{len(layers) - 1}"}}).encode()))
    return build_tar(members)


def both_forms(name: str, *layers: str, content: bytes = b"") -> bytes:
    """As Docker 1.10 to 24 saved: v1 folders, a config named by its digest, manifest.json and repositories."""
    tars = {layer: layer_tar(f"{name}-{layer}", content=content or name.encode()) for layer in layers}
    diff_ids = [str(Digest.of(tar)) for tar in tars.values()]
    config = json.dumps({"os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()
    archive = V1Archive()
    for (layer, tar), below in zip(tars.items(), (None, *layers), strict=False):
        archive.layer(layer, below, tar=tar)
    archive.tag("app", name, legacy_id(layers[-1]))
    paths = [f"{legacy_id(layer)}/layer.tar" for layer in layers]
    entry: dict[str, Any] = {"Config": f"{Digest.of(config).hex}.json", "RepoTags": [f"app:{name}"], "Layers": paths}
    archive.members += [(entry["Config"], config), ("manifest.json", json.dumps([entry]).encode())]
    return archive.build()


def oci(name: str, *layers: str, content: bytes = b"") -> bytes:
    tars = [layer_tar(f"{name}-{layer}", content=content or name.encode()) for layer in layers]
    config = {
        "os": "linux",
        "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(tar)) for tar in tars]},
    }
    blobs = [json.dumps(config).encode(), *tars]
    kinds = ["config.v1+json", *["layer.v1.tar"] * len(tars)]
    described = [
        {"mediaType": f"application/vnd.oci.image.{kind}", "digest": str(Digest.of(blob)), "size": len(blob)}
        for kind, blob in zip(kinds, blobs, strict=True)
    ]
    manifest = json.dumps({"schemaVersion": 2, "config": described[0], "layers": described[1:]}).encode()
    entry = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": str(Digest.of(manifest)),
        "size": len(manifest),
        "annotations": {"org.opencontainers.image.ref.name": f"app:{name}"},
    }
    return build_tar(
        [
            *((f"blobs/sha256/{Digest.of(blob).hex}", blob) for blob in (*blobs, manifest)),
            ("index.json", json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()),
            ("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
        ]
    )


def names(report: Report) -> dict[str, str]:
    return {name: str(image.image_id) for image in report.images for name in image.references}


def shortest(archive: bytes) -> bytes:
    """With the two blocks of zeros that Go writes, not a record of them."""
    return archive.rstrip(b"\0").ljust((len(archive.rstrip(b"\0")) + 511) // 512 * 512, b"\0") + bytes(1024)


@pytest.mark.parametrize(
    ("cut", "pack", "size"), [(bytes, gzip.compress, 10), (shortest, bytes, 10), (shortest, gzip.compress, LARGE)]
)
@pytest.mark.parametrize("builders", [(v1, v1), (modern, modern), (v1, modern), (modern, v1), (v1, modern, v1)])
def test_all_archives_of_a_file_are_converted(
    builders: tuple[Builder, ...], size: int, pack: Builder, cut: Builder, tmp_path: Path
) -> None:
    alone: dict[str, str] = {}
    whole = b""
    for number, build in enumerate(builders):
        content = bytes([number + 65]) * size
        archive = build(f"{number}", "base" if build is modern else f"base{number}", f"top{number}", content=content)
        (tmp_path / f"{number}.tar").write_bytes(archive)
        alone |= names(api.plan(tmp_path / f"{number}.tar").report)
        whole += cut(archive)
    (tmp_path / "all").write_bytes(pack(whole))
    outcome = api.convert(tmp_path / "all", tmp_path / "t")
    assert (outcome.exit_code, outcome.report.failures) == (0, ())
    assert names(outcome.report) == alone
    assert len(alone) == len(builders)
    assert sum("in the same file, which Docker does not read" in text for text in outcome.report.warnings) == 1
    assert api.verify(tmp_path / "t") == []


def test_an_image_of_both_has_the_names_of_both(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(v1("1", "base", "top") + v1("2", "base", "top") + v1("3", "base", "other"))
    report = api.plan(tmp_path / "a.tar").report
    assert sorted(image.references for image in report.images) == [("app:1", "app:2"), ("app:3",)]


def test_zeros_within_an_archive_are_damage_still(tmp_path: Path) -> None:
    archive = bytearray(v1("1", "base", "top"))
    archive[512 * 2 : 512 * 4] = bytes(1024)
    (tmp_path / "a.tar").write_bytes(archive)
    outcome = api.plan(tmp_path / "a.tar")
    assert outcome.exit_code in (3, 4)
    assert any("where the archive does not end" in failure.message for failure in outcome.report.failures)


def ended(zeros: int) -> Builder:
    """With so many blocks of zeros at its end: 0 as `tar --concatenate` leaves it."""
    return lambda archive: shortest(archive)[:-1024] + bytes(512 * zeros)


FORMS = {
    "v1": v1,
    "v1, same names": same_names,
    "modern": modern,
    "numbered": numbered,
    "manifest first": manifest_first,
    "both": both_forms,
    "oci": oci,
}
JOINS = [
    ("numbered", "numbered"),
    ("v1, same names", "v1, same names"),
    ("manifest first", "manifest first"),
    ("both", "both", "both"),
    ("oci", "oci"),
    ("v1", "numbered"),
    ("numbered", "v1, same names"),
    ("v1, same names", "both"),
    ("oci", "v1"),
    ("both", "oci", "numbered"),
]


def joined(forms: tuple[str, ...], end: Builder, tmp_path: Path, size: int = 10) -> tuple[bytes, dict[str, str]]:
    """The archives in one, and the image ID of each name where it is alone."""
    alone: dict[str, str] = {}
    whole = b""
    for number, form in enumerate(forms):
        archive = FORMS[form](f"{number}", "base", "top", content=bytes([number + 65]) * size)
        (tmp_path / f"{number}.tar").write_bytes(archive)
        alone |= names(api.plan(tmp_path / f"{number}.tar").report)
        whole += end(archive)
    assert len(alone) == len(forms)
    return whole + bytes(1024), alone


@pytest.mark.parametrize("forms", JOINS, ids=" + ".join)
def test_each_archive_is_converted_by_its_own_members(forms: tuple[str, ...], tmp_path: Path) -> None:
    zeros = (1, 2, 20)[JOINS.index(forms) % 3]
    whole, alone = joined(forms, ended(zeros), tmp_path)
    (tmp_path / "all").write_bytes(whole)
    outcome = api.plan(tmp_path / "all")
    assert (outcome.exit_code, outcome.report.failures, names(outcome.report)) == (0, (), alone)
    assert sum("which Docker does not read" in text for text in outcome.report.warnings) == 1


WITHOUT_END = [
    *(forms for forms in JOINS if len(set(forms)) == 1),
    ("manifest first", "modern"),
    ("manifest first", "both"),
    ("v1, same names", "v1"),
    ("v1, same names", "both"),
    ("both", "manifest first", "both"),
    ("both", "manifest first", "v1"),
    ("modern", "manifest first", "oci"),
    ("manifest first", "v1, same names", "v1"),
]
"""A document occurs more than once; where one comes first, the next archive begins at no document."""


@pytest.mark.parametrize("forms", WITHOUT_END, ids=" + ".join)
def test_so_is_each_without_an_end_marker_before_it(forms: tuple[str, ...], tmp_path: Path) -> None:
    whole, alone = joined(forms, ended(0), tmp_path)
    (tmp_path / "all").write_bytes(whole)
    outcome = api.plan(tmp_path / "all")
    assert (outcome.exit_code, outcome.report.failures, names(outcome.report)) == (0, (), alone)
    assert sum("Docker reads the last member of every name" in text for text in outcome.report.warnings) == 1


@pytest.mark.parametrize("zeros", [0, 2])
@pytest.mark.parametrize("form", ["numbered", "v1, same names", "both"])
def test_layers_of_one_name_that_come_by_are_kept_apart(form: str, zeros: int, tmp_path: Path) -> None:
    whole, alone = joined((form,) * 3, ended(zeros), tmp_path, LARGE)
    (tmp_path / "all").write_bytes(gzip.compress(whole, 1))
    outcome = api.convert(tmp_path / "all", tmp_path / "t")
    assert (outcome.exit_code, names(outcome.report)) == (0, alone)
    assert api.verify(tmp_path / "t") == []


def test_every_command_finds_all_archives(tmp_path: Path) -> None:
    whole, alone = joined(("both", "numbered", "v1"), ended(2), tmp_path)
    source = tmp_path / "all"
    source.write_bytes(whole)
    listed = json.loads(migrate("inspect", source, "--json").out)
    assert ({name for row in listed["images"] for name in row["references"]}, listed["failures"]) == ({*alone}, [])
    assert migrate("batch", source, tmp_path / "b", "-j", "1", "--executor", "threads").code == 0
    assert migrate("convert", "-", tmp_path / "t", stdin=whole).code == 0
    assert (tmp_path / "b/index.json").read_bytes() == (tmp_path / "t/index.json").read_bytes()
    for name, identity in alone.items():
        assert json.loads(migrate("show", source, name, "--json").out)["image_id"] == identity


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gzip", "bzip2", "xz"])
def test_what_is_compressed_behind_an_archive_is_named(pack: Builder, tmp_path: Path) -> None:
    (tmp_path / "all").write_bytes(numbered("0", "base") + pack(numbered("1", "base")))
    outcome = api.plan(tmp_path / "all")
    (failure,) = outcome.report.failures
    assert (outcome.exit_code, [*names(outcome.report)]) == (3, ["app:0"])
    assert f"data begins at byte {len(numbered('0', 'base')):,}, behind the archive's end" in failure.message


def test_a_tar_without_an_image_behind_an_archive_is_named(tmp_path: Path) -> None:
    first, other = numbered("0", "base"), layer_tar("etc/passwd", "bin/sh")
    for whole in (first + other, first + other + numbered("1", "base")):
        (tmp_path / "all").write_bytes(whole)
        outcome = api.plan(tmp_path / "all")
        assert (outcome.exit_code, len(outcome.report.images)) == (0, 1 if whole.endswith(other) else 2)
        assert len(outcome.report.warnings) == 1


@pytest.mark.parametrize("size", [10, LARGE])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_documents_that_a_tool_appended_are_those_of_one_archive(pack: Builder, size: int, tmp_path: Path) -> None:
    """As Docker has it, the last of a name counts, also of layers that come by."""
    content = b"A" * size
    first, tar = numbered("0", "base", "top", content=content), layer_tar("other", content=content)
    config = {"os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
    diff_ids = [str(Digest.of(layer_tar("0-base", content=content))), str(Digest.of(tar))]
    config["rootfs"] = {"type": "layers", "diff_ids": diff_ids}
    entry = {"Config": "d.json", "RepoTags": ["app:new"], "Layers": ["0/layer.tar", "1/layer.tar"]}
    more = [
        ("1/layer.tar", tar),
        ("d.json", json.dumps(config).encode()),
        ("manifest.json", json.dumps([entry]).encode()),
    ]
    (tmp_path / "all").write_bytes(pack(ended(0)(first) + build_tar(more)))
    outcome = api.convert(tmp_path / "all", tmp_path / "t")
    assert (outcome.exit_code, [*names(outcome.report)]) == (0, ["app:new"])
    assert [str(layer.diff_id) for layer in outcome.report.images[0].layers] == diff_ids
    assert any("manifest.json occurs more than once" in text for text in outcome.report.warnings)
    assert any("an earlier manifest.json names app:0; the last one" in text for text in outcome.report.warnings)


def test_a_second_archive_that_needs_the_first(tmp_path: Path) -> None:
    """Layers that its save left out, and a name for what only the first has."""
    first, second = V1Archive(), V1Archive()
    base = first.layer("base")
    first.tag("app", "first", base)
    second.layer("top", "base")
    second.tags = {"app": {"top": legacy_id("top"), "base": base}}
    (tmp_path / "all").write_bytes(first.build() + second.build())
    outcome = api.plan(tmp_path / "all")
    assert (outcome.exit_code, sorted(names(outcome.report))) == (0, ["app:base", "app:first", "app:top"])


def placed(names: list[str], below: str | None, where: str, *, folders: bool) -> bytes:
    """A v1 archive without what is below it, with `repositories` at one of its places, or by ID; all members up to its
    end, and no end marker."""
    groups: list[Members] = []
    for name in names:
        identity = legacy_id(name)
        document = layer_json(identity, legacy_id(below) if below else None)
        members: Members = [(f"{identity}/VERSION", b"1.0"), (f"{identity}/json", document)]
        if folders:
            folder = tarfile.TarInfo(f"{identity}/")
            folder.type = tarfile.DIRTYPE
            members.insert(0, (folder.name, folder))
        groups.append([*members, (f"{identity}/layer.tar", layer_tar(name))])
        below = name
    if where != "nowhere":
        tags = json.dumps({"app": {names[-1]: legacy_id(names[-1])}}).encode()
        groups.insert({"first": 0, "middle": 1, "last": len(groups)}[where], [("repositories", tags)])
    whole = build_tar(member for group in groups for member in group)
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        last = archive.getmembers()[-1]
    return whole[: last.offset_data + (last.size + 511) // 512 * 512]


PLACES: list[tuple[str, ...]] = [
    ("nowhere", "nowhere", "last"),
    ("last", "nowhere", "nowhere"),
    ("first", "middle", "nowhere"),
]
PLACES += [("middle", "nowhere", "first"), ("nowhere", "first", "middle"), ("last", "first", "nowhere")]


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["file", "gzip"])
@pytest.mark.parametrize("places", PLACES, ids=" + ".join)
def test_each_archive_may_need_those_before_it(places: tuple[str, ...], pack: Builder, tmp_path: Path) -> None:
    zeros = (1, 2, 20)[PLACES.index(places) % 3]
    names = [["a", "b"], ["c", "d"], ["e", "f"]]
    parts = [
        placed(own, names[number - 1][-1] if number else None, where, folders=PLACES.index(places) % 2 == 0)
        for number, (own, where) in enumerate(zip(names, places, strict=True))
    ]
    (tmp_path / "all").write_bytes(pack(bytes(512 * zeros).join(parts) + bytes(1024)))
    outcome = api.plan(tmp_path / "all")
    assert (outcome.exit_code, outcome.report.failures) == (0, ())
    found = {image.legacy_id: (len(image.layers), image.references) for image in outcome.report.images}
    assert found == {
        legacy_id(own[-1]): (2 * number, () if where == "nowhere" else (f"app:{own[-1]}",))
        for number, (own, where) in enumerate(zip(names, places, strict=True), start=1)
    }


@pytest.mark.parametrize(
    "places", [("last", "last", "last"), ("first", "last", "middle"), ("middle", "first", "last")], ids=" + ".join
)
def test_so_it_may_without_an_end_marker(places: tuple[str, ...], tmp_path: Path) -> None:
    names = [["a", "b"], ["c", "d"], ["e", "f"]]
    parts = [
        placed(own, names[number - 1][-1] if number else None, where, folders=where == "last")
        for number, (own, where) in enumerate(zip(names, places, strict=True))
    ]
    (tmp_path / "all").write_bytes(b"".join(parts) + bytes(1024))
    outcome = api.plan(tmp_path / "all")
    assert (outcome.exit_code, outcome.report.failures) == (0, ())
    found = {image.references: len(image.layers) for image in outcome.report.images}
    assert found == {("app:b",): 2, ("app:d",): 4, ("app:f",): 6}


def test_zeros_in_place_of_a_layer_s_first_members_are_damage(tmp_path: Path) -> None:
    """What is behind them begins as no archive does."""
    first, second = placed(["a"], None, "nowhere", folders=False), placed(["b"], "a", "last", folders=False)
    (tmp_path / "all").write_bytes(first + bytes(1024) + second[1024:] + bytes(1024))  # VERSION of the second is lost
    outcome = api.plan(tmp_path / "all")
    assert outcome.exit_code == 3
    assert "where the archive does not end" in outcome.report.failures[0].message


def test_an_archive_that_lacks_a_layer_takes_none_of_that_name_from_another(tmp_path: Path) -> None:
    first, second = same_names("0", "base", "top"), same_names("1", "base", "top")
    with tarfile.open(fileobj=io.BytesIO(second)) as archive:
        kept = [(one.name, archive.extractfile(one).read()) for one in archive if one.name != "l0/layer.tar"]  # type: ignore[union-attr]
    (tmp_path / "all").write_bytes(first + build_tar(kept))
    outcome = api.plan(tmp_path / "all")
    (failure,) = outcome.report.failures
    assert (outcome.exit_code, [*names(outcome.report)], failure.references) == (3, ["app:0"], ("app:1",))
    assert "l0/layer.tar is missing" in failure.message


@pytest.mark.parametrize("lost", range(1, 8))
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["file", "gzip"])
@pytest.mark.parametrize("forms", [("manifest first", "manifest first"), ("v1", "numbered"), ("numbered", "modern")])
def test_an_archive_whose_first_blocks_are_lost_is_not_lost_in_silence(
    forms: tuple[str, ...], pack: Builder, lost: int, tmp_path: Path
) -> None:
    """Its other members are behind a place that is no header, or zeros, under names that any tar may have."""
    whole, alone = joined(forms, ended(2), tmp_path)
    begin = len(ended(2)(FORMS[forms[0]]("0", "base", "top", content=b"A" * 10)))
    (tmp_path / "all").write_bytes(pack(whole[:begin] + bytes(512 * lost) + whole[begin + 512 * lost :]))
    report = api.plan(tmp_path / "all").report
    assert names(report).items() <= alone.items()
    assert "app:1" in names(report) or report.failures or report.warnings


def test_what_follows_a_second_document_may_be_its_members(tmp_path: Path) -> None:
    """An end in the middle of the second archive: its document leads to members of the first, which are others."""
    whole, _ = joined(("manifest first", "manifest first"), ended(0), tmp_path)
    begin = len(ended(0)(manifest_first("0", "base", "top", content=b"A" * 10)))
    place = begin + 1024  # the header of the second archive's first layer
    (tmp_path / "all").write_bytes(whole[:place] + bytes(1024) + whole[place + 1024 :])
    outcome = api.plan(tmp_path / "all")
    assert outcome.exit_code == 3
    assert "perhaps another archive" in outcome.report.failures[0].message
