"""Sources that are named by a URL: registries over HTTP, archives, and registry storage in buckets."""

from __future__ import annotations

import errno
import os
import tempfile

from migrate.distribution.layout import ROOTS
from migrate.errors import AmbiguousSourceError, SourceUnreadableError, UnrecognisedSourceError, UsageError
from migrate.model.legacy import SourceType, is_hex_id
from migrate.model.options import ReadOptions
from migrate.readers.base import LegacySource
from migrate.readers.remote_registry import PREFIX, RegistryOverHttp
from migrate.storage.bucket import is_url, open_filesystem, open_tree
from migrate.storage.local_tree import TreeStorage, require_readable
from migrate.storage.syscalls import target_error


def open_remote(location: str, options: ReadOptions) -> LegacySource:
    """`docker://…`, or an archive or a registry's storage at any URL that fsspec opens, recognised by its content.

    Raises UsageError for a URL of another kind, UnrecognisedSourceError or AmbiguousSourceError for what is there.
    """
    source_type = options.source_type
    if location.startswith(PREFIX):
        if source_type not in (None, SourceType.REGISTRY_V1, SourceType.REGISTRY_V2):
            raise UsageError(f"{location}: --source-type {source_type} does not go with {PREFIX}")
        return RegistryOverHttp(location, options, v1=source_type == SourceType.REGISTRY_V1)
    if not is_url(location):
        raise UsageError(f"{location}: not a URL that can be read")
    if source_type in (None, SourceType.DOCKER_ARCHIVE):
        archive = _open_object(location, options)
        if archive is not None:
            return archive
    tree = open_tree(location)
    found = _types(tree, location) if source_type is None else [source_type]
    if len(found) > 1:
        raise AmbiguousSourceError(f"{location}: storage of a v1 and of a v2 registry; choose with --source-type")
    if found == [SourceType.REGISTRY_V1]:
        from migrate.readers.registry_v1 import RegistryV1Source

        return RegistryV1Source(location, options, tree)
    if found == [SourceType.REGISTRY_V2]:
        from migrate.readers.registry_v2 import RegistryV2Source

        return RegistryV2Source(location, options, tree)
    if source_type is not None:
        raise UsageError(f"{location}: a URL can hold an archive or a registry's storage, not a {source_type}")
    raise UnrecognisedSourceError(
        f"{location}: neither a v1 registry's storage (images/<id>/, repositories/) nor a v2 one (docker/registry/v2/)"
    )


def _open_object(location: str, options: ReadOptions) -> LegacySource | None:
    """The archive in a single object, brought to a temporary file first, as its members are read in any order."""
    from migrate.readers.detect import open_archive

    filesystem, path = open_filesystem(location)
    with tempfile.NamedTemporaryFile(prefix="migrate-", dir=options.temporary_directory) as spool:
        try:
            if not filesystem.isfile(path):
                return None
            filesystem.get_file(path, spool.name)
        except Exception as exc:
            if isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EDQUOT):
                raise target_error(exc, "a temporary file") from exc
            raise SourceUnreadableError(f"{location}: cannot be brought here: {type(exc).__name__}: {exc}") from exc
        return open_archive(location, os.open(spool.name, os.O_RDONLY | os.O_CLOEXEC), options)


def _types(tree: TreeStorage, location: str) -> list[SourceType]:
    del location
    require_readable(tree)
    found = []
    if any(is_hex_id(entry.name) for entry in tree.entries("images")):
        found.append(SourceType.REGISTRY_V1)
    for root in ROOTS:
        prefix = f"{root}/" if root else ""
        if tree.entries(f"{prefix}blobs") and tree.entries(f"{prefix}repositories"):
            found.append(SourceType.REGISTRY_V2)
            break
    return found
