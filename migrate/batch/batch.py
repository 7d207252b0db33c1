"""A whole batch: plan, run, merge. docs/howto/batch.md shows it from outside."""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO, cast

from msgspec import Struct, field
from msgspec.structs import replace

from migrate import __version__
from migrate.batch.account import Account, AccountRow
from migrate.batch.completion import Completion, candidates_of
from migrate.batch.executors import PoolRequest, WorkerPool, open_pool
from migrate.batch.existing_blobs import ExistingBlobs, sources_without_blobs
from migrate.batch.journal import Journals, JournalWriter, LinePlace, journal_name
from migrate.batch.ledger import Ledger
from migrate.batch.merge import Merge
from migrate.batch.plan import Candidate, Finished, Plan, Shard, SourceOutcome, plan_tasks
from migrate.batch.proof import disproved
from migrate.batch.recipe import options_document, parse_options, recipe_of
from migrate.batch.run import TaskRun
from migrate.batch.search import expand, find_candidates
from migrate.batch.targets import absolute, layout_location, open_mirror, open_state, open_worker_target
from migrate.batch.task import WorkOrder
from migrate.convert.earlier import EarlierImages
from migrate.convert.run import NOTHING_READ, exit_code, utc_now
from migrate.convert.source_paths import distinct_sources, refuse_to_write, without_target
from migrate.errors import TargetError, UsageError
from migrate.layout.names import plain_path
from migrate.model.options import ConvertOptions
from migrate.model.progress import Event, Progress
from migrate.report.document import Report, SourceRow
from migrate.report.parse import parse_report
from migrate.storage.syscalls import target_errors
from migrate.writers.base import ImageTarget

_SHARD_NAME = re.compile(r"journal-(\d+)-of-(\d+)\.jsonl")


class BatchRequest(Struct, frozen=True, kw_only=True):
    """What the user wants. `lists` are open streams of locations, one a line. `options.jobs` counts workers.

    `client` is a Dask client or cluster, or an executor, that stays the caller's; else `scheduler` is the address or
    the file of a Dask scheduler, or `auto`, and else `executor` names workers of this machine. `output_files` are what
    the caller will write itself, and may not be in a source.
    """

    target: str
    options: ConvertOptions
    locations: Sequence[str] = ()
    lists: Sequence[BinaryIO] = ()
    executor: str = "processes"
    scheduler: str | None = None
    client: Any = None
    shard: Shard | None = None
    retry_failed: bool = False
    report_options: Mapping[str, object] = field(default_factory=dict)
    output_files: Sequence[str] = ()

    @property
    def is_remote(self) -> bool:
        """True where workers may be on other machines, and in other directories."""
        return self.scheduler is not None or self.client is not None


class BatchOutcome(Struct):
    """What a batch gives. `exit_code` is that of the command; `lists` are locations by outcome, `rows` what became of
    each source. `head` is the report without its images, and `spool` holds all of its bytes until it is closed; a shard
    has neither, as `--merge` brings its images in."""

    exit_code: int
    account: Account
    lists: Mapping[SourceOutcome, Sequence[str]]
    rows: Sequence[AccountRow] = ()
    head: Report | None = None
    spool: BinaryIO | None = None

    def read_report(self) -> Report:
        """The whole report, of any number of images. Only before `close`, and not of a shard."""
        assert self.spool is not None
        self.spool.seek(0)
        return parse_report(self.spool.read())

    def close(self) -> None:
        """Removes the temporary file with the report."""
        if self.spool is not None:
            self.spool.close()


OpenPool = Callable[[PoolRequest], WorkerPool]


