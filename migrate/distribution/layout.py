"""Paths in the storage tree of the distribution registry (distribution 2.8.3, `registry/storage/paths.go`)."""

from __future__ import annotations

import re
from typing import Final

from migrate.model.digest import Digest

ROOT: Final = "docker/registry/v2"
ROOTS: Final = (ROOT, "registry/v2", "v2", "")
"""The places of the tree below the folder that the user gave, the most likely one first."""
_TARSUM: Final = re.compile(r"tarsum(?:\.([a-z0-9]+))?\+([a-z0-9]+)")
_ALGORITHM: Final = re.compile(r"[a-z0-9]+(?:/[a-z0-9]+){0,2}")
_HEX: Final = re.compile(r"[0-9a-f]{32,128}")


def blob_data_path(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex[:2]}/{digest.hex}/data"


def repository_path(repository: str) -> str:
    return f"repositories/{repository}"


def layer_link(repository: str, digest: Digest) -> str:
    """The link of a blob of a repository: a layer or a config."""
    return f"repositories/{repository}/_layers/sha256/{digest.hex}/link"


def alias_link(repository: str, name: str) -> str | None:
    """The link of a blob whose name is a tarsum (registry 2.0) or another hash. Its content is the blob's sha256."""
    algorithm, _, value = name.partition(":")
    if found := _TARSUM.fullmatch(algorithm):
        algorithm = f"tarsum/{found[1] or 'v0'}/{found[2]}"
    if not (_ALGORITHM.fullmatch(algorithm) and _HEX.fullmatch(value)):
        return None
    return f"repositories/{repository}/_layers/{algorithm}/{value}/link"


def revision_link(repository: str, digest: Digest) -> str:
    return f"repositories/{repository}/_manifests/revisions/sha256/{digest.hex}/link"


def tag_link(repository: str, tag: str) -> str:
    return f"repositories/{repository}/_manifests/tags/{tag}/current/link"


def tag_index_link(repository: str, tag: str, digest: Digest) -> str:
    return f"repositories/{repository}/_manifests/tags/{tag}/index/sha256/{digest.hex}/link"
