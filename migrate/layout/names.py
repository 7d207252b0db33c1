"""Names of the files in an OCI image layout that this program writes, and prefixes of locations.

Source: OCI image layout specification 1.0.
"""

from __future__ import annotations

from typing import Final

from migrate.errors import UsageError
from migrate.model.digest import Digest

LAYOUT_FILE: Final = "oci-layout"
INDEX: Final = "index.json"
ARCHIVE_MANIFEST: Final = "manifest.json"
REPORT_NAME: Final = "migration-report.json"
MAP_NAME: Final = "migration-map.json"
BLOBS: Final = "blobs/sha256"
PATH_PREFIXES: Final = ("oci", "oci-archive", "docker-archive", "registry-storage", "dir")
"""Prefixes of a path, as in skopeo. `dir` is for sources only."""
REGISTRY_PREFIX: Final = "docker://"


def blob_path(digest: Digest) -> str:
    return f"{BLOBS}/{digest.hex}"


def split_prefix(location: str) -> tuple[str | None, str]:
    """(prefix, path) of `oci:DIR` and the like; (None, location) if it has none of `PATH_PREFIXES`."""
    prefix, colon, path = location.partition(":")
    return (prefix, path) if colon and prefix in PATH_PREFIXES else (None, location)


def plain_path(location: str) -> str:
    """`location` without its prefix, if it has one."""
    return split_prefix(location)[1]


def local_path(location: str) -> str:
    """The path of a location on this machine, without prefix and `file://`. Raises UsageError for other locations."""
    path = plain_path(location).removeprefix("file://")
    if "://" in path:
        raise UsageError(f"{location}: is not on this machine; copy it first, for example with `aws s3 sync`")
    return path
