"""Steps that convert, plan and batch share before and after a conversion: logging, checks, output of results."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from migrate.cli.messages import encode_event
from migrate.cli.outputs import Outputs
from migrate.convert.run import Outcome
from migrate.errors import UsageError
from migrate.layout.names import LAYOUT_FILE, plain_path
from migrate.model.digest import Digest
from migrate.report.document import Report
from migrate.writers.open_target import goes_to_stdout, parse_target, target_path

if TYPE_CHECKING:
    from migrate.report.glance import Glance
    from migrate.report.text import RunFacts


_SOURCES_NAMED = 3


def set_up_logging(values: dict[str, Any]) -> None:
    """Shows log lines of libraries with `--verbose` or `--progress json`. Without them, Python prints warnings only."""
    # Standard error may have JSON lines only with `--progress json`, so log lines become events then.
    as_events = values["progress"] == "json"
    if not values["verbose"] and not as_events:
        return
    import logging

    class Events(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            level, message = record.levelname.lower(), record.getMessage()
            return encode_event({"event": "log", "level": level, "message": message})

    handler = logging.StreamHandler()
    handler.setFormatter(Events() if as_events else logging.Formatter("migrate: %(message)s"))
    level = {0: logging.WARNING, 1: logging.INFO}.get(values["verbose"], logging.DEBUG)
    logging.basicConfig(level=level, handlers=[handler])


def refuse_swapped(sources: Sequence[str], target: str) -> None:
    """Raises UsageError if sources and target seem to be swapped: no source exists, and the target is a file, or a
    directory that is neither empty nor an OCI layout."""
    names = [plain_path(source) for source in sources]
    if any("://" in name or name == "-" or os.path.lexists(name) for name in names):
        return
    is_folder = os.path.isdir(target) and not os.path.exists(os.path.join(target, LAYOUT_FILE))
    if os.path.isfile(target) or (is_folder and os.listdir(target)):
        raise UsageError(f"{names[0]} does not exist and {target} does: the sources come first, then the TARGET")


def spool_directory(target: str) -> str | None:
    """Directory for the uncompressed copy of a pipe or archive: None (the system's choice) if TMPDIR is set or the
    target is not on disk, else the nearest existing parent directory of the target.

    /tmp is often a small file system in memory, while the disk of the target has room for large data.
    """
    path = target_path(target)
    if os.environ.get("TMPDIR") or path is None:
        return None
    absolute = path if os.path.isabs(path) else os.path.join(os.getcwd(), path)
    parent = os.path.dirname(absolute.rstrip("/")) or "/"
    while not os.path.isdir(parent):
        parent = os.path.dirname(parent)
    return parent


def write_page(report: Report, outputs: Outputs) -> None:
    """`--html`."""
    if outputs.is_given("html"):
        from migrate.report.html import render_html

        outputs.write("html", [render_html(report).encode("utf-8")])


def keep_map(report: Report, values: Mapping[str, Any]) -> None:
    """Writes migration-map.json beside `--report` FILE, for targets that cannot hold a map: archives, registries."""
    from migrate.cli.outputs import replaced_file
    from migrate.cli.report_file import parse_map_file
    from migrate.documents.image_map import encode_map, merge_rows, rename_rows
    from migrate.layout.names import MAP_NAME
    from migrate.report.mapping import map_images

    target, path = values.get("target") or "", values["report"]
    if report.dry_run or not report.images or not target.startswith(("oci-archive:", "docker-archive:", "docker://")):
        return
    if path == "-" or not os.path.isfile(path):
        return
    kept = os.path.join(os.path.dirname(path), MAP_NAME)
    rows = map_images(report)
    # Names that this run gave to its images are removed from the older rows of the map.
    granted: dict[str, set[Digest]] = {}
    for row in rows:
        for name in row.names:
            granted.setdefault(name, set()).update(() if row.manifest_digest is None else [row.manifest_digest])
    known = parse_map_file(kept) if os.path.lexists(kept) else ()
    with replaced_file(kept) as stream:
        stream.write(encode_map(rename_rows(merge_rows([*known, *rows]), granted)))


def next_steps(target: str) -> list[str]:
    """The commands that come after a conversion into `target`, ready to be copied."""
    prefix, path = parse_target(target)
    place = shlex.quote(path)
    if prefix == "docker" or "://" in path or goes_to_stdout(target):
        return []
    steps = [f"migrate verify {place}"]
    if prefix == "oci":
        steps += [f"tar -C {place} -c . | docker load", f"migrate push {place} docker://HOST"]
    elif prefix == "docker-archive":
        steps.append(f"docker load -i {place}")
    elif prefix == "oci-archive":
        steps.append(f"skopeo inspect --raw oci-archive:{place}")
    return steps


def print_results(outcome: Outcome, values: dict[str, Any], outputs: Outputs) -> None:
    """Writes the reports that were chosen, then the summary on stdout."""
    if outputs.is_given("report"):
        from msgspec.structs import replace

        from migrate.report.json import iter_report

        report = outcome.report
        outputs.write("report", iter_report(replace(report, images=()), report.images))
        keep_map(outcome.report, values)
    write_page(outcome.report, outputs)
    # Exit code 4: nothing was read, and all errors are printed already.
    if not (outputs.take_stdout or outcome.exit_code == 4 or values["quiet"]):
        from migrate.report.text import RunFacts

        if "target" in values:
            steps = next_steps(values["target"])
        else:  # the command that does what `plan` has shown
            sources = values["sources"]
            named = shlex.join(sources) if len(sources) <= _SOURCES_NAMED else "SOURCE..."
            steps = [f"migrate convert {named} TARGET"]
        print_summary(outcome.report, values, steps, RunFacts(present=outcome.present))


def print_summary(
    report: Report, values: Mapping[str, Any], steps: Sequence[str], facts: RunFacts, glance: Glance | None = None
) -> None:
    """On stdout, unless --quiet is given. `steps` are the commands that come next, where something was written."""
    from migrate.cli.terminal import colour_enabled, terminal_width
    from migrate.report.text import render_text

    if not values["quiet"]:
        summary = render_text(
            report,
            width=terminal_width(sys.stdout),
            exact_bytes=values["bytes_"],
            colour=colour_enabled(sys.stdout),
            next_steps=() if values.get("dry_run") else steps,
            glance=glance,
            facts=facts,
        )
        click.echo(summary, nl=False)
