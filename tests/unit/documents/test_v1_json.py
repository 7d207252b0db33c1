"""Layer JSON as Docker reads it: fields, folding, merging, refusals, and what a config carries over."""

from __future__ import annotations

from contextlib import suppress

import pytest

from migrate.documents import v1_json
from migrate.documents.go_json import encode_object, read_document
from migrate.errors import DocumentError, LimitError
from tests.layer_json import carried_members, parse_identity, parse_v1_json

NO_CONFIG = (
    b'{"Hostname":"","Domainname":"","User":"","AttachStdin":false,"AttachStdout":false,"AttachStderr":false,'
    b'"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":null,"Cmd":null,"Image":"","Volumes":null,"WorkingDir":"",'
    b'"Entrypoint":null,"OnBuild":null,"Labels":null}'
)


IN_ORDER = """
Hostname Domainname User AttachStdin AttachStdout AttachStderr ExposedPorts 80/tcp PublishService Tty OpenStdin
StdinOnce Env Cmd Healthcheck Test Retries ArgsEscaped Image Volumes WorkingDir Entrypoint NetworkDisabled MacAddress
OnBuild Labels StopSignal StopTimeout Shell
"""


def carried(raw: bytes) -> bytes:
    return encode_object(carried_members(raw))


def carried_config(config: bytes) -> bytes:
    """`config` as an image of an old Docker carries it over."""
    whole = carried(b'{"config":' + config + b"}")
    head, tail = b'{"config":', b',"container_config":' + NO_CONFIG + b',"created":"0001-01-01T00:00:00Z"}'
    assert whole.startswith(head)
    assert whole.endswith(tail)
    return whole[len(head) : -len(tail)]


def with_fields(*fields: tuple[bytes, bytes]) -> bytes:
    """The zero config with values replaced (field name, JSON)."""
    config = NO_CONFIG
    for name, value in fields:
        head, found, tail = config.partition(b'"' + name + b'":')
        assert found
        end = min(at for at in (tail.find(b',"'), len(tail) - 1) if at >= 0)
        config = head + found + value + tail[end:]
    return config


def test_fields() -> None:
    layer = parse_v1_json(
        b'{"id":"a","parent":"b","parent_id":"sha256:c","created":"2014-01-01T00:00:00.50Z","author":"Me","comment":"hm",'
        b'"container_config":{"Cmd":["/bin/sh","-c","echo  x"]},"architecture":"amd64","os":"linux",'
        b'"docker_version":"1.3.3","throwaway":true}'
    )
    assert (layer.id, layer.parent, layer.parent_id) == ("a", "b", "sha256:c")
    assert layer.created == "2014-01-01T00:00:00.5Z"
    assert (layer.author, layer.comment, layer.created_by) == ("Me", "hm", "/bin/sh -c echo  x")
    assert (layer.architecture, layer.os, layer.docker_version, layer.throwaway) == ("amd64", "linux", "1.3.3", True)


@pytest.mark.parametrize(
    "raw", [b"{}", b" null ", b'{"id":"","created":null,"author":null,"config":null,"throwaway":null}']
)
def test_what_is_absent_null_or_empty_reads_as_none(raw: bytes) -> None:
    layer = parse_v1_json(raw)
    assert layer.id is layer.parent is layer.parent_id is layer.created is layer.author is layer.comment is None
    assert layer.created_by is layer.architecture is layer.os is layer.docker_version is None
    assert layer.throwaway is False


def test_the_api_form_of_docker_1_0_loses_its_two_renamed_keys_as_in_docker() -> None:
    layer = parse_v1_json(
        b'{"Architecture":"amd64","Author":"","Comment":"","Config":{"Cmd":["sh"]},"Container":"c",'
        b'"ContainerConfig":{"Cmd":["/bin/sh"]},"Created":"2014-06-01T00:00:00Z","DockerVersion":"1.0.1","Id":"a",'
        b'"Os":"linux","Parent":"b","Size":7}\n'
    )
    assert (layer.id, layer.parent, layer.os) == ("a", "b", "linux")
    assert (layer.created_by, layer.docker_version) == (None, None)


