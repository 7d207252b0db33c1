"""Between run and merge, sources that lack layers are read again, with the layers that other sources have.

This is repeated until nothing changes, because a source may have a layer whose parent is in a third one. The result
depends only on the records, not on the order of work.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from migrate.batch.journal import Journals, JournalWriter
from migrate.batch.ledger import Ledger
from migrate.batch.lending import Lenders
from migrate.batch.plan import Candidate, Loan, SourceOutcome, plan_tasks
from migrate.batch.run import TaskRun, emit_outcome
from migrate.batch.task import WorkOrder
from migrate.batch.worker_pool import WorkerPool
from migrate.convert.earlier import EarlierImages
from migrate.model.digest import DiffID, Digest
from migrate.model.legacy import LegacyID
from migrate.model.progress import Progress

_STAGE = "complete"


class Completion(Struct):
    """`sources` are those of the batch, in their order, and `read` reads the journals as they are now. `earlier` are
    the images of the target; None in a dry run. `open_pool` is called only if a source has to be read again. `run` may
    be called once."""

    sources: Mapping[str, Candidate]
    read: Callable[[], Ledger]
    journals: Journals
    order: WorkOrder
    open_pool: Callable[[], WorkerPool]
    journal: JournalWriter
    progress: Progress
    earlier: EarlierImages | None = None
    again: set[str] = field(default_factory=set)
    """Sources that were read again."""
    _wanted: dict[str, set[str]] = field(default_factory=dict)
    _tried: dict[str, Loan] = field(default_factory=dict)

    def run(self, undecided: Collection[str] = ()) -> Ledger:
        """Returns the journals at the end. Emits the outcomes of the sources `undecided` and of those that were read
        again. Raises TargetError, and the errors of a run."""
        ledger = self.read()
        # each round may complete sources that the next round needs as lenders
        while candidates := self._next(ledger):
            self.again |= {candidate.location for candidate in candidates}
            pool = self.open_pool()
            plan = plan_tasks(candidates, {}, self.order.recipe, workers=pool.workers)
            TaskRun(self.order, plan, pool, self.journal, self.progress, _STAGE).run()
            ledger = self.read()
        for location in (one for one in self.sources if one in self.again or one in undecided):
            known = ledger.sources[location]
            record = self.journals.read(known.place, location, images=False, layers=False)
            size = known.finished.identity.size or 0
            emit_outcome(self.progress, location, known.finished.outcome, known.message, size, record.failures)
        return ledger

    def _next(self, ledger: Ledger) -> list[Candidate]:
        """The sources that lack layers which others have, except those that got the same layers in an earlier round."""
        lacking: dict[str, set[str]] = {}
        for location in self.sources:
            known = ledger.sources.get(location)
            if known is not None and known.finished.outcome is SourceOutcome.FAILED:
                record = self.journals.read(known.place, location, images=False, layers=False)
                if record.missing:
                    lacking[location] = self._wanted.setdefault(location, set())
                    lacking[location].update(record.missing, record.lent)
        if not lacking:
            return []
        places = ledger.places(location for location in self.sources if location in ledger.sources)
        # A source that can lend a layer may itself lack the layers below it, which must come from a third source.
        wanted: set[str] = set()
        for location, place in places.items():
            record = self.journals.read(place, location, images=False, layers=False)
            wanted.update(record.missing, record.lent)
        lenders = Lenders(wanted.union(*lacking.values()))
        for location, place in places.items():
            record = self.journals.read(place, location, images=False, held=True)
            lenders.take(location, record, dry_run=self.order.target is None)
        candidates = []
        for location, lacked in lacking.items():
            loan = lenders.loan(location, sorted(lacked))
            is_lent = bool(loan.layers or loan.contents)
            if self.earlier is not None and not is_lent:
                ids = [LegacyID(one) for one in sorted(lacked) if not one.startswith("sha256:")]
                diff_ids = [DiffID(Digest.parse(one)) for one in sorted(lacked) if one.startswith("sha256:")]
                is_lent = any(self.earlier.read_layer(one) for one in ids) or bool(self.earlier.find_layers(diff_ids))
            if is_lent and loan != self._tried.get(location):
                self._tried[location] = loan
                candidates.append(replace(self.sources[location], loan=loan))
        return candidates


def candidates_of(ledger: Ledger, locations: Sequence[str]) -> dict[str, Candidate]:
    """The sources with the identity and order that their lines in the journals have."""
    found = ((location, ledger.sources[location]) for location in locations)
    return {location: Candidate(location, known.finished.identity, known.order) for location, known in found}
