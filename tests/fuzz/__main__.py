"""`python -m tests.fuzz TARGET... [libFuzzer options]`: coverage-guided fuzzing that starts from the committed corpus.

Without a target all of them share `--seconds` (an hour). New inputs go to `--keep DIR/TARGET` (a temporary directory
unless given); the committed corpus is only read. `--bounded` tries the same few thousand inputs every time.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
BOUNDED = {
    "archives": 600,
    "btrfs-disks": 30,
    "containers": 8,
    "disk-formats": 60,
    "ext4-disks": 20,
    "ext4-images": 120,
    "journals": 30,
    "lvm-metadata": 600,
    "partitioned-disks": 200,
    "registries-v1": 90,
    "registries-v2": 40,
    "stores": 40,
    "tar-trees": 600,
    "thin-pools": 500,
    "v1-answers": 200,
    "v2-answers": 100,
    "xfs-disks": 15,
    "xfs-images": 90,
}
"""Runs of `--bounded`; 2,000 for every other target."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--bounded", action="store_true")
    known, rest = parser.parse_known_args()
    import atheris

    with atheris.instrument_imports(include=["migrate"]):
        from tests.fuzz.targets import TARGETS
    options = [text for text in rest if text.startswith("-")]
    names = [text for text in rest if not text.startswith("-")] or list(TARGETS)
    failed = []
    for name in names:
        limit = f"-max_total_time={max(1, known.seconds // len(names))}"
        bound = [f"-runs={BOUNDED.get(name, 2_000)}", "-seed=1"] if known.bounded else [limit]
        print(f"== {name}", file=sys.stderr, flush=True)
        if _in_child(name, known.keep, [*bound, *options]):
            failed.append(name)
    print(f"{len(names)} targets, failed: {', '.join(failed) or 'none'}", file=sys.stderr)
    return 1 if failed else 0


def _in_child(name: str, keep: Path | None, options: list[str]) -> int:
    """libFuzzer ends the process that it runs in."""
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="migrate-fuzz-", dir=in_memory) as place:
        pid = os.fork()
        if pid == 0:
            try:
                _fuzz(name, Path(place), keep, options)
            finally:
                os._exit(1)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _fuzz(name: str, place: Path, keep: Path | None, options: list[str]) -> None:
    import atheris

    from tests.fuzz.targets import TARGETS

    kept = (keep or place / "kept") / name
    kept.mkdir(parents=True, exist_ok=True)
    arguments = ["-timeout=20", "-rss_limit_mb=2048", "-max_len=65536", f"-artifact_prefix={kept}/"]
    atheris.Setup([sys.argv[0], *arguments, *options, str(kept), str(CORPUS / name)], TARGETS[name](place))
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
