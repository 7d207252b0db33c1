from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from migrate.documents.oci import (
    OCI_LAYOUT,
    IndexEntry,
    encode_index,
    encode_manifest,
    parse_config,
    parse_history,
    parse_index,
    parse_manifest,
)
from migrate.errors import DocumentError, LimitError
from migrate.model.digest import Digest
from migrate.model.image import Descriptor, Platform

A, B = Digest("a" * 64), Digest("b" * 64)
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"

CONFIG = Descriptor(media_type=DOCKER_CONFIG, digest=A, size=1457)
LAYER = Descriptor(media_type=DOCKER_LAYER, digest=B, size=32)

DOCKER_BYTES = f"""{{
   "schemaVersion": 2,
   "mediaType": "{DOCKER_MANIFEST}",
   "config": {{
      "mediaType": "{DOCKER_CONFIG}",
      "size": 1457,
      "digest": "{A}"
   }},
   "layers": [
      {{
         "mediaType": "{DOCKER_LAYER}",
         "size": 32,
         "digest": "{B}"
      }},
      {{
         "mediaType": "{DOCKER_LAYER}",
         "size": 32,
         "digest": "{B}"
      }}
   ]
}}""".encode()


def descriptor(**changes: Any) -> dict[str, Any]:
    return {"mediaType": DOCKER_CONFIG, "size": 1457, "digest": str(A), **changes}


def manifest(**changes: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "config": descriptor(), "layers": [], **changes}).encode()


def index(**changes: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "manifests": [], **changes}).encode()


def config(**changes: Any) -> bytes:
    return json.dumps({"rootfs": {"type": "layers", "diff_ids": []}, **changes}).encode()


def test_the_layout_file() -> None:
    assert json.loads(OCI_LAYOUT) == {"imageLayoutVersion": "1.0.0"}


def test_a_docker_manifest_has_docker_s_bytes_and_reads_back() -> None:
    assert encode_manifest(CONFIG, [LAYER, LAYER], DOCKER_MANIFEST) == DOCKER_BYTES
    facts = parse_manifest(DOCKER_BYTES)
    assert (facts.media_type, facts.config, facts.layers) == (DOCKER_MANIFEST, CONFIG, (LAYER, LAYER))


def test_a_manifest_without_layers() -> None:
    encoded = encode_manifest(CONFIG, [], DOCKER_MANIFEST)
    assert encoded.endswith(b'   },\n   "layers": []\n}')
    assert parse_manifest(encoded).layers == ()


def test_an_oci_manifest() -> None:
    oci_config = Descriptor(media_type=OCI_CONFIG, digest=A, size=2)
    encoded = encode_manifest(oci_config, [LAYER], OCI_MANIFEST)
    assert list(json.loads(encoded)) == ["schemaVersion", "mediaType", "config", "layers"]
    assert parse_manifest(encoded).media_type == OCI_MANIFEST


def test_the_type_of_a_manifest_that_does_not_say() -> None:
    assert parse_manifest(manifest()).media_type == DOCKER_MANIFEST
    assert parse_manifest(manifest(config=descriptor(mediaType=OCI_CONFIG))).media_type == OCI_MANIFEST
    assert parse_index(index()).media_type == OCI_INDEX


def test_an_index_reads_back_with_platforms_and_annotations() -> None:
    entries = (
        IndexEntry(descriptor=CONFIG, platform=Platform(os="linux", architecture="arm", variant="v7")),
        IndexEntry(descriptor=LAYER, annotations={"b": "2", "a": "1"}),
    )
    encoded = encode_index(entries)
    assert parse_index(encoded).manifests == entries
    assert encoded.index(b'"a"') < encoded.index(b'"b"')


def test_a_docker_list_has_docker_s_indentation() -> None:
    entry = IndexEntry(descriptor=LAYER, platform=Platform(os="linux", architecture="amd64"))
    assert (
        encode_index([entry], DOCKER_LIST)
        == f"""{{
   "schemaVersion": 2,
   "mediaType": "{DOCKER_LIST}",
   "manifests": [
      {{
         "mediaType": "{DOCKER_LAYER}",
         "size": 32,
         "digest": "{B}",
         "platform": {{
            "architecture": "amd64",
            "os": "linux"
         }}
      }}
   ]
}}""".encode()
    )


