"""The records of a Docker root's containers, as Docker 0.6 to 1.10 wrote them.

Sources: moby 0.6 to 1.10, daemon/container.go and daemon/state.go (`config.json`, `config.v2.json`) and
runconfig/hostconfig.go (`hostconfig.json`). docs/formats/docker-root.md has the fields by version.

Most fields of a record are only shown to the user, so a field of the wrong type counts as absent, and is named in
`problems`. The exception is `Config`, which becomes the config of an image: it is read as Docker reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from migrate.documents.go_json import fold_key
from migrate.documents.go_time import ZERO_TIME, normalise_time
from migrate.documents.json_text import load_json_lenient, shown
from migrate.documents.v1_json import parse_settings
from migrate.errors import DocumentError, LimitError

Settings = Mapping[str, Any]
"""A container's `Config`, field → value, as of `v1_json.parse_settings`. Only `v1_json` reads the values."""


class MountRecord(Struct, frozen=True, kw_only=True):
    """A volume or bind mount of a container, at the path `destination`.

    `source` is a path on the machine that Docker ran on, "" if the record has none: then `name` is the name of a volume
    in `volumes/`. `mode` is the text behind the second colon of `-v`, such as `ro` or `z`.
    """

    destination: str
    source: str = ""
    name: str = ""
    driver: str = ""
    writable: bool = True
    mode: str = ""


class ContainerRecord(Struct, frozen=True, kw_only=True):
    """One container. Missing texts are ""; times are RFC3339Nano, None if they were never set.

    `name` has no leading slash. `image`: the legacy ID of its image, or `sha256:…` if Docker 1.10 has rewritten the
    record; `image_name`: the name that the user typed. `settings`: None if Docker refuses the record's `Config`.
    `root`: the Docker root's path on the machine that Docker ran on, "" if the record does not show it. `config` and
    `host`: the record's `Config` and `hostconfig.json`, for other fields. `can_be_dead`: the record has a field for a
    half-removed container, as those of Docker 1.6 and later.
    """

    id: str
    name: str
    image: str
    image_name: str
    driver: str
    state: str
    created: str | None
    finished: str | None
    settings: Settings | None
    mounts: tuple[MountRecord, ...]
    config: Fields
    host: Fields
    root: str
    can_be_dead: bool = True
    problems: tuple[str, ...] = ()

    @property
    def is_dead(self) -> bool:
        """True if Docker had begun to remove it."""
        return self.state == "dead"

    @property
    def changed_at(self) -> str:
        """The time of the last change of its files, by the record: the end of its last run, else its creation."""
        return self.finished or self.created or ZERO_TIME


def parse_container(raw: bytes, what: str, host_raw: bytes | None = None) -> ContainerRecord:
    """Parses a container's record and its `hostconfig.json`, if there is one. DocumentError if `raw` is no JSON
    object."""
    reading = _Reading(what)
    record = Fields(load_json_lenient(raw, what), "", reading)
    if not record.is_object:
        raise DocumentError(f"{what}: not a JSON object")
    try:
        settings: Settings | None = parse_settings(raw, what)
    except (DocumentError, LimitError) as error:
        # Without settings no image can be made of the container (`commit_json`), but it can be listed.
        settings = None
        reading.problems.append(error.message)
    config = record.at("Config")
    return ContainerRecord(
        id=record.text("ID"),
        name=record.text("Name").strip("/"),
        image=record.text("Image"),
        image_name=config.text("Image"),
        driver=record.text("Driver"),
        state=_state(record.at("State")),
        created=_time(record.text("Created")),
        finished=_time(record.at("State").text("FinishedAt")),
        settings=settings,
        mounts=tuple(_iter_mounts(record)),
        config=config,
        host=_host_fields(host_raw, reading),
        root=_recorded_root(record),
        can_be_dead=record.at("State").has("Dead"),
        problems=tuple(reading.problems),
    )


# --- a container ---------------------------------------------------------------------------------------------------


def _state(state: Fields) -> str:
    """The state as `docker inspect` of 1.9 shows it (moby 1.9, daemon/state.go, StateString)."""
    if state.flag("Dead"):  # first, because such a container is incomplete, whatever its other fields are
        return "dead"
    if state.flag("Running"):
        return "paused" if state.flag("Paused") else "restarting" if state.flag("Restarting") else "running"
    if _time(state.text("StartedAt")) is None and _time(state.text("FinishedAt")) is None:
        return "created"
    return "exited"


