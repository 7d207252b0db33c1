"""Documents with long lists are written item by item, with the bytes of the whole document written at once."""

from __future__ import annotations

import json

import pytest

from migrate.documents.docker_archive import ArchiveManifestEntry, encode_archive_manifest
from migrate.documents.image_map import MappedImage, encode_map
from migrate.documents.json_text import encode_json_pretty
from migrate.documents.oci import IndexEntry, encode_index
from migrate.model.digest import Digest, ImageID
from migrate.model.image import Descriptor, MediaType, Platform

LENGTHS = pytest.mark.parametrize("length", range(4))
ODD = 'a "b"\n\\]}, [] caf\u00e9'


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


@LENGTHS
def test_an_archive_manifest(length: int) -> None:
    entries = [ArchiveManifestEntry(config=ODD, repo_tags=(ODD,) * each, layers=("l",)) for each in range(length)]
    whole = [{"Config": ODD, "RepoTags": [ODD] * each or None, "Layers": ["l"]} for each in range(length)]
    assert encode_archive_manifest(iter(entries)) == compact(whole) + b"\n"


@LENGTHS
@pytest.mark.parametrize("media_type", [MediaType.OCI_INDEX, MediaType.DOCKER_LIST])
def test_an_index(media_type: str, length: int) -> None:
    digest = Digest("a" * 64)
    descriptor = Descriptor(media_type=MediaType.OCI_MANIFEST, digest=digest, size=1)
    entry = IndexEntry(descriptor=descriptor, platform=Platform(os="linux", architecture=ODD), annotations={"x": ODD})
    row = {
        **{"mediaType": MediaType.OCI_MANIFEST, "size": 1, "digest": str(digest)},
        **{"annotations": {"x": ODD}, "platform": {"architecture": ODD, "os": "linux"}},
    }
    whole = {"schemaVersion": 2, "mediaType": media_type, "manifests": [row] * length}
    text = encode_index(iter([entry] * length), media_type)
    assert json.loads(text) == whole
    is_indented = media_type == MediaType.DOCKER_LIST
    assert text == (json.dumps(whole, indent=3, ensure_ascii=False).encode() if is_indented else compact(whole))


@LENGTHS
def test_a_map(length: int) -> None:
    rows = [
        MappedImage(
            legacy_id=f"{each} {ODD}\udce9",  # a byte that is no text
            image_id=ImageID(Digest("b" * 64)),
            manifest_digest=None,
            references=(ODD,) * each,
            names=(),
            containers=(),
            legacy_digests=(),
            platform="linux/amd64",
            sources=("s",),
        )
        for each in range(length)
    ]
    text = encode_map(iter(rows))
    assert text == encode_json_pretty(json.loads(text))
    assert [row["legacy_id"] for row in json.loads(text)["images"]] == [f"{n} {ODD}\ufffd" for n in range(length)]
