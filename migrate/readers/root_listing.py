"""Which images a Docker root holds: the tagged ones, the untagged heads, and those that containers were made from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from migrate.documents.docker_root import TagRecord
from migrate.errors import DocumentError, MissingLayerError
from migrate.model.digest import Digest
from migrate.model.legacy import Failure, LegacyID, LegacyImage, SourceListing
from migrate.model.reference import Reference
from migrate.readers.root_records import TagStore


@dataclass(frozen=True, slots=True, kw_only=True)
class RootFacts:
    """What the listing is made of. `parents` holds every ID of the graph; `elsewhere` those that only another driver
    has the layer of, with `warnings` of each."""

    location: str
    parents: Mapping[LegacyID, LegacyID | None]
    elsewhere: frozenset[LegacyID]
    tags: TagStore
    containers: Mapping[str, tuple[str, ...]]
    container_images: Sequence[LegacyImage]
    warnings: tuple[str, ...]


def list_images(facts: RootFacts) -> SourceListing:
    """Pure: the same facts give the same listing, in the same order."""
    references, failures = _sort_tags(facts)
    containers, warnings = _sort_containers(facts)
    own = [legacy_id for legacy_id in sorted(facts.parents) if legacy_id not in facts.elsewhere]
    has_children = {parent for legacy_id in own if (parent := facts.parents[legacy_id])}
    heads = [
        legacy_id
        for legacy_id in sorted(facts.parents)
        if legacy_id in references
        or legacy_id in containers
        or (legacy_id not in has_children and legacy_id not in facts.elsewhere)
    ]
    images = [
        LegacyImage(
            head=head,
            references=tuple(sorted(references.get(head, ()))),
            containers=containers.get(head, ()),
            legacy_digests=tuple(sorted({Digest.parse(one.tag) for one in references.get(head, ()) if one.is_digest})),
        )
        for head in heads
    ]
    if facts.tags.error is not None:
        lost = f"{facts.tags.error.message}; every tag is lost with it"
        failures.append(Failure.of(facts.tags.error, facts.location, message=lost))
    failures += [Failure.of(DocumentError(loss), facts.location) for loss in facts.tags.losses]
    return SourceListing(
        images=images,
        layers=own,
        containers=facts.container_images,
        failures=failures,
        warnings=(*facts.warnings, *facts.tags.problems, *warnings),
    )


def _sort_tags(facts: RootFacts) -> tuple[dict[LegacyID, list[Reference]], list[Failure]]:
    references: dict[LegacyID, list[Reference]] = defaultdict(list)
    failures: list[Failure] = []
    for record in facts.tags.tags:
        legacy_id = LegacyID(record.legacy_id)
        if legacy_id in facts.parents:
            references[legacy_id].append(Reference(record.name, record.tag))
        else:
            failures.append(_dangling(facts, record))
    return references, failures


def _dangling(facts: RootFacts, record: TagRecord) -> Failure:
    reference = str(Reference(record.name, record.tag))
    message = f"{facts.location}: {reference} names {record.legacy_id!r}, which is not in graph/"
    similar = _starting_with(record.legacy_id, facts.parents)
    if similar:
        message += f"; Docker reads whole IDs only, this one could be short for {' or '.join(similar)}"
    return Failure.of(
        MissingLayerError(message), facts.location, references=[reference], legacy_id=record.legacy_id or None
    )


def _starting_with(prefix: str, ids: Mapping[LegacyID, object]) -> Sequence[LegacyID]:
    return sorted(legacy_id for legacy_id in ids if prefix and legacy_id.startswith(prefix))[:3]


def _sort_containers(facts: RootFacts) -> tuple[dict[LegacyID, tuple[str, ...]], list[str]]:
    known: dict[LegacyID, tuple[str, ...]] = {}
    warnings: list[str] = []
    for image, containers in sorted(facts.containers.items()):
        legacy_id = LegacyID(image)
        if legacy_id in facts.parents:
            known[legacy_id] = containers
        else:
            warnings.append(f"{_named(containers)} made from image {image}, which is not in graph/")
    return known, warnings


def _named(containers: Sequence[str]) -> str:
    return f"container {containers[0]} was" if len(containers) == 1 else f"containers {', '.join(containers)} were"
