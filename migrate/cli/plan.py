"""`migrate plan`."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import click
from msgspec.structs import replace

from migrate.cli.completion import LocationType
from migrate.cli.options import (
    GroupedCommand,
    convert_options,
    image_options,
    reported_options,
    run_options,
    source_options,
)

_NEW_PLACE = re.compile(r"(?:.*/)?[^/.:]+/?", re.DOTALL)
"""A path that looks like a new directory: its last name has no dot, which archives and disk images have, and no
colon."""


@click.command("plan", cls=GroupedCommand, short_help="Report what a conversion would do; write nothing.")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...", type=LocationType())
@source_options
@image_options
@click.option("--exact-sizes", is_flag=True, help="Compress everything, too, so that blob sizes and digests are exact.")
@click.option("--deep", is_flag=True, help="Analyse the files in the layers, too: what more could be saved.")
@run_options
def command(**values: Any) -> None:
    """Read and hash everything in the SOURCEs and report the result that `convert` would have. Writes nothing.

    \b
    Examples:
      migrate plan archive.tar
      migrate plan --report - /mnt/old-disk/var/lib/docker | jq .totals
      migrate plan --html plan.html shelf/*.tar
      migrate plan --deep archive.tar     files that repeat or are hidden
    """
    from migrate.cli import session
    from migrate.cli.outputs import Outputs
    from migrate.cli.progress import make_progress
    from migrate.convert.run import Conversion
    from migrate.convert.source_paths import refuse_to_write
    from migrate.errors import UsageError
    from migrate.model.image import HashedLayer

    # A likely mistake: a TARGET, as for `convert`. Without this check the error would be that a source does not exist.
    *others, last = values["sources"]
    if others and all(map(os.path.exists, others)) and not os.path.lexists(last) and _NEW_PLACE.fullmatch(last):
        raise UsageError(f"{last} does not exist: plan takes only sources, and no TARGET")
    session.set_up_logging(values)
    options = convert_options(values, dry_run=True)
    outputs = Outputs(values)
    refuse_to_write([*values["sources"], *options.pool_files], files=outputs.files)
    scan = None
    if values["deep"]:
        from migrate.waste.analysis import DeepScan

        scan = DeepScan()
    with (
        make_progress(values["progress"], quiet=values["quiet"], verbose=values["verbose"]) as progress,
        Conversion.opened(
            values["sources"],
            options,
            progress=progress,
            report_options=reported_options(values),
            observer=None if scan is None else scan.observe,
        ) as conversion,
    ):
        outcome = conversion.run()
    if scan is not None:
        diff_ids = {key: layer.diff_id for key, layer in conversion.hashed.items() if isinstance(layer, HashedLayer)}
        outcome.report = replace(outcome.report, deep=scan.analyse(outcome.report, diff_ids))
    session.print_results(outcome, values, outputs)
    sys.exit(outcome.exit_code)
