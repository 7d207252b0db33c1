"""`migrate report`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from migrate.cli.completion import LocationType
from migrate.cli.options import given_options

if TYPE_CHECKING:
    from migrate.report.html import Verified


@click.command("report", short_help="Render a report as text, JSON or HTML.")
@click.argument("location", metavar="FILE_OR_LAYOUT", type=LocationType())
@click.option("--json", "as_json", is_flag=True, help="The report as JSON on standard output.")
@click.option("--html", "html_file", metavar="FILE", help="Write one self-contained HTML file; - is standard output.")
@click.option("--verify", "check", is_flag=True, help="With --html: verify the target too, and show the result.")
@click.option("--bytes", "bytes_", is_flag=True, help="Sizes in bytes, not in human units.")
@click.option("--savings", type=click.IntRange(0), default=10, show_default=True, help="How many savings to list.")
def command(location: str, as_json: bool, html_file: str | None, check: bool, bytes_: bool, savings: int) -> None:
    """Show the report of an earlier run, in a target directory, in a file that --report wrote, or on standard input
    (-).

    The default is text. --html writes a page that needs no network: savings, layer tree, and tables of images,
    duplicates, conflicts and failures that can be searched and sorted.

    \b
    Examples:
      migrate report new-layout/
      migrate report --html report.html new-layout/
      migrate report --html report.html --verify new-layout/
      migrate plan --report - archive.tar | migrate report --html plan.html -
    """
    from migrate.cli.outputs import Outputs
    from migrate.cli.report_file import read_report
    from migrate.cli.terminal import colour_enabled, terminal_width
    from migrate.errors import UsageError

    # All options are checked before the report is read, and before `--verify` reads the whole target.
    outputs = Outputs({"html": html_file})
    if as_json and outputs.take_stdout:
        raise UsageError("--json and --html - both write to standard output: give --html a file")
    given = given_options()
    for name in ("savings", "bytes_"):
        if name in given and (html_file or (as_json and name == "savings")):
            raise UsageError(f"{given[name]} has no effect with --{'json' if as_json else 'html'}, only on text")
    if check and not html_file:
        raise UsageError("--verify needs --html; `migrate verify LAYOUT` prints the findings as text")
    report = read_report(location)
    if html_file:
        from migrate.report.html import render_html

        page = render_html(report, _verified(location) if check else None)
        outputs.write("html", [page.encode("utf-8")])
    if as_json:
        from migrate.cli.outputs import safe_json
        from migrate.report.json import encode_report

        sys.stdout.buffer.write(safe_json(encode_report(report)))
    elif not html_file:
        from migrate.report.text import render_text

        text = render_text(
            report,
            width=terminal_width(sys.stdout),
            exact_bytes=bytes_,
            colour=colour_enabled(sys.stdout),
            savings=savings,
        )
        click.echo(text, nl=False)


def _verified(location: str) -> Verified:
    """The findings of `migrate verify` in the target."""
    from migrate.cli.options import available_cpus
    from migrate.cli.progress import make_progress
    from migrate.report.html import Verified
    from migrate.verify import examine

    with make_progress("auto") as progress:
        found = examine(location, available_cpus(), progress)
    return Verified(found.images, [{"where": one.where, "message": one.message} for one in found.findings])
