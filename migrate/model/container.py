"""A container of a Docker root, as reports show it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Kind = Literal["volume", "bind"]


class Volume(Struct, frozen=True, kw_only=True):
    """Files of a container that are in no layer, at `path` in the container.

    `source` is where they are: of a `volume`, in the Docker root as it is now; of a `bind`, on the machine that Docker
    ran on. `bytes` counts the contents of its files; None where the source does not hold them.
    """

    path: str
    source: str
    bytes: int | None
    kind: Kind = "volume"


class RunCommand(Struct, frozen=True, kw_only=True):
    """`words` of a `docker run`, not quoted for any shell, which names volumes that are not there yet: `volume_names`,
    by path in the container. `image_name` is what the image was called when the container was made, or ""."""

    words: tuple[str, ...]
    volume_names: tuple[tuple[str, str], ...] = ()
    image_name: str = ""


class Container(Struct, frozen=True, kw_only=True):
    """`image` is the legacy ID of the image that it was made from. `state` is Docker's word: created, running, paused,
    restarting, exited or dead; `unknown` where its record cannot be read. `created` is RFC3339Nano.

    `changed_bytes` counts the files that it changed, as Docker counts a layer; None where that cannot be read.
    `unseen` are paths that it changed and Docker's comparison does not see, because size and time are the same.
    `half_removed`: Docker had begun to remove it, and what is left may be less than it was.
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
