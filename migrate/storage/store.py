"""Named files below a root that can be written: a directory of this machine, or a bucket.

A name is relative to the root, with components joined by `/`. Every file is whole or absent: it gets its name after all
of its bytes are written, and a file that had the name is replaced in one step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import BinaryIO, ClassVar, Protocol, Self

from migrate.blobio.limits import SMALL_FILE_BYTES
from migrate.errors import TargetError

STATE_DIRECTORY = ".migrate"
"""The folder of a target with records that later runs may use, and can do without."""
NOT_OURS = frozenset({"lost+found"})
"""Names that an empty root may have: the folder that mkfs makes in the root of a file system."""


_BLOCK = 1024 * 1024


def is_url(location: str) -> bool:
    """True for `s3://bucket/prefix` and other URLs; False for a plain path and for `docker://`."""
    scheme, separator, _ = location.partition("://")
    return bool(separator) and scheme.isalnum() and scheme != "docker"


class NewFile(Protocol):
    """A file that has no name yet. If its context ends without `publish`, it is removed. Raises TargetError."""

    size: int
    """Bytes written so far."""

    def write(self, block: bytes | bytearray | memoryview, /) -> object: ...

    def publish(self, name: str, /, *, replace: bool = True) -> None:
        """Gives the complete file its name, which is durable after the store's next `flush`. Without `replace`, an
        existing file of that name may stay, because it has the same content."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...


class AppendedFile(Protocol):
    """A record to which lines are only appended. Raises TargetError."""

    def append(self, block: bytes, /) -> None:
        """Appends whole lines. A store whose files cannot grow writes them in `sync` and `close`."""

    def sync(self) -> None:
        """Makes durable what was appended so far."""

    def close(self) -> None: ...


OnNamed = Callable[[str, int, str | None], None]
"""Called with (name, bytes, version) of a file of this run after it got its name."""


