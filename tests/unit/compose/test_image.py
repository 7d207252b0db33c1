from __future__ import annotations

import hashlib
import json
import random
import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest

from migrate.compose.image import SharedParts, compose_image
from migrate.documents.oci import parse_config, parse_manifest
from migrate.errors import ComposeError, DocumentError, IntegrityError, LimitError
from migrate.model.digest import DiffID, Digest
from migrate.model.image import ComposedImage, HashedLayer, Platform, StoredBlob
from migrate.model.legacy import LegacyID, LegacyImage, LegacyLayer, ReadyManifest
from migrate.model.options import Compression, ConvertOptions, EmptyLayers, Format

KEEP = ConvertOptions(empty_layers=EmptyLayers.KEEP)
DROP = ConvertOptions()
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def layer(name: str, json_bytes: bytes = b'{"docker_version":"1.9.1"}') -> LegacyLayer:
    return LegacyLayer(legacy_id=LegacyID(name), json=json_bytes, parent=None, payload=None)


def hashed(name: str, *, empty: bool = False, blob: bool = True, compression: str = "gzip") -> HashedLayer:
    digest = Digest.of(name.encode())
    stored = StoredBlob(digest=Digest.of(b"blob " + name.encode()), size=len(name), compression=compression)
    return HashedLayer(
        diff_id=DiffID(digest), tar_size=512, empty=empty, blob=stored if blob else None, origin="archive"
    )


Row = tuple[LegacyLayer, HashedLayer | None]


def rows(*names: str, empty: Sequence[str] = ()) -> list[Row]:
    return [(layer(name), hashed(name, empty=name in empty)) for name in names]


def compose(chain: Sequence[Row], options: ConvertOptions = DROP, **image: Any) -> ComposedImage:
    return compose_image(LegacyImage(head=LegacyID("head"), **image), chain, options)


def history_flags(image: ComposedImage) -> tuple[bool, ...] | None:
    return parse_config(image.config).history_empty


def ready_config(*diff_ids: DiffID, **members: Any) -> bytes:
    rootfs = {"type": "layers", "diff_ids": [str(diff_id) for diff_id in diff_ids]}
    return json.dumps({**members, "rootfs": rootfs}, indent=1).encode()


# --- images that stand on one another ------------------------------------------------------------------------------


@pytest.mark.parametrize("format", [Format.DOCKER, Format.OCI])
@pytest.mark.parametrize("empty_layers", list(EmptyLayers))
def test_what_images_share_changes_none_of_their_bytes(format: Format, empty_layers: EmptyLayers) -> None:
    """Chains of every length, in every order of lengths, with branches, empty layers and steps without a layer."""
    options = ConvertOptions(format=format, empty_layers=empty_layers)
    trunk = rows(*map(str, range(40)), empty=("0", "7", "39"))
    trunk[11] = (trunk[11][0], None)
    branch = [*trunk[:20], *rows(*(f"b{number}" for number in range(20)), empty=("b0",))]
    chains = [chain[:length] for chain in (trunk, branch) for length in range(1, 41)]
    random.Random(1).shuffle(chains)
    shared = SharedParts()
    together = [compose_image(LegacyImage(head=LegacyID("head")), chain, options, shared) for chain in chains]
    for chain, image in zip(chains, together, strict=True):
        alone = compose_image(LegacyImage(head=LegacyID("head")), chain, options)
        assert (image.config, image.manifest) == (alone.config, alone.manifest)
        assert image.image_id == Digest.of(image.config) and image.manifest_digest == Digest.of(image.manifest)


def test_images_of_one_chain_take_memory_by_their_number_and_not_by_their_layers() -> None:
    chain, shared = rows(*map(str, range(200))), SharedParts()
    tracemalloc.start()
    kept = [compose_image(LegacyImage(head=LegacyID("head")), chain[: n + 1], DROP, shared) for n in range(200)]
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < sum(len(image.config) + len(image.manifest) for image in kept) / 5


def held_by_images(count: int, shared: SharedParts) -> int:
    """Bytes that `count` images of one layer each have in memory, their layers left out."""
    chains = [rows(str(number)) for number in range(count)]
    tracemalloc.start()
    kept = [compose_image(LegacyImage(head=LegacyID("head")), chain, DROP, shared) for chain in chains]
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size if kept else 0


def test_a_tiny_image_takes_hardly_more_memory_than_its_documents() -> None:
    """The encoder's buffers are larger than what they hold."""
    assert held_by_images(200, SharedParts()) < 200 * 5_000


