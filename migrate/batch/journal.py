"""`.migrate/journal.jsonl`: one line for each finished source. Lines are appended and never changed.

A line begins with fields for people and programs (docs/howto/batch.md lists them) and ends with the compressed record
of the source, from which the merge makes images without opening the source again. A line without its newline was not
finished, because the run was killed, and is ignored.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, Final, cast

from isal import isal_zlib
from msgspec import Struct
from msgspec.json import Decoder

from migrate.batch.plan import Finished, Shard, SourceIdentity, SourceOutcome
from migrate.batch.records import SourceRecord, decode_line, encode_line, encode_record, parse_record
from migrate.blobio.limits import CATALOG_BYTES
from migrate.documents.json_text import check_limits
from migrate.errors import LimitError, TargetError
from migrate.storage.store import STATE_DIRECTORY, AppendedFile, Store
from migrate.storage.syscalls import target_errors

JOURNAL_NAME: Final = "journal.jsonl"
_NAMES: Final = re.compile(r"journal(?:-\d+-of-\d+)?\.jsonl")
_RECORD: Final = b',"record":"'
_ISAL_ERROR: Final[Any] = isal_zlib.IsalError
_ANY: Final[Decoder[Any]] = Decoder()
_SYNC_SECONDS: Final = 1.0
_MIRROR_SECONDS: Final = 1.0
"""The longest time until a piece is written. Before, it is a hundredth of the run's time so far: a short run writes a
piece for each finished task, and a long run does not write more pieces than necessary."""
_TEXT: Final = (str,)
_TEXT_OR_NONE: Final = (str, type(None))
_COUNT: Final = (int,)
_FIELDS: Final[Mapping[str, Mapping[str, tuple[type, ...]]]] = {
    "source": {
        **dict.fromkeys(("source", "outcome", "mark", "content", "recipe"), _TEXT),
        **dict.fromkeys(("type", "error", "message"), _TEXT_OR_NONE),
        **dict.fromkeys(("order", "images", "failed", "layers", "tar_bytes", "finished"), _COUNT),
        "size": (int, type(None)),
        "seconds": (int, float),
    },
    "run": {
        **dict.fromkeys(("run", "version", "recipe"), _TEXT),
        **dict.fromkeys(("sources", "bytes", "done_before"), _COUNT),
        **dict.fromkeys(("options", "reported"), (dict,)),
    },
    "merged": {"merged": _TEXT, "images": _COUNT, "failures": _COUNT, "journals": (dict,), "recipes": (list,)},
}
"""The fields that a line of each kind must have, with their types. The kind is the name of the first field."""
_OUTCOMES: Final = frozenset(outcome.value for outcome in SourceOutcome)
_LINE_BYTES: Final = CATALOG_BYTES
"""A longer line was not written by this program, and is ignored."""


class JournalEntry(Struct, frozen=True, kw_only=True):
    """One finished source. `figures` are counts and sizes in bytes; `error` and `message` are of the first failure.

    `worker` is the name of the worker that read it, if workers have names, and `tries` the number of workers that tried
    it. `absent`: the worker did not find the source. `content` is a digest of the IDs and references that the source
    lists. `packed` is its record. `missing` are the layers that it lacks; `again`: it was read again, with those of its
    missing layers that other sources of the batch have.
    """

    source: str
    identity: SourceIdentity
    recipe: str
    order: int
    outcome: SourceOutcome
    type: str | None
    content: str
    figures: Mapping[str, int]
    seconds: float
    packed: str
    error: str | None = None
    message: str | None = None
    worker: str | None = None
    tries: int = 1
    absent: bool = False
    missing: tuple[str, ...] = ()
    again: bool = False


class LinePlace(Struct, frozen=True, gc=False):
    """The place of a line in the journal with this name, in bytes."""

    journal: str
    offset: int
    length: int


class Line(Struct, frozen=True):
    """A line as read, without its record. A line of kind `run` is the first of a run; `merged`, the last."""

    fields: Mapping[str, Any]
    place: LinePlace

    @property
    def is_source(self) -> bool:
        return "source" in self.fields

    def finished(self) -> Finished:
        fields = self.fields
        identity = SourceIdentity(fields["size"], fields["mark"])
        return Finished(identity, sys.intern(fields["recipe"]), SourceOutcome(fields["outcome"]))


def pack_record(record: SourceRecord) -> str:
    """The record as compressed text. Raises LimitError if it is too large to be read again."""
    content = encode_record(record)
    check_limits(content, "the record of all images of this source", CATALOG_BYTES)
    return base64.b64encode(isal_zlib.compress(content, 1)).decode("ascii")


def unpack_record(
    packed: bytes, source: str, *, images: bool = True, layers: bool = True, held: bool = False
) -> SourceRecord:
    """The record of a text from `pack_record`. Raises ValueError for any other text."""
    try:
        content = isal_zlib.decompressobj().decompress(base64.b64decode(packed, validate=True), CATALOG_BYTES + 1)
        check_limits(content, "its record", CATALOG_BYTES)  # before it is parsed: it may be a bomb
    except (_ISAL_ERROR, LimitError) as exc:
        raise ValueError(f"{source}: {exc}") from exc
    return parse_record(content, source, images=images, layers=layers, held=held)


# --- reading -----------------------------------------------------------------------------------------------------


class Journals:
    """All journals of a target, its own and those of shards, by their names in `.migrate`. May be used from any thread.
    Journals stay open once a record was read, until `close`. Raises TargetError."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._streams: dict[str, BinaryIO] = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        return [name for name in self.store.names(STATE_DIRECTORY) if is_journal(name)]

    def shown(self, journal: str) -> str:
        """The journal's path for error messages."""
        return self.store.shown(stored_name(journal))

    def open(self, journal: str) -> BinaryIO:
        stream = self.store.open(stored_name(journal))
        if stream is None:
            raise TargetError(f"{self.shown(journal)}: it no longer exists")
        return stream

    def iter_lines(self, journal: str) -> Iterator[Line]:
        """The complete lines of a journal, in order. Lines that do not parse or lack a field are ignored."""
        with target_errors(self.shown(journal)), io.BufferedReader(cast(io.RawIOBase, self.open(journal))) as stream:
            offset = 0
            while raw := stream.readline(_LINE_BYTES):
                line = _parse_line(raw)  # None for the pieces of a line that is too long
                if line is not None:
                    yield Line(line, LinePlace(journal, offset, len(raw)))
                offset += len(raw)

    def read(
        self, place: LinePlace, source: str, *, images: bool = True, layers: bool = True, held: bool = False
    ) -> SourceRecord:
        """The record at a place."""
        with self._lock, target_errors(self.shown(place.journal)):
            stream = self._streams.get(place.journal)
            if stream is None:
                stream = self._streams[place.journal] = self.open(place.journal)
            stream.seek(place.offset)
            raw = stream.read(place.length)
        packed = raw.partition(_RECORD)[2].removesuffix(b'"}\n')
        try:
            return unpack_record(packed, source, images=images, layers=layers, held=held)
        except ValueError as exc:
            raise TargetError(
                f"{self.shown(place.journal)}: the record of {source} is damaged ({exc}); move the journal away to"
                " begin again"
            ) from exc

    def is_running(self, journal: str) -> bool:
        """True while a run writes to the journal."""
        return self.store.is_growing(stored_name(journal))

    def check_owners(self) -> None:
        """Raises TargetError for a journal of another user, because its names and layers would become images."""
        for journal in self.names():
            owner = self.store.foreign_owner(stored_name(journal))
            if owner is not None:
                raise TargetError(
                    f"{self.shown(journal)}: belongs to user {owner}, not to this one ({os.geteuid()}), so its records"
                    " are not used (run the batch as that user, or move the journal away to begin again)"
                )

    def close(self) -> None:
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()


