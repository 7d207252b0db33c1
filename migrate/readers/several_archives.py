"""Several archives in one file, one behind the other: `cat a.tar b.tar`, or `tar --concatenate --file a.tar b.tar`.

With an end marker between them Docker reads only the first archive, without one the last member of every name. Other
files look similar: an archive with a range of zeros from a rescue tool, an archive to which other documents were
appended, and an archive with something else behind it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise

from msgspec import Struct
from msgspec.structs import replace

from migrate.documents.docker_archive import parse_archive_manifest, parse_repositories
from migrate.errors import MigrateError
from migrate.layout.names import ARCHIVE_MANIFEST
from migrate.readers.members import DOCUMENTS, REPOSITORIES, Members, TarMembers, clean_name, is_archive_member
from migrate.tar.index import Damage, TarIndex
from migrate.tar.members import Member, MemberKind, MemberList

_ATTEMPTS = 20
"""The search ends after so many places in a row that do not end an archive."""
_MOST_BEHIND = 500_000
"""Limit of the members that are looked at for archives that need layers of the ones before them. Each such archive
costs the members of all before it."""


def split_archives(
    location: str, fd: int, size: int, index: TarIndex, lacks_nothing: Callable[[Members], bool]
) -> TarMembers:
    """The members of the first archive in the file, with those of the others as `further`. `fd` is taken over.

    `lacks_nothing`: True for members that are an archive with everything that its documents name.
    """
    file = _File(location, fd, size, lacks_nothing)
    apart, left_out = file.split_at_ends(index)
    archives = [one for whole in apart for one in file.split_at_documents(whole)]
    warnings = [warning for one in archives for warning in file.replaced_names(one)]
    if left_out is not None:
        # If images of the last document are missing, the members that were left out may be theirs.
        if warnings:
            archives[-1].damages.append(left_out)
        else:
            warnings.append(f"what follows its end, at byte {left_out.resumed:,}, is a tar without an image")
    first, *others = map(file.members, archives)
    first.further = list(others)
    if len(apart) > 1:
        more = "another archive follows" if len(apart) == 2 else f"{len(apart) - 1} other archives follow"
        warnings.append(f"{more} in the same file, which Docker does not read; it is converted too")
    if len(archives) > len(apart):
        warnings.append(
            f"{len(archives)} archives are in this file, of which some have no end marker behind them: Docker reads the"
            " last member of every name; all are converted, each by its own members"
        )
    first.warnings += [f"{location}: {warning}" for warning in warnings]
    return first


class _File(Struct, frozen=True):
    location: str
    fd: int
    size: int
    lacks_nothing: Callable[[Members], bool]

    def members(self, index: TarIndex) -> TarMembers:
        return TarMembers(self.location, self.fd, self.size, index)

    def split_at_ends(self, index: TarIndex) -> tuple[list[TarIndex], Damage | None]:
        """(one index for each archive behind an end marker, the place behind the last one that was left out).

        What follows an end marker and is no archive is left out: another tar, or the content of a layer whose header
        was overwritten with zeros.
        """
        # The members of the index, split at each place of damage; each part with the damage before it.
        places = [*index.places, len(index.members)]
        found = [TarIndex(index.members[: places[0]])]
        left_out: Damage | None = None
        for number, damage in enumerate(index.damages[: len(index.places)]):
            members = index.members[places[number] : places[number + 1]]
            if left_out is not None:
                damage = replace(left_out, resumed=damage.resumed, is_end=damage.is_end)
                left_out = None
            last = found[-1]
            has_members = any(is_archive_member(member.name) for member in members)
            if damage.is_end and not (has_members or self._is_whole(members)):
                left_out = damage
            elif damage.is_end and self._are_apart(
                [one for part in found[:-1] for one in part.members], last.members, members
            ):
                found.append(TarIndex(members))
            else:
                last.damages.append(damage)
                last.sound = len(last.members) if last.sound is None else last.sound
                last.members.extend(members)
        last = found[-1]
        if left_out is None or left_out.resumed is None:
            last.damages += [left_out] if left_out is not None else []
            last.damages += index.damages[len(index.places) :]
            return found, None
        return found, left_out

    def _are_apart(self, earlier: Sequence[Member], before: Sequence[Member], after: Sequence[Member]) -> bool:
        """True if the end marker separates two archives; False if it is damage of one archive, of which both halves
        then need members of each other. `earlier` are the members of the archives before these."""
        first, second = ([clean_name(member.name) for member in members] for members in (before, after))
        # An archive has each document once.
        if not DOCUMENTS.isdisjoint({*first} & {*second}):
            return True
        wholes = [self._is_whole_behind(earlier, before), self._is_whole(after)]
        # The document is the last member of an archive. So the end marker is at the right place if it follows a
        # document.
        ends = bool(first) and first[-1] in DOCUMENTS and not DOCUMENTS.issuperset({*second})
        if all(wholes) or (ends and (any(wholes) or not self._is_whole([*before, *after]))):
            return True
        # The second archive may need layers of the first, if they were left out when it was saved. It must begin with a
        # member that an archive begins with: with any other, the header of a member before it may be lost.
        return wholes[0] and _may_begin(after[0]) and self._is_whole_behind([*earlier, *before], after)

    def _is_whole_behind(self, earlier: Sequence[Member], members: Sequence[Member]) -> bool:
        """True if `members` are an archive that lacks nothing, or only layers of the archives before it. It must not
        have a folder of the same name as one of them."""
        if self._is_whole(members):
            return True
        layers = [one for one in earlier if clean_name(one.name) not in DOCUMENTS]
        folders = [{(clean_name(one.name) or "").partition("/")[0] for one in part} for part in (layers, members)]
        return bool(layers) and folders[0].isdisjoint(folders[1]) and self._is_whole([*layers, *members])

    def split_at_documents(self, index: TarIndex) -> list[TarIndex]:
        """One index for each archive, if the file has several without end markers between them: a document occurs more
        than once, and each part of the file is an archive that lacks nothing, or only v1 layers of the parts before it.
        Otherwise [index]."""
        names = [clean_name(member.name) or "" for member in index.members]
        if index.damages or all(names.count(name) < 2 for name in DOCUMENTS):
            return [index]
        edges = {*_edges(names), len(names)}
        budget = [_MOST_BEHIND]
        tried: set[int] = set()
        ends: list[int] = []
        dead_ends = 0
        waiting = [self._part_ends(index.members, names, edges, budget, 0)]
        while waiting:
            end = next(waiting[-1], None)
            if end is None:
                waiting.pop()
                del ends[-1:]
                dead_ends += 1
                if dead_ends == _ATTEMPTS:
                    break
            elif end not in tried:
                tried.add(end)
                ends.append(end)
                if end == len(names):
                    return [TarIndex(index.members[first:last]) for first, last in pairwise([0, *ends])]
                waiting.append(self._part_ends(index.members, names, edges, budget, end))
        return [index]

    def _part_ends(
        self, members: Sequence[Member], names: Sequence[str], edges: Collection[int], budget: list[int], begin: int
    ) -> Iterator[int]:
        """The possible ends of the archive that begins at `begin`. Of each: first without the members that only follow
        its last document and what that leads to, which may be those of the next archive. `budget`: the members that
        may still be looked at together with those of the archives before them."""

        def is_part(end: int) -> bool:
            if self._is_whole(members[begin:end]):
                return True
            is_v1 = DOCUMENTS.intersection(names[begin:end]) == {REPOSITORIES}
            if not (is_v1 and begin) or budget[0] < end:
                return False
            budget[0] -= end
            return self._is_whole_behind(members[:begin], members[begin:end])

        seen: set[str] = set()
        last = attempts = 0
        for end in range(begin + 1, len(names) + 1):
            seen.add(names[end - 1])
            if names[end - 1] in DOCUMENTS:
                last = end
            comes_again = end < len(names) and names[end] in seen and members[end].kind is MemberKind.FILE
            if not (last and (comes_again or end in edges)):
                continue
            # Each attempt reads the documents of its part. Without a limit the time would grow with the square of the
            # members.
            attempts += 1
            if attempts > _ATTEMPTS:
                return
            if is_part(end):
                if end < len(names):
                    places = [place for place in range(last, end) if not _is_within_folder(names, place)]
                    yield [*places, end][bisect_left(places, True, key=is_part)]
                yield end

    def replaced_names(self, index: TarIndex) -> Iterator[str]:
        """If a document occurs more than once, a warning about the images that only an earlier one names."""
        for document in (ARCHIVE_MANIFEST, REPOSITORIES):
            found = [member for member in index.members if clean_name(member.name) == document]
            names: list[set[str]] = []
            for member in found:
                names.append(set())
                with suppress(MigrateError):
                    content = self.members(TarIndex(MemberList([member]))).read(document)
                    if document == REPOSITORIES:
                        names[-1].update(str(reference) for reference, _ in parse_repositories(content)[0])
                    else:
                        entries = parse_archive_manifest(content)
                        names[-1].update(name for entry in entries for name in entry.repo_tags or (entry.config,))
            lost = sorted({name for some in names[:-1] for name in some}.difference(*names[-1:]))
            if lost:
                yield f"an earlier {document} names {', '.join(lost)}; the last one, which is used, does not"

    def _is_whole(self, members: Sequence[Member]) -> bool:
        return self.lacks_nothing(self.members(TarIndex(MemberList(members))))


def _may_begin(member: Member) -> bool:
    """True for a member that `docker save` writes first: a layer's folder or its first file, or a document."""
    name = clean_name(member.name) or ""
    return member.kind is MemberKind.DIRECTORY or name.endswith("/VERSION") or name in DOCUMENTS


def _is_within_folder(names: Sequence[str], place: int) -> bool:
    """True if the members before and at `place` are in one folder of a layer."""
    before, after = (name.rpartition("/")[0] for name in names[place - 1 : place + 1])
    return before == after not in ("", "blobs/sha256")


def _edges(names: Sequence[str]) -> Iterator[int]:
    """The positions where a sequence of different documents begins or ends."""
    row: set[str] = set()
    for place, name in enumerate(names):
        is_document = name in DOCUMENTS
        if is_document and name not in row:
            if not row:
                yield place
            row.add(name)
        elif row:
            yield place
            row = {name} if is_document else set()