def test_what_many_images_could_share_is_kept_of_the_last_ones_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrate.compose.image._KEPT_PARTS", 20)
    options, shared = ConvertOptions(), SharedParts()
    trunk = rows(*map(str, range(8)))
    chains = [[*trunk[: number % 8], *rows(f"own {number}")] for number in range(100)]
    for chain in chains:
        image = compose_image(LegacyImage(head=LegacyID("head")), chain, options, shared)
        alone = compose_image(LegacyImage(head=LegacyID("head")), chain, options)
        assert (image.config, image.manifest) == (alone.config, alone.manifest)
    assert held_by_images(1, shared) < 20_000 and len(shared._steps) <= 20 + len(trunk) + 1


# --- from v1 JSON --------------------------------------------------------------------------------------------------


def test_config_manifest_and_layers_agree() -> None:
    image = compose(rows("a", "b", "a"))
    manifest = parse_manifest(image.manifest)
    assert manifest.media_type == image.manifest_media_type == DOCKER_MANIFEST
    assert manifest.config.digest == image.image_id == Digest(hashlib.sha256(image.config).hexdigest())
    assert manifest.config.media_type == image.config_media_type
    assert manifest.layers == tuple(image.layers)
    assert parse_config(image.config).diff_ids == tuple(image.diff_ids)
    assert [found.digest for found in image.layers] == [Digest.of(b"blob " + name) for name in (b"a", b"b", b"a")]
    assert history_flags(image) == (False, False, False)
    assert image.warnings == ()


def test_an_empty_layer_becomes_history_alone() -> None:
    chain = rows("a", "b", "c", empty=["b"])
    image = compose(chain)
    assert history_flags(image) == (False, True, False)
    assert [str(diff_id) for diff_id in image.diff_ids] == [str(Digest.of(b"a")), str(Digest.of(b"c"))]
    assert len(image.layers) == 2


def test_an_empty_layer_that_was_not_stored_is_not_missed() -> None:
    chain: list[Row] = [*rows("a"), (layer("b"), hashed("b", empty=True, blob=False))]
    assert len(compose(chain).layers) == 1


def test_an_empty_layer_can_be_kept() -> None:
    image = compose(rows("a", "b", empty=["a", "b"]), KEEP)
    assert history_flags(image) == (False, False)
    assert len(image.layers) == len(image.diff_ids) == 2


@pytest.mark.parametrize("options", [KEEP, DROP])
def test_a_step_without_a_layer_is_history_in_any_case(options: ConvertOptions) -> None:
    image = compose([*rows("a"), (layer("thrown away"), None)], options)
    assert history_flags(image) == (False, True)
    assert len(image.layers) == 1


def test_an_image_of_empty_layers_alone() -> None:
    image = compose(rows("a", empty=["a"]))
    assert (image.diff_ids, image.layers) == ((), ())
    assert parse_manifest(image.manifest).layers == ()


def test_history_comes_from_every_layer_and_the_config_from_the_top() -> None:
    chain: list[Row] = [
        (layer("a", b'{"docker_version":"1.9.1","author":"first","x":1}'), hashed("a")),
        (layer("b", b'{"docker_version":"1.9.1","created":"2015-01-01T00:00:00Z","y":2}'), hashed("b")),
    ]
    image = compose(chain)
    document = json.loads(image.config)
    assert [step.get("author") for step in document["history"]] == ["first", None]
    assert (document.get("x"), document["y"]) == (None, 2)
    assert image.created == "2015-01-01T00:00:00Z"


def test_json_that_docker_refuses_fails_the_image_and_names_the_layer() -> None:
    chain: list[Row] = [(layer("bottom", b'{"id":1}'), hashed("a")), *rows("b")]
    with pytest.raises(DocumentError, match=r"^layer bottom: layer json: id: not a string$") as caught:
        compose(chain)
    assert caught.value.layer == "bottom"


def test_json_over_a_limit_names_the_layer_too() -> None:
    with pytest.raises(LimitError, match=r"^layer deep: ") as caught:
        compose([(layer("deep", b"[" * 20_000), hashed("a"))])
    assert caught.value.layer == "deep"


def test_a_chain_of_nothing() -> None:
    with pytest.raises(ComposeError):
        compose([])


@pytest.mark.parametrize(("length", "warned"), [(125, False), (126, True)])
def test_a_long_chain_is_converted_with_a_warning(length: int, warned: bool) -> None:
    image = compose([(layer(f"{number}"), hashed(f"{number}")) for number in range(length)])
    assert len(image.layers) == length
    assert any("more than 125" in warning for warning in image.warnings) is warned


