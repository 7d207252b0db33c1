"""Whatever is broken in a registry's storage: images fail with a reason, the rest converts, and that is all."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from migrate.convert.run import Conversion
from migrate.convert.sources import OpenedSource
from migrate.errors import MigrateError
from migrate.model.options import ConvertOptions, EmptyLayers
from migrate.readers.detect import open_source
from tests.cases import case
from tests.registries import copy_tree, extract_tree

OPTIONS = ConvertOptions(dry_run=True, empty_layers=EmptyLayers.KEEP)
_KINDS = ["flip", "cut", "empty", "delete", "folder", "fifo", "outward", "garbage", "twin", "no folder"]
TREES = ["registry-v1-pushed", "registry-v2-schema1-2.1.1", "registry-v2-mixed-2.8.2"]


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("trees")
    return {name: extract_tree(case(name), folder) for name in TREES}


def break_something(root: Path, chance: random.Random) -> str:
    """One change to one file or folder of the tree, in place."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    victim = chance.choice(files)
    content = victim.read_bytes()
    kind = chance.choice(
        ["flip", "cut", "empty", "delete", "folder", "fifo", "outward", "garbage", "twin", "no folder"]
    )
    if kind == "flip" and content:
        place = chance.randrange(len(content))
        victim.write_bytes(content[:place] + bytes([content[place] ^ 1 << chance.randrange(8)]) + content[place + 1 :])
    elif kind == "cut":
        victim.write_bytes(content[: chance.randrange(len(content) + 1)])
    elif kind == "empty":
        victim.write_bytes(b"")
    elif kind == "garbage":
        victim.write_bytes(chance.choice([b"\xff" * 80, b"[" * 5000, b'{"a":' * 3000, b"null", b"{}", b"\0" * 64]))
    elif kind == "twin":
        victim.write_bytes(chance.choice(files).read_bytes())
    elif kind == "no folder":
        shutil.rmtree(victim.parent)
    else:
        victim.unlink()
        if kind == "folder":
            victim.mkdir()
        elif kind == "fifo":
            os.mkfifo(victim)
        elif kind == "outward":
            victim.symlink_to("/etc/passwd")
    return f"{kind}: {victim.relative_to(root)}"


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("seed", range(8))
def test_broken_storage_gives_failures_and_no_wrong_image(
    name: str, seed: int, trees: dict[str, Path], tmp_path: Path
) -> None:
    root = copy_tree(trees[name], tmp_path / "tree")
    chance = random.Random(f"{name} {seed}")
    done = [break_something(root, chance) for _ in range(chance.randint(1, 4))]
    try:
        source = open_source(str(root))
    except MigrateError:
        return
    report = Conversion([OpenedSource(str(root), source)], OPTIONS).run().report
    source.close()
    right = {row["image_id"]: row for row in case(name).expected["images"].values() if "image_id" in row}
    expected = case(name).expected["images"]
    for image in report.images:
        for reference in image.references:
            row = expected.get(reference)
            if row is None or str(image.image_id) == row["image_id"]:
                continue
            # only a tag that was pointed elsewhere, or bytes that nothing vouches for, may give another image
            vouched = name != "registry-v1-pushed" and str(image.image_id) not in right
            assert not vouched, (done, reference)
    assert report.images or report.failures, done
