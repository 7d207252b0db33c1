"""Builds the `made-*` cases: shapes of `docker save` archives that no engine at hand writes. Every byte is rebuilt.

    python legacy_fixtures/make.py            writes made-*/save.tar.xz
    python legacy_fixtures/make.py --check    exits 1 if a case on disk differs from what the script builds

What a real Docker engine makes of each is in its expected.json (`tests/compat/test_made_cases.py` asks the engine
again on every run).
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
MTIME = 1_400_000_000
Entry = tuple[str, bytes | None, bytes, str]
"""name, content, typeflag, link"""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def file(name: str, content: bytes) -> Entry:
    return name, content, tarfile.REGTYPE, ""


def folder(name: str) -> Entry:
    return name, None, tarfile.DIRTYPE, ""


def symlink(name: str, target: str) -> Entry:
    return name, None, tarfile.SYMTYPE, target


def hardlink(name: str, target: str) -> Entry:
    return name, None, tarfile.LNKTYPE, target


def tar(*entries: Entry, format_: int = tarfile.USTAR_FORMAT, end: bool = True) -> bytes:
    buffer = io.BytesIO()
    for name, content, kind, link in entries:
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.mtime = kind, link, MTIME
        member.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
        member.size = len(content or b"")
        buffer.write(member.tobuf(format_))
        buffer.write(content or b"")
        buffer.write(bytes(-member.size % 512))
    return buffer.getvalue() + (bytes(1024) if end else b"")


BASE = tar(folder("etc/"), file("etc/base", b"base\n"), folder("bin/"), file("bin/sh", b"#!\n"))
MIDDLE = tar(folder("etc/"), file("etc/middle", b"middle\n"))
TOP = tar(folder("etc/"), file("etc/.wh.base", b""), file("top", b"top\n"))
EMPTY = bytes(1024)


def v1_json(identity: str, parent: str | None, number: int, **more: object) -> bytes:
    document: dict[str, object] = {"id": identity}
    if parent:
        document["parent"] = parent
    document |= {
        "created": f"2014-05-0{number + 1}T10:00:00.5Z",
        "container_config": {"Cmd": ["/bin/sh", "-c", f"step {number}"], "Image": parent or ""},
        "docker_version": "1.5.0",
        "config": {"Cmd": ["sh"], "Env": ["A=<b>&"]},
        "architecture": "amd64",
        "os": "linux",
    }
    return json.dumps(document | more).encode()


def v1_layer(identity: str, parent: str | None, number: int, layer: bytes, **more: object) -> list[Entry]:
    return [
        folder(f"{identity}/"),
        file(f"{identity}/VERSION", b"1.0"),
        file(f"{identity}/json", v1_json(identity, parent, number, **more)),
        file(f"{identity}/layer.tar", layer),
    ]


def repositories(**tags: str) -> Entry:
    return file("repositories", json.dumps({name: {"latest": identity} for name, identity in tags.items()}).encode())


def chain(ids: list[str], layers: list[bytes]) -> list[Entry]:
    entries: list[Entry] = []
    for number, (identity, layer) in enumerate(zip(ids, layers, strict=True)):
        entries += v1_layer(identity, ids[number - 1] if number else None, number, layer)
    return entries


def hex_ids(word: str, count: int, digits: int = 64) -> list[str]:
    return [sha256(f"{word} {number}".encode())[:digits] for number in range(count)]


def short_ids() -> bytes:
    """16-digit IDs, as Docker 0.1 gave them out."""
    ids = hex_ids("short", 3, 16)
    return tar(*chain(ids, [BASE, MIDDLE, TOP]), repositories(short=ids[-1]))


def named_ids() -> bytes:
    """Directories that are no hex IDs at all, as Docker 1.0.1 wrote them for `name:tag`; the json's id disagrees."""
    ids = ["base image", "app:1.0", "ünïcode"]
    entries = [*v1_layer(ids[0], None, 0, BASE, id="0" * 64), *chain(ids, [BASE, MIDDLE, TOP])[4:]]
    return tar(*entries, repositories(named=ids[-1]), format_=tarfile.GNU_FORMAT)


def duplicates() -> bytes:
    """Members that occur twice: the last one counts."""
    ids = hex_ids("duplicates", 2)
    early = v1_layer(ids[0], None, 7, TOP)
    return tar(*early, *chain(ids, [BASE, MIDDLE]), repositories(twice=ids[-1]))


def repeated_layer() -> bytes:
    """The same layer at two places of one chain, with another between that takes its file away."""
    ids = hex_ids("repeated", 4)
    gone = tar(folder("etc/"), file("etc/.wh.middle", b""))
    return tar(*chain(ids, [BASE, MIDDLE, gone, MIDDLE]), repositories(repeated=ids[-1]))


def empty_layers() -> bytes:
    """Layers without an entry: two zero blocks, more zeros than needed, and no bytes at all."""
    ids = hex_ids("empty", 4)
    return tar(*chain(ids, [BASE, EMPTY, bytes(10_240), b""]), repositories(empty=ids[-1]))


