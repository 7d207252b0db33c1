"""A devicemapper store made from an overlay or vfs store: the same layers, each a snapshot of its parent's device.

The file systems are changed as Docker changed them, through the kernel's ext4 or XFS on a loop mount; the pool itself
is laid out block by block and its metadata written by thin_restore, since that needs no device-mapper driver.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import disks
from tests.unit.readers.devicemapper.pools import PoolBuilder, run, write_record

Signature = tuple[object, ...]


@dataclass(slots=True)
class ThinStore:
    root: Path
    pool: PoolBuilder
    devices: dict[str, int]


def build_thin_store(source: Path, driver: str, root: Path, kind: str, containers: Collection[str] = ()) -> ThinStore:
    """`source` is the root of an unpacked store of `driver`; `kind` is `ext4` or `xfs`.

    `containers` are the IDs of those of a vfs store that get their devices, too.
    """
    shutil.copytree(source / "graph", root / "graph", symlinks=True)
    if (source / "containers").is_dir():
        shutil.copytree(source / "containers", root / "containers", symlinks=True)
    shutil.copy(source / f"repositories-{driver}", root / "repositories-devicemapper")
    store = root / "devicemapper"
    (store / "devicemapper").mkdir(parents=True)
    pool = PoolBuilder(store / "devicemapper")
    base = make_base(root / "base.img", kind)
    size = base.stat().st_size
    pool.add(1, base)
    write_record(store, "base", 1, size)
    devices = {"base": 1}
    images = {"": base}
    for layer_id, parent in [*layers_in_order(root / "graph"), *container_layers(root, containers)]:
        image = root / f"{layer_id}.img"
        run("cp", "--sparse=always", str(images[parent]), str(image))
        fill_layer(image, layer_tree(source, driver, layer_id), layer_id, root / "mnt")
        device = devices[layer_id] = len(devices) + 1
        pool.add(device, image, devices[parent or "base"])
        write_record(store, layer_id, device, size, pool.transaction)
        images[layer_id] = image
    pool.write_metadata()
    (store / "metadata/deviceset-metadata").write_text(json.dumps({"next_device_id": len(devices) + 1}))
    transaction = {"open_transaction_id": pool.transaction, "device_hash": "", "device_id": 0}
    (store / "metadata/transaction-metadata").write_text(json.dumps(transaction))
    for image in images.values():
        image.unlink()
    return ThinStore(root, pool, devices)


def container_layers(root: Path, containers: Collection[str]) -> Iterator[tuple[str, str]]:
    """As `layers_in_order`: what Docker puts into a container, and on top of it the container."""
    for container in sorted(containers):
        path = root / "containers" / container / "config.json"
        record = json.loads(path.read_bytes())
        path.write_text(json.dumps({**record, "Driver": "devicemapper"}))
        yield f"{container}-init", record["Image"]
        yield container, f"{container}-init"


def layer_tree(source: Path, driver: str, layer_id: str) -> Path:
    return source / ("vfs/dir" if driver == "vfs" else "overlay") / layer_id / ("" if driver == "vfs" else "root")


def layers_in_order(graph: Path) -> list[tuple[str, str]]:
    """(layer, parent) with every parent before its children; a base's parent is empty."""
    parents = {}
    for directory in graph.iterdir():
        if (directory / "json").is_file():
            document = json.loads((directory / "json").read_bytes())
            named = (directory / "parent").read_text().strip() if (directory / "parent").is_file() else ""
            parents[directory.name] = named or document.get("parent") or document.get("parent_id", "")[7:]
    ordered: dict[str, str] = {}
    while len(ordered) < len(parents):
        ready = sorted(
            name for name, above in parents.items() if name not in ordered and (not above or above in ordered)
        )
        assert ready, "the parents do not lead to a base"
        ordered.update((name, parents[name]) for name in ready)
    return list(ordered.items())


