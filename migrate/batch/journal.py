"""`.migrate/journal.jsonl`: one line for each finished source, appended and never changed.

A line begins with what people and programs want to know (docs/howto/batch.md lists the fields) and ends with the
source's record, packed, from which the merge makes images without opening the source again. A line counts once its
newline is there; what a killed run left unfinished is passed over.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import re
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from deflate import zlib_compress
from msgspec import Struct

from migrate.batch.plan import Finished, Shard, SourceIdentity, SourceOutcome
from migrate.batch.records import SourceRecord, encode_record, parse_record
from migrate.blobio.limits import CATALOG_BYTES
from migrate.documents.json_text import check_limits
from migrate.errors import LimitError, TargetError
from migrate.storage.syscalls import DIRECTORY, SYSTEM_CALLS, SystemCalls, open_regular, target_errors, write_all

JOURNAL_NAME: Final = "journal.jsonl"
_NAMES: Final = re.compile(r"journal(?:-\d+-of-\d+)?\.jsonl")
_RECORD: Final = b',"record":"'
_SYNC_SECONDS: Final = 1.0
_PUBLISH_SECONDS: Final = (1.0, 10.0)
"""A piece waits for a hundredth of the time that the run has taken so far, but at least and at most so long: a run of a
minute that is killed loses a second, and one of a day makes no more pieces than it takes to lose ten."""
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
"""What a line of each kind has; its kind is the name of its first field."""
_OUTCOMES: Final = frozenset(outcome.value for outcome in SourceOutcome)
_LINE_BYTES: Final = CATALOG_BYTES
"""A longer line was not written by this program, and is passed over."""


class JournalEntry(Struct, frozen=True, kw_only=True):
    """One finished source. `figures` are counts and sizes in bytes; `error` and `message` are of the first failure.

    `worker` is the name of the one that read it, where workers have names, and `tries` counts those that were given it.
    `absent`: the worker found nothing at the source's place. `content` is a digest over the IDs and references that
    the source lists. `packed` is its record. `missing` are the layers that it lacks; `again`: it was read once more,
    with what the rest of the batch has of them.
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


class LinePlace(Struct, frozen=True):
    """Where a line of a journal is."""

    path: Path
    offset: int
    length: int


class Line(Struct, frozen=True):
    """A line as read, without its record. `fields` of kind `run` open a run, of kind `merged` close one."""

    fields: Mapping[str, Any]
    place: LinePlace

    @property
    def is_source(self) -> bool:
        return "source" in self.fields

    def finished(self) -> Finished:
        fields = self.fields
        identity = SourceIdentity(fields["size"], fields["mark"])
        return Finished(identity, fields["recipe"], SourceOutcome(fields["outcome"]))


def pack_record(record: SourceRecord) -> str:
    """Raises LimitError for a record that would not be read again."""
    content = encode_record(record)
    check_limits(content, "the record of all images of this source", CATALOG_BYTES)
    return base64.b64encode(zlib_compress(content, 1)).decode("ascii")


def unpack_record(
    packed: bytes, source: str, *, images: bool = True, layers: bool = True, held: bool = False
) -> SourceRecord:
    """ValueError for what `pack_record` did not make."""
    try:
        content = zlib.decompressobj().decompress(base64.b64decode(packed, validate=True), CATALOG_BYTES + 1)
        check_limits(content, "its record", CATALOG_BYTES)  # before it is parsed: it may be a bomb
    except (zlib.error, LimitError) as exc:
        raise ValueError(f"{source}: {exc}") from exc
    return parse_record(content, source, images=images, layers=layers, held=held)


# --- reading -----------------------------------------------------------------------------------------------------


def journal_paths(state: Path) -> list[Path]:
    """All journals of a target: its own, and those of shards."""
    try:
        return sorted(state / name for name in os.listdir(state) if _NAMES.fullmatch(name))
    except (FileNotFoundError, NotADirectoryError):
        return []


def iter_lines(path: Path) -> Iterator[Line]:
    """The whole lines of a journal, in order; those that do not parse, or lack a field, are passed over.

    Raises TargetError.
    """
    with target_errors(str(path)), open_journal(path) as stream:
        offset = 0
        while raw := stream.readline(_LINE_BYTES):
            line = _parse_line(raw)  # None for the pieces of a line that is too long
            if line is not None:
                yield Line(line, LinePlace(path, offset, len(raw)))
            offset += len(raw)


def open_journal(path: Path) -> BinaryIO:
    """For reading, and never through a link."""
    return open(open_regular(str(path), os.O_RDONLY, None, str(path)), "rb")


def check_owners(state: Path) -> None:
    """TargetError for a journal that another user made: its names and layers would become images."""
    for path in journal_paths(state):
        with target_errors(str(path)), open_journal(path) as stream:
            owner = os.fstat(stream.fileno()).st_uid
        if owner not in (os.geteuid(), 0) and owner != _owner_of_new_files(state):
            raise TargetError(
                f"{path}: belongs to user {owner}, and not to this one ({os.geteuid()}); its records are not believed"
                " (run the batch as that user, or move the journal away to begin again)"
            )


def _owner_of_new_files(directory: Path) -> int | None:
    """A network file system may give what root makes to another user."""
    try:
        with tempfile.TemporaryFile(dir=directory) as probe:
            return os.fstat(probe.fileno()).st_uid
    except OSError:
        return None


