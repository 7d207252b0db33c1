"""Indexes within indexes, deeper than Python's stack and with many ways to each: every walk ends, and finds all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from migrate.documents.oci import IndexEntry, encode_index
from migrate.layout.view import LayoutView, open_layout
from migrate.model.digest import Digest
from migrate.model.image import Descriptor, MediaType
from migrate.model.options import ConvertOptions
from migrate.model.progress import SilentProgress
from migrate.model.reference import Reference
from migrate.readers.detect import open_source
from migrate.verify import verify
from migrate.writers.oci_layout import OciLayout
from migrate.writers.push import Pusher
from migrate.writers.push_layout import read_layout
from tests.buckets import memory_bucket
from tests.images import layer, put_image

DEPTH = 1_500


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image, below indexes of which each names the next one twice."""
    path = tmp_path_factory.mktemp("nested") / "layout"
    target = OciLayout(path, ConvertOptions())
    image = put_image(target, [layer("a")])
    below = Descriptor(media_type=image.manifest_media_type, digest=image.manifest_digest, size=len(image.manifest))
    for _ in range(DEPTH):
        content = encode_index([IndexEntry(descriptor=below)] * 2)
        below = Descriptor(media_type=MediaType.OCI_INDEX, digest=Digest.of(content), size=len(content))
        (path / "blobs" / "sha256" / below.digest.hex).write_bytes(content)
    target.commit_index(content, MediaType.OCI_INDEX, [Reference.parse("deep:1")])
    target.finish(b'{"images": []}')
    target.close()
    return path


def test_verify_reads_all_of_them(nested: Path) -> None:
    assert verify(str(nested), 1, SilentProgress()) == []


def test_a_layout_is_continued(nested: Path) -> None:
    target = OciLayout(nested, ConvertOptions())
    existing = target.existing_images()[0]
    assert [child.media_type for child in existing.children] == [MediaType.DOCKER_MANIFEST]  # the one image
    assert target.named_layers()
    target.finish(b'{"images": []}')
    target.close()


def test_a_bucket_is_continued(nested: Path) -> None:
    with memory_bucket() as filesystem:
        filesystem.put(f"{nested}/", "/shelf/out/", recursive=True)
        existing = OciLayout("memory://shelf/out", ConvertOptions()).existing_images()[0]
        assert [child.media_type for child in existing.children] == [MediaType.DOCKER_MANIFEST]  # the one image


@pytest.mark.parametrize("jobs", [1, 4])
def test_a_push_puts_none_before_what_it_names(nested: Path, jobs: int) -> None:
    put: list[str] = []

    class Client:
        def manifest_digest(self, repository: str, reference: str, access: str) -> Digest | None:
            return None

        def blob_size(self, repository: str, digest: Digest, access: str) -> int | None:
            return images.manifests[made].blobs[0].size if digest == images.manifests[made].blobs[0].digest else None

        def upload_blob(self, *_: object) -> None:
            pass

        def put_manifest(self, repository: str, reference: str, content: bytes, media_type: str) -> None:
            named = images.manifests[Digest.of(content)].children
            assert all(str(child) in put for child in named)
            put.append(reference)

        class traffic:  # noqa: N801
            @staticmethod
            def add(**_: int) -> None:
                pass

    images = read_layout(open_layout(str(nested)), lambda reference: reference)
    made = next(digest for digest, manifest in images.manifests.items() if not manifest.children)
    Pusher(cast(Any, Client()), jobs).push(images.manifests, images.names)
    assert len(put) == DEPTH + 2
    assert put[-1] == "1"


def test_show_finds_the_image_below_all_of_them(nested: Path) -> None:
    (image,) = LayoutView(str(nested)).images()
    assert image.references == ("deep:1",)


def test_a_manifest_below_all_of_them_is_carried_over(nested: Path) -> None:
    """Where manifest.json lists the image, the index is asked for its manifest alone."""
    (image,) = LayoutView(str(nested)).images()
    row = {"RepoTags": ["deep:1"], "Config": image.config, "Layers": image.layers}
    (nested / "manifest.json").write_text(json.dumps([row]))
    (found,) = open_source(str(nested)).listing().images
    assert found.manifest is not None
    assert Digest.of(found.manifest.content) == image.manifest
