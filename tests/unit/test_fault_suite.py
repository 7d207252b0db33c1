"""A seeded sample of `python -m tests.faults`, whose large counts are in docs/reference/guarantees.md."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.__main__ import place
from tests.faults.damages import try_damages
from tests.faults.everywhere import ERRORS, KINDS, try_calls
from tests.faults.mutations import TARGETS, try_mutations
from tests.faults.power import try_power_cuts


@pytest.fixture
def memory() -> Iterator[Path]:
    with place() as folder:
        yield folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_at_some_calls_of_a_whole_conversion(kind: str, memory: Path) -> None:
    """Each kind with another error, and killed."""
    number = ERRORS[list(KINDS).index(kind) % len(ERRORS)]
    for name, fault in (("error", number), ("kill", None)):
        (memory / name).mkdir()
        assert try_calls(kind, fault, memory / name, step=23, first=2).tries >= 3, errno.errorcode[number]


@pytest.mark.parametrize("kind", TARGETS)
def test_some_mutations_of_a_target(kind: str, memory: Path) -> None:
    assert try_mutations(kind, 40, 2, memory)["found"] > 20


def test_some_damages_of_sources(memory: Path) -> None:
    assert sum(try_damages(5, 7, memory).values()) == 5


@pytest.mark.peer
def test_some_power_cuts_on_ext4(memory: Path) -> None:
    assert try_power_cuts("layout", "ext4", memory, step=16) >= 4