def make_base(image: Path, kind: str) -> Path:
    """As Docker made it, but smaller."""
    with image.open("wb") as stream:
        stream.truncate((128 if kind == "ext4" else 320) * 1024**2)
    if kind == "ext4":
        run("mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", str(image))
    else:
        run("mkfs.xfs", "-q", str(image))
    return image


@contextmanager
def mounted(image: Path, place: Path, *options: str) -> Iterator[Path]:
    kind = run("blkid", "-o", "value", "-s", "TYPE", str(image)).strip()
    with disks.mounted(image, "noatime", *(["nouuid"] if kind == "xfs" else []), *options, place=place):
        yield place


def fill_layer(image: Path, tree: Path, layer_id: str, place: Path) -> None:
    """What Docker's Get and ApplyDiff leave on the device: `rootfs/` like `tree`, and `id` from the first mount."""
    with mounted(image, place):
        (place / "rootfs").mkdir(exist_ok=True)
        if not (place / "id").exists():
            (place / "id").write_text(layer_id)
        synchronise(os.fsencode(tree), os.fsencode(place / "rootfs"))


def synchronise(source: bytes, target: bytes) -> None:
    """Changes only what differs, so that the rest of the file system keeps its blocks."""
    wanted, present = signatures(source), signatures(target)
    for path in sorted(present, reverse=True):
        both_directories = path in wanted and wanted[path][0] == present[path][0] == stat.S_IFDIR
        if path and not both_directories and wanted.get(path) != present[path]:
            full = os.path.join(target, path)
            (os.rmdir if present[path][0] == stat.S_IFDIR else os.unlink)(full)
    directories = [path for path in sorted(wanted) if wanted[path][0] == stat.S_IFDIR]
    for path in directories:
        os.makedirs(os.path.join(target, path), exist_ok=True)
    missing = [path for path in sorted(wanted) if wanted[path][0] != stat.S_IFDIR and wanted[path] != present.get(path)]
    if missing:
        subprocess.run([b"cp", b"-a", b"--parents", b"--", *missing, target], cwd=source, check=True)
    for path in reversed(directories):
        copy_directory(os.path.join(source, path), os.path.join(target, path))


def copy_directory(source: bytes, target: bytes) -> None:
    status, now = os.lstat(source), os.lstat(target)
    if (status.st_uid, status.st_gid, status.st_mode) != (now.st_uid, now.st_gid, now.st_mode):
        os.chown(target, status.st_uid, status.st_gid)
        os.chmod(target, stat.S_IMODE(status.st_mode))
    if status.st_mtime_ns != now.st_mtime_ns:
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def signatures(root: bytes) -> dict[bytes, Signature]:
    """What must be equal for a name to be left alone; hard links by all their names."""
    found: dict[bytes, os.stat_result] = {}
    for directory, _, _ in os.walk(root):
        found[os.path.relpath(directory, root)] = os.lstat(directory)
        for entry in os.scandir(directory):
            found[os.path.relpath(entry.path, root)] = entry.stat(follow_symlinks=False)
    links: dict[int, list[bytes]] = {}
    for path, status in found.items():
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            links.setdefault(status.st_ino, []).append(path)
    return {path: signature(root, path, status, links.get(status.st_ino, [])) for path, status in found.items()}


def signature(root: bytes, path: bytes, status: os.stat_result, links: list[bytes]) -> Signature:
    full = os.path.join(root, path)
    kind = stat.S_IFMT(status.st_mode)
    content: object = None
    if kind == stat.S_IFLNK:
        content = os.readlink(full)
    elif kind == stat.S_IFREG:
        content = Path(os.fsdecode(full)).read_bytes()
    names = os.listxattr(full, follow_symlinks=False)
    attributes = sorted((name, os.getxattr(full, name, follow_symlinks=False)) for name in names)
    owner = (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))
    return kind, owner, status.st_mtime_ns, status.st_rdev, content, tuple(attributes), tuple(sorted(links))