def _time(text: str) -> str | None:
    time = normalise_time(text)
    return None if time == ZERO_TIME else time


def _iter_mounts(record: Fields) -> Iterator[MountRecord]:
    """The mounts, by their path in the container. Docker 1.7 and later have all of them in `MountPoints`, and some of
    them also in `Volumes`."""
    found: dict[str, MountRecord] = {}
    writable = record.at("VolumesRW")
    for destination in record.at("Volumes").names():
        source = record.at("Volumes").text(destination)
        found[destination] = MountRecord(
            destination=destination, source=source, writable=writable.flag(destination, default=True)
        )
    # The newer form comes last, and replaces the mount of the same path in `Volumes`.
    points = record.at("MountPoints")
    for destination in points.names():
        point = points.at(destination)
        found[destination] = MountRecord(
            destination=point.text("Destination") or destination,
            source=point.text("Source"),
            name=point.text("Name"),
            driver=point.text("Driver"),
            writable=point.flag("RW"),
            mode=point.text("Relabel") or point.text("Mode"),
        )
    yield from (found[destination] for destination in sorted(found))


def _recorded_root(record: Fields) -> str:
    """The Docker root's path, from the paths of the container's own files: `<root>/containers/<id>/hosts`."""
    for name in ("HostnamePath", "HostsPath", "LogPath", "ResolvConfPath"):
        root, found, _ = record.text(name).partition(f"/containers/{record.text('ID')}/")
        if found and root.startswith("/"):
            return root
    return ""


def _host_fields(raw: bytes | None, reading: _Reading) -> Fields:
    value = None
    if raw is not None:
        try:
            value = load_json_lenient(raw, "hostconfig.json")
        except (DocumentError, LimitError) as error:
            reading.problems.append(f"{reading.what}: {error.message}")
    return Fields(value, "hostconfig.json", reading)


# --- fields of any type --------------------------------------------------------------------------------------------


class _Reading:
    """The problems of a document. `what`: its name in messages."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.problems: list[str] = []


class Fields:
    """An object of a record. A field of the wrong type counts as absent and is added to the problems. Keys match in any
    case of letters, as in Go."""

    __slots__ = ("_path", "_reading", "_values")

    def __init__(self, value: object, path: str, reading: _Reading) -> None:
        self._path = path
        self._reading = reading
        self._values: dict[str, Any] | None = None
        if isinstance(value, dict):
            self._values = value
        elif value is not None and path:
            self._note(path, "an object", value)

    @property
    def is_object(self) -> bool:
        return self._values is not None

    def names(self) -> Sequence[str]:
        return sorted(self._values or ())

    def has(self, name: str) -> bool:
        return self._get(name) is not None

    def at(self, name: str) -> Fields:
        return Fields(self._get(name), self._named(name), self._reading)

    def rows(self, name: str) -> Sequence[Fields]:
        items = self._of_type(name, list, "an array") or []
        return [Fields(item, f"{self._named(name)}[{index}]", self._reading) for index, item in enumerate(items)]

    def text(self, name: str) -> str:
        return self._of_type(name, str, "a string") or ""

    def flag(self, name: str, *, default: bool = False) -> bool:
        value: bool | None = self._of_type(name, bool, "true or false")
        return default if value is None else value

    def number(self, name: str) -> int:
        value = self._get(name)
        if value is None or isinstance(value, bool) or not isinstance(value, int):
            if value is not None:
                self._note(self._named(name), "an integer", value)
            return 0
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """An array of strings, or a single string in its place, which Docker accepts for commands."""
        value = self._get(name)
        if isinstance(value, str):
            return (value,)
        items = self._of_type(name, list, "an array of strings") or []
        if not all(isinstance(item, str) for item in items):
            self._note(self._named(name), "an array of strings", items)
        return tuple(item for item in items if isinstance(item, str))

    def _of_type(self, name: str, kind: type, wanted: str) -> Any:
        value = self._get(name)
        if value is None or isinstance(value, kind):
            return value
        self._note(self._named(name), wanted, value)
        return None

    def _get(self, name: str) -> Any:
        values = self._values or {}
        if name in values:
            return values[name]
        folded = fold_key(name)
        return next((value for key, value in values.items() if fold_key(key) == folded), None)

    def _named(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name

    def _note(self, path: str, wanted: str, value: object) -> None:
        problem = f"{self._reading.what}: {path}: not {wanted}: {shown(value)}"
        if problem not in self._reading.problems:
            self._reading.problems.append(problem)
