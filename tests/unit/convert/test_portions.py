"""Which images are shared over processes: those whose result cannot depend on another portion."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from migrate.blobio.payload import Extent
from migrate.convert.planned import PlannedImage
from migrate.convert.portions import Divider, Portions, RecordedProgress
from migrate.convert.sources import OpenedSource
from migrate.model.digest import DiffID, Digest
from migrate.model.legacy import LegacyID, LegacyImage, LegacyLayer, PayloadRef, ReadyIndex
from migrate.model.options import ConvertOptions, OnConflict
from migrate.model.progress import Event

CLAIM = DiffID(Digest("a" * 64))
OPTIONS = ConvertOptions(jobs=2)


class _Source:
    reads_one_file = True
    location = "archive.tar"

    def __init__(self, file: Path) -> None:
        self.file = file.open("rb")
        self.is_in_one_piece = True

    def find_extent(self, layer: LegacyLayer) -> Extent | None:
        assert layer.payload is not None
        extent = Extent(fd=self.file.fileno(), offset=100 if "packed" in layer.payload.key else 0, size=64)
        return extent if self.is_in_one_piece else None


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    file = tmp_path / "archive.tar"
    file.write_bytes(b"etc/".ljust(100, b"\0") + gzip.compress(b"x" * 500))
    source: Any = _Source(file)
    yield [OpenedSource("archive.tar", source)]
    source.file.close()


def _layer(key: str, **fields: Any) -> LegacyLayer:
    ref = PayloadRef(**{"key": key, "size": 2_048, **fields})
    return LegacyLayer(legacy_id=LegacyID(key), json=b"", parent=None, payload=ref)


def _images(count: int = 600) -> list[PlannedImage]:
    common = _layer("common")
    return [
        PlannedImage(0, "archive.tar", LegacyImage(head=LegacyID(str(number))), number, (common, _layer(str(number))))
        for number in range(count)
    ]


def divide(images: Sequence[PlannedImage], sources: Sequence[OpenedSource], options: ConvertOptions) -> Portions | None:
    divider = Divider.of(len(images), sources, options)
    if divider is None:
        return None
    for image in images:
        divider.look_at(image)
    return divider.portions(images)


def test_portions_are_neighbours_and_have_every_image_once(sources: Sequence[OpenedSource]) -> None:
    images = _images()
    found = divide(images, sources, OPTIONS)
    assert isinstance(found, Portions)
    assert [image for portion in found.portions for image in portion] == images
    assert len(found.portions) > 2
    assert found.layers == 600 + len(found.portions)  # the common layer is read in each portion


def test_the_numbers_of_very_many_portions_fit_into_the_smallest_pipe(sources: Sequence[OpenedSource]) -> None:
    found = divide(_images(110_000), sources, OPTIONS)
    assert found is not None
    assert len(found.portions) * 4 <= 4096


@pytest.mark.parametrize(
    "change",
    [
        {"jobs": 1},
        {"salvage": True},
        {"check_rootfs": True},
        {"check_existing": True},
        {"on_conflict": OnConflict.FAIL},
    ],
    ids=str,
)
def test_options_that_need_all_images_at_once(change: dict[str, Any], sources: Sequence[OpenedSource]) -> None:
    assert divide(_images(), sources, replace(OPTIONS, **change)) is None


def _with_layer(key: str = "odd", **fields: Any) -> Callable[[PlannedImage], None]:
    def change(image: PlannedImage) -> None:
        image.chain = (*image.chain, _layer(key, **fields))

    return change


def _set(**fields: Any) -> Callable[[PlannedImage], None]:
    def change(image: PlannedImage) -> None:
        for name, value in fields.items():
            setattr(image, name, value)

    return change


@pytest.mark.parametrize(
    "change",
    [
        _with_layer(size=None),
        _with_layer(size=100_000),
        _with_layer(keep=True),
        _with_layer(disputed=True),
        _with_layer(absent="not in this archive"),
        _with_layer(key="packed"),
        _set(elsewhere={"common": 1}),
        _set(index=ReadyIndex(content=b"{}", media_type="", references=(), children=())),
        _set(chain=(_layer("3", diff_id=CLAIM),)),  # another image names no diffID for this layer
    ],
)
def test_one_image_that_others_may_depend_on(
    change: Callable[[PlannedImage], None], sources: Sequence[OpenedSource]
) -> None:
    images = _images()
    change(images[555])
    assert divide(images, sources, OPTIONS) is None


def test_few_images_threads_and_layers_that_are_not_in_one_piece(
    sources: Sequence[OpenedSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert divide(_images(400), sources, OPTIONS) is None
    with monkeypatch.context() as patched:
        patched.setattr(threading, "active_count", lambda: 2)
        assert divide(_images(), sources, OPTIONS) is None
    source: Any = sources[0].source
    source.is_in_one_piece = False
    assert divide(_images(), sources, OPTIONS) is None


def test_long_chains_would_be_read_again_in_every_portion(sources: Sequence[OpenedSource]) -> None:
    chain = tuple(_layer(f"deep-{number}") for number in range(600))
    images = [
        PlannedImage(0, "archive.tar", LegacyImage(head=layer.legacy_id), number, chain[: number + 1])
        for number, layer in enumerate(chain)
    ]
    assert divide(images, sources, OPTIONS) is None


def test_progress_is_kept_without_stages() -> None:
    progress = RecordedProgress()
    layer = Event(kind="layer", name="one", bytes=3)
    for event in (Event(kind="stage", stage="compress"), Event(kind="advance", bytes=3), layer):
        progress.emit(event)
    progress.emit(Event(kind="advance", bytes=4))
    assert progress.events == [Event(kind="advance", bytes=7), layer]