def run_batch(request: BatchRequest, progress: Progress, pools: OpenPool = open_pool) -> BatchOutcome:
    """Raises UsageError, TargetError and KeyboardInterrupt; what is finished is in the journal then."""
    started = utc_now()
    candidates = _candidates(request)
    with _workplace(request) as (journals, target, journal):
        journals.check_owners()
        existing = ExistingBlobs(target)
        recipe = recipe_of(request.options)
        identities = {candidate.location: candidate.identity for candidate in candidates}

        def wants(source: str, known: Finished) -> bool:
            """Lines of the sources as they are there now, read as this run reads them. Two journals may have a line of
            one source, and their seconds do not show which line is the newer one."""
            return known.recipe == recipe and known.identity == identities.get(source)

        ledger = Ledger.read(journals, wants)
        try:
            pool = pools(
                PoolRequest(
                    executor=request.executor,
                    workers=request.options.jobs,
                    scheduler=request.scheduler,
                    client=request.client,
                )
            )
        except UsageError:  # nothing was read, and nothing will be
            if target is not None:
                target.abandon()
            raise
        try:
            plan = _plan(request, journals, ledger, candidates, recipe, pool.workers, existing)
            begins = journal.place()
            journal.note(_opening(request, plan, recipe, started))
            order = _order(request, recipe, journals, max(1, pool.workers // max(1, len(plan.tasks))))
            pool.prove(order, plan, progress)
        except BaseException:
            pool.stop(at_once=True)
            raise
        completion = Completion(
            sources={candidate.location: candidate for candidate in candidates},
            read=lambda: Ledger.read(journals, wants, begins),
            journals=journals,
            order=order,
            open_pool=lambda: pool,
            journal=journal,
            progress=progress,
            earlier=_earlier(request, target),
        )
        with _stopped(pool):
            tasks = TaskRun(order, plan, pool, journal, progress)
            tasks.run()
            ledger = completion.run(tasks.undecided)
        locations = [candidate.location for candidate in candidates]
        done = plan.done.keys() - completion.again
        if request.shard is not None:
            return _shard_outcome(ledger, locations, len(done))
        gone = _gone(ledger, locations, request.locations)
        return _merge(journals, ledger, locations, request, target, existing, journal, progress, started, done, gone)


def merge_batch(target: str, progress: Progress, output_files: Sequence[str] = ()) -> BatchOutcome:
    """Ends what shards have done: images of all journals, with the options of their runs. Raises UsageError where
    those differ, or where a shard is still at work. `output_files` are those of a BatchRequest."""
    started = utc_now()
    with open_state(target) as journals:
        journals.check_owners()
        options, reported = _common_options(target, journals)
    request = BatchRequest(target=target, options=options, report_options=reported)
    with _workplace(request) as (journals, opened, journal):
        ledger = _read_shards(journals)
        refuse_to_write(list(ledger.sources), files=output_files)
        # Each source once: two runs may have called one by two names, and as with one name, what was read last counts.
        current = ledger.current()
        read = [
            location for location in current if ledger.sources[location].finished.outcome is not SourceOutcome.SKIPPED
        ]
        last_first = sorted(read, key=lambda location: -ledger.sources[location].seconds)
        repeated = set(read) - set(distinct_sources(last_first))
        locations = [location for location in current if location not in repeated]
        # Sources that are on the shards' machines alone cannot be proven.
        read = [one for one in locations if ledger.sources[one].finished.outcome is not SourceOutcome.SKIPPED]
        here = [location for location in read if "://" not in location and os.path.exists(location)]
        for location in sorted(disproved(journals, ledger.places(here), options)):
            shown = journals.shown(ledger.sources[location].place.journal)
            raise TargetError(
                f"{shown}: what it has of {location} is not what that source lists (it may have changed since); run its"
                " shard again"
            )
        known = set(here)
        absent = [location for location in read if location not in known and ledger.sources[location].images]
        if absent:
            are, their = ("source is", "its") if len(absent) == 1 else ("sources are", "their")
            message = f"{len(absent):,} {are} not here: {their} images and names are those of the journals"
            progress.emit(Event(kind="notice", message=message))
        ledger, again = _complete_shards(ledger, locations, request, journals, opened, journal, progress)
        done = set(locations) - again
        existing = ExistingBlobs(opened)
        return _merge(journals, ledger, locations, request, opened, existing, journal, progress, started, done)


def _complete_shards(
    ledger: Ledger,
    locations: Sequence[str],
    request: BatchRequest,
    journals: Journals,
    target: ImageTarget | None,
    journal: JournalWriter,
    progress: Progress,
) -> tuple[Ledger, set[str]]:
    """What sources of one shard lack may be in those of another; only sources that are here can be read once more."""
    begins = journal.place()
    here = [location for location in locations if "://" in location or os.path.exists(location)]
    with ExitStack() as stack:
        completion = Completion(
            sources=candidates_of(ledger, here),
            read=lambda: _read_shards(journals, begins),
            journals=journals,
            order=_order(request, recipe_of(request.options), journals, 1),
            open_pool=lambda: stack.enter_context(_stopped(open_pool(PoolRequest(workers=request.options.jobs)))),
            journal=journal,
            progress=progress,
            earlier=_earlier(request, target),
        )
        return completion.run(), completion.again


def _earlier(request: BatchRequest, target: ImageTarget | None) -> EarlierImages | None:
    """What earlier runs put into the target."""
    if target is None:
        return None
    return EarlierImages("oci", layout_location(request.target), target.mapped_images, request.options)


@contextmanager
def _stopped(pool: WorkerPool) -> Iterator[WorkerPool]:
    """Ended with its work, and within a second if that was interrupted or has failed."""
    at_once = True
    try:
        yield pool
        at_once = False
    finally:
        pool.stop(at_once=at_once)


def _common_options(target: str, journals: Journals) -> tuple[ConvertOptions, Mapping[str, object]]:
    """The options that all runs on the target had; UsageError unless they agree and have ended."""
    names = journals.names()
    if not names:
        raise UsageError(f"{target}: no journal of a batch there")
    for name in names:
        if journals.is_running(name):
            raise UsageError(f"{journals.shown(name)}: a run is still at work on it; merge when all shards have ended")
    openings = list(Ledger.read(journals).runs.values())
    if len({str(opening.get("options")) for opening in openings}) != 1:
        raise UsageError(f"{target}: its shards ran with different options; run them again with the same ones")
    return parse_options(openings[0]["options"]), openings[0]["reported"]


def unfinished_shards(target: str) -> list[str]:
    """What is missing before the shards of a target make a whole: sentences for people."""
    with open_state(target) as journals:
        ledger = _read_shards(journals)
    problems = []
    seen: dict[int, set[int]] = {}
    for journal, opening in sorted(ledger.runs.items()):
        match = _SHARD_NAME.fullmatch(journal)
        if match is not None:
            seen.setdefault(int(match[2]), set()).add(int(match[1]))
            missing = opening["sources"] - ledger.lines[journal]
            if missing > 0:
                problems.append(f"shard {match[1]}/{match[2]} has not finished {missing:,} of its sources")
    for count, numbers in sorted(seen.items()):
        problems += [f"shard {number}/{count} has never run" for number in range(1, count + 1) if number not in numbers]
    if left_over := ledger.left_over():
        were = "source was" if left_over == 1 else "sources were"
        problems.append(f"{left_over:,} {were} read with other options than the latest run; batch them again")
    return problems


# --- steps -------------------------------------------------------------------------------------------------------


@contextmanager
def _workplace(request: BatchRequest) -> Iterator[tuple[Journals, ImageTarget | None, JournalWriter]]:
    """All journals of the target, which is open (None in a dry run), and the one of this run."""
    with ExitStack() as stack:
        target: ImageTarget | None = None
        if not request.options.dry_run:
            target = open_worker_target(request.target, request.options)
            stack.callback(target.close)
        journals = stack.enter_context(open_state(request.target, copied=target is None))
        mirror = None if target is None else open_mirror(request.target, journal_name(request.shard))
        journal = JournalWriter(journals.store, request.shard, mirror)
        stack.callback(journal.close)
        yield journals, target, journal


def _candidates(request: BatchRequest) -> list[Candidate]:
    """Sources of the request, before anything is opened or written."""
    expanded = expand(request.locations, request.lists)
    named = without_target(expanded, request.target) or expanded
    found = find_candidates(named, source_type=request.options.source_type, insecure=request.options.insecure)
    opened = [candidate.location for candidate in found if candidate.unfit is None]
    read = [*named, *opened, *request.options.pool_files]
    refuse_to_write(read, target=request.target, files=request.output_files)
    shard = request.shard
    if request.is_remote or shard is not None:  # which may be in other directories
        found = [replace(candidate, location=absolute(candidate.location)) for candidate in found]
    return found if shard is None else [candidate for candidate in found if shard.holds(candidate.location)]


def _plan(
    request: BatchRequest,
    journals: Journals,
    ledger: Ledger,
    candidates: Sequence[Candidate],
    recipe: str,
    workers: int,
    existing: ExistingBlobs,
) -> Plan:
    """What the journal has finished is done, unless its blobs have gone or were damaged since, or the source lists
    something else."""
    finished = ledger.finished()
    plan = plan_tasks(candidates, finished, recipe, workers=workers, retry_failed=request.retry_failed)
    locations = [candidate.location for candidate in candidates]
    others = [place for place, _ in ledger.others(locations)]
    lost = sources_without_blobs(journals, ledger.places(plan.done), others, request.options, existing)
    unfit = {candidate.location for candidate in candidates if candidate.unfit is not None}
    lost |= disproved(journals, ledger.places(plan.done.keys() - lost), request.options, unfit)
    if not lost:
        return plan
    finished = {location: known for location, known in finished.items() if location not in lost}
    return plan_tasks(candidates, finished, recipe, workers=workers, retry_failed=request.retry_failed)


def _read_shards(journals: Journals, own: LinePlace | None = None) -> Ledger:
    """The journals as a merge takes them: what was read with the options of the latest runs comes before the rest, and
    what it wrote itself, from `own` on, before those."""
    recipes = {opening["recipe"] for opening in Ledger.read(journals).runs.values()}
    return Ledger.read(journals, lambda _, known: known.recipe in recipes, own)


def _opening(request: BatchRequest, plan: Plan, recipe: str, started: str) -> dict[str, Any]:
    return {
        "run": started,
        "version": __version__,
        "sources": plan.sources,
        "bytes": plan.bytes,
        "done_before": len(plan.done),
        "recipe": recipe,
        "options": options_document(request.options),
        "reported": dict(request.report_options),
    }


def _order(request: BatchRequest, recipe: str, journals: Journals, threads: int) -> WorkOrder:
    """Workers use one thread each; only where there are fewer tasks than workers the tasks share out the rest."""
    return WorkOrder(
        run=secrets.token_hex(8),
        recipe=recipe,
        target=None if request.options.dry_run else absolute(request.target),
        state=absolute(journals.store.location),
        options=dataclasses.replace(request.options, jobs=1 if request.is_remote else threads),
    )


def _gone(ledger: Ledger, locations: Collection[str], shelves: Iterable[str]) -> list[str]:
    """Sources that an earlier run has read below what is named now, and that are there no longer."""
    here = set(locations)
    patterns = [plain_path(shelf) for shelf in shelves]
    return [
        location
        for location in sorted(ledger.sources)
        if location not in here
        and any(
            (
                location.startswith(f"{pattern.rstrip('/')}/")
                or (
                    ("**" in pattern or location.count("/") == pattern.count("/"))  # * of a glob matches no slash
                    and fnmatch.fnmatchcase(location, pattern)
                )
            )
            for pattern in patterns
        )
        and ("://" in location or not os.path.lexists(location))
    ]


def _merge(
    journals: Journals,
    ledger: Ledger,
    locations: Sequence[str],
    request: BatchRequest,
    target: ImageTarget | None,
    existing: ExistingBlobs,
    journal: JournalWriter,
    progress: Progress,
    started: str,
    done: Collection[str],
    gone: Sequence[str] = (),
) -> BatchOutcome:
    merge = Merge(
        journals=journals,
        sources=ledger.merge_sources(locations),
        options=request.options,
        target=target,
        progress=progress,
        existing=existing,
        report_options=request.report_options,
        older=ledger.others(locations),
        done=frozenset(done),
        gone=gone,
    )
    with target_errors("a temporary file"):
        spool = cast(BinaryIO, tempfile.TemporaryFile(dir=request.options.temporary_directory))  # noqa: SIM115 - the outcome has it
        try:
            with tempfile.TemporaryFile(dir=request.options.temporary_directory) as rows:
                head = merge.run(started, spool, cast(BinaryIO, rows))
        except BaseException:
            spool.close()
            raise
    merge.account.already_done = len(done)
    account_rows = _account_rows(ledger, locations, head)
    lists = _lists(account_rows)
    merge.account.outcomes.update({outcome: len(sources) for outcome, sources in lists.items()})
    if exit_code(head) != NOTHING_READ:  # else there may be no target any more
        journal.note(
            {
                "merged": utc_now(),
                "images": head.totals.images,
                "failures": len(head.failures),
                "journals": dict(sorted(ledger.ends.items())),
                "recipes": ledger.recipes(locations),
                "outcomes": {
                    location: outcome.value
                    for outcome, sources in lists.items()
                    for location in sources
                    if ledger.sources[location].finished.outcome is not outcome
                },
            }
        )
    return BatchOutcome(exit_code(head), merge.account, lists, account_rows, head, spool)


def _shard_outcome(ledger: Ledger, locations: Sequence[str], done: int) -> BatchOutcome:
    rows = _account_rows(ledger, locations)
    lists = _lists(rows)
    account = Account(already_done=done)
    account.outcomes.update({outcome: len(sources) for outcome, sources in lists.items()})
    return BatchOutcome(3 if lists[SourceOutcome.FAILED] else 0, account, lists, rows)


def _account_rows(ledger: Ledger, locations: Sequence[str], head: Report | None = None) -> list[AccountRow]:
    """In the order of `locations`. What the merge found about a source counts more than its line in the journal."""
    merged = {} if head is None else {row.location: row for row in head.sources}
    rows = []
    for location in locations:
        known = ledger.sources.get(location)
        if known is not None:
            row = merged.get(location) or SourceRow(
                location=location,
                type=None,
                images=known.images,
                failed=known.failed,
                outcome=known.finished.outcome.value,
                error=known.error,
                reason=known.message,
            )
            rows.append(AccountRow(row, known.finished.identity.size, known.duration, known.worker, known.tries))
    return rows


def _lists(rows: Iterable[AccountRow]) -> dict[SourceOutcome, list[str]]:
    """A source with damaged layers is converted."""
    lists: dict[SourceOutcome, list[str]] = {outcome: [] for outcome in SourceOutcome}
    for row in rows:
        outcome = row.source.outcome or ""
        lists[SourceOutcome.CONVERTED if outcome == "damaged" else SourceOutcome(outcome)].append(row.source.location)
    return lists
