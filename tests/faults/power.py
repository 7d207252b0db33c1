"""Power cuts on real file systems: what the disk holds at an instant is mounted again, verified and completed.

The file system is on a loop device. Before each call that changes the target, and after the last, its backing file is
copied: that is what the kernel had written to the disk by then. What was only in the page cache is lost, and the
journal is replayed by the mount. A drive that reorders what it had been given before a flush is not simulated.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.disks import MIB, blank, run
from tests.faults.everywhere import KINDS, every_call, images_of, is_clean, write_shelf

FILE_SYSTEMS: Final[dict[str, tuple[tuple[str, ...], int]]] = {
    "ext4": (("mkfs.ext4", "-q", "-F"), 48),
    "xfs": (("mkfs.xfs", "-q", "-f"), 320),
    "btrfs": (("mkfs.btrfs", "-q", "-f"), 128),
}


@contextmanager
def mounted(image: Path) -> Iterator[Path]:
    place = image.with_name(f"{image.name}.mounted")
    place.mkdir()
    run("mount", "-o", "loop", image, place)
    try:
        yield place
    finally:
        run("umount", place)
        place.rmdir()


def try_power_cuts(kind: str, file_system: str, place: Path, step: int = 1) -> int:
    """How many instants were tried."""
    command, size = FILE_SYSTEMS[file_system]
    shelf = write_shelf(place / "shelf")
    convert = KINDS[kind]
    convert(shelf, place / "sound")
    expected = images_of(place / "sound")
    disk = blank(place / "disk", size * MIB)
    run(*command, disk)
    taken: list[Path] = []

    def cut(number: int) -> None:
        if number % step == 0:
            taken.append(place / f"cut-{number}")
            run("cp", "--sparse=always", disk, taken[-1])

    with mounted(disk) as root:
        with every_call(cut):
            convert(shelf, root / "target")
        cut(0)
    for image in taken:
        with mounted(image) as root:
            _check(convert, shelf, root / "target", expected, f"{kind} on {file_system}, {image.name}")
        os.unlink(image)
    return len(taken)


def _check(
    convert: Callable[[Path, Path], None], shelf: Path, target: Path, expected: dict[str, bytes], where: str
) -> None:
    assert is_clean(target), where
    convert(shelf, target)
    assert images_of(target) == expected, where
    assert is_clean(target), where
