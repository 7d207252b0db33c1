"""Writers that wrap a directory into a tar, as people have them."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

Pack = Callable[[Path, Path], None]
"""(folder, tar to be written): the folder's content, without the folder's own name."""

XATTRS: Final = ("--xattrs", "--xattrs-include=*")


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True)


def gnu_tar(*options: str) -> Pack:
    return lambda folder, tar: _run("tar", "--numeric-owner", *options, "-C", folder, "-cf", tar, ".")


def bsdtar(*options: str) -> Pack:
    return lambda folder, tar: _run("bsdtar", "--numeric-owner", *options, "-C", folder, "-cf", tar, ".")


def busybox(folder: Path, tar: Path) -> None:
    _run("busybox", "tar", "-C", folder, "-cf", tar, ".")


def python(form: Literal[0, 1, 2]) -> Pack:
    def pack(folder: Path, tar: Path) -> None:
        with tarfile.open(tar, "w", format=form) as archive:
            archive.add(folder, ".")

    return pack


WITH_ALL: Final[dict[str, Pack]] = {
    "gnu-pax-sparse": gnu_tar("--format=posix", "-S", *XATTRS),
    "gnu-pax-sparse-0.0": gnu_tar("--format=posix", "-S", "--sparse-version=0.0", *XATTRS),
    "gnu-pax-sparse-0.1": gnu_tar("--format=posix", "-S", "--sparse-version=0.1", *XATTRS),
    "bsdtar-pax": bsdtar("--format=pax", "--xattrs"),
}
"""Those that keep fractions of seconds and extended attributes."""
WITHOUTXATTRS: Final[dict[str, Pack]] = {
    "gnu-pax": gnu_tar("--format=posix"),
    "python-pax": python(tarfile.PAX_FORMAT),
}
IN_WHOLE_SECONDS: Final[dict[str, Pack]] = {
    "gnu": gnu_tar("--format=gnu"),
    "gnu-sparse": gnu_tar("--format=gnu", "-S"),
    "gnu-old": gnu_tar("--format=oldgnu", "-S"),
    "bsdtar-gnu": bsdtar("--format=gnutar"),
    "python-gnu": python(tarfile.GNU_FORMAT),
    "busybox": busybox,
}
ALL: Final = WITH_ALL | WITHOUTXATTRS | IN_WHOLE_SECONDS
