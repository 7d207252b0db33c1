"""`python -m tests.faults [calls|damages|mutations|power]…`: the large counts of docs/reference/guarantees.md.

As root for `power`. `--seed` and `--count` change what is tried; a fault ends the run with what it was.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.damages import try_damages
from tests.faults.everywhere import ERRORS, KINDS, try_calls
from tests.faults.mutations import TARGETS, try_mutations
from tests.faults.power import FILE_SYSTEMS, try_power_cuts


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("what", nargs="*", default=["mutations", "calls", "power", "damages"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int)
    given = parser.parse_args()
    for what in given.what:
        began = time.monotonic()
        for line in {"calls": calls, "damages": damages, "mutations": mutations, "power": power}[what](given):
            print(f"{what}: {line} ({time.monotonic() - began:.0f} s)", flush=True)
    return 0


def calls(given: argparse.Namespace) -> Iterator[str]:
    del given
    for kind in KINDS:
        for fault in (None, *ERRORS):
            with place() as folder:
                tally = try_calls(kind, fault, folder)
                name = "kill" if fault is None else errno.errorcode[fault]
                yield f"{kind}, {name}: {tally.tries} calls, {tally.silent} without an error, no fault"


def damages(given: argparse.Namespace) -> Iterator[str]:
    count = given.count or 3_000
    for part in range(0, count, 250):
        with place() as folder:
            codes = try_damages(min(250, count - part), given.seed + part, folder)
            yield f"{sum(codes.values())}: {dict(sorted(codes.items()))}"


def mutations(given: argparse.Namespace) -> Iterator[str]:
    for kind in TARGETS:
        with place() as folder:
            yield f"{kind}: {dict(try_mutations(kind, given.count or 500, given.seed, folder))}"


def power(given: argparse.Namespace) -> Iterator[str]:
    del given
    for file_system in FILE_SYSTEMS:
        for kind in KINDS:
            with place() as folder:
                yield f"{kind} on {file_system}: {try_power_cuts(kind, file_system, folder)} instants, no fault"


@contextmanager
def place() -> Iterator[Path]:
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="migrate-faults-", dir=in_memory) as folder:
        yield Path(folder)


if __name__ == "__main__":
    sys.exit(main())
