"""Random damages of the shipped sources: whatever is left is converted, and the target is clean."""

from __future__ import annotations

import os
import random
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from migrate import api
from migrate.errors import MigrateError
from migrate.model.options import ConvertOptions
from migrate.model.progress import SilentProgress
from migrate.verify import verify
from tests.archives import unpack
from tests.cases import Case, container_cases, registry_cases, save_cases, store_cases

Damage = Callable[[random.Random, bytes], bytes]
_SECTOR: Final = 512


def _at(dice: random.Random, content: bytes, size: int) -> int:
    return dice.randrange(max(1, len(content) - size + 1))


def _flip(dice: random.Random, content: bytes) -> bytes:
    at = _at(dice, content, 1)
    return content[:at] + bytes([content[at] ^ (1 << dice.randrange(8))]) + content[at + 1 :] if content else b"\1"


def _zeros(dice: random.Random, content: bytes) -> bytes:
    at, size = _at(dice, content, _SECTOR) // _SECTOR * _SECTOR, _SECTOR * dice.randint(1, 8)
    return (content[:at] + bytes(size) + content[at + size :])[: len(content)]


def _noise(dice: random.Random, content: bytes) -> bytes:
    at, size = _at(dice, content, 64), dice.randint(1, 64)
    return content[:at] + dice.randbytes(size) + content[at + size :]


def _cut(dice: random.Random, content: bytes) -> bytes:
    return content[: _at(dice, content, 0)]


def _gap(dice: random.Random, content: bytes) -> bytes:
    at = _at(dice, content, 32)
    return content[:at] + content[at + dice.randint(1, 600) :]


def _twice(dice: random.Random, content: bytes) -> bytes:
    at = _at(dice, content, 32)
    return content[: at + dice.randint(1, 600)] + content[at:]


DAMAGES: Final[dict[str, Damage]] = {
    "bit": _flip,
    "zeros": _zeros,
    "noise": _noise,
    "cut": _cut,
    "gap": _gap,
    "twice": _twice,
    "empty": lambda dice, content: b"",
}


class Sources:
    """The cases, unpacked when first asked for."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.cases: list[Case] = [*save_cases(), *registry_cases(), *store_cases(), *container_cases()]
        self._found: dict[str, Path] = {}

    def path(self, case: Case) -> Path:
        if case.name not in self._found:
            folder = self._place / case.name
            folder.mkdir()
            if case.name.startswith("save"):
                self._found[case.name] = case.write_plain(folder)
            else:
                packed = "registry.tar.xz" if case.name.startswith("registry") else "store.tar.xz"
                with tarfile.open(case.path / packed) as archive:
                    unpack(archive, folder)
                self._found[case.name] = _root_in(folder)
        return self._found[case.name]


def _root_in(folder: Path) -> Path:
    for top in (folder, *sorted(folder.rglob("*"))):
        if (top / "graph").is_dir() or ((top / "repositories").is_dir() and (top / "images").is_dir()):
            return top
        if (top / "docker/registry/v2").is_dir():
            return top
    return folder


@contextmanager
def damaged(dice: random.Random, source: Path) -> Iterator[str]:
    """One file of the source is damaged, lost or something else, and is itself again afterwards."""
    files = [source] if source.is_file() else [path for path in sorted(source.rglob("*")) if _is_plain(path)]
    documents = [path for path in files if path.stat().st_size < 20_000]
    path = dice.choice(dice.choice([files, documents]) or files)
    kind = dice.choice([*DAMAGES, *(["lost", "folder", "pipe", "link"] if path != source else [])])
    aside = path.with_name(f"{path.name}.aside")
    os.rename(path, aside)
    try:
        if kind in DAMAGES:
            path.write_bytes(DAMAGES[kind](dice, aside.read_bytes()))
            shutil.copystat(aside, path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "link":
            path.symlink_to("/etc/hostname")
        yield f"{kind} of {path}"
    finally:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        elif path.is_symlink() or path.exists():
            path.unlink()
        os.rename(aside, path)


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def try_damages(count: int, seed: int, place: Path) -> Counter[str]:
    """How often a run had each exit code. AssertionError for a target that is not clean; other errors come out."""
    dice = random.Random(seed)
    sources = Sources(place)
    codes: Counter[str] = Counter()
    for number in range(count):
        case = dice.choice(sources.cases)
        source = sources.path(case)
        options = ConvertOptions(
            jobs=1, salvage=dice.random() < 0.3, all_layers=dice.random() < 0.3, containers=dice.random() < 0.3
        )
        target = place / "target"
        with damaged(dice, source) as what:
            where = f"seed {seed}, number {number}: {case.name}, {what}"
            try:
                code: object = api.convert(source, target, options).exit_code
            except MigrateError as exc:
                code = exc.exit_code
            except Exception as exc:
                raise AssertionError(where) from exc
            assert code in (0, 3, 4), where
            codes[f"exit code {code}"] += 1
            if target.exists():
                assert verify(str(target), 1, SilentProgress()) == [], where
                shutil.rmtree(target)
    return codes
