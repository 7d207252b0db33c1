from __future__ import annotations

from typing import Protocol, runtime_checkable

from migrate.model.capabilities import fills


@runtime_checkable
class Barks(Protocol):
    @property
    def volume(self) -> int: ...

    def bark(self) -> str: ...


class Dog:
    volume = 11

    def bark(self) -> str:
        return "woof"


class Cat:
    def purr(self) -> str:
        return "rrr"


def test_a_class_is_asked_once_and_answers_for_all_its_objects() -> None:
    assert [fills(each, Barks) for each in (Dog(), Cat(), None, Dog(), Cat())] == [True, False, False, True, False]
