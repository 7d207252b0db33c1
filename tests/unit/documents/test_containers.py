"""A container's record: every field may hold anything, and nothing of it stops the program."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from migrate.compose.container import commit_json
from migrate.compose.run_command import run_words
from migrate.documents.containers import MountRecord, parse_container
from migrate.errors import DocumentError, MigrateError
from migrate.model.legacy import LegacyID

CONTAINER = LegacyID("c" * 64)
RECORD: dict[str, Any] = {
    "ID": CONTAINER,
    "Created": "2014-05-06T07:08:09.5Z",
    "Path": "/bin/sh",
    "Args": ["-c", "true"],
    "Config": {
        "Hostname": "box",
        "User": "app",
        "Memory": 5,
        "Env": ["A=b"],
        "Cmd": ["-c", "true"],
        "Entrypoint": ["/bin/sh"],
        "ExposedPorts": {"80/tcp": {}},
        "Volumes": {"/data": {}},
        "Labels": {"a": "b"},
        "OnBuild": ["RUN true"],
        "StopSignal": "SIGINT",
        "Image": "app:1",
    },
    "State": {"Running": False, "StartedAt": "2014-05-06T07:08:10Z", "FinishedAt": "2014-05-06T08:00:00Z"},
    "Image": "a" * 64,
    "Name": "/web",
    "Driver": "vfs",
    "HostsPath": f"/srv/docker/containers/{CONTAINER}/hosts",
    "Volumes": {"/data": "/srv/docker/vfs/dir/x", "/old": "/elsewhere"},
    "VolumesRW": {"/data": False},
    "MountPoints": {"/data": {"Name": "x", "Destination": "/data", "Driver": "local", "RW": True, "Source": ""}},
}
HOST: dict[str, Any] = {
    "Binds": ["/elsewhere:/old"],
    "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]},
    "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
    "Devices": [{"PathOnHost": "/dev/x", "PathInContainer": "/dev/y", "CgroupPermissions": "r"}],
    "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}],
    "LogConfig": {"Type": "syslog", "Config": {"tag": "x"}},
    "Links": ["/db:/web/db"],
    "Dns": ["10.0.0.1"],
    "Memory": 7,
    "Privileged": False,
}
ODD: list[Any] = [None, True, 7, -1, 1.5, 10**30, "text", "\ud800", [], [7], [None], {}, {"a": 7}, {"": None}, [[[]]]]


def _raw(record: Any) -> bytes:
    return json.dumps(record).encode()


def test_a_whole_record_is_read() -> None:
    record = parse_container(_raw(RECORD), "config.json", _raw(HOST))

    assert not record.problems
    assert (record.id, record.name, record.image, record.image_name) == (CONTAINER, "web", "a" * 64, "app:1")
    assert (record.state, record.created, record.root) == ("exited", "2014-05-06T07:08:09.5Z", "/srv/docker")
    assert record.changed_at == "2014-05-06T08:00:00Z"
    assert record.mounts == (
        MountRecord(destination="/data", name="x", driver="local"),
        MountRecord(destination="/old", source="/elsewhere"),
    )


@pytest.mark.parametrize(
    ("state", "word"),
    [
        ({}, "created"),
        ({"StartedAt": "0001-01-01T00:00:00Z", "FinishedAt": "0001-01-01T00:00:00Z"}, "created"),
        ({"StartedAt": "2014-05-06T07:08:10Z"}, "exited"),
        ({"Running": True, "StartedAt": "2014-05-06T07:08:10Z"}, "running"),
        ({"Running": True, "Paused": True}, "paused"),
        ({"Running": True, "Restarting": True}, "restarting"),
        ({"Dead": True}, "dead"),
        ({"Dead": True, "Running": True}, "dead"),
    ],
)
def test_states_have_the_words_of_docker_inspect(state: dict[str, Any], word: str) -> None:
    assert parse_container(_raw({**RECORD, "State": state}), "config.json").state == word


def test_a_container_that_never_ended_has_the_time_when_it_was_made() -> None:
    record = {**RECORD, "State": {"FinishedAt": "0001-01-01T00:00:00Z"}}
    assert parse_container(_raw(record), "config.json").changed_at == "2014-05-06T07:08:09.5Z"
    assert parse_container(b"{}", "config.json").changed_at == "0001-01-01T00:00:00Z"


@pytest.mark.parametrize("raw", [b"", b"[]", b"7", b"null", b"{", b"\xff", b'{"a":' * 2000])
def test_what_is_no_object_is_an_error(raw: bytes) -> None:
    with pytest.raises(MigrateError):
        parse_container(raw, "config.json")


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _places(item, (*path, key))


def _changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(document)
    at = changed
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return changed


@pytest.mark.parametrize("path", list(_places({"record": RECORD, "host": HOST})), ids=str)
def test_any_field_may_hold_any_type(path: tuple[Any, ...]) -> None:
    for odd in ODD:
        both = _changed({"record": RECORD, "host": HOST}, path, odd)
        if not isinstance(both["record"], dict):
            with pytest.raises(DocumentError):
                parse_container(_raw(both["record"]), "config.json", _raw(both["host"]))
            continue
        record = parse_container(_raw(both["record"]), "config.json", _raw(both["host"]))
        assert all(isinstance(word, str) for word in run_words(record, "image", {}))
        try:
            commit_json(record, CONTAINER, None, None, None)
        except DocumentError:
            assert record.settings is None


def test_a_field_of_another_type_is_named() -> None:
    record = parse_container(_raw({**RECORD, "Name": 7, "Volumes": []}), "config.json", b"[]")
    assert record.problems == (
        "config.json: Name: not a string: 7",
        "config.json: Volumes: not an object: []",
        "config.json: hostconfig.json: not an object: []",
    )


def test_the_config_of_an_image_is_read_as_docker_reads_it() -> None:
    record = parse_container(_raw({**RECORD, "Config": {**RECORD["Config"], "Env": "A=b"}}), "config.json")
    assert record.settings is None
    with pytest.raises(DocumentError, match=r"Env: not an array of strings"):
        commit_json(record, CONTAINER, None, None, None)


def test_a_commit_takes_over_what_docker_takes_over() -> None:
    record = parse_container(_raw(RECORD), "config.json")
    commit = json.loads(commit_json(record, CONTAINER, LegacyID("a" * 64), "x86_64", None))

    assert commit["config"] == {
        "Hostname": "", "Domainname": "", "User": "app", "AttachStdin": False, "AttachStdout": False,
        "AttachStderr": False, "ExposedPorts": {"80/tcp": {}}, "Tty": False, "OpenStdin": False, "StdinOnce": False,
        "Env": ["A=b"], "Cmd": ["-c", "true"], "Image": "", "Volumes": {"/data": {}}, "WorkingDir": "",
        "Entrypoint": ["/bin/sh"], "OnBuild": None, "Labels": {"a": "b"},
    }  # fmt: skip
    assert commit["container_config"]["StopSignal"] == "SIGINT"
    assert (commit["architecture"], commit["os"], commit["docker_version"]) == ("amd64", "linux", "1.10.3")
    assert (commit["created"], commit["parent"]) == ("2014-05-06T08:00:00Z", "a" * 64)
