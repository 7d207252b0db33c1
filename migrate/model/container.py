"""A container of a Docker root, for reports."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Kind = Literal["volume", "bind"]


class Volume(Struct, frozen=True, kw_only=True):
    """Files of a container that are in no layer, at `path` in the container.

    `source`: the place of the files: of a `volume`, in the Docker root where it is now; of a `bind`, on the machine
    that Docker ran on. `bytes`: the size of all files; None if the source does not have them.
    """

    path: str
    source: str
    bytes: int | None
    kind: Kind = "volume"


class RunCommand(Struct, frozen=True, kw_only=True):
    """A `docker run` command. `words`: not quoted for a shell. `volume_names`: (path in the container, name) of the
    volumes in it, which the user has to make. `image_name`: the image's name when the container was made, or ""."""

    words: tuple[str, ...]
    volume_names: tuple[tuple[str, str], ...] = ()
    image_name: str = ""


class Container(Struct, frozen=True, kw_only=True):
    """A container. `image`: the legacy ID of the image that it was made from. `state`: as in Docker: created, running,
    paused, restarting, exited or dead; `unknown` if its record cannot be read. `created`: RFC3339Nano.

    `changed_bytes`: the size of the files that it changed, as Docker counts a layer; None if they cannot be read.
    `unseen`: paths that it changed and that Docker's comparison does not find, because size and time are the same.
    `half_removed`: Docker had begun to remove it, so that files may be missing.
    """

    id: str
    name: str
    image: str
    state: str
    created: str | None
    changed_bytes: int | None = None
    volumes: tuple[Volume, ...] = ()
    unseen: tuple[str, ...] = ()
    half_removed: bool = False

    @property
    def title(self) -> str:
        return f"container {self.name} ({self.id[:12]})"
