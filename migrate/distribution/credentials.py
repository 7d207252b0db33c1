"""Credentials for registries: `~/.docker/config.json` and its credential helpers.

Source of the format: docker/cli `cli/config/configfile/file.go`; docker-credential-helpers `client/client.go`.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from migrate.blobio.limits import SMALL_FILE_BYTES, read_limited
from migrate.documents.json_text import encode_json, load_json
from migrate.errors import MigrateError, SourceError

_HELPER_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
_HELPER_SECONDS: Final = 60
_TOKEN_USER: Final = "<token>"
_HUB: Final = ("docker.io", "index.docker.io", "registry-1.docker.io")
_HUB_KEY: Final = "https://index.docker.io/v1/"


class Credentials(Struct, frozen=True):
    """A user with a password, or with an identity token for the token server. The secret is never in a message."""

    user: str
    secret: str
    is_identity_token: bool = False

    def __repr__(self) -> str:
        return "Credentials(…)"


class CredentialsError(SourceError):
    """The Docker configuration, or a credential helper in it, cannot be used."""

    code = "credentials"


def find_credentials(host: str, config: Path | None = None) -> Credentials | None:
    """The credentials that `docker login HOST` stored; None if there are none. `config`: by default that of the Docker
    CLI.

    Raises CredentialsError if the configuration, or its helper for this host, cannot be used.
    """
    if config is None:
        folder = os.environ.get("DOCKER_CONFIG")
        config = (Path(folder) if folder else Path.home() / ".docker") / "config.json"
    document = _read_config(config)
    helper = _helper_for(host, document)
    if helper is not None:
        return _run_helper(helper, host)
    auths = document.get("auths")
    if not isinstance(auths, dict):
        return None
    for key in _keys(host):
        entry = auths.get(key)
        # With a credentials store, `docker login` writes an empty object for the host.
        if isinstance(entry, dict) and entry:
            return _from_entry(entry, host)
    return None


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        with open(path, "rb") as stream:
            document = load_json(read_limited(stream, SMALL_FILE_BYTES, str(path)), str(path))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as exc:
        raise CredentialsError(f"{path}: {exc.strerror}") from exc
    except MigrateError as exc:
        raise CredentialsError(exc.message) from exc
    return document if isinstance(document, dict) else {}


def _keys(host: str) -> list[str]:
    """The keys that a host may be stored under, the exact one first."""
    keys = [host, f"https://{host}", f"http://{host}"]
    keys += [f"{key}/{version}{slash}" for key in keys for version in ("v1", "v2") for slash in ("", "/")]
    keys += [f"{host}/", f"https://{host}/"]
    return [_HUB_KEY, *keys] if host in _HUB else keys


def _helper_for(host: str, document: Mapping[str, Any]) -> str | None:
    helpers = document.get("credHelpers")
    if isinstance(helpers, dict):
        for key in _keys(host):
            if isinstance(helpers.get(key), str):
                return str(helpers[key])
    store = document.get("credsStore")
    return store if isinstance(store, str) and store else None


def _run_helper(name: str, host: str) -> Credentials | None:
    if not _HELPER_NAME.fullmatch(name):
        raise CredentialsError(f"credential helper {name!r}: not a helper's name")
    command = f"docker-credential-{name}"
    server = _HUB_KEY if host in _HUB else host
    try:
        answer = subprocess.run(
            [command, "get"], input=server.encode(), capture_output=True, timeout=_HELPER_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise CredentialsError(f"{command}: {exc}") from exc
    if answer.returncode:
        message = (answer.stdout + answer.stderr).decode("utf-8", "replace").strip()
        # Helpers have this text for a host without credentials (docker-credential-helpers, credentials/error.go).
        if "credentials not found" in message.lower():
            return None
        raise CredentialsError(f"{command} get {server}: exit {answer.returncode}: {message[:200]}")
    found = load_json(answer.stdout, f"{command}'s answer")
    if not (
        isinstance(found, dict) and isinstance(found.get("Username"), str) and isinstance(found.get("Secret"), str)
    ):
        raise CredentialsError(f"{command}: its answer holds no Username and Secret")
    return Credentials(found["Username"], found["Secret"], found["Username"] == _TOKEN_USER)


def _from_entry(entry: Mapping[str, Any], host: str) -> Credentials | None:
    token = entry.get("identitytoken")
    if isinstance(token, str) and token:
        return Credentials(_TOKEN_USER, token, True)
    packed = entry.get("auth")
    if not isinstance(packed, str) or not packed:
        user, secret = entry.get("username"), entry.get("password")
        return Credentials(user, secret) if isinstance(user, str) and isinstance(secret, str) and user else None
    try:
        user, colon, secret = base64.b64decode(packed, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError) as exc:
        raise CredentialsError(f"the Docker configuration's `auth` for {host} is not base64 of user:password") from exc
    # As in Docker (docker/cli, config/configfile/file.go, decodeAuth), NULs at the end are no part of the password.
    return Credentials(user, secret.rstrip("\0")) if colon else None


def encode_config(auths: Mapping[str, tuple[str, str]]) -> bytes:
    """A `config.json` with users and passwords by host."""
    packed = {
        host: {"auth": base64.b64encode(f"{user}:{secret}".encode()).decode("ascii")}
        for host, (user, secret) in auths.items()
    }
    return encode_json({"auths": packed})
