"""Every pair of all shipped cases, converted together and then again: the second run leaves every byte.

    python -m tests.golden.all_pairs [FIRST]

Takes some twenty minutes of one core, for which the suite has a sample (test_second_run.py). Cases are restored once,
into memory where the machine has a file system there; pairs of small ones come first. Prints a line for each pair that
the second run changed, and the count. With FIRST, the pairs before that number are left out. To go on after
a run that was ended, give a number some hundreds lower: the order is that of the measured times, which change a little.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from itertools import combinations
from pathlib import Path

from migrate import api
from tests.golden.test_second_run import CASES, faults, restored
from tests.stores import StoreShelf


def main() -> int:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
        stores, target = StoreShelf(Path(directory) / "stores"), Path(directory) / "target"
        sources = {name: restored(name, stores, Path(directory)) for name in CASES}
        seconds = {}
        for name, source in sources.items():
            began = time.process_time()
            api.convert([source], target)
            seconds[name] = time.process_time() - began
            shutil.rmtree(target, ignore_errors=True)
        pairs = sorted(combinations(CASES, 2), key=lambda pair: seconds[pair[0]] + seconds[pair[1]])
        changed, first = 0, int(sys.argv[1]) if len(sys.argv) > 1 else 1
        for number, (one, two) in enumerate(pairs[first - 1 :], first):
            found = faults([sources[one], sources[two]], target)
            shutil.rmtree(target, ignore_errors=True)
            changed += bool(found)
            if found:
                print(f"{one} {two}: {'; '.join(found)}", flush=True)
            if number % 100 == 0 or number == len(pairs):
                cpu = time.process_time()
                print(f"{number} of {len(pairs)} pairs, {changed} changed, {cpu:.0f} CPU seconds", flush=True)
    return changed > 0


if __name__ == "__main__":
    sys.exit(main())
