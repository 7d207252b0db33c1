"""Paths in the storage tree of the distribution registry (distribution 2.8.3, `registry/storage/paths.go`)."""

from __future__ import annotations

from typing import Final

from migrate.model.digest import Digest

ROOT: Final = "docker/registry/v2"
ROOTS: Final = (ROOT, "registry/v2", "v2", "")
"""Where the tree may begin below the folder that a user names, likeliest first."""


def blob_path(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex[:2]}/{digest.hex}/data"


def repository_path(repository: str) -> str:
    return f"repositories/{repository}"


def layer_link(repository: str, digest: Digest) -> str:
    """A blob that the repository may serve: layers and configs alike."""
    return f"repositories/{repository}/_layers/sha256/{digest.hex}/link"


def revision_link(repository: str, digest: Digest) -> str:
    return f"repositories/{repository}/_manifests/revisions/sha256/{digest.hex}/link"


def tag_link(repository: str, tag: str) -> str:
    return f"repositories/{repository}/_manifests/tags/{tag}/current/link"


def tag_index_link(repository: str, tag: str, digest: Digest) -> str:
    return f"repositories/{repository}/_manifests/tags/{tag}/index/sha256/{digest.hex}/link"