@pytest.mark.parametrize("raw", [b'{"\xc5\xbfize":"x"}', b'{"SIZE":"x"}', '{"doc\u212aer_version":1}'.encode()])
def test_keys_match_under_simple_folding(raw: bytes) -> None:
    with pytest.raises(DocumentError):
        parse_v1_json(raw)


def test_a_command_may_be_a_string() -> None:
    assert parse_v1_json(b'{"container_config":{"Cmd":"sh -c x"}}').created_by == "sh -c x"


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        (b"[]", "document: not an object"),
        (b"1", "document: not an object"),
        (b'{"id":1}', "id: not a string"),
        (b'{"parent":["a"]}', "parent: not a string"),
        (b'{"created":1}', "created: not a time"),
        (b'{"created":"yesterday"}', "created: not a time"),
        (rb'{"created":"2014-01-01T00:00:00\u005a"}', "created: not a time"),
        (b'{"Size":1e3}', "Size: not an integer"),
        (b'{"Size":1.5}', "Size: not an integer"),
        (b'{"size":9223372036854775808}', "Size: not an integer"),
        (b'{"config":[]}', "config: not an object"),
        (b'{"config":{"Tty":1}}', "config.Tty: not true or false"),
        (b'{"config":{"Env":"A=1"}}', "config.Env: not an array of strings"),
        (b'{"config":{"Env":[1]}}', "config.Env: not a string"),
        (b'{"config":{"Cmd":{}}}', "config.Cmd: not an array of strings"),
        (b'{"config":{"Volumes":["/a"]}}', "config.Volumes: not an object"),
        (b'{"config":{"Volumes":{"/a":1}}}', "config.Volumes: not an object of objects"),
        (b'{"config":{"Labels":{"a":1}}}', "config.Labels: not a string"),
        (
            b'{"container_config":{"Healthcheck":{"Retries":1.5}}}',
            "container_config.Healthcheck.Retries: not an integer",
        ),
        (b'{"docker_version":1.5}', "docker_version: not a string"),
    ],
)
def test_a_type_that_docker_refuses_is_an_error_that_says_where(raw: bytes, where: str) -> None:
    for read in (parse_v1_json, carried_members):
        with pytest.raises(DocumentError) as caught:
            read(raw, "layer json")
        assert caught.value.message.startswith(f"layer json: {where}")