def test_a_platform_without_os_or_architecture_is_none() -> None:
    entries = [descriptor(platform={"os": "linux", "architecture": ""}), descriptor(platform=None), descriptor()]
    assert [entry.platform for entry in parse_index(index(manifests=entries)).manifests] == [None, None, None]


def test_a_config() -> None:
    facts = parse_config(
        config(
            os="linux",
            architecture="arm",
            variant="v7",
            created="2014-01-01T00:00:00Z",
            rootfs={"type": "layers", "diff_ids": [str(A), str(B), str(A)]},
            history=[{}, {"empty_layer": True}, {"empty_layer": False}, {"created_by": "x"}],
        )
    )
    assert facts.diff_ids == (A, B, A)
    assert facts.history_empty == (False, True, False, False)
    assert facts.platform == Platform(os="linux", architecture="arm", variant="v7")
    assert facts.created == "2014-01-01T00:00:00Z"


def test_a_config_that_says_little() -> None:
    facts = parse_config(b'{"rootfs":{"type":"layers"},"created":null,"architecture":"amd64"}')
    assert (facts.diff_ids, facts.history_empty, facts.platform, facts.created) == ((), None, None, None)
    assert (facts.os, facts.architecture) == (None, "amd64")


@pytest.mark.parametrize("comment", [b"caf\xe9", rb"x\ud800"])
def test_a_config_that_is_not_unicode_is_read_all_the_same(comment: bytes) -> None:
    assert parse_config(b'{"comment":"' + comment + b'","rootfs":{"diff_ids":null}}').diff_ids == ()


def test_a_config_is_read_as_go_reads_it() -> None:
    raw = (
        b'{"foo":1e400,"bar":"\\ud800 \xe9","OS":"linux","Architecture":"arm","created":"x","Created":null,'
        b'"RootFS":{"Type":"layers"},"rootfs":{"Diff_IDs":["%s"]},"History":[{"Empty_Layer":true},{},null]}'
    ) % str(A).encode()
    facts = parse_config(raw)
    assert facts.diff_ids == (A,)
    assert facts.platform == Platform(os="linux", architecture="arm")
    assert facts.history_empty == (True, False, False)
    assert facts.created == "x"
    without_number = raw.replace(b"1e400", b"1").replace(b"\\ud800 \xe9", b"")
    assert parse_config(without_number) == facts


