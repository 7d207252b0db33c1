"""Remembers the facts of layers by their place in a source, so that a repeated run need not read them again.

A place is a piece of an unchanged file: its path, inode, size, the time of the last change of its content (mtime) and
of its last change of any kind (ctime), in nanoseconds, and the piece's offset and length. Git's index, borg's files
cache and restic's parent snapshots use the same facts. Remembered facts are used only if the target has the layer's
blob, and the blob is proven to have that diffID. So a wrong result is possible only if a file's bytes changed and none
of these facts did. See docs/decisions/0004-hints-are-proven.md.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import Final

from migrate.blobio.payload import Payload
from migrate.blobio.source_files import settled_state
from migrate.model.digest import DiffID, Digest
from migrate.rehash.layer import Layer
from migrate.rehash.ports import TargetMemory
from migrate.rehash.reading import LayerFacts, OpenLayer
from migrate.tar.inspector import TarFacts

_FACTS: Final = (
    rb"([0-9a-f]{64}) ([0-9]{1,19}) ([0-9a-f]{64}|-) ([0-9]{1,19})"
    rb" ([a-z0-9]{1,8}) ([01]) ([a-z-]{1,16})"
)


_SMALL_BYTES: Final = 64 * 1024
"""Layers up to this size are read again: looking them up would take as long."""


class PayloadMemory:
    """The facts that earlier runs remembered of this run's layers, and those that this run remembers for later ones."""

    def __init__(self, memory: TargetMemory) -> None:
        self._memory = memory

    def facts_of(self, layer: Layer, opened: OpenLayer) -> LayerFacts | None:
        """The facts that an earlier run remembered of the layer's place, None if there are none. Raises IntegrityError
        if they contradict a claim of the source's documents.

        The facts are not proven: the caller checks the blob.
        """
        size = layer.job.payload.size
        if size is not None and size <= _SMALL_BYTES:
            return None
        layer.place = place_of(opened.payload)
        remembered = None if layer.place is None else self._memory.known_payload(layer.place)
        facts = None if remembered is None else parse_facts(remembered)
        if facts is None or facts.kind != opened.kind:
            return None
        opened.check_claims(facts)
        return facts

    def remember(self, layer: Layer, opened: OpenLayer) -> None:
        """Remembers a layer that was read to its end. A file that has changed since it was opened is not remembered."""
        if layer.place is None or layer.facts is None or place_of(opened.payload) != layer.place:
            return
        text = encode_facts(layer.facts)
        if text is not None:
            self._memory.remember_payload(layer.place, text)


def place_of(payload: Payload) -> str | None:
    """The key of a payload's place, 64 hex digits; None if it is in no file, or if the file was changed too
    recently."""
    piece: tuple[int, int | None]
    try:
        if payload.extent is not None:
            status, piece = os.fstat(payload.extent.fd), (payload.extent.offset, payload.extent.size)
            # An extent has a descriptor only; the next run needs a path to recognise the file.
            path = os.readlink(f"/proc/self/fd/{payload.extent.fd}")
        elif payload.path is not None:
            status, piece, path = os.stat(payload.path), (0, payload.size), os.path.abspath(payload.path)
        else:
            return None
    except OSError:
        return None
    state = settled_state(status)
    if state is None:
        return None
    facts = (os.fsencode(path), *state, *piece)
    return hashlib.sha256(repr(facts).encode("ascii")).hexdigest()


def encode_facts(facts: LayerFacts) -> bytes | None:
    """The facts as one line of printable text. None for a layer that a later run must read again: it is not exact, is
    damaged, or has a warning."""
    tar = facts.tar
    if not facts.exact or facts.damaged or facts.note is not None or tar.flags:
        return None
    stored = facts.stored_digest.hex if facts.stored_digest is not None else "-"
    fields = (facts.diff_id.hex, tar.size, stored, facts.stored_size, facts.kind, int(tar.empty))
    return " ".join(map(str, (*fields, facts.origin))).encode("ascii")


def parse_facts(text: bytes) -> LayerFacts | None:
    """The facts in a line of `encode_facts`; None for any other text."""
    match = re.fullmatch(_FACTS, text)
    if match is None:
        return None
    diff_hex, size, stored, stored_size, kind, empty, origin = (field.decode("ascii") for field in match.groups())
    return LayerFacts(
        kind=kind,
        stored_digest=None if stored == "-" else Digest(stored),
        stored_size=int(stored_size),
        diff_id=DiffID(Digest(diff_hex)),
        tar=TarFacts(size=int(size), empty=empty == "1", flags=()),
        origin=origin,
        exact=True,
        note=None,
    )
