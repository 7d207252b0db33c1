"""The rows of manifest.json, which makes a layout an archive for `docker load`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter

import msgspec

from migrate.blobio.records import decoder_of
from migrate.blobio.sorted_runs import SortedRuns
from migrate.documents.docker_archive import ArchiveManifestEntry
from migrate.documents.oci import IndexEntry
from migrate.layout.image_facts import ImageFacts, ImageTable, hex_digits
from migrate.layout.names import BLOBS
from migrate.model.digest import Digest
from migrate.model.image import Platform
from migrate.model.reference import is_loadable_name

_Tagged = tuple[bool, bytes, bytes, str | None]
"""One tag of an image, or None for an image without one: (some engines refuse it, config, layers, tag)."""
_Row = tuple[bool, bool, list[str], bytes, bytes]
"""(some engines refuse it, it has no tags, tags, config, layers), in the order of manifest.json."""

_identity = itemgetter(0, 1, 2)
_decode_tagged = decoder_of(list[_Tagged])
_decode_rows = decoder_of(list[_Row])


def archive_entries(
    entries: Iterable[IndexEntry],
    images: ImageTable,
    children: Mapping[Digest, Sequence[Digest]],
    platform: Platform,
    directory: str | None,
    *,
    deep: bool = False,
) -> Iterator[ArchiveManifestEntry]:
    """The manifest.json of a layout: every image that a Docker engine can load, with all its tags. `directory` is for
    temporary files, as in `SortedRuns`.

    The tag of an index goes to its child for `platform`, or else to its first child. Images with zstd layers, which
    engines before 23 refuse, are listed last: such an engine stops there, after it has loaded all others. Images with
    more layers than any engine accepts are left out, or with `deep` listed last, too.
    """
    tagged: SortedRuns[_Tagged] = SortedRuns(
        "tags of images", directory, key=_identity, encode=msgspec.msgpack.encode, decode=_decode_tagged
    )
    for entry in entries:
        name = entry.name
        tag = name if name is not None and is_loadable_name(name) else None
        for image, own in _tagged_images(entry.descriptor.digest, tag, images, children, platform):
            is_deep = image.is_deep
            if image.is_image and (deep or not is_deep):
                tagged.add((is_deep or not image.is_old, image.config, image.layers, own))
    rows: SortedRuns[_Row] = SortedRuns(
        "rows of manifest.json", directory, key=tuple, encode=msgspec.msgpack.encode, decode=_decode_rows
    )
    # Manifests may differ in media types only. Images with equal config and layers are one row with all their tags.
    for (late, config, layers), same in groupby(tagged, _identity):
        tags = sorted({tag for *_, tag in same if tag is not None})
        rows.add((late, not tags, tags, config, layers))
    tagged.close()
    # images that some engines refuse come last; before that, images with tags come first
    for _, _, tags, config, layers in rows:
        yield ArchiveManifestEntry(
            config=f"{BLOBS}/{config.hex()}",
            repo_tags=tuple(tags),
            layers=tuple([f"{BLOBS}/{digits}" for digits in hex_digits(layers)]),
        )
    rows.close()


def _tagged_images(
    digest: Digest, tag: str | None, images: ImageTable, children: Mapping[Digest, Sequence[Digest]], platform: Platform
) -> list[tuple[ImageFacts, str | None]]:
    """The images that an entry leads to, one of them with its tag."""
    if digest not in children:
        image = images.get(digest)
        return [] if image is None else [(image, tag)]
    found = [image for leaf in leaves(digest, children) if (image := images.get(leaf)) is not None]
    holder = next((image for image in found if image.platform == platform), found[0] if found else None)
    # Children without a tag are listed, too: `docker load` loads the images of all platforms.
    return [(image, tag if image is holder else None) for image in found]


def leaves(digest: Digest, children: Mapping[Digest, Sequence[Digest]]) -> list[Digest]:
    """The manifests that an index leads to, in its order; empty for a manifest. Indexes may be nested to any depth."""
    found: list[Digest] = []
    pending, seen = list(reversed(children.get(digest, ()))), {digest}
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        if current in children:
            pending += reversed(children[current])
        else:
            found.append(current)
    return found
