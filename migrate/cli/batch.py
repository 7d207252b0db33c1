"""`migrate batch`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from migrate.cli.completion import LocationType
from migrate.cli.messages import print_end
from migrate.cli.options import (
    GroupedCommand,
    convert_options,
    given_options,
    image_options,
    reported_options,
    run_options,
    source_options,
    unreported,
    writing_options,
)
from migrate.cli.outputs import LISTS, Outputs, option_name
from migrate.errors import SourceUnreadableError, TargetError, UsageError
from migrate.model.progress import Event

if TYPE_CHECKING:
    from migrate.batch.batch import BatchOutcome
    from migrate.model.progress import Progress

_SHOWN = frozenset({"progress", "verbose", "quiet"})
_ALLOWED_WITH = {
    "status": _SHOWN | {"status", "json_"},
    "merge": _SHOWN | {"merge", "report", "html", "account", "bytes_", *LISTS},
}
"""The options that `--status` and `--merge` accept: neither of them runs a batch."""
_REASONS = {
    "status": "it only prints the state of a batch",
    "merge": "the shards are merged with the options of their own runs",
}
_PIECE_BYTES = 1024 * 1024


@click.command("batch", cls=GroupedCommand, short_help="Convert thousands of sources, with a journal and workers.")
@click.argument("arguments", nargs=-1, required=True, metavar="SOURCE... TARGET", type=LocationType())
@source_options
@image_options
@writing_options
@unreported(
    "--from-file",
    multiple=True,
    metavar="LIST",
    help="Read the locations of sources from LIST, one per line; - is standard input.",
)
@unreported(
    "--executor",
    type=click.Choice(["processes", "threads"]),
    default="processes",
    show_default=True,
    help="Kind of the workers on this machine.",
)
@unreported(
    "--scheduler", metavar="URL", help="Use the workers of a Dask cluster: tls://head:8786, a scheduler file, or auto."
)
@unreported("--shard", metavar="I/N", help="Convert only part I of N of the sources; --merge combines the parts.")
@unreported("--merge", is_flag=True, help="Combine all finished shards into one index. Takes only TARGET.")
@unreported("--status", is_flag=True, help="Print the state of a batch, also while it runs. Takes only TARGET.")
@unreported("--json", "json_", is_flag=True, help="With --status: print JSON.")
@unreported("--retry-failed", is_flag=True, help="Read the sources again that failed in an earlier run.")
@unreported(
    "--failed-list",
    metavar="FILE",
    help="Write the failed sources to FILE, for --from-file; - is standard output.",
)
@unreported(
    "--skipped-list",
    metavar="FILE",
    help="Write the files that are not image archives to FILE; - is standard output.",
)
@unreported(
    "--account",
    metavar="FILE",
    help="Write a CSV table of all sources to FILE: outcome, reason, images, bytes, seconds, worker, tries.",
)
@unreported("--converted-list", metavar="FILE", help="Write the converted sources to FILE; - is standard output.")
@run_options
def command(**values: Any) -> None:
    """Convert every image of many SOURCEs into one layout, with many workers, and record the outcome of every file.

    A SOURCE is a file, a directory that is searched, a glob, or a URL. Each source is recognised by its content. TARGET
    is a directory that all workers can reach. Every finished source has a line in TARGET/.migrate/journal.jsonl. To
    continue after an interruption, or to add sources, run the same command again.

    \b
    Examples:
      migrate batch /archives/ new-layout/ --jobs 8
      migrate batch 's3://bucket/saves/*.tar' /archives/ new-layout/
      find /archives -name '*.tar*' | migrate batch --from-file - new-layout/
      migrate batch --status new-layout/
      migrate batch --retry-failed /archives/ new-layout/
      migrate batch --scheduler tcp://head:8786 /shared/archives/ /shared/new/
      migrate batch --shard 3/8 /archives/ new-layout/    then --merge new-layout/
    """
    from migrate.cli import session
    from migrate.cli.progress import make_progress

    session.set_up_logging(values)
    _check(values)
    *locations, target = values["arguments"]
    if locations:
        session.refuse_swapped(locations, target)
    outputs = Outputs(values, target=target)
    if values["status"]:
        _show_status(target, as_json=values["json_"])
        return
    # After an interruption Python's resource tracker removes the semaphores of the workers and warns about them. A user
    # can do nothing about it. The tracker is a process of its own: only the environment reaches its warning filters.
    wanted = "ignore:resource_tracker:UserWarning"
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), wanted)))
    try:
        with make_progress(values["progress"], quiet=values["quiet"], verbose=values["verbose"]) as progress:
            outcome = _run(target, locations, values, outputs, progress)
    except KeyboardInterrupt:
        _print_how_to_continue(target)
        sys.exit(130)
    try:
        _print_results(outcome, target, values, outputs, progress)
        if outcome.exit_code == SourceUnreadableError.exit_code and not (outcome.head and outcome.head.failures):
            from migrate.report.units import count

            number = sum(outcome.account.outcomes.values())
            found = f"{count(number, 'file')}, and no source among them" if number else "there is no file to read"
            raise SourceUnreadableError(f"no image was read: {found}")
    finally:
        outcome.close()  # removes the temporary files that hold the rows of the report
    sys.exit(outcome.exit_code)


def _check(values: dict[str, Any]) -> None:
    alone = [name for name in ("merge", "status") if values[name]]
    count = len(values["arguments"])
    if len(alone) == 2:
        raise UsageError("--merge and --status: one at a time")
    if alone and (count > 1 or values["from_file"] or values["shard"]):
        raise UsageError(f"--{alone[0]} takes the TARGET and no sources")
    # An option without an effect is an error: the user may think that it changes the images.
    given = given_options()
    for command in alone:
        for option in (option for name, option in given.items() if name not in _ALLOWED_WITH[command]):
            raise UsageError(f"--{command} with {option}: {_REASONS[command]}")
    if values["json_"] and not alone:
        raise UsageError("--json needs --status; --report - prints the report as JSON")
    for name in ("executor", "jobs"):
        if values["scheduler"] and name in given:
            raise UsageError(f"--scheduler with {given[name]}: the cluster's own workers do the work")
    if not alone and count == 1 and not values["from_file"]:
        raise UsageError("no SOURCE before the TARGET: name the sources, or give --from-file")
    for option in ("dry_run", "report", "html"):
        if values["shard"] and values[option]:
            raise UsageError(f"--shard with {option_name(option)}: a shard has no report of its own; --merge writes it")
    if list(values["from_file"]).count("-") > 1:  # the second list would be empty, and its sources missing
        raise UsageError("standard input can be read only once")


def _run(
    target: str, locations: Sequence[str], values: dict[str, Any], outputs: Outputs, progress: Progress
) -> BatchOutcome:
    from migrate.batch.batch import BatchRequest, merge_batch, run_batch

    if values["merge"]:
        return merge_batch(target, progress, outputs.files)
    from migrate.batch.plan import Shard
    from migrate.cli import session

    # The lists are passed as open streams, so that one of a million sources is read line by line.
    spool = session.spool_directory(target)
    with ExitStack() as stack:
        request = BatchRequest(
            target=target,
            options=convert_options(values, exact_sizes=True, temporary_directory=spool),
            locations=locations,
            lists=[stack.enter_context(_open_list(name)) for name in values["from_file"]],
            executor=values["executor"],
            scheduler=values["scheduler"],
            shard=Shard.parse(values["shard"]) if values["shard"] else None,
            retry_failed=values["retry_failed"],
            report_options=reported_options(values),
            output_files=outputs.files,
        )
        return run_batch(request, progress)


@contextmanager
def _open_list(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        yield sys.stdin.buffer
        return
    try:
        stream = open(name, "rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise UsageError(f"--from-file {name}: {error.strerror}") from error
    with stream:
        yield stream


# --- output ------------------------------------------------------------------------------------------------------


def _show_status(target: str, *, as_json: bool) -> None:
    from migrate.batch.status import iter_status_lines, read_status
    from migrate.documents.json_text import with_safe_texts

    statuses = read_status(target)
    if as_json:
        documents = with_safe_texts([status.document(time.time()) for status in statuses])
        click.echo(json.dumps(documents, indent=2))
        return
    for line in iter_status_lines(statuses):
        click.echo(line)


def _print_how_to_continue(target: str) -> None:
    from migrate.batch.status import read_status

    done = "what is finished stays valid"
    try:
        statuses = read_status(target)
        done = f"{sum(status.done for status in statuses):,} of {sum(s.planned for s in statuses):,} sources are done"
    except (UsageError, TargetError):
        pass
    print_end(f"interrupted; {done}; run the same command again to continue", 130)


def _print_results(
    outcome: BatchOutcome, target: str, values: dict[str, Any], outputs: Outputs, progress: Progress
) -> None:
    from migrate.batch.account import iter_account_csv
    from migrate.batch.batch import unfinished_shards
    from migrate.cli import session
    from migrate.report.text import RunFacts

    for warning in _write_lists(outcome, outputs):
        if values["progress"] == "json":
            progress.emit(Event(kind="warning", message=warning))
        else:
            click.echo(f"migrate: warning: {warning}", err=True)
    if values["merge"]:
        for problem in unfinished_shards(target):
            outcome.exit_code = 3
            progress.emit(Event(kind="failure", name=target, message=problem))
    if outputs.is_given("account"):
        outputs.write("account", iter_account_csv(outcome.rows))
    if outcome.head is None or outcome.spool is None:  # a shard: only `--merge` makes a report
        if not (outputs.take_stdout or values["quiet"]):
            from migrate.batch.plan import SourceOutcome
            from migrate.model.text import printable

            counts = ", ".join(f"{outcome.account.outcomes[kind]:,} {kind.value}" for kind in SourceOutcome)
            merge = f"migrate batch --merge {printable(target)}"
            click.echo(f"shard {values['shard']}: {counts}; when all shards have ended: {merge}")
        return
    if outputs.is_given("report"):  # in pieces: the report of a large batch does not fit into memory
        outcome.spool.seek(0)
        outputs.write("report", iter(partial(outcome.spool.read, _PIECE_BYTES), b""))
    if outputs.is_given("html"):
        session.write_page(outcome.read_report(), outputs)
    if not outputs.take_stdout:
        account = outcome.account
        facts = RunFacts(present=account.present, done_before=account.already_done, tally=account.tally)
        session.print_summary(outcome.head, values, session.next_steps(target), facts, account.glance)


def _write_lists(outcome: BatchOutcome, outputs: Outputs) -> Iterator[str]:
    """Writes the lists that were requested, and yields a warning for each list that some sources are missing from."""
    from migrate.batch.plan import SourceOutcome
    from migrate.batch.search import list_line

    for kind in SourceOutcome:
        option = f"{kind.value}_list"
        if outputs.is_given(option):
            lines = [list_line(location) for location in outcome.lists[kind]]
            outputs.write(option, [line for line in lines if line is not None])
            if None in lines:
                yield (
                    f"{option_name(option)}: {lines.count(None):,} of {len(lines):,} sources are not in the list:"
                    " their names cannot be written on one line (a newline, for example); the report has them"
                )
