"""`plan --deep` on small layers whose answer is known."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import pytest

from migrate.model.digest import DiffID, Digest
from migrate.model.image import HashedLayer
from migrate.model.legacy import LegacyID, LegacyLayer, PayloadRef
from migrate.rehash.ports import LayerJob, OpensPayloads
from migrate.report.model import SourceInput
from migrate.tar.names import below_root
from migrate.waste.analysis import DeepScan
from tests.reports import build_report
from tests.unit.report.conftest import by_content, image_input

Files = Mapping[str, bytes | None]
"""Content by name; None makes a directory."""
BIG = bytes(range(256)) * 40


def make_tar(files: Files, *, mtime: int = 1_400_000_000, form: int = tarfile.GNU_FORMAT, owner: str = "") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.mtime = mtime
            member.uname = owner
            if content is None:
                member.type = tarfile.DIRTYPE
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def analyse(chains: Sequence[Sequence[bytes]], *, step: int = 700, entries: int = 1000) -> dict[str, Any]:
    """Each chain is an image named `image:<number>`; tars are fed in pieces of `step` bytes."""
    scan = DeepScan(entries)
    diff_ids: dict[tuple[int, str], DiffID] = {}
    layers: dict[bytes, HashedLayer] = {}
    for tar in {tar: None for chain in chains for tar in chain}:
        diff_id = DiffID(Digest.of(tar))
        job = LayerJob(0, cast(OpensPayloads, None), _legacy_layer(diff_id.hex))
        observer = scan.observe(job)
        if observer is not None:
            for start in range(0, len(tar), step):
                observer.feed(memoryview(tar)[start : start + step])
            observer.finish()
        diff_ids[job.key] = diff_id
        layers[tar] = HashedLayer(diff_id=diff_id, tar_size=len(tar), empty=False, blob=None, origin="archive")
    by_diff_id = by_content({one.diff_id.hex: one for one in layers.values()})
    report = build_report(
        tool_version="1",
        dry_run=True,
        started="",
        finished="",
        options={},
        sources=[SourceInput(location="a", type=None, layers=by_diff_id)],
        images=[
            image_input("a", [(layers[tar].diff_id.hex, layers[tar]) for tar in chain], [f"image:{number}"])
            for number, chain in enumerate(chains)
        ],
    )
    return scan.analyse(report, diff_ids)


def _legacy_layer(name: str) -> LegacyLayer:
    return LegacyLayer(legacy_id=LegacyID(name), json=b"{}", parent=None, payload=PayloadRef(key=name))


def test_layers_that_differ_in_times_alone() -> None:
    files = {"etc/": None, "etc/a": BIG, "etc/b": b"b"}
    one, other = make_tar(files), make_tar(files, mtime=1_500_000_000)
    (row,) = analyse([[one], [other]])["equal_layers"]
    assert row["differ_in"] == "times"
    assert row["bytes"] == len(one)
    assert row["diff_ids"] == sorted(f"sha256:{Digest.of(tar).hex}" for tar in (one, other))


def test_layers_that_differ_in_order_or_header_form() -> None:
    files = {"etc/a": BIG, "etc/" + "long" * 40: b"b"}
    forms = [make_tar(files), make_tar(files, form=tarfile.PAX_FORMAT), make_tar(dict(reversed(files.items())))]
    (row,) = analyse([[tar] for tar in forms])["equal_layers"]
    assert row["differ_in"] == "order or header form"
    assert len(row["diff_ids"]) == 3
    assert row["bytes"] == sum(map(len, forms)) - max(map(len, forms))


@pytest.mark.parametrize(
    "change",
    [
        lambda files: make_tar({**files, "etc/a": BIG + b"x"}),
        lambda files: make_tar(files, owner="root"),
        lambda files: make_tar({**files, "new": b""}),
    ],
)
def test_layers_with_other_content_or_owner_are_not_equal(change: Callable[[Files], bytes]) -> None:
    files: Files = {"etc/a": BIG}
    assert analyse([[make_tar(files)], [change(files)]])["equal_layers"] == []


def test_layers_that_differ_in_a_few_files() -> None:
    files = {f"lib/{number}": BIG + bytes([number]) for number in range(20)}
    one = make_tar({**files, "version": b"1", "only-here": b"x"})
    other = make_tar({**files, "version": b"22"})
    unlike = make_tar({"lib/1": BIG + b"\1", "huge": BIG * 30})
    result = analyse([[one], [other], [unlike]])
    (row,) = result["near_layers"]
    assert row["diff_ids"] == sorted(str(Digest.of(tar)) for tar in (one, other))
    assert row["bytes"] == 20 * (len(BIG) + 1)
    assert row["differing_files"] == 2
    assert row["files"] == ["/version", "/only-here"]


def test_files_that_occur_in_many_layers() -> None:
    layers = [make_tar({f"opt/{number}/lib.so": BIG, "copy.so": BIG, "own": b"%d" % number}) for number in range(3)]
    result = analyse([[layer] for layer in layers])
    assert result["repeated_files"] == [
        {"bytes": 2 * len(BIG), "path": "/copy.so", "size": len(BIG), "layers": 3, "copies": 6}
    ]
    assert result["repeated_files_bytes"] == 2 * len(BIG)


def test_files_that_a_later_layer_replaces_or_deletes() -> None:
    base = make_tar({"a": BIG, "dir/": None, "dir/b": b"bb", "dir/c": b"ccc", "kept": b"k", "gone/x/y": b"12345"})
    upper = make_tar({"a": b"new", "dir/.wh..wh..opq": b"", "dir/d": b"d", ".wh.gone": b"", ".wh..wh.plnk": b""})
    result = analyse([[base, upper], [base]])
    assert result["wasted_files"] == [
        {"bytes": len(BIG), "path": "/a", "layers": 1},
        {"bytes": 5, "path": "/gone/x/y", "layers": 1},
        {"bytes": 3, "path": "/dir/c", "layers": 1},
        {"bytes": 2, "path": "/dir/b", "layers": 1},
    ]
    assert result["wasted_files_bytes"] == len(BIG) + 10
    (image,) = result["images"]
    assert image["image"] == "image:0"
    assert image["bytes"] == len(BIG) + 10
    assert image["image_id"].startswith("sha256:")
    assert image["file_bytes"] == len(BIG) + 10 + 1 + 3 + 1


def test_a_directory_that_is_listed_again_keeps_what_is_in_it() -> None:
    base, upper = make_tar({"dir/": None, "dir/a": b"aaa"}), make_tar({"dir/": None, "dir/b": b"b"})
    assert analyse([[base, upper]])["wasted_files"] == []


def test_a_file_in_place_of_a_directory_hides_all_below() -> None:
    base, upper = make_tar({"dir/a": b"aaa", "dir/b/c": b"cc"}), make_tar({"dir": b"file"})
    result = analyse([[base, upper], [base, upper, make_tar({"dir/": None, "dir/z": b"z"})]])
    assert [(row["path"], row["bytes"]) for row in result["wasted_files"]] == [
        ("/dir", 4),
        ("/dir/a", 3),
        ("/dir/b/c", 2),
    ]


def test_branches_do_not_see_each_other() -> None:
    base = make_tar({"a": BIG})
    deletes, replaces = make_tar({".wh.a": b""}), make_tar({"a": b"x"})
    result = analyse([[base, deletes], [base, replaces], [base, make_tar({"b": b"b"})]])
    assert result["wasted_files_bytes"] == len(BIG)
    assert {row["image"]: row["bytes"] for row in result["images"]} == {"image:0": len(BIG), "image:1": len(BIG)}


@pytest.mark.parametrize("step", [1, 100, 511, 512, 513, 4096, 1 << 20])
def test_pieces_of_any_size(step: int) -> None:
    files = {"a/" + "n" * 150: BIG, "b": b"", "c": b"x" * 512, "d": b"y" * 513}
    layers = [[make_tar(files), make_tar({".wh.c": b""})], [make_tar(files, form=tarfile.PAX_FORMAT)]]
    result = analyse(layers, step=step)
    assert result["equal_layers"][0]["differ_in"] == "order or header form"
    assert result["wasted_files"] == [{"bytes": 512, "path": "/c", "layers": 1}]


def test_order_of_arrival_does_not_matter() -> None:
    layers = [make_tar({"a": BIG, str(number): BIG + b"1", "v": b"%d" % number}) for number in range(6)]
    one, other = analyse([[tar] for tar in layers]), analyse([[tar] for tar in reversed(layers)])
    for name in ("near_layers", "repeated_files", "equal_layers"):
        assert one[name] == other[name]


def test_the_limit_is_said() -> None:
    layers = [[make_tar({"a": b"1", "b": b"2"})], [make_tar({"c": b"1", "d": b"2"})]]
    assert analyse(layers, entries=4)["complete"]
    result = analyse(layers, entries=3)
    assert not result["complete"]
    assert result["layers"] == 1


@pytest.mark.parametrize("damage", [b"\xff" * 512, b"not a tar" * 100])
def test_damage_is_left_to_the_rehasher(damage: bytes) -> None:
    assert analyse([[make_tar({"a": b"1"})[:1024] + damage]])["layers"] == 0


def test_clean_paths() -> None:
    pairs = {b"./a": b"a", b"/a//b/": b"a/b", b"a/./b": b"a/b", b"a/../b": b"b", b"../..": b"", b"a/.b": b"a/.b"}
    assert {name: below_root(name) for name in pairs} == pairs


def test_entries_of_one_directory_around_its_own_replacement() -> None:
    base = make_tar({"d/": None, "d/a": b"aa", "d/b": b"bbb"})
    upper = make_tar({"d/a": b"x", "d": b"file", "d/c": b"c", ".wh.d": b"", "d/e": b"e"})
    rows = {row["path"]: row["bytes"] for row in analyse([[base, upper], [base]])["wasted_files"]}
    assert rows == {"/d/a": 2, "/d/b": 3}
