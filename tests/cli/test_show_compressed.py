"""`show` on archives as people keep them: compressed, or of a kind that holds no image to show."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.archives import unpack
from tests.command import migrate
from tests.shelves import archive

PACKERS: list[Callable[[bytes], bytes]] = [gzip.compress, bz2.compress, lzma.compress]


@pytest.mark.parametrize("pack", PACKERS, ids=lambda pack: pack.__module__)
@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_compressed_archives_show_what_plain_ones_do(kind: str, pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(archive("a"))
    assert migrate("convert", "-q", tmp_path / "a.tar", f"{kind}:{tmp_path / 'new.tar'}").code == 0
    (tmp_path / "new").write_bytes(pack((tmp_path / "new.tar").read_bytes()))
    for part in ("--config", "--layers", "--files"):
        plain = migrate("show", tmp_path / "new.tar", "team/a:b0", part)
        packed = migrate("show", tmp_path / "new", "team/a:b0", part)
        assert (packed.code, packed.out) == (0, plain.out), packed.err


def test_what_cannot_be_shown_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(archive("a"))
    with tarfile.open(tmp_path / "a.tar") as opened:
        unpack(opened, tmp_path / "unpacked")
    assert migrate("show", tmp_path / "unpacked", "team/a:b0").code == 0
    (tmp_path / "text.gz").write_bytes(gzip.compress(b"text"))
    (tmp_path / "empty").mkdir()
    for name in ("text.gz", "empty"):
        done = migrate("show", tmp_path / name, "a")
        assert done.code == 4
        assert f"{tmp_path / name}: " in done.errors[0]