def compressed_layers() -> bytes:
    """`layer.tar` compressed, each in another way."""
    ids = hex_ids("compressed", 4)
    last = tar(file("last", b"last\n"))
    layers = [gzip.compress(BASE, mtime=0), bz2.compress(MIDDLE), lzma.compress(TOP), last]
    return tar(*chain(ids, layers), repositories(compressed=ids[-1]))


def many_heads() -> bytes:
    """Two branches on one base, saved by ID: no repositories."""
    base, left, right = hex_ids("heads", 3)
    return tar(*v1_layer(base, None, 0, BASE), *v1_layer(left, base, 1, MIDDLE), *v1_layer(right, base, 2, TOP))


def without_layer_end() -> bytes:
    """A layer that ends without the end-of-archive marker."""
    ids = hex_ids("unended", 2)
    return tar(*chain(ids, [BASE, tar(file("x", b"x\n"), end=False)]), repositories(unended=ids[-1]))


def dual_config(layers: list[bytes]) -> bytes:
    return json.dumps(
        {
            "architecture": "amd64",
            "config": {"Cmd": ["sh"]},
            "created": "2017-01-02T03:04:05Z",
            "history": [{"created": "2017-01-02T03:04:05Z", "created_by": f"step {n}"} for n, _ in enumerate(layers)],
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(layer)}" for layer in layers]},
            "x-unknown": [1.50, "kept & verbatim"],
        },
        indent=1,
    ).encode()


def dual(name: str, link: Callable[[str, str], Entry]) -> bytes:
    layers = [BASE, MIDDLE, EMPTY, BASE, MIDDLE]
    config = dual_config(layers)
    ids = hex_ids(name, len(layers))
    entries: list[Entry] = []
    first: dict[bytes, str] = {}
    for number, (identity, layer) in enumerate(zip(ids, layers, strict=True)):
        path = f"{identity}/layer.tar"
        entries += v1_layer(identity, ids[number - 1] if number else None, number, layer)[:-1]
        entries.append(link(path, first[layer]) if layer in first else file(path, layer))
        first.setdefault(layer, path)
    manifest = [
        {"Config": f"{sha256(config)}.json", "RepoTags": [f"{name}:1"], "Layers": [f"{i}/layer.tar" for i in ids]}
    ]
    entries += [file(f"{sha256(config)}.json", config), file("manifest.json", json.dumps(manifest).encode())]
    return tar(*entries)


def dual_symlinks() -> bytes:
    """Docker 1.12 to 24: an equal layer is a symbolic link to the first."""
    return dual("symlinks", lambda path, target: symlink(path, f"../{target}"))


def dual_hardlinks() -> bytes:
    """The same with hard links, as some savers and every `tar` of an unpacked archive with links write them."""
    return dual("hardlinks", hardlink)


def oci_layout() -> bytes:
    """Docker 25 with the graph-driver store: blobs, index.json, manifest.json and repositories."""
    layers = [BASE, MIDDLE, TOP]
    config = dual_config(layers)
    descriptors = [
        {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": f"sha256:{sha256(layer)}", "size": len(layer)}
        for layer in layers
    ]
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": f"sha256:{sha256(config)}",
                "size": len(config),
            },
            "layers": descriptors,
        }
    ).encode()
    annotations = {
        "io.containerd.image.name": "docker.io/library/oci:1",
        "org.opencontainers.image.ref.name": "1",
    }
    index = {
        "schemaVersion": 2,
        "manifests": [
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": f"sha256:{sha256(manifest)}",
                "size": len(manifest),
                "annotations": annotations,
            }
        ],
    }
    listed = [
        {
            "Config": f"blobs/sha256/{sha256(config)}",
            "RepoTags": ["oci:1"],
            "Layers": [f"blobs/sha256/{sha256(layer)}" for layer in layers],
        }
    ]
    blobs = sorted([*layers, config, manifest], key=sha256)
    return tar(
        folder("blobs/"),
        folder("blobs/sha256/"),
        *[file(f"blobs/sha256/{sha256(blob)}", blob) for blob in blobs],
        file("index.json", json.dumps(index).encode()),
        file("manifest.json", json.dumps(listed).encode()),
        file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
        file("repositories", json.dumps({"oci": {"1": sha256(layers[-1])}}).encode()),
    )


CASES: dict[str, Callable[[], bytes]] = {
    "made-short-ids": short_ids,
    "made-named-ids": named_ids,
    "made-duplicates": duplicates,
    "made-repeated-layer": repeated_layer,
    "made-empty-layers": empty_layers,
    "made-compressed-layers": compressed_layers,
    "made-many-heads": many_heads,
    "made-without-layer-end": without_layer_end,
    "made-dual-symlinks": dual_symlinks,
    "made-dual-hardlinks": dual_hardlinks,
    "made-oci-layout": oci_layout,
}


def main() -> int:
    differing = []
    for name, build in CASES.items():
        path = HERE / name / "save.tar.xz"
        content = build()
        if path.exists() and lzma.decompress(path.read_bytes()) == content:
            continue
        differing.append(name)
        if "--check" not in sys.argv:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(lzma.compress(content))
            summary = (build.__doc__ or "").splitlines()[0]
            (path.parent / "README.md").write_text(f"# {name}\n\n{summary}\n\nMade by `legacy_fixtures/make.py`.\n")
    print("\n".join(differing), end="\n" if differing else "")
    return 1 if differing and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