@pytest.mark.parametrize(
    ("parse", "raw", "message"),
    [
        (parse_config, b"[]", "config: not an object"),
        (parse_config, b"{}", "config: rootfs: not an object"),
        (parse_config, config(rootfs={"diff_ids": "x"}), "config: rootfs.diff_ids: not an array of strings"),
        (parse_config, config(rootfs={"diff_ids": [str(A), "sha256:12"]}), "config: rootfs.diff_ids[1]: not a sha256"),
        (parse_config, config(rootfs={"diff_ids": [7]}), "config: rootfs.diff_ids: not a string"),
        (parse_config, b'{"RootFS":{"Diff_IDs":[1e400]},"x":1e400}', "config: rootfs.diff_ids: not a string"),
        (parse_config, config(history={}), "config: history: not an array"),
        (parse_config, config(history=[1]), "config: history[0]: not an object"),
        (parse_config, config(os=1), "config: os: not a string"),
        (parse_config, b"null", "config: not an object"),
        (parse_manifest, b"7", "manifest: not an object"),
        (parse_manifest, manifest(schemaVersion=1), "manifest: schemaVersion is 1, not 2"),
        (parse_manifest, manifest(schemaVersion=True), "manifest: schemaVersion: not an integer"),
        (parse_manifest, manifest(manifests=[]), "manifest: not an image manifest"),
        (parse_manifest, index(), "manifest: not an image manifest"),
        (parse_manifest, manifest(config=None), "manifest: config: not an object"),
        (parse_manifest, manifest(config=descriptor(size=-1)), "manifest: config: size is -1"),
        (parse_manifest, manifest(config=descriptor(size=1.5)), "manifest: config.size: not an integer"),
        (parse_manifest, manifest(config=descriptor(size=1 << 63)), "manifest: config.size: not an integer"),
        (parse_manifest, manifest(config=descriptor(size=True)), "manifest: config.size: not an integer"),
        (parse_manifest, manifest(layers=[descriptor(digest="md5:1")]), "manifest: layers[0].digest: not a sha256"),
        (parse_manifest, manifest(layers=[descriptor(digest=f"{A}\n")]), "manifest: layers[0].digest: not a sha256"),
        (parse_manifest, manifest(mediaType=2), "manifest: mediaType: not a string"),
        (parse_index, index(manifests={}), "index: manifests: not an array"),
        (parse_index, manifest(), "index: not an index"),
        (parse_index, index(manifests=[descriptor(platform=1)]), "index: manifests[0].platform: not an object"),
        (
            parse_index,
            index(manifests=[descriptor(annotations={"a": 1})]),
            "index: manifests[0].annotations: not a string",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(parse: Callable[[bytes], object], raw: bytes, message: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse(raw)
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize("parse", [parse_config, parse_manifest, parse_index])
def test_limits_and_syntax(parse: Callable[[bytes], object]) -> None:
    with pytest.raises(LimitError):
        parse(b"[" * 5_000)
    with pytest.raises(DocumentError, match="not valid JSON"):
        parse(b"{")


@pytest.mark.parametrize("depth", [1, 250, 252, 900])
def test_an_index_that_can_be_read_can_be_written_again(depth: int) -> None:
    entry = {"mediaType": DOCKER_MANIFEST, "size": 2, "digest": str(A)}
    raw = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    raw = raw.replace(b'"size"', b'"x":' + b"[" * depth + b"]" * depth + b',"size"')
    index = parse_index(raw)
    again = encode_index(index.manifests)
    assert b'"x":' + b"[" * depth + b"]" * depth in again
    assert parse_index(again).manifests == index.manifests


def test_manifests_are_read_as_go_reads_them() -> None:
    layer, other = (json.dumps(descriptor(digest=str(digest))) for digest in (A, B))
    layers = f'"layers":[{layer}],"Layers":[{other}]'
    raw = f'{{"SchemaVersion":2,"CONFIG":{other},{layers},"config":{{"Size":7}},"x":1e400}}'
    facts = parse_manifest(raw.encode())
    assert [layer.digest for layer in facts.layers] == [B]
    assert facts.config == Descriptor(media_type=DOCKER_CONFIG, digest=B, size=7)
    with pytest.raises(DocumentError, match="not an image manifest"):
        parse_manifest(raw.replace("1e400", '1,"Manifests":[]').encode())


def test_indexes_are_read_as_go_reads_them_and_lose_nothing() -> None:
    entry = (
        b'{"MediaType":"m","size":1,"SIZE":2,"digest":"%s","Platform":{"OS":"linux","Architecture":"arm","os.version":1.0},'
        b'"x":1e400,"y":"\xe9","annotations":{"a":"1","a":"2"}}'
    ) % str(A).encode()
    index = parse_index(b'{"schemaVersion":2,"Manifests":[null],"manifests":[%s]}' % entry)
    (read,) = index.manifests
    assert read.descriptor == Descriptor(media_type="m", digest=A, size=2)
    assert read.platform == Platform(os="linux", architecture="arm")
    assert read.annotations == {"a": "2"}
    assert encode_index(index.manifests) == (
        b'{"schemaVersion":2,"mediaType":"%s","manifests":[{"mediaType":"m","size":2,"digest":"%s",'
        b'"annotations":{"a":"2"},"platform":{"OS":"linux","Architecture":"arm","os.version":1.0},'
        b'"x":1e400,"y":"\xef\xbf\xbd"}]}'
    ) % (OCI_INDEX.encode(), str(A).encode())
    assert b'"os.version":1.0' in encode_index(index.manifests, DOCKER_LIST)


def test_a_history_is_read_as_go_reads_it() -> None:
    steps = parse_history(b'{"x":1e400,"History":[{"Created_By":"a","created_by":null,"empty_layer":true},null]}')
    assert steps == [{"created_by": "a", "empty_layer": True}, {}]
    assert parse_history(b'{"history":null}') == ()
