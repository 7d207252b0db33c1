from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from migrate.distribution.credentials import Credentials, CredentialsError, encode_config, find_credentials


def config(tmp_path: Path, document: Any) -> Path:
    path = tmp_path / "config.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def packed(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("reg.example.com:5000", "reg.example.com:5000"),
        ("https://reg.example.com", "reg.example.com"),
        ("https://reg.example.com/v2/", "reg.example.com"),
        ("https://index.docker.io/v1/", "registry-1.docker.io"),
    ],
)
def test_hosts_are_found_in_every_spelling(key: str, host: str, tmp_path: Path) -> None:
    path = config(tmp_path, {"auths": {key: packed("ann:pass:word")}})
    assert find_credentials(host, path) == Credentials("ann", "pass:word")
    assert find_credentials("other.example.com", path) is None


def test_what_encode_config_writes_is_found(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(encode_config({"h": ("u", "p")}))
    assert find_credentials("h", path) == Credentials("u", "p")


def test_an_identity_token_is_one(tmp_path: Path) -> None:
    path = config(tmp_path, {"auths": {"h": packed("u:") | {"identitytoken": "t"}}})
    assert find_credentials("h", path) == Credentials("<token>", "t", True)


@pytest.mark.parametrize("document", [{}, [], {"auths": 5}, {"auths": {"h": {}}}, {"auths": {"h": 7}}])
def test_without_an_entry_there_are_none(document: Any, tmp_path: Path) -> None:
    assert find_credentials("h", config(tmp_path, document)) is None
    assert find_credentials("h", tmp_path / "absent" / "config.json") is None


@pytest.mark.parametrize(
    "document",
    ["{", {"auths": {"h": {"auth": "not base64!"}}}, {"credsStore": "../evil"}, {"credHelpers": {"h": "a b"}}],
)
def test_a_broken_configuration_is_an_error_of_ours(document: Any, tmp_path: Path) -> None:
    with pytest.raises(CredentialsError):
        find_credentials("h", config(tmp_path, document))


@pytest.mark.parametrize(
    ("answer", "code", "found"),
    [
        ('{"Username": "ann", "Secret": "s"}', 0, Credentials("ann", "s")),
        ('{"Username": "<token>", "Secret": "s"}', 0, Credentials("<token>", "s", True)),
        ("credentials not found in native keychain", 1, None),
    ],
)
def test_a_helper_answers(
    answer: str, code: int, found: Credentials | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = tmp_path / "docker-credential-mine"
    helper.write_text(f"#!/bin/sh\ncat > /dev/null\necho '{answer}'\nexit {code}\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert find_credentials("h", config(tmp_path, {"credsStore": "mine"})) == found


def test_a_missing_helper_is_named(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match="docker-credential-absent"):
        find_credentials("h", config(tmp_path, {"credsStore": "absent"}))


def test_secrets_are_not_shown() -> None:
    assert "word" not in repr(Credentials("ann", "word"))
