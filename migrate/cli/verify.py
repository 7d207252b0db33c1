"""`migrate verify`."""

from __future__ import annotations

import sys

import click

from migrate.cli.completion import Location
from migrate.cli.options import JOBS, available_cpus


@click.command("verify", short_help="Recompute every digest, size and diffID of a target.")
@click.argument("layout", metavar="LAYOUT", type=Location())
@click.option("--jobs", "-j", type=JOBS, metavar="N", help="Workers [the CPUs it may use].")
@click.option("--json", "as_json", is_flag=True, help="Findings as JSON on standard output.")
@click.option(
    "--progress", type=click.Choice(["auto", "bar", "plain", "json", "none"]), default="auto", show_default=True
)
@click.option("--quiet", "-q", is_flag=True, help="Only findings.")
def command(layout: str, jobs: int | None, as_json: bool, progress: str, quiet: bool) -> None:
    """Re-open a target and recompute every digest, size and diffID from its bytes; list every mismatch.

    LAYOUT is an OCI layout directory, an oci-archive or docker-archive file, or a registry's storage tree.
    Exit codes: 0 clean, 3 mismatches, 4 nothing to verify could be read.

    \b
    Examples:
      migrate verify new-layout/
      migrate verify --json images.tar
    """
    from migrate.cli.terminal import make_progress
    from migrate.documents.json_text import encode_json_pretty
    from migrate.report.tables import printable
    from migrate.report.units import count
    from migrate.verify import verify

    with make_progress(progress, quiet=quiet, verbose=0) as shown:
        findings = verify(layout, jobs or available_cpus(), shown)
    if as_json:
        rows = [{"where": finding.where, "message": finding.message} for finding in findings]
        sys.stdout.buffer.write(encode_json_pretty({"location": layout, "findings": rows}) + b"\n")
    else:
        for finding in findings:
            click.echo(f"{finding.where}: {finding.message}")
        if not quiet and not findings:
            click.echo(f"{printable(layout)}: clean")
        elif not quiet and progress != "json":
            mismatches = count(len(findings), "mismatch", "mismatches")
            click.echo(f"{printable(layout)}: {mismatches}", err=True)
    sys.exit(3 if findings else 0)
