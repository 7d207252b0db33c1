"""The files that options such as `--report` write: checks that a file may be replaced, and writing."""

from __future__ import annotations

import codecs
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, Final

from migrate.blobio.compression import detect_compression
from migrate.errors import TargetError, UsageError
from migrate.writers.open_target import goes_to_stdout, target_path

STDOUT: Final = "-"
LISTS: Final = ("failed_list", "skipped_list", "converted_list")
_HEAD_BYTES: Final = 4096
_REPLACEABLE: Final = {
    "report": rb'\s*\{\s*"schema_version"\s*:',
    "html": rb"(?is)\s*<!DOCTYPE html>.*<title>Migration report: ",
    "account": rb"source,uri,outcome,",
    **dict.fromkeys(LISTS, rb'(?!\s*(?:[{<]|\[[{"\s]))[^\0]*\Z'),
}
"""Patterns for the beginning of files that an option may replace. A list is any text that is not JSON or HTML."""


class Outputs:
    """The output files of one command, checked before anything is read.

    An existing file is replaced only if it is empty or was written by the same option, so that arguments in the wrong
    order cannot overwrite an archive. Devices, pipes and `-` (standard output) are not checked.
    """

    def __init__(self, values: Mapping[str, Any], *, target: str | None = None) -> None:
        """`values` are the parameters of a command, `target` is the location that it writes, too. Raises UsageError."""
        self._target = target
        self._paths: dict[str, str] = {}
        for option in _REPLACEABLE:
            path = values.get(option)
            if path:
                self._paths[option] = STDOUT if path == "/dev/stdout" else path
        taken: dict[str, str] = {}  # two outputs in one file or on one stream would destroy each other
        for what, place in self._places(target):
            other = taken.setdefault(place, what)
            if other != what:
                shown = "standard output" if place == STDOUT else place
                raise UsageError(f"{other} and {what} both write to {shown}: give one of them another file")
        self.take_stdout = STDOUT in taken
        if "html" in self._paths:  # a missing library is an error now, not after hours of conversion
            from migrate.report.html import require_template_library

            require_template_library()
        for option in self._paths:
            self._check(option)

    @property
    def files(self) -> list[str]:
        """Paths of regular files, existing or not."""
        return [path for path in self._paths.values() if _is_file(path)]

    def is_given(self, option: str) -> bool:
        return option in self._paths

    def write(self, option: str, pieces: Iterable[bytes]) -> None:
        """Writes the file of `option`, which must be given. Raises TargetError, and UsageError as `__init__` does."""
        path = self._paths[option]
        if path == STDOUT:
            sys.stdout.buffer.writelines(_as_shown(option, pieces))
            sys.stdout.buffer.flush()
            return
        self._check(option)  # again: the run itself may have written there
        try:
            with open(path, "wb") as stream:
                stream.writelines(pieces)
        except OSError as error:
            raise TargetError(f"{path}: cannot be written: {error.strerror}") from error

    def _places(self, target: str | None) -> Iterator[tuple[str, str]]:
        for option, path in self._paths.items():
            if path == STDOUT or _is_file(path):
                yield f"{option_name(option)} {path}", path if path == STDOUT else os.path.realpath(path)
        if target is not None:
            place = STDOUT if goes_to_stdout(target) else target_path(target)
            if place is not None:
                yield f"the target {target}", place if place == STDOUT else os.path.realpath(place)

    def _check(self, option: str) -> None:
        path = self._paths[option]
        if path == STDOUT or not _is_file(path):
            return
        try:
            with open(path, "rb") as stream:
                head = stream.read(_HEAD_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            folder = os.path.dirname(path) or "."
            # a file in the target is allowed before the target exists: the run makes its directory
            home = None if self._target is None else target_path(self._target)
            if not os.path.isdir(folder) and not (
                home is not None and os.path.realpath(folder) == os.path.realpath(home)
            ):
                raise UsageError(f"{option_name(option)} {path}: there is no directory {folder}") from None
            return
        except OSError as error:
            raise UsageError(f"{option_name(option)} {path}: {error.strerror}") from error
        if head and (detect_compression(head) != "none" or not re.match(_REPLACEABLE[option], head)):
            raise UsageError(
                f"{option_name(option)} {path}: this file exists and was not written by that option; name another one"
            )


def option_name(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _is_file(path: str) -> bool:
    """True for a regular file, or a path where none exists yet; False for devices and pipes. True for directories, so
    that writing fails with an error."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return True
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def safe_json(text: bytes) -> bytes:
    """JSON with control characters as JSON escapes. The values come from untrusted archives, and a terminal would
    execute escape sequences in them."""
    from migrate.model.text import printable

    decoded = text.decode("utf-8")
    lines = decoded.replace("\n", "")
    if printable(lines) == lines:
        return text
    import json

    safe = (one if one == "\n" or printable(one) == one else json.dumps(one)[1:-1] for one in decoded)
    return "".join(safe).encode()


def _as_shown(option: str, pieces: Iterable[bytes]) -> Iterable[bytes]:
    """The pieces for standard output, which may be a terminal: without control characters."""
    # A piece of a report may end within a UTF-8 character, so it is decoded incrementally.
    if option == "report":
        return (safe_json(text.encode("utf-8")) for text in codecs.iterdecode(pieces, "utf-8"))
    return map(_shown, pieces) if option in LISTS else pieces


def _shown(line: bytes) -> bytes:
    """A line of a list with control characters escaped, for standard output. In files, lines keep all their bytes."""
    from migrate.model.text import printable

    text = line.removesuffix(b"\n").decode("utf-8", "surrogateescape")
    return line if text.isprintable() else f"{printable(text)}\n".encode()


@contextmanager
def replaced_file(path: str) -> Iterator[IO[bytes]]:
    """A new file that replaces the one at `path` atomically when the context ends without an error. It keeps the mode
    and owner of the old file. A symbolic link stays, and the file that it leads to is replaced. Raises TargetError.
    """
    real = os.path.realpath(path)
    try:
        mask = os.umask(0)  # the umask can only be read by setting it
        os.umask(mask)
        status = os.stat(real) if os.path.lexists(real) else None
        import tempfile  # slow to import, and most runs need none

        descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(real), prefix=".migrate-")
        try:
            with open(descriptor, "wb", buffering=1 << 20) as stream:
                yield stream
                os.fchmod(descriptor, 0o666 & ~mask if status is None else stat.S_IMODE(status.st_mode))
                if status is not None and (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(descriptor, status.st_uid, status.st_gid)
                stream.flush()
                os.fsync(descriptor)
            os.replace(temporary, real)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise TargetError(f"{path}: cannot be written: {error.strerror}") from error
