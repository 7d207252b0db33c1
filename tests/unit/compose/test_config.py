from __future__ import annotations

import pytest

from migrate.compose.config import HistoryStep, compose_config
from migrate.errors import DocumentError
from migrate.model.digest import DiffID, Digest
from migrate.model.image import Platform
from tests.layer_json import carried_members, parse_v1_json

A, B = DiffID(Digest("a" * 64)), DiffID(Digest("b" * 64))
STEP = HistoryStep(created="2014-01-01T00:00:00Z", author=None, created_by=None, comment=None, empty_layer=False)
STEP_BYTES = b'"history":[{"created":"2014-01-01T00:00:00Z"}]'
ROOTFS = b'"rootfs":{"type":"layers","diff_ids":["sha256:' + b"a" * 64 + b'"]}'


def test_history_and_rootfs_stand_among_the_sorted_keys() -> None:
    config = compose_config(carried_members(b'{"docker_version":"1.9.1","os":"linux","zzz":1,"aaa":2}'), [STEP], [A])
    expected = b'{"aaa":2,"docker_version":"1.9.1",' + STEP_BYTES + b',"os":"linux",' + ROOTFS + b',"zzz":1}'
    assert config == expected


def test_a_layer_that_stands_twice_stays_twice() -> None:
    config = compose_config(carried_members(b'{"docker_version":"1.9.1"}'), [STEP] * 3, [A, B, A])
    assert config.count(b"a" * 64) == 2


def test_without_layers_there_are_no_diff_ids() -> None:
    config = compose_config(carried_members(b'{"docker_version":"1.9.1"}'), [], [])
    assert config == b'{"docker_version":"1.9.1","history":[],"rootfs":{"type":"layers"}}'


def test_members_of_the_json_that_are_called_history_or_rootfs_give_way() -> None:
    config = compose_config(carried_members(b'{"docker_version":"1.9.1","history":1,"rootfs": [2]}'), [STEP], [A])
    assert config == b'{"docker_version":"1.9.1",' + STEP_BYTES + b"," + ROOTFS + b"}"


def test_a_history_step_in_docker_s_order() -> None:
    layer = parse_v1_json(
        b'{"comment":"c","author":"A <a@b>","created":"2014-01-01T00:00:00.10Z","container_config":{"Cmd":["x","y z"]}}'
    )
    config = compose_config(
        carried_members(b'{"docker_version":"1.9.1"}'), [HistoryStep.of(layer, empty_layer=True)], []
    )
    assert (
        rb'"history":[{"created":"2014-01-01T00:00:00.1Z","author":"A \u003ca@b\u003e","created_by":"x y z",'
        rb'"comment":"c","empty_layer":true}]'
    ) in config


def test_a_step_without_a_time_has_go_s_zero_time() -> None:
    assert HistoryStep.of(parse_v1_json(b"{}"), empty_layer=False).members() == {"created": "0001-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        (b"", b'"architecture":"arm","os":"linux","variant":"v7"'),
        (b',"os":"","architecture":null', b'"architecture":"arm","os":"linux","variant":"v7"'),
        (b', "os" : "" , "architecture":null', b'"architecture":"arm","os":"linux","variant":"v7"'),
        (b',"os":"windows"', b'"architecture":"arm","os":"windows","variant":"v7"'),
        (b',"architecture":"x86_64"', b'"architecture":"x86_64","os":"linux"'),
    ],
)
def test_a_platform_fills_only_what_is_missing(members: bytes, expected: bytes) -> None:
    platform = Platform(os="linux", architecture="arm", variant="v7")
    config = compose_config(carried_members(b'{"docker_version":"1.9.1"' + members + b"}"), [], [], platform)
    for member in (b'"docker_version":"1.9.1"', b'"history":[],', b'"rootfs":{"type":"layers"}'):
        config = config.replace(member, b"", 1)
    assert config.replace(b",,", b",").replace(b"{,", b"{").replace(b",}", b"}").strip(b"{}") == expected


def test_json_that_docker_refuses() -> None:
    with pytest.raises(DocumentError):
        compose_config(carried_members(b'{"id":1}'), [], [])
