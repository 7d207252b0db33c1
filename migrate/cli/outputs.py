"""The files that options such as `--report` write: which may be written, and writing them."""

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
_OURS: Final = {
    "report": re.compile(rb'\s*\{\s*"schema_version"\s*:'),
    "html": re.compile(rb"\s*<!DOCTYPE html>.*<title>Migration report: ", re.DOTALL | re.IGNORECASE),
    "account": re.compile(rb"source,uri,outcome,"),
    **dict.fromkeys(LISTS, re.compile(rb'(?!\s*(?:[{<]|\[[{"\s]))[^\0]*\Z')),
}
"""How a file begins that an option may replace. A list is any text that is no JSON or HTML document."""


class Outputs:
    """What the options of one command write, checked before anything is read.

    A file that exists is replaced only if it is empty or was written by the same option: a slip in the order of the
    arguments must not cost an archive. Devices, pipes and `-` (standard output) take everything.
    """

    def __init__(self, values: Mapping[str, Any], *, target: str | None = None) -> None:
        """`values` are a command's parameters, `target` what else is written. Raises UsageError."""
        self._target = target
        self._paths: dict[str, str] = {}
        for option in _OURS:
            path = values.get(option)
            if path:
                self._paths[option] = STDOUT if path == "/dev/stdout" else path
        taken: dict[str, str] = {}
        for what, place in self._places(target):
            other = taken.setdefault(place, what)
            if other != what:
                shown = "standard output" if place == STDOUT else place
                raise UsageError(f"{other} and {what} both write to {shown}: give one of them another file")
        self.take_stdout = STDOUT in taken
        if "html" in self._paths:
            from migrate.report.html import require_template_library

            require_template_library()
        for option in self._paths:
            self._check(option)

    @property
    def files(self) -> list[str]:
        """Paths of regular files, there or not yet."""
        return [path for path in self._paths.values() if _is_file(path)]

    def is_asked(self, option: str) -> bool:
        return option in self._paths

    def write(self, option: str, pieces: Iterable[bytes]) -> None:
        """To the file of `option`, which was given. Raises TargetError, and UsageError as at the beginning."""
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
            home = None if self._target is None else target_path(self._target)
            if not os.path.isdir(folder) and not (
                home is not None and os.path.realpath(folder) == os.path.realpath(home)
            ):
                raise UsageError(f"{option_name(option)} {path}: there is no directory {folder}") from None
            return
        except OSError as error:
            raise UsageError(f"{option_name(option)} {path}: {error.strerror}") from error
        if head and (detect_compression(head) != "none" or not _OURS[option].match(head)):
            raise UsageError(
                f"{option_name(option)} {path}: this file exists and was not written by that option; name another one"
            )


def option_name(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _is_file(path: str) -> bool:
    """True for what is, or could become, a regular file: not for devices and pipes."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return True
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def safe_json(text: bytes) -> bytes:
    """JSON in which what a terminal could take for a command is written as JSON's own escapes: the values come from
    archives that anyone could have made."""
    from migrate.model.text import printable

    decoded = text.decode("utf-8")
    lines = decoded.replace("\n", "")
    if printable(lines) == lines:
        return text
    import json

    safe = (one if one == "\n" or printable(one) == one else json.dumps(one)[1:-1] for one in decoded)
    return "".join(safe).encode()


def _as_shown(option: str, pieces: Iterable[bytes]) -> Iterable[bytes]:
    """What goes to standard output, where a terminal may be; a piece of a report may end within a character."""
    if option == "report":
        return (safe_json(text.encode("utf-8")) for text in codecs.iterdecode(pieces, "utf-8"))
    return map(_shown, pieces) if option in LISTS else pieces


def _shown(line: bytes) -> bytes:
    """A list's line on standard output, where a terminal may be: control characters are shown. Files have all bytes."""
    from migrate.model.text import printable

    text = line.removesuffix(b"\n").decode("utf-8", "surrogateescape")
    return line if text.isprintable() else f"{printable(text)}\n".encode()


@contextmanager
def replaced_file(path: str) -> Iterator[IO[bytes]]:
    """A new file, which takes the place of the old one when the context is left without an error: with its mode and
    owner; a link stays, and what it leads to is replaced. Raises TargetError.
    """
    real = os.path.realpath(path)
    try:
        mask = os.umask(0)
        os.umask(mask)
        status = os.stat(real) if os.path.lexists(real) else None
        import tempfile  # most runs need none

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
