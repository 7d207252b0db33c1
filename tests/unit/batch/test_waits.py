"""Messages while a run waits. Clocks are those of the tests; nothing here takes real seconds."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from migrate.batch.waits import Pulse, Silence, Waits, enter, read_byte, silent_place
from migrate.model.progress import Event, SilentProgress
from tests.shelves import Recorder


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def messages(seconds: int, each: Callable[[Waits, Clock], None]) -> list[str]:
    """The notices of that many seconds, with `each` called in every one of them."""
    clock, progress = Clock(), Recorder()
    waits = Waits(progress, clock)
    waits.enter("opening s3://bucket/out")
    for _ in range(seconds):
        clock.now += 1
        each(waits, clock)
        waits.look()
    return [event.message for event in progress.events if event.kind == "notice"]


def test_a_step_that_hangs_is_named_at_least_every_ten_seconds() -> None:
    assert messages(35, lambda waits, clock: None) == [
        f"still opening s3://bucket/out; {seconds} s so far (Ctrl-C ends the run)" for seconds in (9, 18, 27)
    ]


def test_events_are_a_sign_of_life() -> None:
    assert messages(35, lambda waits, clock: waits.emit(Event(kind="image"))) == []


def test_a_step_that_may_take_any_time_is_not_named() -> None:
    assert messages(35, lambda waits, clock: enter(waits, "")) == []


def test_each_step_has_its_own_time_but_the_time_without_a_message_is_that_of_all() -> None:
    said = messages(30, lambda waits, clock: enter(waits, "two") if clock.now == 15 else None)
    assert [message.partition(" (")[0] for message in said] == [
        "still opening s3://bucket/out; 9 s so far",
        "still two; 3 s so far",
        "still two; 12 s so far",
    ]


def test_the_time_of_a_step_that_may_take_any_time_does_not_count() -> None:
    def each(waits: Waits, clock: Clock) -> None:
        enter(waits, "" if clock.now < 30 else "two")

    assert messages(38, each) == []
    assert len(messages(39, each)) == 1


def test_a_receiver_of_another_kind_has_no_steps() -> None:
    enter(SilentProgress(), "a receiver of another kind has no steps")


def test_the_clock_is_looked_at_by_a_thread() -> None:
    told = threading.Event()

    class Telling(SilentProgress):
        def emit(self, event: Event, /) -> None:
            told.set()

    clock = Clock()
    with Waits(Telling(), clock) as waits:
        waits.enter("waiting")
        clock.now = 11.0
        assert told.wait(10)


@pytest.mark.parametrize(("waiting", "tasks"), [(1, "a task waits"), (2, "2 tasks wait"), (0, None)])
def test_what_hinders_tasks_is_reported_with_their_number(waiting: int, tasks: str | None) -> None:
    clock, progress = Clock(), Recorder()
    silence = Silence(clock)
    clock.now = 5.0
    silence.report(("it does not answer", 3.0), waiting, "/a.tar", progress)
    silence.end()
    clock.now = 15.0
    silence.report(("it does not answer", 3.0), waiting, "/a.tar", progress)
    silence.report(("it does not answer", 3.0), waiting, "/a.tar", progress)
    expected = f"it does not answer; {tasks}, 12 s so far (Ctrl-C ends the run)"
    assert [event.message for event in progress.events] == ([expected] if tasks else [])


def test_a_large_source_is_no_fault_but_progress_names_it() -> None:
    clock, progress = Clock(), Recorder()
    silence = Silence(clock)
    for _ in range(40):
        clock.now += 0.5
        silence.report(None, 1, "/large.tar", progress)
    assert progress.events == [Event(kind="advance", name="/large.tar")] * 2


def test_places_that_hang_are_found_and_the_others_are_not() -> None:
    clock, stuck, begun = Clock(), threading.Event(), threading.Semaphore(0)
    answered = threading.Semaphore(0)

    def read(place: str) -> None:
        begun.release()
        if place == "hangs":
            stuck.wait(60)
        elif place == "fails":
            answered.release()
            raise OSError
        answered.release()

    pulse = Pulse(read, clock)
    assert pulse.silent(["hangs", "works", "fails", "hangs"]) == {}
    for _ in range(2):
        assert answered.acquire(timeout=10)
    while len(pulse._since) > 1:  # a thread removes its place after it has read
        pass
    clock.now = 6.0
    assert pulse.silent(["hangs", "works", "fails"]) == {"hangs": 6.0}
    assert silent_place({"works": 1.0, "hangs": 6.0}) == ("hangs", 6.0)
    assert silent_place({"works": 1.0}) is None and silent_place({}) is None
    stuck.set()


def test_a_place_is_not_asked_again_at_once() -> None:
    asked: list[str] = []
    clock = Clock()
    pulse = Pulse(asked.append, clock)
    for _ in range(100):
        clock.now += 0.1
        pulse.silent(["works"])
    assert 3 <= len(asked) <= 5


def test_a_byte_is_read_of_files_folders_and_locations_with_a_prefix(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for location in (tmp_path, tmp_path / "file", f"oci:{tmp_path}", "docker://registry.invalid/name"):
        read_byte(str(location))
    os.mkfifo(tmp_path / "pipe")
    read_byte(str(tmp_path / "pipe"))  # neither waits for a writer, nor takes a byte from one
    with pytest.raises(OSError, match="No such file"):
        read_byte(str(tmp_path / "absent"))
