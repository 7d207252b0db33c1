"""Many small images: N archives of three tiny layers each, or one archive that holds N such images.

python -m benchmarks.tiny archives|one N DIRECTORY
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

LAYERS = 3


def write_image(tar: tarfile.TarFile, number: int) -> str:
    """Three layers: a base that every image shares in content, not in ID, and two of its own. Returns the top's ID."""
    parent = ""
    for place in range(LAYERS):
        legacy_id = hashlib.sha256(f"{number}/{place}".encode()).hexdigest()
        document = {
            "id": legacy_id,
            "created": f"2014-05-06T07:08:{place:02}.123Z",
            "container_config": {"Cmd": ["/bin/sh", "-c", f"echo {number} > /etc/app-{place}"]},
            "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"]},
            "docker_version": "1.6.2",
            "architecture": "amd64",
            "os": "linux",
        } | ({"parent": parent} if parent else {})
        content = b"base\n" if place == 0 else f"image {number}, layer {place}\n".encode()
        _add(tar, f"{legacy_id}/VERSION", b"1.0")
        _add(tar, f"{legacy_id}/json", go_json(document))
        _add(tar, f"{legacy_id}/layer.tar", _layer(f"etc/app-{place}", content))
        parent = legacy_id
    return parent


def write_archives(directory: Path, count: int) -> None:
    directory.mkdir(parents=True)
    for number in range(count):
        with tarfile.open(directory / f"{number:06}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            top = write_image(tar, number)
            _add(tar, "repositories", json.dumps({f"tiny/app-{number}": {"latest": top}}).encode())


def write_one(directory: Path, count: int) -> None:
    directory.mkdir(parents=True)
    with tarfile.open(directory / "all.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        tops = {f"tiny/app-{number}": {"latest": write_image(tar, number)} for number in range(count)}
        _add(tar, "repositories", json.dumps(tops).encode())


def go_json(document: Mapping[str, object]) -> bytes:
    """As engines wrote it: without spaces, with `<>&` escaped."""
    text = json.dumps(document, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode()


def _layer(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        _add(tar, name, content)
    return out.getvalue()[:2048]


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    entry.mtime = 1_400_000_000
    tar.addfile(entry, io.BytesIO(content))


def main() -> None:
    form, count, directory = sys.argv[1:4]
    {"archives": write_archives, "one": write_one}[form](Path(directory), int(count))


if __name__ == "__main__":
    main()
