"""Archives of every form with random chains and random faults: what is whole is converted, the rest is reported.

What must become of each image is worked out from the faults that were put in, not by the code under test.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.convert.run import Conversion, Outcome
from migrate.convert.sources import OpenedSource
from migrate.errors import MigrateError
from migrate.model.options import ConvertOptions
from migrate.model.progress import SilentProgress
from migrate.readers.detect import open_source
from migrate.verify import verify
from migrate.writers.oci_layout import OciLayout
from tests.archives import Members, build_tar, layer_json, layer_tar, legacy_id, link

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
GOOD_TARS: dict[str, Callable[[bytes], bytes | None]] = {
    "plain": lambda content: content,
    "gzip": lambda content: gzip.compress(content, 1, mtime=0),
    "xz": lambda content: lzma.compress(content, preset=0),
    "unended": lambda content: content[:-1024],
    "empty": lambda _: layer_tar(),
    "one for all": lambda _: layer_tar("shared"),
}
BAD_TARS: dict[str, Callable[[bytes], bytes | None]] = {
    "cut": lambda content: content[:700],
    "garbage": lambda _: b"\x17garbage" * 300,
    "cut gzip": lambda content: gzip.compress(content, 1, mtime=0)[:-9],
    "no json": lambda content: content,
    "missing": lambda _: None,
}
BAD_DOCUMENTS = [b"", b"{", b"[]", b'{"id":1}', b'{"created": 5}']
TARS: dict[str, Callable[[bytes], bytes | None]] = {**GOOD_TARS, **BAD_TARS}


@dataclass(frozen=True)
class Layer:
    """`parent` is the number of an earlier layer, None for a base, -1 for one that is not there."""

    number: int
    parent: int | None
    tar: str
    document: bytes | None = None
    through_link: bool = False

    @property
    def name(self) -> str:
        return legacy_id(f"layer {self.number}")

    @property
    def whole(self) -> bool:
        return self.tar in GOOD_TARS and self.document is None and self.parent != -1

    def content(self) -> bytes | None:
        """The layer as the archive holds it."""
        return TARS[self.tar](layer_tar(f"file {self.number}", content=b"%d" % self.number * 200))

    def members(self) -> Members:
        parent = None if self.parent is None else legacy_id(f"layer {self.parent}")
        document = layer_json(self.name, parent) if self.document is None else self.document
        content = self.content()
        made: Members = [(f"{self.name}/VERSION", b"1.0")]
        if self.tar != "no json":
            made.append((f"{self.name}/json", document))
        if content is not None and self.through_link:
            made += [(f"{self.name}/stored.tar", content), link(f"{self.name}/layer.tar", "stored.tar")]
        elif content is not None:
            made.append((f"{self.name}/layer.tar", content))
        return made


@st.composite
def forests(draw: st.DrawFn) -> list[Layer]:
    layers: list[Layer] = []
    for number in range(draw(st.integers(1, 7))):
        parents = st.sampled_from([*range(number), *range(number), None, -1]) if number else st.none()
        tars = st.sampled_from([*GOOD_TARS] * 4 + [*BAD_TARS])
        documents = st.sampled_from([None] * 40 + BAD_DOCUMENTS)
        layers.append(Layer(number, draw(parents), draw(tars), draw(documents), draw(st.booleans())))
    return layers


def chain(layers: list[Layer], number: int) -> list[Layer]:
    found = [layers[number]]
    while (parent := found[-1].parent) is not None and parent >= 0:
        found.append(layers[parent])
    return found


def is_whole(layers: list[Layer], number: int) -> bool:
    return all(layer.whole for layer in chain(layers, number))


def convert(content: bytes, directory: Path) -> Outcome | None:
    """None where the source as a whole was refused. The target is clean, or absent where no image could be read."""
    source, target = directory / "archive.tar", directory / "layout"
    source.write_bytes(content)
    options = ConvertOptions(jobs=1, salvage=True)
    layout = OciLayout(target, options)
    opened = outcome = None
    try:
        opened = open_source(str(source))
        outcome = Conversion([OpenedSource(str(source), opened)], options, layout).run()
    except MigrateError:
        layout.abandon()
    finally:
        layout.close()
        if opened is not None:
            opened.close()
    if outcome is None or outcome.exit_code == 4:
        assert not target.exists()
    else:
        assert verify(str(target), 1, SilentProgress()) == []
    return outcome


def named(outcome: Outcome) -> tuple[set[str], set[str]]:
    converted = {name for image in outcome.report.images for name in image.references}
    failed = {name for failure in outcome.report.failures for name in failure.references}
    return converted, failed


@settings(max_examples=70)
@given(layers=forests(), data=st.data())
def test_v1_archives(layers: list[Layer], data: st.DataObject) -> None:
    tagged = data.draw(st.lists(st.integers(0, len(layers) - 1), min_size=1, unique=True), "tagged")
    members = [member for layer in layers for member in layer.members()]
    members = data.draw(st.permutations(members), "order") if data.draw(st.booleans()) else members
    tags = {"app": {f"t{number}": layers[number].name for number in tagged}}
    content = build_tar([*members, ("repositories", json.dumps(tags).encode())])
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        outcome = convert(content, Path(directory))
    whole = {f"app:t{number}" for number in tagged if is_whole(layers, number)}
    assert outcome is not None
    converted, failed = named(outcome)
    assert converted == whole
    assert failed >= {f"app:t{number}" for number in tagged} - whole


@settings(max_examples=50)
@given(layers=forests(), data=st.data())
def test_archives_with_a_manifest(layers: list[Layer], data: st.DataObject) -> None:
    """The form of 1.10 and later; a config may state diffIDs that the layers do not have."""
    members = [member for layer in layers for member in layer.members()]
    entries, whole, tagged = [], set(), set()
    for number in data.draw(st.lists(st.integers(0, len(layers) - 1), min_size=1, unique=True), "tagged"):
        stack = list(reversed(chain(layers, number)))
        lies = data.draw(st.sampled_from([False, False, False, True]))
        diff_ids = ["sha256:" + hashlib.sha256(unpacked(layer)).hexdigest() for layer in stack]
        if lies:
            diff_ids[-1] = "sha256:" + "0" * 64
        config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
        raw = json.dumps(config).encode()
        name = f"{hashlib.sha256(raw).hexdigest()}.json"
        members.append((name, raw))
        entries.append(
            {"Config": name, "RepoTags": [f"app:t{number}"], "Layers": [f"{layer.name}/layer.tar" for layer in stack]}
        )
        tagged.add(f"app:t{number}")
        if not lies and all(layer.tar in GOOD_TARS or layer.tar == "no json" for layer in stack):
            whole.add(f"app:t{number}")
    content = build_tar([*members, ("manifest.json", json.dumps(entries).encode())])
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        outcome = convert(content, Path(directory))
    assert outcome is not None
    converted, failed = named(outcome)
    assert converted == whole
    assert failed == tagged - whole


def unpacked(layer: Layer) -> bytes:
    content = layer.content()
    if content is None:  # what was there before it got lost: not nothing, which would follow from its digest
        return layer_tar("lost")
    if layer.tar == "gzip":
        return gzip.decompress(content)
    return lzma.decompress(content) if layer.tar == "xz" else content


@settings(max_examples=70)
@given(layers=forests(), data=st.data())
def test_archives_with_damage_anywhere(layers: list[Layer], data: st.DataObject) -> None:
    """Cut, compressed, overwritten: nothing but errors of ours, a clean target, and no image of lost layers."""
    members = [member for layer in layers for member in layer.members()]
    tags = {"app": {f"t{layer.number}": layer.name for layer in layers}}
    content = bytearray(build_tar([*members, ("repositories", json.dumps(tags).encode())]))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        patch = data.draw(st.binary(min_size=1, max_size=40))
        content[at : at + len(patch)] = patch
    whole = bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    compress = data.draw(st.sampled_from([lambda raw: raw, lambda raw: gzip.compress(raw, 1), lzma.compress]))
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        convert(compress(whole), Path(directory))
