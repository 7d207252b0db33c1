"""gzip streams with bytes behind them, as tapes and `dd` leave them: read as gzip reads them, with a warning."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.archives import V1Archive, layer_tar, legacy_id
from tests.command import migrate

ZEROS = bytes(10_240)
TAILS = {"zeros": ZEROS, "other bytes": b"garbage\n" * 9, "zeros and others": bytes(512) + b"x", "one zero": b"\0"}


def archive(layer: bytes | None = None) -> bytes:
    built = V1Archive()
    built.tag("app", "1", built.layer("base", tar=layer if layer is not None else layer_tar("f")))
    return built.build()


def convert(content: bytes, tmp_path: Path) -> tuple[int, dict[str, Any]]:
    (tmp_path / "a.tar").write_bytes(content)
    code = migrate("convert", tmp_path / "a.tar", tmp_path / "t").code
    assert migrate("verify", tmp_path / "t").code == 0
    return code, dict(orjson.loads((tmp_path / "t/migration-report.json").read_bytes()))


@pytest.mark.parametrize("tail", sorted(TAILS))
@pytest.mark.parametrize("where", ["archive", "layer"])
def test_the_image_is_that_of_the_stream_alone(tail: str, where: str, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    _, expected = convert(archive(), tmp_path / "plain")
    packed = gzip.compress(archive() if where == "archive" else layer_tar("f"), mtime=0) + TAILS[tail]
    code, report = convert(packed if where == "archive" else archive(packed), tmp_path)
    assert code == 0
    (image,), (right,) = report["images"], expected["images"]
    assert (image["image_id"], image["layers"][0]["diff_id"]) == (right["image_id"], right["layers"][0]["diff_id"])
    told = f"{len(TAILS[tail]):,} "
    if where == "archive":
        assert any(told in text and "follow the gzip stream" in text for text in report["warnings"])
    else:
        row = image["layers"][0]
        assert row["flags"] == ["bytes-after-compressed"]
        assert any(legacy_id("base") in text and told in text for text in image["warnings"])
        blob = tmp_path / "t/blobs/sha256" / row["blob_digest"].removeprefix("sha256:")
        assert gzip.decompress(blob.read_bytes()) == layer_tar("f"), "a blob that every reader takes"


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress])
def test_other_compressions_stay_strict(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(pack(archive()) + b"garbage")
    assert migrate("plan", tmp_path / "a.tar").code == 4


def test_a_damaged_member_is_not_taken_for_what_may_be_passed_over(tmp_path: Path) -> None:
    """A layer in several members, as pigz and bgzip write it: where one is lost, so is the end of the tar."""
    tar = layer_tar("f", "g", "h")
    first, second = gzip.compress(tar[:1024], mtime=0), gzip.compress(tar[1024:], mtime=0)
    for tail in (b"XX" + second[2:], bytes(len(second))):
        (tmp_path / "a.tar").write_bytes(archive(first + tail))
        run = migrate("plan", "--report", "-", tmp_path / "a.tar")
        assert run.code == 4
        assert run.json()["images"] == []
