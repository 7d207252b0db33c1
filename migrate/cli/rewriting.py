"""`migrate map --rewrite`: replaces old image IDs, digests and names in text files."""

from __future__ import annotations

import difflib
import os
import stat
import sys
from collections.abc import Iterable, Sequence

import click

from migrate.blobio.limits import JSON_BYTES
from migrate.cli.outputs import replaced_file
from migrate.documents.image_map import MappedImage
from migrate.errors import UsageError
from migrate.model.text import printable
from migrate.report.rewrite import Rewriter
from migrate.report.units import count


def rewrite_files(images: Iterable[MappedImage], paths: Sequence[str], *, in_place: bool) -> int:
    """Prints the diff of all files, or writes them, and returns the exit code. All files are read before the first is
    written, so that one which cannot be read changes none."""
    # A name may be given twice, but a file must not be rewritten twice.
    rewriter = Rewriter.of(images)
    texts = {path: _read(path) for path in dict.fromkeys(paths)}
    found = {path: rewriter.rewrite(text) for path, text in texts.items()}
    for path, result in found.items():
        if in_place and result.count:
            with replaced_file(path) as stream:
                stream.write(result.text.encode("utf-8", "surrogateescape"))
        elif not in_place:
            _print_diff(path, texts[path], result.text)
    for path, result in found.items():
        for word in result.doubts:
            click.echo(
                f"migrate: warning: {printable(path)}: {printable(word)} matches several images: not replaced",
                err=True,
            )
    replaced = sum(result.count for result in found.values())
    files = sum(bool(result.count) for result in found.values())
    verb = "replaced" if in_place else "to replace"
    rest = "" if in_place or not replaced else " (--in-place writes them)"
    click.echo(f"migrate: {count(replaced, 'word')} {verb} in {count(files, 'file')}{rest}", err=True)
    return 0


def _read(path: str) -> str:
    """The text of a file. Bytes that are not UTF-8 become surrogates, which are written back unchanged."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # opening a FIFO must not block
        with open(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"{path}: not a regular file")
            if status.st_size > JSON_BYTES:
                raise UsageError(f"{path}: larger than the limit of {JSON_BYTES:,} bytes (JSON_BYTES)")
            content = stream.read()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    if b"\0" in content:
        raise UsageError(f"{path}: not a text file")
    return content.decode("utf-8", "surrogateescape")


def _print_diff(path: str, old: str, new: str) -> None:
    """A diff for `patch` and `git apply`. On a terminal, control characters are escaped."""
    is_terminal = sys.stdout.isatty()
    for line in difflib.unified_diff(_lines(old), _lines(new), path, path):
        text = line.removesuffix("\n")
        end = "\n" if line != text else "\n\\ No newline at end of file\n"
        shown = printable(text) if is_terminal else text
        sys.stdout.buffer.write(f"{shown}{end}".encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()


def _lines(text: str) -> list[str]:
    """Lines that end at newlines only. `splitlines` also splits at characters that `patch` treats as text."""
    *whole, last = text.split("\n")
    return [f"{line}\n" for line in whole] + ([last] if last else [])
