"""Six hundred random layer documents, each with the config that Go makes of it.

Go 1.19 (Docker 20.10 was built with it) decoded and encoded them with the structs and the rules of
docs/formats/v1-image-json.md; one layer, the empty tar. Both texts of a line stand for bytes, one character each; where
the config is null, Go refuses the document. The documents have duplicate and folded keys, wrong types, every escape,
numbers of all spellings, bytes that are not UTF-8, odd times and versions, and broken syntax. Half of them are in Go's
own form.
"""

from __future__ import annotations

import json
import lzma
from pathlib import Path

from migrate.compose.config import HistoryStep, compose_config
from migrate.errors import DocumentError
from migrate.model.digest import DiffID, Digest
from tests.layer_json import carried_members, parse_v1_json

VECTORS = Path(__file__).with_name("go_configs.jsonl.xz")
EMPTY_TAR = DiffID(Digest("5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"))


def config_of(document: bytes) -> bytes | None:
    try:
        history = [HistoryStep.of(parse_v1_json(document), empty_layer=False)]
        return compose_config(carried_members(document), history, [EMPTY_TAR])
    except DocumentError:
        return None


def test_every_config_is_go_s() -> None:
    with lzma.open(VECTORS, "rt", encoding="ascii") as lines:
        vectors = [json.loads(line) for line in lines]
    assert len(vectors) == 600
    assert 10 < sum(vector["config"] is None for vector in vectors) < 100
    for vector in vectors:
        expected = None if vector["config"] is None else vector["config"].encode("latin-1")
        assert config_of(vector["json"].encode("latin-1")) == expected, vector["json"]
