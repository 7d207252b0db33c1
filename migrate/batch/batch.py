"""A whole batch: plan, run, merge. docs/howto/batch.md describes its use."""

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
from migrate.batch.executors import PoolRequest, open_pool
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
from migrate.batch.waits import Waits, enter
from migrate.batch.worker_pool import WorkerPool
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
    """The arguments of a batch. `lists` are open streams with one location per line. `options.jobs` is the number of
    workers.

    `client` is a Dask client or cluster, or an executor, which the caller closes. Without it, `scheduler` is the
    address or the file of a Dask scheduler, or `auto`. Without both, `executor` names the kind of workers on this
    machine. `output_files` are files that the caller will write, which must not be in a source.
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
        """True if workers may be on other machines, and have other current directories."""
        return self.scheduler is not None or self.client is not None


class BatchOutcome(Struct):
    """The result of a batch. `exit_code` is that of the command; `lists` are locations by outcome, `rows` the results
    of each source. `head` is the report without its images, and `spool` has all bytes of the report until it is closed.
    A shard has neither, because its images are written by `--merge`."""

    exit_code: int
    account: Account
    lists: Mapping[SourceOutcome, Sequence[str]]
    rows: Iterable[AccountRow] = ()
    head: Report | None = None
    spool: BinaryIO | None = None

    def read_report(self) -> Report:
        """The whole report, with any number of images. Must be called before `close`; a shard has no report."""
        assert self.spool is not None
        self.spool.seek(0)
        return parse_report(self.spool.read())

    def close(self) -> None:
        """Removes the temporary file with the report."""
        if self.spool is not None:
            self.spool.close()


OpenPool = Callable[[PoolRequest], WorkerPool]


class Workplace(Struct, frozen=True, kw_only=True):
    """What each step of a run needs. `journals` are those of the target, `journal` is that of this run, and `target` is
    None in a dry run."""

    request: BatchRequest
    started: str
    progress: Progress
    journals: Journals
    journal: JournalWriter
    target: ImageTarget | None
    existing: ExistingBlobs
    earlier: EarlierImages | None
    """The images that earlier runs put into the target."""


def run_batch(request: BatchRequest, progress: Progress, pools: OpenPool = open_pool) -> BatchOutcome:
    """Runs a batch. Raises UsageError, TargetError and KeyboardInterrupt; finished sources are in the journal then."""
    started = utc_now()
    with Waits(progress) as waits:
        waits.enter("listing the sources")
        candidates = _candidates(request)
        with _workplace(request, started, waits) as place:
            ledger, done = _read_sources(place, candidates, pools)
            locations = ledger.sources.same(candidate.location for candidate in candidates)
            del candidates  # the merge needs memory for every source, and only their locations
            if request.shard is not None:
                return _shard_outcome(ledger, locations, len(done))
            return _merge(place, ledger, locations, done, _gone(ledger, locations, request.locations))


def _read_sources(place: Workplace, candidates: Sequence[Candidate], pools: OpenPool) -> tuple[Ledger, set[str]]:
    """Plan and run: reads what no earlier run has read. Returns the journals at the end, and the sources that were done
    before."""
    request, journals, progress = place.request, place.journals, place.progress
    recipe = recipe_of(request.options)
    identities = {candidate.location: candidate.identity for candidate in candidates}

    def wants(source: str, known: Finished) -> bool:
        """True for a line of the source as it is now, with the options of this run. Two journals may have lines of one
        source, and their times do not show which one is newer."""
        return known.recipe == recipe and known.identity == identities.get(source)

    ledger = Ledger.read(journals, wants)
    enter(progress, "connecting to the workers")
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
        if place.target is not None:
            place.target.abandon()
        raise
    try:
        enter(progress, "checking what earlier runs have read")
        plan = _plan(place, ledger, candidates, recipe, pool.workers)
        begins = place.journal.place()
        place.journal.note(_opening(request, plan, recipe, place.started))
        order = _order(request, recipe, journals, max(1, pool.workers // max(1, len(plan.tasks))))
        enter(progress, "checking the workers")
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
        journal=place.journal,
        progress=progress,
        earlier=place.earlier,
    )
    with _stopped(pool, progress):
        tasks = TaskRun(order, plan, pool, place.journal, progress)
        tasks.run()
        ledger = completion.run(tasks.undecided)
    return ledger, plan.done.keys() - completion.again


def merge_batch(target: str, progress: Progress, output_files: Sequence[str] = ()) -> BatchOutcome:
    """Writes the images of all shards, with the options of their runs. Raises UsageError if these differ, or if a shard
    is still running. `output_files` are those of a BatchRequest."""
    started = utc_now()
    with Waits(progress) as waits:
        waits.enter(f"reading the journals of {target}")
        with open_state(target) as journals:
            journals.check_owners()
            options, reported = _common_options(target, journals)
        request = BatchRequest(target=target, options=options, report_options=reported)
        with _workplace(request, started, waits) as place:
            return _merge_shards(place, output_files)


def _merge_shards(place: Workplace, output_files: Sequence[str]) -> BatchOutcome:
    journals = place.journals
    ledger = _read_shards(journals)
    refuse_to_write(list(ledger.sources), files=output_files)
    # Each source is used once. Two runs may have read it under two names; the later one counts, as with one name.
    current = ledger.current()
    read = [location for location in current if ledger.sources[location].finished.outcome is not SourceOutcome.SKIPPED]
    last_first = sorted(read, key=lambda location: -ledger.sources[location].seconds)
    repeated = set(read) - set(distinct_sources(last_first))
    locations = [location for location in current if location not in repeated]
    # Only sources that this machine can read are compared with their records.
    read = [one for one in locations if ledger.sources[one].finished.outcome is not SourceOutcome.SKIPPED]
    here = [location for location in read if "://" not in location and os.path.exists(location)]
    for location in sorted(disproved(journals, ledger.places(here), place.request.options, place.earlier)):
        shown = journals.shown(ledger.sources[location].place.journal)
        raise TargetError(
            f"{shown}: its record of {location} does not match the source (which may have changed since); run its"
            " shard again"
        )
    known = set(here)
    absent = [location for location in read if location not in known and ledger.sources[location].images]
    if absent:
        are, their = ("source is", "its") if len(absent) == 1 else ("sources are", "their")
        message = f"{len(absent):,} {are} not on this machine: {their} images and names come from the journals"
        place.progress.emit(Event(kind="notice", message=message))
    ledger, again = _complete_shards(place, ledger, locations)
    return _merge(place, ledger, locations, set(locations) - again)


def _complete_shards(place: Workplace, ledger: Ledger, locations: Sequence[str]) -> tuple[Ledger, set[str]]:
    """Reads incomplete sources again, because the layers that one shard lacks may be in another. Only sources that this
    machine can read are read again."""
    request, journals, progress = place.request, place.journals, place.progress
    begins = place.journal.place()
    here = [location for location in locations if "://" in location or os.path.exists(location)]
    with ExitStack() as stack:
        completion = Completion(
            sources=candidates_of(ledger, here),
            read=lambda: _read_shards(journals, begins),
            journals=journals,
            order=_order(request, recipe_of(request.options), journals, 1),
            open_pool=lambda: stack.enter_context(
                _stopped(open_pool(PoolRequest(workers=request.options.jobs)), progress)
            ),
            journal=place.journal,
            progress=progress,
            earlier=place.earlier,
        )
        return completion.run(), completion.again


@contextmanager
def _stopped(pool: WorkerPool, progress: Progress) -> Iterator[WorkerPool]:
    """Stops the pool at the end: after its tasks, or within a second after an interruption or error."""
    at_once = True
    try:
        yield pool
        at_once = False
    finally:
        enter(progress, "ending the workers")
        pool.stop(at_once=at_once)


def _common_options(target: str, journals: Journals) -> tuple[ConvertOptions, Mapping[str, object]]:
    """The options of all runs on the target. Raises UsageError if they differ, or if a run has not ended."""
    names = journals.names()
    if not names:
        raise UsageError(f"{target}: no journal of a batch there")
    for name in names:
        if journals.is_running(name):
            raise UsageError(f"{journals.shown(name)}: a run is still using it; merge when all shards have ended")
    openings = list(Ledger.read(journals).runs.values())
    if len({str(opening.get("options")) for opening in openings}) != 1:
        raise UsageError(f"{target}: its shards ran with different options; run them again with the same options")
    return parse_options(openings[0]["options"]), openings[0]["reported"]


def unfinished_shards(target: str) -> list[str]:
    """Sentences for the user about what is missing before all shards of a target are complete."""
    with open_state(target) as journals:
        ledger = _read_shards(journals)
    problems = []
    seen: dict[int, set[int]] = {}
    for journal, opening in sorted(ledger.runs.items()):
        match = _SHARD_NAME.fullmatch(journal)
        if match is not None:  # a journal without a number belongs to no shard
            seen.setdefault(int(match[2]), set()).add(int(match[1]))
            missing = opening["sources"] - ledger.lines[journal]
            if missing > 0:
                problems.append(f"shard {match[1]}/{match[2]} has not finished {missing:,} of its sources")
    for count, numbers in sorted(seen.items()):
        problems += [f"shard {number}/{count} has never run" for number in range(1, count + 1) if number not in numbers]
    if left_over := ledger.left_over():
        were = "source was" if left_over == 1 else "sources were"
        problems.append(f"{left_over:,} {were} read with other options than the latest run; run them again")
    return problems


# --- steps -------------------------------------------------------------------------------------------------------


@contextmanager
def _workplace(request: BatchRequest, started: str, progress: Progress) -> Iterator[Workplace]:
    with ExitStack() as stack:
        enter(progress, f"opening {request.target}")
        target: ImageTarget | None = None
        if not request.options.dry_run:
            target = open_worker_target(request.target, request.options)
            stack.callback(target.close)
        journals = stack.enter_context(open_state(request.target, copied=target is None))
        mirror = None if target is None else open_mirror(request.target, journal_name(request.shard))
        journal = JournalWriter(journals.store, request.shard, mirror)
        stack.callback(journal.close)
        enter(progress, f"reading the journals of {request.target}")
        journals.check_owners()
        earlier: EarlierImages | None = None
        if target is not None:
            place = layout_location(request.target)
            earlier = EarlierImages("oci", place, target.mapped_images, request.options)
        yield Workplace(
            request=request,
            started=started,
            progress=progress,
            journals=journals,
            journal=journal,
            target=target,
            existing=ExistingBlobs(target),
            earlier=earlier,
        )


def _candidates(request: BatchRequest) -> list[Candidate]:
    """The sources of the request. Nothing is opened or written here."""
    expanded = expand(request.locations, request.lists)
    named = without_target(expanded, request.target) or expanded
    found = find_candidates(named, source_type=request.options.source_type, insecure=request.options.insecure)
    opened = [candidate.location for candidate in found if candidate.unfit is None]
    read = [*named, *opened, *request.options.pool_files]
    refuse_to_write(read, target=request.target, files=request.output_files)
    shard = request.shard
    if request.is_remote or shard is not None:  # workers and later merges may have another current directory
        found = [replace(candidate, location=absolute(candidate.location)) for candidate in found]
    return found if shard is None else [candidate for candidate in found if shard.holds(candidate.location)]


def _plan(place: Workplace, ledger: Ledger, candidates: Sequence[Candidate], recipe: str, workers: int) -> Plan:
    """The tasks of this run. A source that is finished in the journal is done, unless its blobs are missing or damaged
    now, or its documents do not match the record."""
    request, journals = place.request, place.journals
    finished = ledger.finished()
    plan = plan_tasks(candidates, finished, recipe, workers=workers, retry_failed=request.retry_failed)
    locations = [candidate.location for candidate in candidates]
    others = [place for place, _ in ledger.others(locations)]
    lost = sources_without_blobs(journals, ledger.places(plan.done), others, request.options, place.existing)
    unfit = {candidate.location for candidate in candidates if candidate.unfit is not None}
    lost |= disproved(journals, ledger.places(plan.done.keys() - lost), request.options, place.earlier, unfit)
    if not lost:
        return plan
    finished = {location: known for location, known in finished.items() if location not in lost}
    return plan_tasks(candidates, finished, recipe, workers=workers, retry_failed=request.retry_failed)


def _read_shards(journals: Journals, own: LinePlace | None = None) -> Ledger:
    """The journals as a merge uses them: lines with the options of the latest runs come before the others, and lines
    that the merge itself wrote, from `own` on, before those."""
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
    """The order for the workers. Each uses one thread, or more if there are fewer tasks than workers."""
    return WorkOrder(
        run=secrets.token_hex(8),
        recipe=recipe,
        target=None if request.options.dry_run else absolute(request.target),
        state=absolute(journals.store.location),
        options=dataclasses.replace(request.options, jobs=1 if request.is_remote else threads),
    )


def _gone(ledger: Ledger, locations: Collection[str], named: Iterable[str]) -> list[str]:
    """Sources that an earlier run read in the directories and globs that are named now, and that no longer exist."""
    here = set(locations)
    patterns = [plain_path(text) for text in named]
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
    place: Workplace,
    ledger: Ledger,
    locations: Sequence[str],
    done: Collection[str],
    gone: Sequence[str] = (),
) -> BatchOutcome:
    request = place.request
    enter(place.progress, f"merging into {request.target}")
    merge = Merge(
        journals=place.journals,
        sources=ledger.merge_sources(locations),
        options=request.options,
        target=place.target,
        progress=place.progress,
        existing=place.existing,
        report_options=request.report_options,
        older=ledger.others(locations),
        done=frozenset(done),
        gone=gone,
    )
    with target_errors("a temporary file"):
        spool = cast(BinaryIO, tempfile.TemporaryFile(dir=request.options.temporary_directory))  # noqa: SIM115 - the outcome has it
        try:
            with tempfile.TemporaryFile(dir=request.options.temporary_directory) as rows:
                head = merge.run(place.started, spool, cast(BinaryIO, rows))
        except BaseException:
            spool.close()
            raise
    merge.account.already_done = len(done)
    account_rows = AccountRows(ledger, locations, head.sources)
    lists = account_rows.lists()
    merge.account.outcomes.update({outcome: len(sources) for outcome, sources in lists.items()})
    if exit_code(head) != NOTHING_READ:  # otherwise the merge may have removed the target
        place.journal.note(
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
    rows = AccountRows(ledger, locations)
    lists = rows.lists()
    account = Account(already_done=done)
    account.outcomes.update({outcome: len(sources) for outcome, sources in lists.items()})
    return BatchOutcome(3 if lists[SourceOutcome.FAILED] else 0, account, lists, rows)


class AccountRows(Struct):
    """One row for each source, in the order of `locations`, made whenever they are iterated. What the merge found out
    about a source (`merged`, sorted) is newer than its line in the journal, so it is used first."""

    ledger: Ledger
    locations: Sequence[str]
    merged: Sequence[SourceRow] | None = None

    def __iter__(self) -> Iterator[AccountRow]:
        for location, row in self._source_rows():
            known = self.ledger.sources[location]
            yield AccountRow(row, known.finished.identity.size, known.duration, known.worker, known.tries)

    def lists(self) -> dict[SourceOutcome, list[str]]:
        """Locations by outcome. A source with damaged layers counts as converted."""
        lists: dict[SourceOutcome, list[str]] = {outcome: [] for outcome in SourceOutcome}
        for location, row in self._source_rows():
            outcome = row.outcome or ""
            lists[SourceOutcome.CONVERTED if outcome == "damaged" else SourceOutcome(outcome)].append(location)
        return lists

    def _source_rows(self) -> Iterator[tuple[str, SourceRow]]:
        sources = self.ledger.merge_sources(self.locations)
        locations = sources.locations
        rows: Iterable[SourceRow]
        if self.merged is None:
            rows = map(self._row_of_journal, locations)
        elif sources.are_sorted:
            rows = self.merged
        else:
            by_location = {row.location: row for row in self.merged}
            rows = (by_location[location] for location in locations)
        return zip(locations, rows, strict=True)

    def _row_of_journal(self, location: str) -> SourceRow:
        known = self.ledger.sources[location]
        return SourceRow(
            location=location,
            type=None,
            images=known.images,
            failed=known.failed,
            outcome=known.finished.outcome.value,
            error=known.error,
            reason=known.message,
        )
