"""`migrate export`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import IO, TYPE_CHECKING

import click

from migrate.cli.completion import Location, image_names
from migrate.cli.options import PlatformType

if TYPE_CHECKING:
    from migrate.model.image import Platform


@click.command("export", short_help="Write an image's root file system as one tar.")
@click.argument("location", metavar="LAYOUT", type=Location())
@click.argument("reference", metavar="REF", shell_complete=image_names)
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@click.option("--output", "-o", metavar="FILE", default="-", help="The tar's file [standard output].")
@click.option("--platform", type=PlatformType(), help="Which image, where the name has several platforms.")
def command(location: str, reference: str, paths: tuple[str, ...], output: str, platform: Platform | None) -> None:
    """Write the root file system of one image of LAYOUT as a tar: its layers on top of one another, without Docker and
    without root. With PATHs only these files, and folders with all below them.

    Owners, modes, device nodes, hard links and extended attributes are kept. Every layer is checked against its diffID
    before the first byte is written.

    \b
    Examples:
      migrate export new-layout/ acme/web:1.0 -o web.tar
      migrate export new-layout/ acme/web:1.0 | docker import - web-flat
      migrate export new-layout/ acme/web:1.0 etc/nginx | tar -x
    """
    from migrate.cli.show import choose_image
    from migrate.errors import UsageError
    from migrate.layout.view import LayoutView
    from migrate.rootfs.export import ExportLayer, export_tar

    if output == "-" and sys.stdout.isatty():
        raise UsageError("a tar is not written to a terminal: give -o FILE, or pipe it into tar")
    view = LayoutView(location)
    try:
        image = choose_image(view, reference, platform)
        layers = [ExportLayer(layer.diff_id, partial(view.open_tar, layer)) for layer in view.layers(image)]
        with _opened(output) as stream:
            export_tar(layers, stream.write, paths)
    finally:
        view.close()


@contextmanager
def _opened(output: str) -> Iterator[IO[bytes]]:
    """The file gets its name when it is whole; standard output is flushed."""
    if output == "-" or (os.path.exists(output) and not os.path.isfile(output)):
        with open(output, "wb") if output != "-" else os.fdopen(os.dup(sys.stdout.fileno()), "wb") as stream:
            yield stream
        return
    import tempfile

    from migrate.errors import TargetError

    try:
        descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(os.path.abspath(output)), prefix=".migrate-")
        try:
            with open(descriptor, "wb", buffering=1 << 20) as stream:
                yield stream
                mask = os.umask(0)
                os.umask(mask)
                os.fchmod(descriptor, 0o666 & ~mask)
                stream.flush()
                os.fsync(descriptor)
            os.replace(temporary, output)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise TargetError(f"{output}: cannot be written: {error.strerror}") from error
