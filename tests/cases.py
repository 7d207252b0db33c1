"""The shipped cases of `legacy_fixtures/`: inputs of real engines, and what real engines made of them."""

from __future__ import annotations

import io
import json
import lzma
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).resolve().parent.parent / "legacy_fixtures"


@dataclass(frozen=True)
class Case:
    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def expected(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.path / "expected.json").read_bytes())
        return document

    @cached_property
    def configs(self) -> dict[str, bytes]:
        """`configs/<sha256>.json` → its exact bytes."""
        with tarfile.open(self.path / "configs.tar.xz") as archive:
            found = {}
            for member in archive.getmembers():
                content = archive.extractfile(member)
                if content is not None:
                    found[member.name.removeprefix("./")] = content.read()
            return found

    def write_plain(self, directory: Path) -> Path:
        """The case's save as the plain tar that `docker save` wrote."""
        target = directory / f"{self.name}.tar"
        target.write_bytes(lzma.decompress((self.path / "save.tar.xz").read_bytes()))
        return target


def save_cases() -> list[Case]:
    return _cases("save-")


def store_cases() -> list[Case]:
    return _cases("store-")


def container_cases() -> list[Case]:
    return _cases("containers-")


def registry_cases() -> list[Case]:
    return _cases("registry-")


def case(name: str) -> Case:
    return Case(FIXTURES / name)


def _cases(prefix: str) -> list[Case]:
    found = [Case(path) for path in sorted(FIXTURES.iterdir()) if path.name.startswith(prefix)]
    assert found, f"no {prefix}* case in {FIXTURES}"
    return found


def tar_of(entries: dict[str, bytes]) -> bytes:
    """A plain ustar archive of regular files, for cases that a test builds."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in entries.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def is_half_removed(container: Mapping[str, Any]) -> bool:
    """Of a container of a container case: true for `wreck`, where its driver removed anything before it failed. Docker
    up to 1.5 has no `Dead` in its records."""
    dead: bool = container["state_on_disk"].get("Dead", container["name"] == "wreck")
    return dead