def test_a_config_that_is_not_unicode_is_converted_with_a_warning() -> None:
    image = compose([(layer("a", b'{"docker_version":"1.9.1","comment":"caf\xe9"}'), hashed("a"))])
    assert b"caf\xe9" in image.config
    assert any("UTF-8" in warning for warning in image.warnings)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (b'{"os":"linux","architecture":"amd64"}', Platform(os="linux", architecture="amd64")),
        (b'{"architecture":"x86_64"}', Platform(os="linux", architecture="amd64")),
        (b'{"os":"windows","architecture":"arm64"}', Platform(os="windows", architecture="arm64")),
        (b'{"os":"linux","architecture":"arm"}', Platform(os="linux", architecture="arm")),
        (b"{}", Platform(os="linux", architecture="arm", variant="v7")),
        (b'{"os":"freebsd"}', Platform(os="freebsd", architecture="arm", variant="v7")),
    ],
)
def test_the_platform_is_what_the_json_says_and_else_the_option(document: bytes, expected: Platform) -> None:
    options = ConvertOptions(platform=Platform(os="linux", architecture="arm", variant="v7"))
    image = compose([(layer("a", document), hashed("a"))], options)
    assert image.platform == expected
    untouched = compose([(layer("a", document), hashed("a"))])
    assert image.config == untouched.config


def test_the_platform_of_the_source_counts_more() -> None:
    platform = Platform(os="linux", architecture="arm", variant="v6")
    assert compose(rows("a"), platform=platform).platform == platform


def test_the_platform_is_written_into_the_config_on_request() -> None:
    options = ConvertOptions(fill_platform=True)
    filled = json.loads(compose(rows("a"), options).config)
    assert (filled["os"], filled["architecture"]) == ("linux", "amd64")
    old = json.loads(compose([(layer("a", b'{"architecture":"x86_64"}'), hashed("a"))], options).config)
    assert (old["os"], old["architecture"]) == ("linux", "x86_64")


def test_oci_with_zstd() -> None:
    options = ConvertOptions(format=Format.OCI, compression=Compression.ZSTD)
    image = compose([(layer("a"), hashed("a", compression="zstd"))], options)
    assert image.manifest_media_type == "application/vnd.oci.image.manifest.v1+json"
    assert image.config_media_type == "application/vnd.oci.image.config.v1+json"
    assert image.layers[0].media_type == "application/vnd.oci.image.layer.v1.tar+zstd"
    assert image.config == compose(rows("a")).config


def test_a_dry_run_without_blobs_has_a_config_but_no_manifest() -> None:
    chain: list[Row] = [(layer("a"), hashed("a", blob=False)), *rows("b")]
    image = compose(chain, ConvertOptions(dry_run=True))
    assert (image.manifest, image.layers) == (b"", ())
    assert image.image_id == compose(rows("a", "b")).image_id
    with pytest.raises(ComposeError, match="was not stored"):
        compose(chain)


# --- carried over --------------------------------------------------------------------------------------------------


def test_a_config_that_stands_in_the_source_is_used_as_it_is() -> None:
    chain = rows("a", "b", "a", empty=["b"])
    config = ready_config(*(found.diff_id for _, found in chain if found), created="2016-01-01T00:00:00Z")
    image = compose(chain, config=config)
    assert image.config == config
    assert image.created == "2016-01-01T00:00:00Z"
    assert len(image.layers) == len(image.diff_ids) == 3
    assert parse_manifest(image.manifest).config.digest == Digest.of(config)


def test_a_layer_that_a_config_does_not_name_is_an_integrity_error() -> None:
    chain = rows("a", "b")
    other = hashed("c").diff_id
    with pytest.raises(IntegrityError, match=f"layer 2 has diffID .*, its config names {other}") as caught:
        compose(chain, config=ready_config(hashed("a").diff_id, other))
    assert caught.value.layer == "b"


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_layers_is_an_integrity_error(count: int) -> None:
    with pytest.raises(IntegrityError, match=f"names {count} layers, the source has 2"):
        compose(rows("a", "b"), config=ready_config(*[hashed("a").diff_id] * count))


