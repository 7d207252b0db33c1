"""The image that `docker commit` makes of a container: its layer's JSON. Pure.

moby 1.10.3, daemon/commit.go (Commit, merge) and image/image.go. The result is a layer's JSON like any other, from
which `compose_config` makes the config that 1.10.3 writes, but for the time: Docker takes that of the commit.
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
"""What commit takes over from a container. Not its names, streams and limits, ONBUILD and STOPSIGNAL."""
_ARCHITECTURES: Final = {"x86_64": "amd64"}


def commit_json(
    record: ContainerRecord, container: LegacyID, parent: LegacyID | None, architecture: str | None, os: str | None
) -> bytes:
    """The JSON of the layer that holds a container's changes.

    `architecture` and `os` are those of the container's image: Docker writes its own, and there is none here.
    Raises DocumentError where Docker refuses the record's `Config`.
    """
    if record.settings is None:
        raise DocumentError("; ".join(record.problems) or "the record has no Config")
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
    """The settings of the image of a container: those of a blank request, filled up from the container's."""
    merged = {name: settings[name] for name in _MERGED if name in settings}
    if merged.get("Labels") is None:
        merged["Labels"] = {}
    return merged
