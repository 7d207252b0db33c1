"""Figures about the images of a run for the summary. Images are counted and not kept: a batch has too many."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Final, Self

from msgspec import Struct, field

from migrate.model.digest import Digest
from migrate.model.packed import PackedTable, packed_digest
from migrate.report.document import Conflict, Report, ReportImage

ALIKE_SHOWN: Final = 3
"""Up to this many messages of one kind are listed; of more, the first one and a count."""
_PARTICULARS: Final = re.compile(r"""'[^']*'|"[^"]*"|\S*[/:@]\S*|\b[0-9a-f]{12,}\b|\d[\d,.]*""")


class MessageKind(Struct):
    """Messages that differ only in the names, IDs and numbers in them."""

    number: int = 0
    first: list[str] = field(default_factory=list)

    @property
    def shown(self) -> list[str]:
        return self.first if self.number <= ALIKE_SHOWN else self.first[:1]

    @property
    def more(self) -> int:
        return self.number - len(self.shown)


class MessageKinds:
    """Messages by kind, in the order in which the kinds occurred first."""

    def __init__(self) -> None:
        self._kinds: dict[str, MessageKind] = {}
        self.number = 0

    def add(self, name: str, message: str, shown: str) -> None:
        """Adds `message`; `shown` is the same with its subject, for the list. Messages that differ only in `name` are
        of one kind."""
        text = _PARTICULARS.sub("…", message.replace(name, "…") if name else message)
        kind = self._kinds.setdefault(text, MessageKind())
        kind.number += 1
        self.number += 1
        if len(kind.first) < ALIKE_SHOWN:
            kind.first.append(shown)

    def merge(self, others: MessageKinds) -> None:
        for text, other in others._kinds.items():
            kind = self._kinds.setdefault(text, MessageKind())
            kind.number += other.number
            kind.first += other.first[: ALIKE_SHOWN - len(kind.first)]
        self.number += others.number

    def __iter__(self) -> Iterator[MessageKind]:
        return iter(self._kinds.values())

    def __len__(self) -> int:
        return len(self._kinds)


class Claimant(Struct, frozen=True):
    """An image that claims a name: its source, and its names in the target."""

    source: str
    created: str | None
    names: tuple[str, ...]


class Glance:
    """Counts of images, their warnings by kind, and the images of `conflicts`."""

    def __init__(self, conflicts: Iterable[Conflict] = (), *, several: bool = False) -> None:
        """`several`: the run has more than one source, so that warnings name their source."""
        self._several = several
        self.inexact = self.unnamed = self.damaged = 0
        self.warnings = MessageKinds()
        self.claimants: dict[Digest, Claimant] = {}
        self.manifests = PackedTable(key=32)
        self._disputed: Collection[Digest] = {
            digest for conflict in conflicts for digest in (conflict.kept, *conflict.others)
        }

    @classmethod
    def of(cls, report: Report) -> Self:
        glance = cls(report.conflicts, several=len(report.sources) > 1)
        for image in report.images:
            glance.add(image)
        return glance

    def add(self, image: ReportImage) -> None:
        self.inexact += not image.exact
        self.unnamed += not image.names
        self.damaged += any(layer.damaged for layer in image.layers)
        identity = image.manifest_digest or image.image_id  # a plan that compressed nothing has no manifest
        if (manifest := packed_digest(identity)) not in self.manifests:
            self.manifests.add(manifest)
        for message in image.warnings:
            where = f"{image.source}: " if self._several and image.source not in message else ""
            self.warnings.add(image.title, message, f"{where}{image.title}: {message}")
        if identity in self._disputed:
            self.claimants.setdefault(identity, Claimant(image.source, image.created, image.names))
