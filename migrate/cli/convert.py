"""`migrate convert`."""

from __future__ import annotations

import sys
from typing import Any

import click

from migrate.cli.completion import LocationType
from migrate.cli.options import (
    GroupedCommand,
    choice,
    convert_options,
    image_options,
    reported_options,
    run_options,
    source_options,
    writing_options,
)
from migrate.model.options import Link


@click.command("convert", cls=GroupedCommand, short_help="Convert every image of the sources into one target.")
@click.argument("sources", nargs=-1, metavar="SOURCE...", type=LocationType())
@click.argument("target", metavar="TARGET", type=LocationType())
@source_options
@image_options
@writing_options
@choice(
    "--link",
    Link,
    default=Link.AUTO,
    help="How to store blobs that need no change: auto (reflink, else copy), hard link, or copy.",
)
@run_options
def command(**values: Any) -> None:
    """Convert every image found in the SOURCEs into one TARGET.

    A SOURCE is recognised by its content: a `docker save` archive of any Docker version (plain or compressed; - is
    standard input), the same unpacked, a Docker root (/var/lib/docker of Docker before 1.10), the storage of a v1 or v2
    registry. Sources are never written to. TARGET is an OCI image layout directory, or one of oci-archive:FILE,
    docker-archive:FILE, registry-storage:DIR and docker://HOST/PREFIX.

    To continue an interrupted run, run the same command again: what the target has, intact, is not written again.

    \b
    Examples:
      migrate convert archive.tar new-layout/
      migrate convert --all --empty-layers keep archive.tar.xz new-layout/
      migrate convert /mnt/old-disk/var/lib/docker docker-archive:images.tar
      ssh old-host docker save app:1.0 | migrate convert - new-layout/
    """
    from migrate.cli import session
    from migrate.cli.outputs import Outputs
    from migrate.cli.progress import make_progress
    from migrate.convert.run import Conversion
    from migrate.convert.source_paths import refuse_to_write
    from migrate.errors import UsageError

    if not values["sources"]:
        raise UsageError(f"no SOURCE before the TARGET {values['target']}: name the sources first")
    session.refuse_swapped(values["sources"], values["target"])
    session.set_up_logging(values)
    spool = session.spool_directory(values["target"])
    options = convert_options(values, exact_sizes=True, temporary_directory=spool)
    outputs = Outputs(values, target=None if options.dry_run else values["target"])
    # before anything is opened: opening a target creates it, and could change a source
    refuse_to_write([*values["sources"], *options.pool_files], target=values["target"], files=outputs.files)
    with (
        make_progress(values["progress"], quiet=values["quiet"], verbose=values["verbose"]) as progress,
        Conversion.opened(
            values["sources"], options, values["target"], progress=progress, report_options=reported_options(values)
        ) as conversion,
    ):
        outcome = conversion.run()
    session.print_results(outcome, values, outputs)
    sys.exit(outcome.exit_code)