def is_journal(name: str) -> bool:
    return _NAMES.fullmatch(name) is not None


def journal_name(shard: Shard | None) -> str:
    return JOURNAL_NAME if shard is None else f"journal-{shard.number}-of-{shard.count}.jsonl"


def stored_name(journal: str) -> str:
    """The name of a journal in the store."""
    return f"{STATE_DIRECTORY}/{journal}"


def _parse_line(raw: bytes) -> dict[str, Any] | None:
    if not raw.endswith(b"}\n"):
        return None
    head, mark, _ = raw.partition(_RECORD)
    try:
        fields = decode_line(_ANY, head + b"}" if mark else raw)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) and _is_complete(fields, has_record=bool(mark)) else None


def _is_complete(fields: Mapping[str, Any], *, has_record: bool) -> bool:
    # A target may come with a journal that somebody else wrote. So all types are checked here, and no reader of a line
    # has to handle a wrong one.
    kind = next((kind for kind in _FIELDS if kind in fields), None)
    if kind is None or has_record != (kind == "source"):
        return False
    if not all(name in fields and type(fields[name]) in types for name, types in _FIELDS[kind].items()):
        return False
    if kind == "source":
        is_named = type(fields.get("worker", "")) is str and type(fields.get("tries", 1)) is int
        return is_named and fields.get("again", True) is True and fields["outcome"] in _OUTCOMES
    if kind == "run":
        return True
    changed = fields.get("outcomes", {})
    return (
        all(type(end) is int for end in fields["journals"].values())
        and all(type(recipe) is str for recipe in fields["recipes"])
        and type(changed) is dict
        and all(type(outcome) is str and outcome in _OUTCOMES for outcome in changed.values())
    )


