"""Random mutations of every kind of target: `verify` finds each, but for those that change no image."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import tarfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from migrate.errors import MigrateError
from migrate.model.progress import SilentProgress
from migrate.verify import verify
from tests.faults.damages import DAMAGES
from tests.faults.everywhere import KINDS, write_shelf

TARGETS: Final = [kind for kind in KINDS if kind != "batch"]
Facts = dict[str, Any]


def facts_of(target: Path) -> Facts | None:
    """What the images of a target are to a reader of a few lines: names, and what they lead to. None where it cannot
    be read so. Written apart from the code under test."""
    try:
        files = _files(target)
        if "index.json" in files:
            return _layout(files)
        if "manifest.json" in files:
            return _docker(files)
        return _registry(files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError, tarfile.TarError):
        return None


def _files(target: Path) -> dict[str, bytes]:
    if target.is_dir():
        found = {path.relative_to(target).as_posix(): path for path in target.rglob("*")}
        kept = {name: path for name, path in found.items() if not name.startswith((".migrate", "migration-"))}
        assert not any(path.is_symlink() or not (path.is_file() or path.is_dir()) for path in kept.values())
        return {name: path.read_bytes() for name, path in kept.items() if path.is_file()}
    with tarfile.open(target) as archive:
        members = archive.getmembers()
        assert len({member.name for member in members}) == len(members)
        return {member.name: archive.extractfile(member).read() for member in members if member.isreg()}  # type: ignore[union-attr]


def _blob(files: dict[str, bytes], digest: str) -> bytes:
    name = digest.removeprefix("sha256:")
    content = files.get(f"blobs/sha256/{name}") or files[f"docker/registry/v2/blobs/sha256/{name[:2]}/{name}/data"]
    assert hashlib.sha256(content).hexdigest() == name
    return content


def _image(files: dict[str, bytes], digest: str) -> Any:
    manifest = json.loads(_blob(files, digest))
    for one in (manifest["config"], *manifest["layers"]):
        assert len(_blob(files, one["digest"])) == one["size"]
    return digest


def _layout(files: dict[str, bytes]) -> Facts:
    assert json.loads(files["oci-layout"])["imageLayoutVersion"] == "1.0.0"
    entries = json.loads(files["index.json"])["manifests"]
    names = {json.dumps(entry, sort_keys=True): _image(files, entry["digest"]) for entry in entries}
    for entry in entries:
        assert len(_blob(files, entry["digest"])) == entry["size"]
    return {"index": names, **_docker(files)}


def _docker(files: dict[str, bytes]) -> Facts:
    found = {}
    for entry in json.loads(files["manifest.json"]):
        layers = [hashlib.sha256(files[layer]).hexdigest() for layer in entry["Layers"]]
        config = files[entry["Config"]]
        found[json.dumps(entry, sort_keys=True)] = (hashlib.sha256(config).hexdigest(), layers)
    return {"docker": found}


def _registry(files: dict[str, bytes]) -> Facts:
    """All links, and the blobs that they and the manifests lead to."""
    links = {name: content for name, content in files.items() if name.endswith("/link")}
    for name, content in links.items():
        digest = content.decode("ascii")
        if "_manifests" in name:
            _image(files, digest)
        else:
            _blob(files, digest)
    return {"links": links}


def mutate(dice: random.Random, target: Path) -> str:
    """One change to a file of the target, or to where it is."""
    if target.is_file():
        kind = dice.choice(list(DAMAGES))
        target.write_bytes(DAMAGES[kind](dice, target.read_bytes()))
        return kind
    files = [path for path in sorted(target.rglob("*")) if path.is_file() and ".migrate" not in path.parts]
    documents = [path for path in files if path.suffix == ".json" or path.name == "link"]
    path = dice.choice(dice.choice([files, documents]) or files)
    kind = dice.choice([*DAMAGES, "lost", "folder", "link", "pipe", "swapped", "digest", "name"])
    if kind in DAMAGES:
        path.write_bytes(DAMAGES[kind](dice, path.read_bytes()))
    elif kind in ("digest", "name"):
        kind = f"{kind} {_exchange(dice, path, files, kind)}"
    elif kind == "swapped":
        other = dice.choice(files)
        one, two = path.read_bytes(), other.read_bytes()
        path.write_bytes(two)
        other.write_bytes(one)
        kind = f"swapped with {other.name}"
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "link":
            path.symlink_to(dice.choice([other for other in files if other != path]))
        elif kind == "pipe":
            os.mkfifo(path)
    return f"{kind} of {path.relative_to(target)}"


def _exchange(dice: random.Random, path: Path, files: list[Path], what: str) -> str:
    """Another blob's digest, or another name, in the place of one in the document."""
    text = path.read_bytes()
    if what == "digest":
        digests = sorted({file.name for file in files if len(file.name) == 64})
        digests += sorted({file.parent.name for file in files if len(file.parent.name) == 64})
        found = [digest for digest in digests if digest.encode() in text]
        if not found:
            return "nowhere"
        old, new = dice.choice(found), dice.choice(digests)
        path.write_bytes(text.replace(old.encode(), new.encode(), dice.choice([1, -1])))
        return "exchanged"
    path.write_bytes(text.replace(b"team/app:", dice.choice([b"team/bpp:", b"evil/app:", b"team/app:x"]), 1))
    return "changed"


def try_mutations(kind: str, count: int, seed: int, place: Path) -> Counter[str]:
    """How many were found, and how many change no image. AssertionError for one that is neither."""
    dice = random.Random(f"{kind} {seed}")
    shelf, sound = write_shelf(place / "shelf"), place / "sound"
    KINDS[kind](shelf, sound)
    expected = facts_of(sound)
    assert expected is not None
    tally: Counter[str] = Counter()
    for number in range(count):
        target = place / "target"
        _copy(sound, target)
        where = f"{kind}, seed {seed}, number {number}: {mutate(dice, target)}"
        try:
            found = bool(verify(str(target), 1, SilentProgress()))
        except MigrateError:
            found = True
        except Exception as exc:
            raise AssertionError(where) from exc
        assert found or facts_of(target) == expected, f"not found: {where}"
        tally["found" if found else "changes no image"] += 1
        _remove(target)
    return tally


def _copy(sound: Path, target: Path) -> None:
    if sound.is_dir():
        shutil.copytree(sound, target)
    else:
        shutil.copy(sound, target)


def _remove(target: Path) -> None:
    with suppress(NotADirectoryError):
        shutil.rmtree(target)
        return
    target.unlink()


__all__ = ["TARGETS", "try_mutations"]
