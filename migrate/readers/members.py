"""The named members of a `docker save` archive, in a tar file or unpacked in a directory.

A member's name is used as a key only, and never as a path on disk. In a tar it leads to an extent; in a directory, the
path is the one that the walk through the directory found.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
from array import array
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import TYPE_CHECKING

from msgspec import Struct

from migrate.blobio import limits
from migrate.blobio.extents import open_extent
from migrate.blobio.payload import Extent, Payload
from migrate.errors import (
    DamagedError,
    LimitError,
    MissingLayerError,
    SourceError,
    SourceUnreadableError,
    TruncatedError,
)
from migrate.layout.names import ARCHIVE_MANIFEST, INDEX, LAYOUT_FILE
from migrate.model.legacy import Origin, is_hex_id
from migrate.tar.index import TarIndex
from migrate.tar.members import Member, MemberKind, MemberList

if TYPE_CHECKING:
    from migrate.storage.tree import Tree, TreeEntry

_UNSAFE = re.compile(r"^/(?![^/]+\Z)|[\x00-\x1f]")
PASSED = -1
"""The offset of the first member whose content was read from a stream and not kept. Later ones have lower offsets."""
REPOSITORIES = "repositories"
DOCUMENTS = frozenset({ARCHIVE_MANIFEST, REPOSITORIES, INDEX, LAYOUT_FILE})
"""An archive has one of each of these members. The program that wrote the archive wrote them last."""
_PATH_LENGTH = 4_096
"""PATH_MAX: no engine unpacks a member with a longer path."""
_DEEPEST = 8
"""Deeper folders of a directory are not read. No known archive nests deeper than `blobs/sha256/<hex>`."""


class LeftOut(Struct, frozen=True):
    """A member that is left out, and why. If `fatal`, the result of the run is incomplete."""

    name: str
    error: str
    message: str
    fatal: bool = True


class Members:
    """The members by clean name; of several with one name the last wins, as when Docker unpacks the archive."""

    def __init__(self, location: str, found: Iterable[Member], sound: int | None = None) -> None:
        """`sound`: the number of members before the first damage. Members behind it replace none of these."""
        self.location = location
        self.problems: list[LeftOut] = []
        self.warnings: list[str] = []
        self.further: list[Members] = []
        """The members of the archives that follow in the same file."""
        self.duplicates: set[str] = set()
        self.repeated: set[str] = set()
        self.unlisted: dict[str, str] = {}
        """Directory → why it could not be listed. Whether it has a certain member is not known."""
        members = found if isinstance(found, MemberList) else MemberList(islice(found, limits.ARCHIVE_MEMBERS + 1))
        if len(members) > limits.ARCHIVE_MEMBERS:
            raise LimitError(f"{location}: more than {limits.ARCHIVE_MEMBERS:,} members (ARCHIVE_MEMBERS)")
        if not self._put(members, sound):
            self._put(self._with_clean_names(members), sound)

    def _put(self, members: MemberList, sound: int | None) -> bool:
        """False if a name is not clean."""
        self._members = members
        # A hash table of the names: the number of each name's member, plus 1. A dict would take four times the memory.
        self._slots = array("I", bytes(4 * (2 * len(members) + 1)))
        for number, name in enumerate(members.names()):
            if name != clean_name(name):
                return False
            if not name:
                continue
            slot = self._slot(name)
            if self._slots[slot] and members.kind(number) is not MemberKind.DIRECTORY:
                # Docker would take the later one. But behind damage, a header may be a file inside a layer.
                if sound is not None and number >= sound:
                    self.repeated.add(name)
                    continue
                self.duplicates.add(name)
            self._slots[slot] = number + 1
        return True

    def _with_clean_names(self, members: MemberList) -> MemberList:
        """The root, and a member that is named outside the archive, get the name ""."""
        clean = MemberList()
        for member in members:
            name = clean_name(member.name)
            if name is None:
                shown = member.name.encode("utf-8", "backslashreplace").decode()
                message = f"{self.location}: member {shown!r} is named outside the archive; left out"
                self.problems.append(LeftOut(shown, "unsafe-name", message))
            clean.append(member._replace(name=name or ""))
        return clean

    def _slot(self, name: str) -> int:
        """The place in `_slots` that has the name's member, or the one where it would be put."""
        slots, name_of = self._slots, self._members.name
        slot = hash(name) % len(slots)
        while (number := slots[slot]) and name_of(number - 1) != name:
            slot = (slot + 1) % len(slots)
        return slot

    def _find(self, name: str) -> Member | None:
        number = self._slots[self._slot(name)]
        return self._members.member(number - 1, name) if number else None

    def __contains__(self, name: str) -> bool:
        return bool(self._slots[self._slot(name)])

    @property
    def count(self) -> int:
        """The number of members, which are numbered in archive order."""
        return len(self._members)

    def number(self, name: str) -> int | None:
        """The number of the member with a name; None if there is none."""
        number = self._slots[self._slot(name)]
        return number - 1 if number else None

    def name(self, number: int) -> str:
        return self._members.name(number)

    def names(self) -> Iterator[str]:
        """The names in archive order. A name that is in the archive several times comes several times."""
        return filter(None, self._members.names())

    def resolve(self, name: str) -> Member:
        """The regular file of a name. Symbolic and hard links in any part of the name are followed inside the archive.

        As in Docker, `/` is the archive's root, and `..` at the root stays there (moby pkg/symlink,
        FollowSymlinkInScope). Raises MissingLayerError (no such member), DamagedError (too many links, not a file),
        SourceError (in a directory that could not be listed).
        """
        member = self._find(name)
        if member is None or member.kind is not MemberKind.FILE:
            current = self._follow(name)
            member = self._find(current)
            if member is None:
                # A member that is missing may be in a folder that could not be listed; then that error is the cause.
                directory = current
                while directory and self.unlisted:
                    directory = posixpath.dirname(directory)
                    if directory in self.unlisted:
                        raise SourceError(self.unlisted[directory])
                via = "" if current == name else f" (named by {name})"
                raise MissingLayerError(f"{self.location}: there is no member {_shown(current)}{via}")
            if member.kind is not MemberKind.FILE:
                raise DamagedError(f"{self.location}: member {current} is a {member.kind.value}, not a file")
        return member

    def _follow(self, name: str) -> str:
        """`name` with its links resolved. Parts that are no member are kept as they are."""
        path = name
        for _ in range(limits.LINK_HOPS + 1):
            # Each link can make the path longer, so that a few of them would fill the memory.
            if len(path) > _PATH_LENGTH:
                raise DamagedError(
                    f"{self.location}: {_shown(name[:80])} leads to a name over {_PATH_LENGTH:,} letters"
                )
            above, link, rest = self._split_at_link(path)
            if link is None:
                return above
            # POSIX.1-2017: the target of a hard link is the name of another member, so it is relative to the archive's
            # root.
            is_from_root = link.kind is MemberKind.HARDLINK or link.link.startswith("/")
            path = "/".join(["" if is_from_root else above, link.link, rest])
        raise DamagedError(f"{self.location}: member {name} leads through more than {limits.LINK_HOPS} links")

    def _split_at_link(self, path: str) -> tuple[str, Member | None, str]:
        """(the path above the first link in `path`, the link, the rest of `path` behind it).

        Without a link: `path` without `.` and `..`, None, "".
        """
        done: list[str] = []
        waiting = path.split("/")[::-1]
        while waiting:
            part = waiting.pop()
            if part == "..":
                del done[-1:]
            elif part not in ("", "."):
                done.append(part)
                member = self._find("/".join(done))
                if member is not None and member.kind in (MemberKind.SYMLINK, MemberKind.HARDLINK):
                    return "/".join(done[:-1]), member, "/".join(waiting[::-1])
        return "/".join(done), None, ""

    def read(self, name: str, limit: int = limits.JSON_BYTES) -> bytes:
        """A small member whole. Raises LimitError over `limit` bytes."""
        member = self.resolve(name)
        if member.size > limit:
            raise LimitError(f"{self.location}: member {name} has {member.size:,} bytes; the limit is {limit:,}")
        return self._read_file(member)

    def _read_file(self, member: Member) -> bytes:
        with self._open_file(member) as payload:
            content = payload.stream.read()
            while len(content) < member.size:
                more = payload.stream.read()
                if not more:
                    break
                content += more
        return content

    def open(self, name: str) -> AbstractContextManager[Payload]:
        return self._open_file(self.resolve(name))

    def find_extent(self, key: str) -> Extent | None:
        """Where a payload is, if it is whole in one piece of an open file. `key`: from `key_of`."""
        return None

    @staticmethod
    def key_of(member: Member) -> str:
        """The key of a member's payload: its name, or the number of a member that was read from a stream and not
        kept."""
        return f"/{PASSED - member.offset}" if member.offset <= PASSED else member.name

    def _open_file(self, member: Member) -> AbstractContextManager[Payload]:
        raise NotImplementedError

    def close(self) -> None:
        pass


