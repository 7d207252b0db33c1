"""Small finished images for the tests of targets: real layers, configs and manifests, no source."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass

from migrate.documents.oci import encode_manifest
from migrate.model.digest import DiffID, Digest
from migrate.model.image import ComposedImage, Descriptor, Platform
from migrate.model.reference import Reference
from migrate.writers.base import ImageTarget

DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
AMD64 = Platform(os="linux", architecture="amd64")


@dataclass(frozen=True)
class LayerBytes:
    diff_id: DiffID
    blob: bytes
    media_type: str

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(media_type=self.media_type, digest=Digest.of(self.blob), size=len(self.blob))


def layer(name: str, content: bytes = b"content\n", *, compress: bool = True) -> LayerBytes:
    """A layer with one file; gzip with a fixed time, or plain."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return layer_of(stream.getvalue(), compress=compress)


def layer_of(tar: bytes, *, compress: bool = True) -> LayerBytes:
    blob = gzip.compress(tar, mtime=0) if compress else tar
    return LayerBytes(DiffID(Digest.of(tar)), blob, DOCKER_LAYER + (".gzip" if compress else ""))


def image(
    layers: Sequence[LayerBytes], *, created: str = "2014-01-02T03:04:05Z", platform: Platform = AMD64
) -> ComposedImage:
    config = json.dumps(
        {
            "architecture": platform.architecture,
            "created": created,
            "history": [{"created": created, "created_by": "/bin/sh"} for _ in layers],
            "os": platform.os,
            "rootfs": {"type": "layers", "diff_ids": [str(layer.diff_id) for layer in layers]},
        }
    ).encode()
    descriptors = tuple(layer.descriptor for layer in layers)
    manifest = encode_manifest(
        Descriptor(media_type=DOCKER_CONFIG, digest=Digest.of(config), size=len(config)), descriptors, DOCKER_MANIFEST
    )
    return ComposedImage(
        config_document=config,
        config_media_type=DOCKER_CONFIG,
        manifest_document=manifest,
        manifest_media_type=DOCKER_MANIFEST,
        diff_ids=[layer.diff_id for layer in layers],
        layers=descriptors,
        platform=platform,
        created=created,
    )


def put_layer(target: ImageTarget, layer: LayerBytes) -> None:
    if not target.has_blob(layer.descriptor.digest, len(layer.blob)):
        with target.open_blob() as blob:
            blob.write(layer.blob)
            blob.commit(layer.descriptor.digest)


def put_image(
    target: ImageTarget,
    layers: Sequence[LayerBytes],
    *references: str,
    created: str = "2014-01-02T03:04:05Z",
    platform: Platform = AMD64,
) -> ComposedImage:
    for each in layers:
        put_layer(target, each)
    made = image(layers, created=created, platform=platform)
    target.commit(made, [Reference.parse(reference) for reference in references])
    return made
