"""A packed list gives back the members that were put into it."""

from __future__ import annotations

import pytest

from migrate.tar.members import Member, MemberKind, MemberList

MEMBERS = [
    Member("", MemberKind.DIRECTORY, 0, 0, ""),
    Member("a/", MemberKind.DIRECTORY, 512, 0, ""),
    Member("a/b", MemberKind.FILE, 1024, 1 << 50, ""),
    Member("a/c", MemberKind.SYMLINK, 1536, 0, "../a/b\udcff"),
    Member("b", MemberKind.HARDLINK, 2048, 0, "a/b"),
    Member("a/\udcff\u00e9/x\n\0y", MemberKind.FILE, 2560, 3, ""),
    Member("a/\udcff\u00e9/", MemberKind.OTHER, 3072, 0, ""),
    Member("/a/b", MemberKind.FILE, -7, 4, ""),
    Member("a/b", MemberKind.FILE, 3584, 5, ""),
]


def test_members_come_back_as_they_were() -> None:
    members = MemberList(MEMBERS)
    assert len(members) == len(MEMBERS)
    assert members == MEMBERS
    assert members != MEMBERS[1:]
    assert [members[number] for number in range(-len(MEMBERS), 0)] == MEMBERS
    assert [*members.names()] == [member.name for member in MEMBERS]
    assert [members.name(number) for number in range(len(MEMBERS))] == [member.name for member in MEMBERS]


@pytest.mark.parametrize("part", [slice(2, 5), slice(None, None, -2), slice(-3, None), slice(5, 2)])
def test_a_part_is_a_list_of_its_own(part: slice) -> None:
    members = MemberList(MEMBERS)
    taken = members[part]
    taken.extend(MEMBERS[:2])
    assert taken == [*MEMBERS[part], *MEMBERS[:2]]
    assert members == MEMBERS


def test_there_is_no_member_behind_the_last() -> None:
    with pytest.raises(IndexError):
        MemberList(MEMBERS)[len(MEMBERS)]