# --- writing -----------------------------------------------------------------------------------------------------


class JournalWriter:
    """The journal of one run. No other run can open it meanwhile. Raises TargetError.

    A line is given to the system at once, so that it is not lost if the process is killed. `settle` writes it to the
    disk within a second. For a target that is not on this machine, `mirror` gets the same lines at most a second later.
    """

    def __init__(
        self,
        store: Store,
        shard: Shard | None,
        mirror: AppendedFile | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = journal_name(shard)
        self._clock = clock
        self._file = store.append_to(stored_name(self.name), alone=True)
        self._mirror = mirror
        self._is_synced = self._is_mirrored = True
        try:
            self._size = 0
            last = b"\n"
            stream = store.open(stored_name(self.name))
            if stream is not None:
                with stream, target_errors(store.shown(stored_name(self.name))):
                    self._size = stream.seek(0, os.SEEK_END)
                    stream.seek(max(0, self._size - 1))
                    last = stream.read(1)
            if self._size and last != b"\n":
                # a line that a killed run left unfinished must not become the beginning of the next one
                self._append(b"\n")
        except BaseException:
            self._file.close()
            raise
        self._began = self._synced = self._mirrored = clock()

    def place(self) -> LinePlace:
        """Where the next line will be."""
        return LinePlace(self.name, self._size, 0)

    def append(self, entry: JournalEntry) -> None:
        # The kind of a line is its first field, and the record comes last, so that it can be skipped without parsing
        # it.
        fields = {
            "source": entry.source,
            "outcome": entry.outcome.value,
            "type": entry.type,
            "size": entry.identity.size,
            "mark": entry.identity.mark,
            "content": entry.content,
            "recipe": entry.recipe,
            "order": entry.order,
            **entry.figures,
            "seconds": entry.seconds,
            **({} if entry.worker is None else {"worker": entry.worker}),
            **({} if entry.tries == 1 else {"tries": entry.tries}),
            **({"again": True} if entry.again else {}),
            "error": entry.error,
            "message": entry.message,
            "finished": int(time.time()),
        }
        self._write(encode_line(fields)[:-1] + _RECORD + entry.packed.encode("ascii") + b'"}\n')

    def note(self, fields: Mapping[str, Any]) -> None:
        """A line about the run itself."""
        self._write(encode_line(fields) + b"\n")

    def _write(self, line: bytes) -> None:
        self._append(line)
        self.settle()

    def _append(self, block: bytes) -> None:
        self._file.append(block)
        if self._mirror is not None:
            self._mirror.append(block)
        self._size += len(block)
        self._is_synced = self._is_mirrored = False

    def settle(self, *, at_once: bool = False) -> None:
        """Writes lines that have waited long enough, with `at_once` all, to the disk and to the target. Must be called
        regularly, because the next line may come only after an hour."""
        now = self._clock()
        if not self._is_synced and (at_once or now - self._synced >= _SYNC_SECONDS):
            self.sync()
        wait = 0.0 if at_once else min((now - self._began) / 100, _MIRROR_SECONDS)
        if self._mirror is not None and not self._is_mirrored and now - self._mirrored >= wait:
            self._mirror.sync()
            self._mirrored, self._is_mirrored = self._clock(), True

    @property
    def is_kept(self) -> bool:
        """True if all lines so far are where the next run finds them, even if this one is killed."""
        return self._mirror is None or self._is_mirrored

    def sync(self) -> None:
        self._file.sync()
        self._synced = self._clock()
        self._is_synced = True

    def close(self) -> None:
        try:
            if self._mirror is not None:
                self._mirror.close()
            with contextlib.suppress(TargetError):
                self._file.sync()
        finally:
            self._file.close()
