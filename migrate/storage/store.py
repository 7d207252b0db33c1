"""Named files below a root that can be written: a directory of this machine, or a bucket.

A name is relative to the root, components joined by `/`. Every file is whole or absent: it gets its name when all of
its bytes are there, and what has the name before is replaced in one step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import BinaryIO, ClassVar, Protocol, Self

from migrate.blobio.limits import SMALL_FILE_BYTES
from migrate.errors import TargetError

STATE_DIRECTORY = ".migrate"
"""The folder of a target for what later runs may use and can do without."""
NOT_OURS = frozenset({"lost+found"})
"""What an empty root may hold: the folder that file systems make in their own root."""


_BLOCK = 1024 * 1024


class NewFile(Protocol):
    """One file on its way. Leaving its context without `publish` leaves no trace. Raises TargetError."""

    size: int
    """Bytes written so far."""

    def write(self, block: bytes | bytearray | memoryview, /) -> object: ...

    def publish(self, name: str, /, *, replace: bool = True) -> None:
        """The complete file shall be called `name`, durably after the store's next `flush`. Without `replace` a file of
        that name may stay as it is: it holds the same."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...


class AppendedFile(Protocol):
    """A record that only grows. Raises TargetError."""

    def append(self, block: bytes, /) -> None:
        """Whole lines. Where files cannot grow they are written by `sync` and `close`."""

    def sync(self) -> None:
        """Makes durable what was appended so far."""

    def close(self) -> None: ...


OnNamed = Callable[[str, int, str | None], None]
"""(name, bytes, version) of a file of this run, which has its name now."""


class Store(ABC):
    """Usable from several threads, and each with a store of its own from several processes. Raises TargetError only;
    WrongKindError where a name has something else than a regular file.

    `location` names the root in errors.
    """

    location: str
    reads_cost: ClassVar[bool] = False
    """True where reading a small file takes as long as writing it."""
    on_named: OnNamed | None = None
    """Called for each published file where its version is known at once; `versions` has the others."""

    # --- reading -------------------------------------------------------------------------------------------------

    @abstractmethod
    def open(self, name: str, /) -> BinaryIO | None:
        """The file's content from its start, None if there is none; the caller closes it. `read` raises OSError."""

    @abstractmethod
    def names(self, folder: str = "", /) -> Sequence[str]:
        """What is directly in a folder, sorted; nothing if there is no such folder."""

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
        """Another text after every change of the file: its inode, size and times, or its ETag. None where there is no
        such file, or where it could change without another text."""
        del name
        return None

    def versions(self, folder: str, /) -> Mapping[str, tuple[int, str]]:
        """(bytes, version) of the files in a folder and in those below it, by their names; only where one request
        lists many files."""
        del folder
        return {}

    @abstractmethod
    def iter_versions(self) -> Iterator[tuple[str, int, str | None]]:
        """(name, bytes, version) of every file, and of whatever else has a name, in any order. The version is None
        where it could change without another one, and of what is no regular file."""

    # --- writing -------------------------------------------------------------------------------------------------

    @abstractmethod
    def new_file(self) -> NewFile: ...

    @abstractmethod
    def put(self, name: str, content: bytes, /) -> None:
        """A small file, durable and surely under its name after `flush`."""

    def put_new(self, name: str, content: bytes, /) -> None:
        """As `put`; a file of that name may stay as it is."""
        self.put(name, content)

    @abstractmethod
    def put_now(self, name: str, content: bytes, /) -> None:
        """A small file that others see at once; a power cut may lose it. Of two at once, either may stay."""

    @abstractmethod
    def flush(self) -> None:
        """Returns when everything so far is durable under its name."""

    @abstractmethod
    def remove(self, names: Iterable[str], /) -> None:
        """Removes files; names that are absent are passed over."""

    def replace(self, name: str, content: bytes, version: str | None = None, /) -> None:
        """The file now holds `content`, durably. TargetError if it has not `version` any more."""
        del version
        self.put(name, content)
        self.flush()

    def make_folder(self, name: str, /) -> None:  # noqa: B027 - not everywhere
        """Makes the folder and those above it, where there are empty folders; files make theirs by themselves."""

    def update(self, contents: Mapping[str, bytes], /) -> None:
        """Many files of a few bytes, as `put`; those that hold the same already are left alone."""
        held = self.read_many(list(contents), SMALL_FILE_BYTES)
        for name, content in contents.items():
            if held.get(name) != content:
                self.put(name, content)

    def take_over(self, path: str, name: str, is_right: Callable[[BinaryIO], bool], /, *, hard: bool) -> bool:
        """A file of this machine becomes the file `name` without a copy in between, if that can be and `is_right`
        accepts its bytes; `hard` allows a hard link."""
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
        """All that runs have appended to a record. Nothing where it is absent or larger than `limit`, and, of a
        `private` one, where another user of this machine could have written it. Raises TargetError."""

    # --- runs ----------------------------------------------------------------------------------------------------

    def lock(self) -> AbstractContextManager[object]:
        """Only one run at a time is inside, for one target, where there are locks."""
        return nullcontext()

    def is_alone(self) -> bool:
        """False while another run is known to be at work on the target. To be called under the lock."""
        return True

    def free_bytes(self) -> int | None:
        """Bytes that this user may still write here; None where that is not known."""
        return None

    def shown(self, name: str) -> str:
        """The name of a file in errors."""
        return f"{self.location}/{name}" if name else self.location

    @abstractmethod
    def abandon(self, is_unused: Callable[[], bool], /) -> None:
        """Closes the store, and removes all that this run has put into it, and the root where this run has made it.

        Only for a root that was empty before. Leaves everything where another run is at work on the target, or has been
        meanwhile: `is_unused`, called under the lock, is False where the target has what such a run leaves.
        """

    @abstractmethod
    def close(self) -> None:
        """Makes durable what was published, removes what has no name. May be called twice, and after an error."""


def _read_up_to(stream: BinaryIO, most: int) -> bytes:
    """An unbuffered stream may give less than was requested."""
    blocks: list[bytes] = []
    while most > 0 and (block := stream.read(min(most, _BLOCK))):
        blocks.append(block)
        most -= len(block)
    return blocks[0] if len(blocks) == 1 else b"".join(blocks)