def test_a_duplicate_does_not_hide_a_type_that_docker_refuses() -> None:
    with pytest.raises(DocumentError, match="id: not a string"):
        parse_v1_json(b'{"id":1,"id":"a"}')


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"{}", (None, None)),
        (b"null", (None, None)),
        (b"[]", (None, None)),
        (b'{"parent":"a","parent_id":"sha256:b"}', ("a", "sha256:b")),
        (b'{"Id":"x","Parent":"a"}', ("a", None)),
        (b'{"parent":"a","Parent":"b"}', ("b", None)),
        (b'{"parent":"a","parent":null}', ("a", None)),
        (b'{"parent":"","parent_id":""}', (None, None)),
        (b'{"parent":1,"created":7}', (None, None)),
        (b'{"parent":"caf\xe9"}', ("caf�", None)),
    ],
)
def test_parents(raw: bytes, expected: tuple[str | None, str | None]) -> None:
    assert parse_identity(raw)[1:] == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"id":"a","parent":"b"}', ("a", "b", None)),
        (b'{"parent":"b","parent":null,"id":"a"}', ("a", "b", None)),  # Go leaves a field as it is for null
        (b'{"parent":"b","PARENT":"c"}', (None, "c", None)),
        (b'{"p\\u0061rent":"b"}', (None, "b", None)),
        (b'{"config":{"id":"x","parent":"y"},"id":"a"}', ("a", None, None)),
        (b'{"ID":"a","Parent_Id":"p","parent":""}', ("a", None, "p")),
        (b'{"id":"\xff"}', ("\ufffd", None, None)),
        (b'{"id":7,"parent":["b"]}', (None, None, None)),
        (b"[]", (None, None, None)),
        (b"null", (None, None, None)),
    ],
)
def test_the_short_way_to_the_ids_reads_what_the_long_one_does(
    raw: bytes, expected: tuple[str | None, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert parse_identity(raw) == expected
    monkeypatch.setattr(v1_json, "_identity_fields", lambda raw, what: None)
    assert parse_identity(raw) == expected
    with suppress(DocumentError):
        facts = parse_v1_json(raw)
        assert (facts.id, facts.parent, facts.parent_id) == expected


def test_a_document_is_parsed_once_for_its_facts_and_its_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []

    def read(raw: bytes, what: str) -> object:
        assert type(raw) is bytes, "orjson refuses it, and the slow way is taken"
        parsed.append(what)
        return read_document(raw, what)

    monkeypatch.setattr(v1_json, "read_document", read)
    monkeypatch.setattr(v1_json, "load_json", read)
    document = v1_json.LayerDocument(b'{"id":"a","parent":"b","os":"linux"}')
    assert v1_json.LayerDocument.of(document) is document
    assert document.carried_members() == {"os": "linux", **document.carried_members()}
    parsed.clear()
    assert document.facts() is document.facts()
    assert document.identity() == ("a", "b", None)
    assert not parsed
    twice = v1_json.LayerDocument(b'{"ID":"a","id":"c"}')
    assert (twice.identity().id, twice.facts().id, len(parsed)) == ("c", "c", 1)
    chained = v1_json.LayerDocument(b'{"id":"a"}')
    assert (chained.identity(), chained.identity(), len(parsed)) == (("a", None, None), ("a", None, None), 2)


@pytest.mark.parametrize("read", [parse_v1_json, parse_identity, carried_members])
def test_broken_documents(read: object) -> None:
    assert callable(read)
    with pytest.raises(DocumentError):
        read(b'{"id":')
    with pytest.raises(LimitError):
        read(b"[" * 10_000)


@pytest.mark.parametrize(
    ("version", "fallback"),
    [
        (None, True),
        ("", True),
        ("dev", True),
        ("0.6.4", True),
        ("1.8", True),
        ("1.8.2", True),
        ("1.8.3-rc1", True),
        ("1.8.3-dev", True),
        ("1.8.3.-1", True),
        (" 2.0", True),
        ("1_9", True),
        ("1.8.3", False),
        ("1.8.3.0", False),
        ("1.8.4", False),
        ("1.9", False),
        ("1.9.0-dev", False),
        ("1.10.0-rc1", False),
        ("1.12.6-cs8", False),
        ("+1.09", False),
        ("17.06.2-ce", False),
        ("1.99999999999999999999", False),
    ],
)
def test_which_versions_go_through_the_structs(version: str | None, fallback: bool) -> None:
    field = b"" if version is None else b',"docker_version":"' + version.encode() + b'"'
    assert (b'"container_config"' in carried(b'{"unknown":1' + field + b"}")) is fallback


def test_later_json_keeps_what_it_holds() -> None:
    raw = (
        b'{"docker_version":"1.9.1","id":"a","Id":"kept","parent":"b","parent_id":"c","layer_id":"d","Size":1,"size":2,'
        b'"throwaway":true,"unknown":[1.0]}'
    )
    assert carried(raw) == b'{"Id":"kept","docker_version":"1.9.1","size":2,"unknown":[1.0]}'


def test_older_json_keeps_what_docker_knows_in_docker_s_order() -> None:
    raw = (
        b'{"docker_version":"1.5.0","os":"linux","id":"a","parent":"b","Size":1,"unknown":1,"author":"A","comment":"C",'
        b'"container":"c","created":"2014-01-01T00:00:00.10Z","architecture":"arm","variant":"v7"}'
    )
    assert carried(raw) == (
        b'{"architecture":"arm","author":"A","comment":"C","container":"c","container_config":' + NO_CONFIG + b","
        b'"created":"2014-01-01T00:00:00.1Z","docker_version":"1.5.0","os":"linux","variant":"v7"}'
    )


def test_a_missing_or_null_config_is_left_out_but_an_empty_one_is_filled() -> None:
    assert b'"config"' not in carried(b"{}")
    assert b'"config"' not in carried(b'{"config":null}')
    assert b'"config"' not in carried(b'{"config":{"User":"u"},"config":null}')
    assert carried_config(b"{}") == NO_CONFIG


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param(b'{"Env":[],"Cmd":[]}', with_fields((b"Env", b"[]"), (b"Cmd", b"[]")), id="empty arrays stay"),
        pytest.param(b'{"Env":[null,"A=1"]}', with_fields((b"Env", b'["","A=1"]')), id="null among strings"),
        pytest.param(b'{"Entrypoint":"sh"}', with_fields((b"Entrypoint", b'["sh"]')), id="a command as a string"),
        pytest.param(b'{"cmd":["a"],"TTY":true}', with_fields((b"Cmd", b'["a"]'), (b"Tty", b"true")), id="any case"),
        pytest.param(b'{"ExposedPorts":{}}', NO_CONFIG, id="no ports are left out"),
        pytest.param(
            b'{"Volumes":{"/b":{},"/a":null}}', with_fields((b"Volumes", b'{"/a":{},"/b":{}}')), id="sets are sorted"
        ),
        pytest.param(b'{"Volumes":{"/a":{"x":1}}}', with_fields((b"Volumes", b'{"/a":{}}')), id="members of sets go"),
        pytest.param(
            b'{"Labels":{"b":"<","a":null}}', with_fields((b"Labels", rb'{"a":"","b":"\u003c"}')), id="labels"
        ),
        pytest.param(b'{"Volumes":{}}', with_fields((b"Volumes", b"{}")), id="an empty set stays"),
        pytest.param(
            b'{"Memory":1,"CpuShares":2,"PortSpecs":["80"],"Dns":[],"VolumesFrom":"x","VolumeDriver":"y"}',
            NO_CONFIG,
            id="what Docker dropped",
        ),
        pytest.param(b'{"NetworkDisabled":false,"MacAddress":"","StopSignal":""}', NO_CONFIG, id="omitted when empty"),
        pytest.param(
            b'{"Hostname":"a","hostname":"b","Env":["x","y"],"Env":["z"]}',
            with_fields((b"Hostname", b'"b"'), (b"Env", b'["z"]')),
            id="the last of equal keys",
        ),
        pytest.param(
            b'{"Labels":{"a":"1"},"Labels":{"b":"2"}}', with_fields((b"Labels", b'{"a":"1","b":"2"}')), id="maps merge"
        ),
        pytest.param(b'{"Labels":{"a":"1"},"Labels":null}', NO_CONFIG, id="null clears a map"),
        pytest.param(b'{"User":"u","User":null}', with_fields((b"User", b'"u"')), id="null leaves a string"),
        pytest.param(b'{"StopTimeout":5,"StopTimeout":null}', NO_CONFIG, id="null clears a pointer"),
        pytest.param(
            b'{"Tty":false,"Domainname":"\\u0064\\b"}', with_fields((b"Domainname", b'"d\\u0008"')), id="strings anew"
        ),
    ],
)
def test_configs_through_the_structs(config: bytes, expected: bytes) -> None:
    assert carried_config(config) == expected


def test_fields_of_later_dockers_stand_at_their_places() -> None:
    config = carried_config(
        b'{"Shell":["s"],"StopTimeout":0,"StopSignal":"x","MacAddress":"m","NetworkDisabled":true,"ArgsEscaped":true,'
        b'"Healthcheck":{"Retries":3,"Test":["CMD"]},"PublishService":"p","ExposedPorts":{"80/tcp":{}}}'
    )
    keys = [key.partition(b'"')[0].decode() for key in config.replace(b'{"', b',"').split(b',"')[1:]]
    assert keys == IN_ORDER.split()


def test_equal_structs_merge() -> None:
    merged = carried(b'{"container_config":{"User":"u"},"container_config":{"Image":"i"},"container_config":null}')
    assert b'"User":"u"' in merged
    assert b'"Image":"i"' in merged
