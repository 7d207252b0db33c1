"""`migrate export`."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from functools import partial
from typing import IO, TYPE_CHECKING

import click

from migrate.cli.completion import LocationType, image_names
from migrate.cli.options import PlatformType

if TYPE_CHECKING:
    from migrate.model.image import Platform


@click.command("export", short_help="Write an image's root file system as one tar.")
@click.argument("location", metavar="LAYOUT", type=LocationType())
@click.argument("reference", metavar="REF", shell_complete=image_names)
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@click.option("--output", "-o", metavar="FILE", default="-", help="The tar's file [standard output].")
@click.option("--platform", type=PlatformType(), help="Which image, where the name has several platforms.")
def command(location: str, reference: str, paths: tuple[str, ...], output: str, platform: Platform | None) -> None:
    """Write the root file system of one image of LAYOUT as a tar, with all layers applied. Needs neither Docker nor
    root rights. With PATHs, write only these files and directories.

    Owners, modes, device nodes, hard links and extended attributes are kept. Every layer is checked against its diffID
    before the first byte is written.

    \b
    Examples:
      migrate export new-layout/ acme/web:1.0 -o web.tar
      migrate export new-layout/ acme/web:1.0 | docker import - web-flat
      migrate export new-layout/ acme/web:1.0 etc/nginx | tar -x
    """
    from migrate.cli.show import choose_image, opened_view
    from migrate.errors import UsageError
    from migrate.rootfs.export import ExportLayer, export_tar

    if output == "-" and sys.stdout.isatty():
        raise UsageError("a tar is not written to a terminal: give -o FILE, or pipe it into tar")
    if output != "-" and os.path.isdir(output):
        raise UsageError(f"--output {output}: is a directory; name a file, or pipe the tar into `tar -x -C {output}`")
    with opened_view(location, reference) as view:
        image = choose_image(view, reference, platform)
        layers = [ExportLayer(layer.diff_id, partial(view.open_tar, layer)) for layer in view.layers(image)]
        with _opened(output) as stream:
            export_tar(layers, stream.write, paths)


def _opened(output: str) -> AbstractContextManager[IO[bytes]]:
    """The output. A regular file gets its name when it is complete; devices and pipes are written to directly."""
    from migrate.cli.outputs import replaced_file

    if output == "-":
        # a copy, since the caller closes what it gets
        return os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    if os.path.exists(output) and not os.path.isfile(output):
        return open(output, "wb")
    return replaced_file(output)