@pytest.mark.parametrize("carried", [False, True], ids=["config", "config and manifest"])
def test_a_history_of_too_few_steps_is_taken_with_a_warning_as_docker_takes_it(carried: bool) -> None:
    chain = rows("a", "b")
    config = ready_config(*(found.diff_id for _, found in chain if found), history=[{}, {"empty_layer": True}])
    manifest = carried_manifest(config, Digest("a" * 64), Digest("b" * 64)) if carried else None
    image = compose(chain, config=config, manifest=manifest)
    assert image.config == config
    assert [line for line in image.warnings if "1 steps of the config's history have a layer, for 2 layers" in line]
    for history in ([], None, [{}, {"empty_layer": True}, {}]):
        whole = ready_config(*(found.diff_id for _, found in chain if found), history=history)
        assert compose(chain, config=whole).warnings == ()


def test_a_history_of_too_many_steps_is_refused_as_docker_refuses_it() -> None:
    config = ready_config(hashed("a").diff_id, history=[{}, {}, {"empty_layer": True}])
    with pytest.raises(DocumentError, match=r"image head: 2 steps of its config's history have a layer, for 1 layers"):
        compose(rows("a"), config=config)


def test_a_config_that_is_none_is_a_document_error() -> None:
    with pytest.raises(DocumentError):
        compose(rows("a"), config=b'{"rootfs":1}')


def test_the_platform_of_a_carried_over_config() -> None:
    config = ready_config(hashed("a").diff_id, os="linux", architecture="arm", variant="v7")
    assert compose(rows("a"), config=config).platform == Platform(os="linux", architecture="arm", variant="v7")
    assert compose(rows("a"), ConvertOptions(fill_platform=True), config=config).config == config


def test_a_carried_over_config_is_filled_on_request_and_keeps_its_other_bytes() -> None:
    config = ready_config(hashed("a").diff_id, x=1.50, architecture="arm").replace(b"1.5", b"1.50e+0")
    image = compose(rows("a"), ConvertOptions(fill_platform=True), config=config)
    assert image.config.startswith(b'{"architecture":"arm","os":"linux","rootfs":')
    assert image.config.endswith(b'"x":1.50e+0}')


@pytest.mark.parametrize(
    ("stated", "written", "architecture"),
    [
        (b'"Architecture":"arm"', b'"Architecture":"arm"', "arm"),
        (b'"Architecture":"arm","architecture":null', b'"Architecture":"arm","architecture":null', "arm"),
        (b'"ARCHITECTURE":"arm","architecture":""', b'"ARCHITECTURE":"arm","architecture":"amd64"', "amd64"),
        (b'"Architecture":""', b'"Architecture":"","architecture":"amd64"', "amd64"),
    ],
)
def test_what_a_config_states_in_any_letters_is_not_filled(stated: bytes, written: bytes, architecture: str) -> None:
    config = ready_config(hashed("a").diff_id).replace(b"{", b"{" + stated + b",", 1)
    filled = compose(rows("a"), ConvertOptions(fill_platform=True), config=config).config
    assert filled.startswith(b"{" + written + b',"os":"linux","rootfs":')
    assert parse_config(filled).architecture == architecture


def carried_manifest(config: bytes, *blobs: Digest, media_type: str = "layer") -> ReadyManifest:
    document = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": {"mediaType": "config", "size": len(config), "digest": str(Digest.of(config))},
        "layers": [{"mediaType": media_type, "size": 7, "digest": str(blob)} for blob in blobs],
    }
    return ReadyManifest(content=json.dumps(document, indent=2).encode(), media_type=DOCKER_MANIFEST)


def test_a_manifest_that_stands_in_the_source_is_carried_over() -> None:
    config = ready_config(hashed("a").diff_id)
    manifest = carried_manifest(config, Digest("a" * 64), media_type="a type of its own")
    options = ConvertOptions(format=Format.OCI, fill_platform=True)
    image = compose(rows("a"), options, config=config, manifest=manifest)
    assert (image.manifest, image.config) == (manifest.content, config)
    assert (image.manifest_media_type, image.config_media_type) == (DOCKER_MANIFEST, "config")
    assert [(found.media_type, found.digest, found.size) for found in image.layers] == [
        ("a type of its own", Digest("a" * 64), 7)
    ]


def test_a_carried_over_manifest_has_to_fit_its_config() -> None:
    config = ready_config(hashed("a").diff_id)
    with pytest.raises(IntegrityError, match="its manifest names config"):
        compose(rows("a"), config=config, manifest=carried_manifest(config + b" ", Digest("a" * 64)))
    with pytest.raises(IntegrityError, match="names 2 layers, its config 1"):
        compose(rows("a"), config=config, manifest=carried_manifest(config, Digest("a" * 64), Digest("b" * 64)))
    with pytest.raises(DocumentError):
        compose(rows("a"), config=config, manifest=ReadyManifest(content=b"{}", media_type=DOCKER_MANIFEST))
