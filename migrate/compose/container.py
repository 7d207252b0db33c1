"""Makes the layer's JSON that `docker commit` writes for a container. Pure functions.

Source: moby 1.10.3, daemon/commit.go (Commit, merge) and image/image.go. `compose_config` makes of this JSON the config
that 1.10.3 writes, except for the time, which is that of the commit in Docker.
"""

from __future__ import annotations

from typing import Any, Final

from migrate.documents.containers import ContainerRecord, Settings
from migrate.documents.go_json import encode
from migrate.documents.v1_json import encode_settings
from migrate.errors import DocumentError
from migrate.model.legacy import LegacyID

DOCKER_VERSION: Final = "1.10.3"
_MERGED: Final = ("User", "ExposedPorts", "Env", "Cmd", "Volumes", "WorkingDir", "Entrypoint", "Labels")
"""The settings that a commit copies from a container. Names, streams, limits, ONBUILD and STOPSIGNAL are not copied."""
_ARCHITECTURES: Final = {"x86_64": "amd64"}


def commit_json(
    record: ContainerRecord, container: LegacyID, parent: LegacyID | None, architecture: str | None, os: str | None
) -> bytes:
    """The JSON of the layer with a container's changes.

    `architecture` and `os`: those of the container's image, in place of the running Docker's, which commit writes.
    Raises DocumentError if Docker refuses the record's `Config`.
    """
    if record.settings is None:
        raise DocumentError("; ".join(record.problems) or "the record has no Config")
    # The members are in the order of the fields of Docker's struct image.V1Image.
    document: dict[str, Any] = {"id": container}
    if parent is not None:
        document["parent"] = parent
    document.update(
        created=record.changed_at,
        container=container,
        container_config=encode_settings(record.settings),
        docker_version=DOCKER_VERSION,
        config=encode_settings(merge_settings(record.settings)),
        architecture=_ARCHITECTURES.get(architecture or "", architecture) or "amd64",
        os=os or "linux",
    )
    return encode(document)


def merge_settings(settings: Settings) -> Settings:
    """The settings of a container's image: an empty request, with missing settings from the container."""
    merged = {name: settings[name] for name in _MERGED if name in settings}
    if merged.get("Labels") is None:
        merged["Labels"] = {}
    return merged
