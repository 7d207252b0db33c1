"""Checks the records of earlier runs against the documents of their sources. No layer is read.

A journal is a file in the target, which may come from somebody else. So before a line of an earlier run is used, the
source is listed again. Its images, names, chains and lists must be those of the record, and each config must be the one
that the documents give with the layers of the record. The diffIDs in the record are not checked, as for
`.migrate/payloads` (docs/decisions/0004-hints-are-proven.md).
"""

from __future__ import annotations

import dataclasses
import os
import stat
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from migrate.batch.existing_blobs import READ_AT_ONCE
from migrate.batch.journal import Journals, LinePlace
from migrate.batch.lending import lent_layers
from migrate.batch.records import ImageRecord, SourceRecord
from migrate.blobio.compression import HEAD_BYTES, detect_compression
from migrate.compose.image import compose_image
from migrate.convert.earlier import EarlierImages
from migrate.convert.other_places import Lent
from migrate.convert.planned import PlannedImage
from migrate.convert.run import Conversion
from migrate.convert.sources import OpenedSource
from migrate.errors import MigrateError, NoImageError, UsageError
from migrate.model.legacy import LegacyID, LegacyImage
from migrate.model.options import ConvertOptions
from migrate.readers.detect import open_source

MOST_COMPRESSED: Final = 64 * 1024 * 1024
"""Largest compressed archive that is decompressed for this check. The records of larger ones are used unchecked."""


def disproved(
    journals: Journals,
    sources: Mapping[str, LinePlace],
    options: ConvertOptions,
    earlier: EarlierImages | None,
    unfit: Collection[str] = frozenset(),
) -> set[str]:
    """The `sources` (locations and their records) whose record does not match the source, or that took layers from a
    source which is not among the matching ones. Raises TargetError.

    `earlier` are the images of the target, from which a source may have taken layers. `unfit` are sources that no
    worker would open, such as a link to a folder, so that they must have no image.
    """
    lent: dict[str, set[str]] = {}

    def is_wrong(location: str) -> bool:
        record = journals.read(sources[location], location)
        if record.lent:
            lent[location] = set(record.lent.values())
        return bool(record.images) if location in unfit else not is_proven(location, record, options, earlier)

    found: set[str] = set()
    locations = list(sources)
    with ThreadPoolExecutor(options.jobs, thread_name_prefix="prove") as pool:
        for start in range(0, len(locations), READ_AT_ONCE):
            group = locations[start : start + READ_AT_ONCE]
            found.update(one for one, is_found in zip(group, pool.map(is_wrong, group), strict=True) if is_found)
    # A record with layers of another source is used only if the record of that source matches, too.
    sound = sources.keys() - found
    return found | {location for location, lenders in lent.items() if not lenders <= sound}


def is_proven(location: str, record: SourceRecord, options: ConvertOptions, earlier: EarlierImages | None) -> bool:
    if "://" in location:
        return True  # listing an archive at a URL could mean to download all of it
    try:
        mode = os.stat(location).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            return not record.images  # a pipe, which workers do not open
        if stat.S_ISREG(mode) and os.path.getsize(location) > MOST_COMPRESSED:
            with open(location, "rb") as file:
                if detect_compression(file.read(HEAD_BYTES)) != "none":
                    return True  # all of it would have to be decompressed to list it
    except OSError:
        return not record.images
    try:
        source = open_source(location, options)
    except MigrateError:
        return not record.images
    try:
        with lent_layers(record.lent, options) as layers:
            conversion = Conversion(
                [OpenedSource(location, source)],
                dataclasses.replace(options, jobs=1),
                earlier=earlier,
                lent=Lent(layers),
            )
            # Compare the listing of the source with the record.
            try:
                conversion.gather()
            except UsageError:
                return not record.images
            opened = conversion.sources[0]
            if opened.listing is None:
                return not record.images and (bool(record.failures) or isinstance(opened.error, NoImageError))
            return _Comparison(conversion.planned, options).fits(record)
    except MigrateError:
        return False
    finally:
        source.close()


class _Comparison:
    def __init__(self, planned: Sequence[PlannedImage], options: ConvertOptions) -> None:
        self._planned = planned
        self._options = options

    def fits(self, record: SourceRecord) -> bool:
        """True if every image of the record is in the source, and every image of the source is in the record or has
        failed."""
        left: dict[str, list[PlannedImage]] = defaultdict(list)
        for planned in self._planned:
            left[planned.image.head].append(planned)
        for image in record.images:
            listed = left[image.finished.legacy_id]
            match = next((one for one in listed if self._is_same(one, image)), None)
            if match is not None:
                listed.remove(match)
            elif not any(self._is_same(part, image) for part in self._parts_for(image)):
                return False
        failed = {failure.legacy_id for failure in record.failures}
        is_lost_whole = any(failure.legacy_id is None and not failure.references for failure in record.failures)
        return is_lost_whole or all(head in failed for head, listed in left.items() if listed)

    def _parts_for(self, image: ImageRecord) -> Iterator[PlannedImage]:
        """The images that `--salvage` may have made of a lost image: its chain up to this ID, without a name."""
        head = image.finished.legacy_id
        for one in self._planned if self._options.salvage else ():
            ids = [layer.legacy_id for layer in one.chain]
            if head in ids and one.image.config is None:
                part = LegacyImage(head=LegacyID(head))
                yield PlannedImage(0, one.location, part, one.order, one.chain[: ids.index(head) + 1])

    def _is_same(self, planned: PlannedImage, image: ImageRecord) -> bool:
        """True if both are the same image. Compares cheap facts first: a source may have thousands of images."""
        finished, listed = image.finished, planned.image
        rows = [hashed for _, hashed in finished.chain]
        if (
            listed.head != finished.legacy_id
            or set(listed.references) != set(finished.references)
            or [layer.legacy_id for layer in planned.chain] != [layer.legacy_id for layer, _ in finished.chain]
            or any(
                (layer.payload is None) != (hashed is None) for layer, hashed in zip(planned.chain, rows, strict=True)
            )
            or (planned.index is None) != (finished.index is None)
        ):
            return False
        if planned.index is not None and finished.index is not None:
            same = (planned.index.content, planned.index.media_type, set(planned.index.references))
            if same != (finished.index.content, finished.index.media_type, set(finished.index.references)):
                return False
        # The config must be the one that this program makes of the documents. A changed record could otherwise give an
        # image another command or environment.
        composed = compose_image(listed, list(zip(planned.chain, rows, strict=True)), self._options)
        other = finished.composed
        return (
            (composed.config, composed.diff_ids, composed.platform, composed.created)
            == (other.config, other.diff_ids, other.platform, other.created)
            and (not finished.ready or composed.manifest == other.manifest)
            and tuple(listed.legacy_digests) == finished.legacy_digests
            and tuple(listed.containers) == finished.containers
            and finished.ready == (listed.manifest is not None and composed.certain)
        )