class TarMembers(Members):
    """Members of a tar in an open file, each an extent of it."""

    def __init__(self, location: str, fd: int, size: int, index: TarIndex) -> None:
        """`fd` is taken over."""
        self._fd = fd
        self._size = size
        self._state = self._file_state()
        super().__init__(location, index.members, index.sound)
        for damage in index.damages:
            if not index.members:
                raise SourceUnreadableError(damage.error.message) from damage.error
            self.problems.append(LeftOut("", damage.error.code, damage.message))

    @contextmanager
    def _open_file(self, member: Member) -> Iterator[Payload]:
        what = f"{self.location}: member {member.name}"
        if member.offset <= PASSED:
            raise SourceError(f"{what}: was read from the stream, and not kept")
        if member.offset + member.size > self._size:
            there = max(0, self._size - member.offset)
            raise TruncatedError(f"{what}: the archive ends after {there:,} of its {member.size:,} bytes")
        yield Payload(
            stream=open_extent(self._fd, member.offset, member.size, what),
            origin=Origin.ARCHIVE.value,
            size=member.size,
            extent=Extent(fd=self._fd, offset=member.offset, size=member.size),
        )
        if self._file_state() != self._state:
            # Another program may write into the archive during the run. The bytes before and after the change do not
            # belong together.
            raise SourceError(f"{what}: the archive was changed while it was read")

    def find_extent(self, key: str) -> Extent | None:
        member = self._find(key)
        if member is None or member.kind is not MemberKind.FILE or not self._holds(member):
            return None
        return Extent(fd=self._fd, offset=member.offset, size=member.size)

    def _holds(self, member: Member) -> bool:
        return member.offset > PASSED and member.offset + member.size <= self._size

    def _read_file(self, member: Member) -> bytes:
        """As in the base class, with one system call if possible: an archive may have tens of thousands of
        documents."""
        if self._holds(member):
            with contextlib.suppress(OSError):
                content = os.pread(self._fd, member.size, member.offset)
                if len(content) == member.size and self._file_state() == self._state:
                    return content
        return super()._read_file(member)

    def _file_state(self) -> tuple[int, int]:
        status = os.fstat(self._fd)
        return status.st_size, status.st_mtime_ns

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class TreeMembers(Members):
    """Members unpacked in a directory. Symbolic links are resolved by name as in a tar, and not by the file system."""

    def __init__(self, location: str, tree: Tree) -> None:
        """`location` is the text that the user gave; `tree`, the directory, is taken over."""
        self._tree = tree
        super().__init__(location, self._walk(""))

    def close(self) -> None:
        self._tree.close()

    def _walk(self, prefix: str) -> Iterator[Member]:
        try:
            found = [self._member(entry) for entry in self._tree.entries(os.fsencode(prefix.rstrip("/")))]
        except SourceError as error:
            message = f"cannot be listed: {error.message}"
            if not prefix:
                raise SourceUnreadableError(message) from error
            name = prefix.rstrip("/")
            self.unlisted[name] = message
            # An unreadable directory of a layer fails the images that need the layer, each with its own error.
            if not is_hex_id(name):
                self.problems.append(LeftOut(name, SourceError.code, message))
            return
        for member in found:
            yield member
            if member.kind is MemberKind.DIRECTORY and member.name.count("/") < _DEEPEST:
                yield from self._walk(f"{member.name}/")

    def _member(self, entry: TreeEntry) -> Member:
        name = os.fsdecode(entry.path)
        if entry.is_link:
            with contextlib.suppress(SourceError):  # removed meanwhile
                return Member(name, MemberKind.SYMLINK, 0, 0, os.fsdecode(self._tree.read_link(entry.path)))
        if entry.is_folder:
            return Member(name, MemberKind.DIRECTORY, 0, 0, "")
        if entry.is_file:
            return Member(name, MemberKind.FILE, 0, entry.size, "")
        return Member(name, MemberKind.OTHER, 0, 0, "")

    @contextmanager
    def _open_file(self, member: Member) -> Iterator[Payload]:
        path = os.fsencode(member.name)
        shown = self._tree.shown(path)
        # Another program may write the file during the run. The sizes of its listing would then not match its bytes.
        before = self._tree.stat(path)
        if not before.is_file or before.size != member.size:
            raise SourceError(f"{shown}: was changed after it was listed")
        with self._tree.opened(path) as opened:
            extent = opened.extent
            yield Payload(
                stream=opened.stream if extent is None else open_extent(extent.fd, extent.offset, extent.size, shown),
                origin=Origin.ARCHIVE.value,
                size=member.size,
                extent=extent,
                path=opened.path,
            )
        after = self._tree.stat(path)
        if (after.size, after.mtime_ns, after.inode) != (before.size, before.mtime_ns, before.inode):
            raise SourceError(f"{shown}: was changed while it was read")


_MEMBER = re.compile(
    r"(?:\./)?(?:(?:[0-9a-f]{64}|[0-9a-f]{16})(?:/(?:json|VERSION|layer\.tar)?)?|[0-9a-f]{64}\.(?:json|tar)"
    r"|repositories|manifest\.json|index\.json|oci-layout|blobs/(?:sha256/(?:[0-9a-f]{64})?)?)"
)


def is_archive_member(name: str) -> bool:
    """True for the names that Docker gives to members of its archives. Used as an `IsExpected`."""
    return _MEMBER.fullmatch(name) is not None


def clean_name(name: str) -> str | None:
    """`./a//b/` → `a/b`; the root → ""; None for a name that is absolute, has `..` or control characters.

    `/a` → `a`: buildpacks write such names, and Docker unpacks them below the archive's root.
    """
    # The common case, without a search and without splitting: an archive may have a million names.
    if name[:1] not in "./" and name[-1:] != "/" and "//" not in name and "/." not in name and name.isprintable():
        return name
    if _UNSAFE.search(name):
        return None
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return None if ".." in parts else "/".join(parts)


def _shown(name: str) -> str:
    """`name` for an error. Unlike a member's name, a link's target may have any characters."""
    return name if name.isprintable() else repr(name)
