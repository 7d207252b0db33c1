"""An archive that can be read only once, from front to back: a pipe, or a compressed file.

Large layers are handed to the caller while they are read. Everything else is kept in a temporary file: JSON and small
layers, because names and configs are at an archive's end; the blobs of an OCI layout, because only a manifest shows
which of them are layers; and compressed layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from migrate.blobio.payload import Payload
from migrate.blobio.spool import PlainStream, Spool, unreadable
from migrate.blobio.stream import ByteStream
from migrate.errors import DamagedError, SourceUnreadableError, TruncatedError, UnsupportedError
from migrate.model.legacy import Origin
from migrate.readers.members import PASSED, Members, clean_name, is_archive_member
from migrate.tar.header import BLOCK
from migrate.tar.index import Damage, TarIndex, iter_members, looks_like_tar
from migrate.tar.members import Member, MemberKind

LARGE = 1024 * 1024
"""Layers of at least this size are not kept in the temporary file."""
_CHUNK = 1024 * 1024

TakeMember = Callable[[Member, Payload], None]
"""Called with a layer's member, with its clean name, and its payload, which is valid during the call only."""
OpenMembers = Callable[[str, int, int, TarIndex], Members]
"""(location, file, which is taken over, its size, index) → the members of the file."""


class PassingArchive:
    """An archive that is read by `read_through`. Its members can be used after that."""

    def __init__(self, location: str, stream: PlainStream, directory: str | None, open_members: OpenMembers) -> None:
        self._location = location
        self._stream = stream
        self._directory = directory
        self._open_members = open_members
        self._members: Members | None = None
        self._error: SourceUnreadableError | None = None
        self._passed = 0

    def read_through(self, take: TakeMember | None) -> Members:
        """Reads the archive at the first call, and returns all members. Raises TargetError, and SourceUnreadableError,
        which is raised again by every later call."""
        if self._error is not None:
            raise self._error
        if self._members is None:
            try:
                with unreadable(self._location):
                    self._members = self._read(take)
            except SourceUnreadableError as error:
                self._error = error
                raise
            finally:
                self._stream.close()
        return self._members

    def close(self) -> None:
        self._stream.close()
        if self._members is not None:
            self._members.close()

    def _read(self, take: TakeMember | None) -> Members:
        spool = Spool(self._directory, self._location)
        try:
            if take is None:
                from migrate.readers.wrapping import bytes_left, check_spool_room  # few runs need it

                check_spool_room(self._location, bytes_left(self._stream.fd), spool)  # all of the archive is kept
            window = _Forward(self._stream, self._location)
            index = TarIndex()
            try:
                for member in index.without_damage(iter_members(window, self._location, is_archive_member)):
                    index.members.append(self._pass(member, window, spool, take))
                window.drain()  # the checksum of a compressed stream is at its end
            except (TruncatedError, UnsupportedError, DamagedError) as error:
                if window.is_damaged:
                    # The compressed stream is damaged: what follows cannot be decompressed. Damage of the tar alone
                    # leaves the members before it usable.
                    raise
                index.damages.append(Damage(error))
            members = self._open_members(self._location, spool.detach(), spool.size, index)
            if self._stream.trailing is not None:
                members.warnings.append(f"{self._location}: {self._stream.trailing}")
            return members
        finally:
            spool.close()

    def _pass(self, member: Member, window: _Forward, spool: Spool, take: TakeMember | None) -> Member:
        if member.kind is not MemberKind.FILE:
            return member
        name = clean_name(member.name)
        content = window.open_content(member)
        if (
            # A large layer is hashed while it passes, since a copy of it would need its room on disk.
            take is not None
            and name
            and name.endswith(".tar")
            and not name.startswith("blobs/")
            and member.size >= LARGE
            and content.looks_like_tar()
        ):
            passing = member._replace(name=name, offset=PASSED - self._passed)
            self._passed += 1
            take(passing, Payload(stream=content.as_binary(), origin=Origin.ARCHIVE.value, size=member.size))
            return passing
        offset = spool.size
        try:
            while chunk := content.read_block(_CHUNK):
                spool.append(chunk)
        except TruncatedError:
            window.ended = True  # the member is listed with its full size, and reading it reports the truncation
        return member._replace(offset=offset)


class _Forward:
    """A `tar.index.Window` on a stream, which only moves forward."""

    def __init__(self, stream: PlainStream, what: str) -> None:
        self._stream = stream
        self._what = what
        self._position = 0
        self._back = b""
        self._last_offset = -1
        self._last = b""
        self.ended = False
        self.is_damaged = False

    def read(self, offset: int, length: int) -> bytes:
        """Only the block of the last call may be read again, also if the stream ended in it."""
        found = b""
        if offset == self._last_offset:
            if length <= len(self._last):
                return self._last[:length]
            found = self._last
        assert offset + len(found) >= self._position
        while not self.ended and self._position < offset:
            if not self.next(min(offset - self._position, _CHUNK)):
                break
        while len(found) < length and (more := self.next(length - len(found))):
            found += more
        if found:
            self._last_offset, self._last = offset, found
        return found

    def next(self, length: int) -> bytes:
        """At most `length` bytes at the current position; b"" only at the end."""
        if self._back:
            block, self._back = self._back[:length], self._back[length:]
        elif self.ended:
            return b""
        else:
            with self._noting_damage():
                block = self._stream.read(length)
        self._position += len(block)
        return block

    def next_into(self, view: memoryview) -> int:
        """As `next`, but fills the beginning of `view`, so that the content of a layer is not copied once more."""
        if self._back or self.ended:
            block = self.next(len(view))
            view[: len(block)] = block
            return len(block)
        with self._noting_damage():
            count = self._stream.read_view(view)
        self._position += count
        return count

    @contextmanager
    def _noting_damage(self) -> Iterator[None]:
        try:
            yield
        except DamagedError:
            self.is_damaged = True
            raise

    def push_back(self, block: bytes) -> None:
        self._back = block + self._back
        self._position -= len(block)

    def open_content(self, member: Member) -> _Content:
        self.read(member.offset, 0)
        return _Content(self, member.size, f"{self._what}: member {member.name}")

    def drain(self) -> None:
        while not self.ended and self.next(_CHUNK):
            pass


class _Content(ByteStream):
    """One member's content. Reading it moves the window forward."""

    def __init__(self, window: _Forward, size: int, what: str) -> None:
        self._window = window
        self._size = size
        self._left = size
        self._what = what

    def looks_like_tar(self) -> bool:
        head = b""
        while len(head) < BLOCK and (more := self._window.next(BLOCK - len(head))):
            head += more
        self._window.push_back(head)
        return looks_like_tar(head)

    def read_block(self, limit: int, /) -> bytes:
        wanted = min(limit, self._left)
        block = self._window.next(wanted) if wanted else b""
        self._passed(len(block), wanted)
        return block

    def read_view(self, view: memoryview, /) -> int:
        wanted = min(len(view), self._left)
        count = self._window.next_into(view[:wanted]) if wanted else 0
        self._passed(count, wanted)
        return count

    def _passed(self, count: int, wanted: int) -> None:
        if wanted and not count:
            there = self._size - self._left
            raise TruncatedError(f"{self._what}: the archive ends after {there:,} of its {self._size:,} bytes")
        self._left -= count