class Store(ABC):
    """May be used from several threads; several processes need a store each. Raises TargetError only; WrongKindError if
    a name is not that of a regular file.

    `location` names the root in errors.
    """

    location: str
    reads_cost: ClassVar[bool] = False
    """True if reading a small file takes as long as writing it."""
    on_named: OnNamed | None = None
    """Called for each published file whose version is known immediately; `versions` gives those of others."""

    # --- reading -------------------------------------------------------------------------------------------------

    @abstractmethod
    def open(self, name: str, /) -> BinaryIO | None:
        """The file's content from its start, None if there is no such file. The caller closes the stream, whose `read`
        raises OSError."""

    @abstractmethod
    def names(self, folder: str = "", /) -> Sequence[str]:
        """The names directly in a folder, sorted; empty if there is no such folder."""

    @abstractmethod
    def sizes(self, folder: str, /) -> Mapping[str, int]:
        """Bytes of the regular files directly in a folder, by the last component of their names."""

    def read(self, name: str, limit: int, /) -> bytes | None:
        """The whole file, None if there is none; TargetError if it is larger than `limit` bytes."""
        stream = self.open(name)
        if stream is None:
            return None
        try:
            with stream:
                content = _read_up_to(stream, limit + 1)
        except OSError as exc:
            raise TargetError(f"{self.shown(name)}: {exc.strerror or exc}") from exc
        return self.within(name, content, limit)

    def within(self, name: str, content: bytes, limit: int) -> bytes:
        """`content`; TargetError if it is larger than `limit` bytes."""
        if len(content) > limit:
            raise TargetError(f"{self.shown(name)}: larger than the limit of {limit:,} bytes")
        return content

    def read_many(self, names: Sequence[str], limit: int, /) -> dict[str, bytes]:
        """Small files. Those that are absent, larger than `limit` or cannot be read are left out."""
        found: dict[str, bytes] = {}
        for name in names:
            try:
                content = self.read(name, limit)
            except TargetError:
                continue
            if content is not None:
                found[name] = content
        return found

    def version(self, name: str, /) -> str | None:
        """A text that changes with the file: its inode, size and times, or its ETag. None if there is no such file, or
        if it could change without another text."""
        del name
        return None

    def versions(self, folder: str, /) -> Mapping[str, tuple[int, str]]:
        """Name → (bytes, version) of the files in a folder and below it. Empty for a store that cannot list many files
        with one request."""
        del folder
        return {}

    @abstractmethod
    def iter_versions(self) -> Iterator[tuple[str, int, str | None]]:
        """(name, bytes, version) of every file, and of everything else that is no folder, in any order. The version is
        None as for `version`, and for anything but a regular file."""

    # --- writing -------------------------------------------------------------------------------------------------

    @abstractmethod
    def new_file(self) -> NewFile: ...

    @abstractmethod
    def put(self, name: str, content: bytes, /) -> None:
        """Writes a small file. It is durable under its name after `flush`."""

    def put_new(self, name: str, content: bytes, /) -> None:
        """As `put`; an existing file of that name may stay."""
        self.put(name, content)

    @abstractmethod
    def put_now(self, name: str, content: bytes, /) -> None:
        """Writes a small file that other programs see immediately. A power cut may lose it. If two are written at the
        same time, either may stay."""

    @abstractmethod
    def flush(self) -> None:
        """Returns after all files so far are durable under their names."""

    @abstractmethod
    def remove(self, names: Iterable[str], /) -> None:
        """Removes files. Absent names are ignored."""

    def replace(self, name: str, content: bytes, version: str | None = None, /) -> None:
        """Writes the file, durably. Raises TargetError if the file no longer has `version`."""
        del version
        self.put(name, content)
        self.flush()

    def replace_with(self, name: str, file: NewFile, version: str | None = None, /) -> None:
        """As `replace`, with a complete new file."""
        del version
        file.publish(name)
        self.flush()

    def make_folder(self, name: str, /) -> None:  # noqa: B027 - not everywhere
        """Makes the folder and those above it, in a store that can have empty folders. Files need no such call."""

    def update(self, contents: Mapping[str, bytes], /) -> None:
        """Writes many files of a few bytes, as `put`. Files that have the same content are not written."""
        held = self.read_many(list(contents), SMALL_FILE_BYTES)
        for name, content in contents.items():
            if held.get(name) != content:
                self.put(name, content)

    def take_over(self, path: str, name: str, is_right: Callable[[BinaryIO], bool], /, *, hard: bool) -> bool:
        """Makes a file of this machine the file `name` without copying it. False if this is not possible, or if
        `is_right` refuses its bytes. `hard` allows a hard link."""
        del path, name, is_right, hard
        return False

    @abstractmethod
    def append_to(self, name: str, /, *, alone: bool = False) -> AppendedFile:
        """Opens a record to which several runs append. With `alone` one run at a time does: what it appends comes
        behind all that is there, and TargetError is raised while another run has the record, where there are locks."""

    def is_growing(self, name: str, /) -> bool:
        """True while a run has the record `alone`, where there are locks."""
        del name
        return False

    def foreign_owner(self, name: str, /) -> int | None:
        """The user of this machine that made the file, where that is neither this one nor root, nor the one to whom the
        file system gives what this one makes."""
        del name
        return None

    @abstractmethod
    def read_record(self, name: str, limit: int, /, *, private: bool = False) -> bytes:
        """All that runs have appended to a record. b"" if it is absent or larger than `limit`; also, for a `private`
        one, if another user of this machine could have written it. Raises TargetError."""

    # --- runs ----------------------------------------------------------------------------------------------------

    def lock(self) -> AbstractContextManager[object]:
        """Held by one run at a time for one target, if the store has locks."""
        return nullcontext()

    def is_alone(self) -> bool:
        """False if another run uses the target. Always True for a store without locks. The caller holds the lock."""
        return True

    def free_bytes(self) -> int | None:
        """The number of bytes that this user can still write; None if it is not known."""
        return None

    def shown(self, name: str) -> str:
        """The name of a file in errors."""
        return f"{self.location}/{name}" if name else self.location

    @abstractmethod
    def abandon(self, is_unused: Callable[[], bool], /) -> None:
        """Closes the store, and removes all files that this run has written, and the root if this run has made it.

        Only for a root that was empty before. Removes nothing if another run uses the target, or used it meanwhile:
        `is_unused`, which is called under the lock, is False if the target has files of such a run.
        """

    @abstractmethod
    def close(self) -> None:
        """Makes published files durable, and removes files without a name. May be called twice, and after an error."""


def _read_up_to(stream: BinaryIO, most: int) -> bytes:
    """An unbuffered stream may give less than was requested."""
    blocks: list[bytes] = []
    while most > 0 and (block := stream.read(min(most, _BLOCK))):
        blocks.append(block)
        most -= len(block)
    return blocks[0] if len(blocks) == 1 else b"".join(blocks)
