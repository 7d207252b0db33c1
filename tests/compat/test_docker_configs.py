"""Docker's own legacy load makes the same image IDs of odd layer documents."""

from __future__ import annotations

import json
import lzma

import pytest

from migrate.compose.config import HistoryStep, compose_config
from migrate.model.digest import DiffID, Digest
from tests.archives import V1Archive
from tests.golden.test_go_configs import VECTORS
from tests.layer_json import carried_members, parse_v1_json
from tests.peers import DockerEngine

pytestmark = pytest.mark.peer

EMPTY_TAR = DiffID(Digest("5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"))


def loadable_documents() -> list[bytes]:
    """Those of the vectors that Docker 20.10 loads: accepted by Go, for this system, without a parent.

    `PublishService` is left out: 20.10 forgot the field, and a migration by 1.10 keeps it.
    """
    with lzma.open(VECTORS, "rt", encoding="ascii") as lines:
        vectors = [json.loads(line) for line in lines]
    documents = [vector["json"].encode("latin-1") for vector in vectors if vector["config"] is not None]
    return [document for document in documents if _is_loadable(document)]


def _is_loadable(document: bytes) -> bool:
    layer, config = parse_v1_json(document), parse_v1_json(config_of(document))
    systems = {layer.os, config.os} - {None}  # they differ where two spellings of the key change places
    return layer.parent is None and systems <= {"linux"} and b"publishservice" not in document.lower()


def config_of(document: bytes) -> bytes:
    return compose_config(
        carried_members(document), [HistoryStep.of(parse_v1_json(document), empty_layer=False)], [EMPTY_TAR]
    )


def test_odd_documents_get_docker_s_image_ids(engine: DockerEngine) -> None:
    documents = loadable_documents()[::5]  # every one of them is good; the engine takes a tenth of a second for each
    assert len(documents) > 50
    archive = V1Archive()
    expected = {}
    for number, document in enumerate(documents):
        identity = archive.layer(f"layer {number}", tar=bytes(1024), raw=document)
        archive.tag("odd", f"v{number}", identity)
        expected[f"odd:v{number}"] = str(Digest.of(config_of(document)))
    engine.remove_all()
    engine.load(archive.build())
    listed = engine.docker("images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}", "odd")
    engine.remove_all()
    assert dict(line.split() for line in listed.splitlines()) == expected