def _parse_line(raw: bytes) -> dict[str, Any] | None:
    if not raw.endswith(b"}\n"):
        return None
    head, mark, _ = raw.partition(_RECORD)
    try:
        fields = json.loads(head + b"}" if mark else raw)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) and _is_complete(fields, has_record=bool(mark)) else None


def _is_complete(fields: Mapping[str, Any], *, has_record: bool) -> bool:
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


class RecordReader:
    """Records by their places, from any thread. Keeps the journals open; to be closed."""

    def __init__(self) -> None:
        self._files: dict[Path, BinaryIO] = {}
        self._lock = threading.Lock()

    def read(
        self, place: LinePlace, source: str, *, images: bool = True, layers: bool = True, held: bool = False
    ) -> SourceRecord:
        """Raises TargetError for a record that is damaged."""
        with target_errors(str(place.path)):
            with self._lock:
                stream = self._files.get(place.path)
                if stream is None:
                    stream = self._files[place.path] = open_journal(place.path)
            raw = os.pread(stream.fileno(), place.length, place.offset)
        packed = raw.partition(_RECORD)[2].removesuffix(b'"}\n')
        try:
            return unpack_record(packed, source, images=images, layers=layers, held=held)
        except ValueError as exc:
            raise TargetError(
                f"{place.path}: the record of {source} is damaged ({exc}); move the journal away to begin again"
            ) from exc

    def close(self) -> None:
        for stream in self._files.values():
            stream.close()
        self._files.clear()


def journal_name(shard: Shard | None) -> str:
    return JOURNAL_NAME if shard is None else f"journal-{shard.number}-of-{shard.count}.jsonl"


# --- writing -----------------------------------------------------------------------------------------------------


class JournalWriter:
    """The journal of one run, locked while it is open. Raises TargetError, also if another run has it.

    A line reaches the system at once, so that it outlives the process, and the disk within a second where `settle` is
    called. `publish` gets every piece that has reached it, some seconds later, for a target on another machine.
    """

    def __init__(
        self,
        state: Path,
        shard: Shard | None,
        publish: Callable[[bytes], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        files: SystemCalls = SYSTEM_CALLS,
    ) -> None:
        self._files = files
        self.path = state / journal_name(shard)
        self._publish = publish
        self._clock = clock
        with target_errors(str(self.path)):
            state.mkdir(parents=True, exist_ok=True)
            folder = os.open(state, DIRECTORY)
            try:
                flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
                self._fd = open_regular(self.path.name, flags, folder, str(self.path), files)
            finally:
                os.close(folder)
        try:
            if not try_lock(self._fd):
                raise TargetError(f"{self.path}: another run is at work on this journal")
            # a line that a killed run left unfinished must not become the beginning of the next one
            with target_errors(str(self.path)):
                size = os.fstat(self._fd).st_size
                if size and os.pread(self._fd, 1, size - 1) != b"\n":
                    write_all(self._files, self._fd, b"\n", str(self.path))
            self._published = os.fstat(self._fd).st_size
        except BaseException:
            os.close(self._fd)
            raise
        self._began = self._synced = self._published_at = clock()
        self._is_synced = True

    def place(self) -> LinePlace:
        """Where the next line will be."""
        with target_errors(str(self.path)):
            return LinePlace(self.path, os.fstat(self._fd).st_size, 0)

    def append(self, entry: JournalEntry) -> None:
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
        self._write(_encode(fields)[:-1] + _RECORD + entry.packed.encode("ascii") + b'"}\n')

    def note(self, fields: Mapping[str, Any]) -> None:
        """A line about the run itself."""
        self._write(_encode(fields) + b"\n")

    def _write(self, line: bytes) -> None:
        write_all(self._files, self._fd, line, str(self.path))
        self._is_synced = False
        self.settle()

    def settle(self) -> None:
        """Lines that have waited long enough go to the disk, and to the target. To be called now and then: after a line
        there may be none for an hour."""
        now = self._clock()
        if not self._is_synced and now - self._synced >= _SYNC_SECONDS:
            self.sync()
        least, most = _PUBLISH_SECONDS
        if now - self._published_at >= min(max((now - self._began) / 100, least), most):
            self.publish()

    def sync(self) -> None:
        with target_errors(str(self.path)):
            self._files.sync(self._fd)
        self._synced = self._clock()
        self._is_synced = True

    def publish(self) -> None:
        """What has not been published yet."""
        if self._publish is None:
            return
        with target_errors(str(self.path)):
            size = os.fstat(self._fd).st_size
            piece = os.pread(self._fd, size - self._published, self._published)
        if piece:  # else the next line need not wait
            self._publish(piece)
            self._published += len(piece)
            self._published_at = self._clock()

    def close(self) -> None:
        if self._fd >= 0:
            try:
                self.publish()
                with contextlib.suppress(OSError):
                    self._files.sync(self._fd)
            finally:
                os.close(self._fd)
                self._fd = -1


def _encode(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode("ascii")


def try_lock(fd: int) -> bool:
    """False if another process has the journal. Where the file system has no locks, everybody gets it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def is_running(path: Path) -> bool:
    """True while a run writes to the journal."""
    try:
        fd = open_regular(str(path), os.O_RDONLY, None, str(path))
    except (OSError, TargetError):  # reading it gives the error
        return False
    try:
        return not try_lock(fd)
    finally:
        os.close(fd)
