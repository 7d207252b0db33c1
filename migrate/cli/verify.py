"""`migrate verify`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from migrate.cli.completion import LocationType
from migrate.cli.options import JOBS, PROGRESS, available_cpus

if TYPE_CHECKING:
    from migrate.verify import Verification


@click.command("verify", short_help="Recompute every digest, size and diffID of a target.")
@click.argument("layout", metavar="LAYOUT", type=LocationType())
@click.option("--jobs", "-j", type=JOBS, metavar="N", help="Number of workers [the CPUs it may use].")
@click.option("--json", "as_json", is_flag=True, help="Findings as JSON on standard output.")
@click.option("--progress", **PROGRESS)
@click.option("--quiet", "-q", is_flag=True, help="Print only findings.")
def command(layout: str, jobs: int | None, as_json: bool, progress: str, quiet: bool) -> None:
    """Recompute every digest, size and diffID of a target from its bytes, and list every mismatch.

    LAYOUT is an OCI layout directory, an oci-archive or docker-archive file, or the storage directory of a registry.
    Irregularities that damage no image are printed as warnings.

    \b
    Examples:
      migrate verify new-layout/
      migrate verify --json images.tar
    """
    from migrate.cli.progress import make_progress
    from migrate.verify import examine

    with make_progress(progress, quiet=quiet, verbose=0) as shown:
        found = examine(layout, jobs or available_cpus(), shown)
    if as_json:
        from migrate.documents.json_text import encode_json_pretty

        document = {
            "location": layout,
            "findings": [{"where": finding.where, "message": finding.message} for finding in found.findings],
            "warnings": [{"where": warning.where, "message": warning.message} for warning in found.warnings],
            "images": found.images,
        }
        sys.stdout.buffer.write(encode_json_pretty(document))
    else:
        _write_text(found, layout, quiet=quiet, on_stderr=not quiet and progress != "json")
    sys.exit(3 if found.findings else 0)  # warnings do not change the exit code: no image is damaged


def _write_text(found: Verification, layout: str, *, quiet: bool, on_stderr: bool) -> None:
    """Findings on standard output; warnings and the number of findings on standard error."""
    from migrate.model.text import printable
    from migrate.report.units import count

    for finding in found.findings:
        click.echo(f"{finding.where}: {finding.message}")
    if on_stderr:
        for warning in found.warnings:
            click.echo(f"migrate: warning: {warning.where}: {warning.message}", err=True)
        if found.findings:
            click.echo(f"{printable(layout)}: {count(len(found.findings), 'mismatch', 'mismatches')}", err=True)
    if not quiet and not found.findings:
        click.echo(f"{printable(layout)}: clean{'' if found.images else ', no images'}")
