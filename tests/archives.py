"""Archives that a test builds byte by byte, for shapes that no real engine's save has."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

Members = list[tuple[str, bytes | tarfile.TarInfo]]


def legacy_id(name: str) -> str:
    """64 hex digits, the same for the same name."""
    return hashlib.sha256(name.encode()).hexdigest()


def layer_tar(*names: str, content: bytes = b"content\n") -> bytes:
    """A layer with these files, or with no entry at all."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    whole = buffer.getvalue()
    return whole[: 512 * (2 * len(names) + 2)] if len(content) <= 512 else whole


def layer_json(identity: str, parent: str | None = None, **fields: object) -> bytes:
    document: dict[str, object] = {"id": identity, "created": "2014-05-06T07:08:09Z", "docker_version": "1.3.3"}
    if parent is not None:
        document["parent"] = parent
    return json.dumps(document | fields).encode()


@dataclass
class V1Archive:
    """A `docker save` archive of the v1 form, with hooks to break it."""

    members: Members = field(default_factory=list)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)

    def layer(self, name: str, parent: str | None = None, *, tar: bytes | None = None, raw: bytes | None = None) -> str:
        """Adds a layer named after `name`; `raw` replaces its JSON, `tar` its content. Returns its ID."""
        identity = legacy_id(name)
        content = raw if raw is not None else layer_json(identity, legacy_id(parent) if parent else None)
        self.members += [
            (f"{identity}/VERSION", b"1.0"),
            (f"{identity}/json", content),
            (f"{identity}/layer.tar", layer_tar(f"{name}.txt", content=name.encode()) if tar is None else tar),
        ]
        return identity

    def tag(self, repository: str, tag: str, identity: str) -> None:
        self.tags.setdefault(repository, {})[tag] = identity

    def build(self, extra: Iterable[tuple[str, bytes | tarfile.TarInfo]] = ()) -> bytes:
        repositories: Members = [("repositories", json.dumps(self.tags).encode())] if self.tags else []
        return build_tar([*self.members, *repositories, *extra])


def build_tar(members: Iterable[tuple[str, bytes | tarfile.TarInfo]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[str, tarfile.TarInfo]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return name, member


def pax_header(key: bytes, value: bytes) -> bytes:
    """A pax header of one record, however long."""
    length = len(key) + len(value) + 3
    length += len(str(length + len(str(length))))
    record = b"%d %b=%b\n" % (length, key, value)
    header = tarfile.TarInfo("pax")
    header.type, header.size = b"x", len(record)
    return header.tobuf(tarfile.USTAR_FORMAT) + record + bytes(-len(record) % 512)


def unpack(archive: tarfile.TarFile, place: Path, *, without_slash: bool = False) -> None:
    """Everything as the archive has it. Python 3.11 before 3.11.4, which Debian has, knows no filters, and Python 3.14
    has one by default. `without_slash`: names from the root go below `place`."""
    members = archive.getmembers()
    for member in members:
        member.name = member.name.lstrip("/") if without_slash else member.name
    as_it_is = {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}
    archive.extractall(place, members, **as_it_is)  # type: ignore[arg-type]
