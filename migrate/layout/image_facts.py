"""What is kept of each image and name of a target, in little memory: a target may have very many."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from migrate.blobio.records import Records, decoder_of
from migrate.compose.image import DOCKER_MAX_LAYERS
from migrate.documents.oci import IndexEntry
from migrate.layout.walk import Document
from migrate.model.digest import Digest
from migrate.model.image import CONFIG_TYPES, Descriptor, MediaType, Platform
from migrate.model.packed import DIGEST_BYTES, packed_digest, unpacked_digest

_PLAIN_OR_GZIP: Final = frozenset(
    {MediaType.DOCKER_LAYER, MediaType.DOCKER_LAYER_GZIP, MediaType.OCI_LAYER, MediaType.OCI_LAYER_GZIP}
)
_ELSEWHERE: Final = ("foreign", "nondistributable")
"""Parts of the media types of layers that are not in the layout, as of Windows."""


class ImageFacts(Struct, frozen=True, array_like=True):
    """The parts of an image that manifest.json needs: the blobs of its config and of its layers, base first.

    `config` and `layers` are packed digests, one behind the other; sizes are in bytes. `is_image` is False for
    artifacts, and for images with layers that are not in the layout. `is_old`: all layers are plain or gzip, as engines
    before 23 need it.
    """

    config: bytes
    config_size: int
    layers: bytes
    layer_sizes: tuple[int, ...]
    platform: Platform | None
    is_image: bool
    is_old: bool

    @classmethod
    def of(cls, config: Descriptor, layers: Sequence[Descriptor], platform: Platform | None) -> ImageFacts:
        types = {layer.media_type for layer in layers}
        return cls(
            config=packed_digest(config.digest),
            config_size=config.size,
            layers=bytes.fromhex("".join([layer.digest.hex for layer in layers])),
            layer_sizes=tuple([layer.size for layer in layers]),
            platform=platform,
            is_image=config.media_type in CONFIG_TYPES
            and not any(word in media_type for media_type in types for word in _ELSEWHERE),
            is_old=types <= _PLAIN_OR_GZIP,
        )

    @classmethod
    def of_document(cls, document: Document) -> ImageFacts:
        """The facts of a manifest."""
        assert document.manifest is not None
        return cls.of(document.manifest.config, document.manifest.layers, document.entry.platform)

    @property
    def config_digest(self) -> Digest:
        return unpacked_digest(self.config)

    @property
    def sized_layers(self) -> Iterator[tuple[Digest, int]]:
        """Digest and size of each layer blob."""
        return zip(map(Digest, hex_digits(self.layers)), self.layer_sizes, strict=True)

    @property
    def is_deep(self) -> bool:
        """True if no engine accepts so many layers."""
        return len(self.layer_sizes) > DOCKER_MAX_LAYERS


def hex_digits(packed: bytes) -> list[str]:
    """The hex digits of each of several packed digests."""
    digits = packed.hex()
    return [digits[start : start + 2 * DIGEST_BYTES] for start in range(0, len(digits), 2 * DIGEST_BYTES)]


_decode = decoder_of(ImageFacts)


class ImageTable:
    """Facts by manifest digest. `directory` is for a temporary file, as in `Records`."""

    def __init__(self, directory: str | None) -> None:
        self._records = Records("the images of the target", directory, key=DIGEST_BYTES)

    def __contains__(self, manifest: Digest) -> bool:
        return packed_digest(manifest) in self._records

    def __iter__(self) -> Iterator[ImageFacts]:
        """All facts, in any order."""
        return map(_decode, self._records)

    def get(self, manifest: Digest) -> ImageFacts | None:
        found = self._records.of(packed_digest(manifest))
        return _decode(found[0]) if found else None

    def add(self, manifest: Digest, facts: ImageFacts) -> None:
        self._records.replace(packed_digest(manifest), msgspec.msgpack.encode(facts))


class NamesOfImages:
    """The names that lead to each manifest and index of a target."""

    def __init__(self, names: Iterable[tuple[Digest, str]], directory: str | None) -> None:
        """`directory` is for a temporary file, as in `Records`."""
        self._records = Records("the names of the target", directory, key=DIGEST_BYTES)
        for digest, name in names:
            self._records.add(packed_digest(digest), name.encode("utf-8", "surrogatepass"))

    def of(self, digest: Digest | None) -> set[str]:
        if digest is None:  # the image has no manifest
            return set()
        return {name.decode("utf-8", "surrogatepass") for name in self._records.of(packed_digest(digest))}


def iter_names(
    entries: Iterable[IndexEntry], children: Mapping[Digest, Sequence[IndexEntry]]
) -> Iterator[tuple[Digest, str]]:
    """(manifest or index, name that leads to it): its own names, and those of the indexes that contain it. A pair may
    be repeated."""
    for top in entries:
        if (top_name := top.name) is None:
            continue
        if top.descriptor.digest not in children:
            yield top.descriptor.digest, top_name
            continue
        pending = [(top, top_name)]
        seen: set[tuple[Digest, str]] = set()
        while pending:
            entry, name = pending.pop()
            digest = entry.descriptor.digest
            if (digest, name) not in seen:
                yield digest, name
                seen.add((digest, name))
                pending += [(child, child.name or name) for child in children.get(digest, ())]
