"""How an OCI image layout of ours is named inside: its files, and the annotations that hold an image's name.

Source: OCI image layout specification 1.0; containerd's and Docker's exporters (moby image/tarexport/save.go since 25).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from migrate.errors import UsageError
from migrate.model.digest import Digest
from migrate.model.reference import Reference

if TYPE_CHECKING:  # the commands need the prefixes, and load no reader of documents for them
    from migrate.documents.oci import IndexEntry

LAYOUT_FILE: Final = "oci-layout"
INDEX: Final = "index.json"
ARCHIVE_MANIFEST: Final = "manifest.json"
REPORT_NAME: Final = "migration-report.json"
MAP_NAME: Final = "migration-map.json"
PATH_PREFIXES: Final = ("oci", "oci-archive", "docker-archive", "registry-storage", "dir")
"""What may precede a path, as in skopeo. `dir` is a source only."""
REGISTRY_PREFIX: Final = "docker://"
REF_NAME: Final = "org.opencontainers.image.ref.name"
IMAGE_NAME: Final = "io.containerd.image.name"


def blob_path(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex}"


def split_prefix(location: str) -> tuple[str | None, str]:
    """(prefix, path) of `oci:DIR` and the like; (None, location) where there is none of `PATH_PREFIXES`."""
    prefix, colon, path = location.partition(":")
    return (prefix, path) if colon and prefix in PATH_PREFIXES else (None, location)


def plain_path(location: str) -> str:
    """`location` without its prefix, where it has one."""
    return split_prefix(location)[1]


def local_path(location: str) -> str:
    """The path of a location on this machine, without prefix and `file://`. UsageError for one that is elsewhere."""
    path = plain_path(location).removeprefix("file://")
    if "://" in path:
        raise UsageError(f"{location}: is not on this machine; copy it first, for example with `aws s3 sync`")
    return path


def reference_of(entry: IndexEntry) -> str | None:
    """The image's name, None where it has none.

    This program writes the whole name as the reference name. Docker 25 and later and containerd write only the tag
    there, and the whole name, with its registry, as the image name; that one is given in Docker's short form.
    """
    name = entry.annotations.get(REF_NAME)
    if name and (":" in name or "/" in name):
        return name
    full = entry.annotations.get(IMAGE_NAME)
    return str(Reference.parse(full).familiar()) if full else name or None
