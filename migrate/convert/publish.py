"""The end of a run: finished images get their names, are written into the target and become rows of the report.

Images are iterated several times and never kept, so that a batch can read them from disk each time.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from migrate.compose.image import HashedChain
from migrate.compose.manifest import compose_index
from migrate.compose.names import (
    Claim,
    Names,
    assign_names,
    instant,
    numbered,
    untagged_reference,
    wanted_reference,
)
from migrate.compose.oci_types import attestations, image_in_oci_types
from migrate.compose.source_indexes import CarriedLists
from migrate.documents.oci import IndexEntry, parse_config, parse_subject
from migrate.errors import ConflictError
from migrate.layout.catalog import ExistingImage
from migrate.model.container import Container
from migrate.model.digest import Digest
from migrate.model.image import ComposedImage, Descriptor, MediaType, Platform
from migrate.model.legacy import Failure, LegacyID, LegacyLayer, ReadyIndex
from migrate.model.options import ConvertOptions, OnConflict
from migrate.model.packed import PackedTable, packed_digest
from migrate.model.progress import Event, Progress
from migrate.model.reference import Reference
from migrate.report.document import Conflict
from migrate.report.model import ImageInput
from migrate.writers.base import ImageTarget

_BEFORE_THE_RUN = -1_000_000_000
_KEPT_CLAIMS = 2_000
"""Of more claims, those on a name that no other image claims are not kept, and the images are iterated once more."""
_BARE_LAYERS = 20_000
_SIGNATURE_TAG = r"sha256-([0-9a-f]{64})(?:\..*)?"
"""A tag that refers to a manifest: cosign's `.sig`, `.att` and `.sbom`, or the list of its referrers (OCI 1.1)."""


class FinishedImage(Struct, frozen=True, kw_only=True):
    """An image that is complete except for its names in the target.

    `source` is the location of its source, `order` its place in the run, which decides ties. `references` are those of
    the source. `certain` is False if it differs from the file system in the store of its source. `ready`: the source
    has a manifest of it, so its layer blobs are not compressed again. `source_digest` is the digest of that manifest,
    if the image got other media types. `index` is a manifest list of the source that names the image.
    """

    source: str
    order: int
    legacy_id: LegacyID
    composed: ComposedImage
    chain: HashedChain
    references: tuple[Reference, ...] = ()
    containers: tuple[str, ...] = ()
    container: Container | None = None
    legacy_digests: tuple[Digest, ...] = ()
    warnings: tuple[str, ...] = ()
    index: ReadyIndex | None = None
    ready: bool = False
    source_digest: Digest | None = None
    certain: bool = True

    @property
    def all_references(self) -> list[Reference]:
        """The references of the image and of the list that names it."""
        return sorted({*self.references, *(self.index.references if self.index is not None else ())})

    @property
    def row_key(self) -> tuple[str, LegacyID, Digest, bool]:
        """Equal for finished images that are one row in the report. A certain image and an uncertain one are two."""
        return (self.source, self.legacy_id, self.identity, self.certain)

    @property
    def identity(self) -> Digest:
        return self.composed.identity


def in_format(image: FinishedImage, options: ConvertOptions) -> FinishedImage:
    """`image` with OCI media types, if `--format oci` is given and its source has a manifest in Docker's types."""
    if not image.ready or not options.changes_manifests:
        return image
    composed, old = image_in_oci_types(image.composed), image.composed.manifest_digest
    if composed is image.composed:
        return image
    return replace(image, composed=composed, source_digest=old, legacy_digests=(*image.legacy_digests, old))


def without_documents(image: FinishedImage, bare: dict[LegacyID, LegacyLayer]) -> FinishedImage:
    """`image` with only the IDs of its layers, which is all that the report needs: a long chain has megabytes of JSON.

    `bare` are layers without documents, which images share; this function adds to it.
    """
    if len(bare) > _BARE_LAYERS:
        bare.clear()
    for layer, _ in image.chain:
        if layer.legacy_id not in bare:
            bare[layer.legacy_id] = LegacyLayer(legacy_id=layer.legacy_id, json=b"", parent=None, payload=None)
    return replace(image, chain=tuple((bare[layer.legacy_id], hashed) for layer, hashed in image.chain))


ImageWalk = Callable[[], Iterable[FinishedImage]]
"""Iterates over the images, with the same images in the same order each time it is called."""


class Publisher(Struct):
    """Gives the images of one run their names and writes them: `assign`, then `commit`, each once and in this order.

    `present` counts the images that were in the target before the run.
    """

    options: ConvertOptions
    target: ImageTarget | None
    progress: Progress
    failures: list[Failure] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    present: int = 0
    _names: Names = field(default_factory=Names)
    _repeated: Counter[Digest] = field(default_factory=Counter)
    """The number of images of a manifest that several have."""
    _disputed: set[Reference] = field(default_factory=set)
    """Names that more than one image may get. Any other name goes to the image that wants it, without a claim."""
    _untagged: dict[Digest, Reference] = field(default_factory=dict)
    _lists: CarriedLists = field(default_factory=CarriedLists)
    _platforms: dict[Digest, Platform] = field(default_factory=dict)
    _known: set[Digest] = field(default_factory=set)
    _existing: dict[Digest, ExistingImage] = field(default_factory=dict)
    _in_indexes: dict[Digest, set[Reference]] = field(default_factory=lambda: defaultdict(set))
    _signatures: dict[Digest, set[str]] = field(default_factory=lambda: defaultdict(set))

    def assign(self, walk: ImageWalk) -> None:
        """Assigns names. The images of `walk` may be without their chains, which names do not depend on."""
        self._lists.in_oci_types = self.options.changes_manifests
        self._names = self._assign(walk)
        if self.options.name_untagged is not None:
            self._name_untagged(walk(), self.options.name_untagged)
        for reference, members in self._names.indexes.items():
            for claim in members:
                self._in_indexes[claim.digest].add(reference)

    def is_refused(self, image: FinishedImage) -> bool:
        """True for images that `--on-conflict fail` leaves out, because another image claims one of their names."""
        claims = image.references or self._lists.is_split(image.index) or image.identity in self._untagged
        return bool(claims) and image.identity in self._names.refused

    def rows(self, images: Iterable[FinishedImage]) -> Iterator[ImageInput]:
        """The report's input for images that are written, in the order given. An image that its source names several
        times, by itself and in lists, is one row. To be called after `assign`."""
        rows: dict[tuple[str, LegacyID, Digest, bool], ImageInput] = {}
        listed: set[tuple[str, LegacyID, Digest, bool]] = set()
        begun: set[Digest] = set()
        awaited = 0  # images that may become one row with one in `rows`
        for image in images:
            if image.identity in self._repeated:
                if image.identity not in begun:
                    begun.add(image.identity)
                    awaited += self._repeated[image.identity]
                awaited -= 1
            if not self.is_refused(image):
                key = image.row_key
                row = ImageInput(
                    source=image.source,
                    legacy_id=image.legacy_id,
                    image=image.composed,
                    chain=image.chain,
                    references=tuple(str(reference) for reference in image.all_references),
                    names=[str(reference) for reference in self.names_of(image)],
                    containers=image.containers,
                    container=image.container,
                    legacy_digests=(*image.legacy_digests, *self._lists.lost_digest(image.index)),
                    warnings=(
                        *image.warnings,
                        *self._lists.warning(image.index),
                        *self._broken_signatures(image),
                        *_without_os(image),
                    ),
                    certain=image.certain,
                )
                if key not in rows:
                    rows[key] = row
                elif image.index is None or key in listed:  # the first of several lists decides the platform
                    rows[key] = _merged_row(rows[key], row)
                else:  # a list states the platform of its images, which a config may lack or have wrong
                    rows[key] = _merged_row(row, rows[key])
                if image.index is not None:
                    listed.add(key)
            if not awaited:
                yield from rows.values()
                rows.clear()
                listed.clear()
                begun.clear()
        yield from rows.values()

    def names_of(self, image: FinishedImage) -> list[Reference]:
        """The references of the image in the target: those of its claims that were granted, or that it got instead."""
        granted = self._names.by_digest.get(image.identity, set()) | self._in_indexes.get(image.identity, set())
        # The names that the image claims by itself: its own and, where its list is not carried over, the list's.
        wanted = self._wanted(image)
        granted |= self._undisputed(image, wanted)
        if image.index is not None and self._lists.is_split(image.index):
            wanted |= self._target_names(image.index.references, image.composed.created)
        if image.identity in self._untagged:
            wanted.add(self._untagged[image.identity])
        if self.options.on_conflict is OnConflict.KEEP_ALL:
            wanted |= {numbered(reference, image.composed.image_id.hex) for reference in wanted}
        names = wanted & granted
        if image.index is not None and not self._lists.is_split(image.index):
            names |= self._target_names(image.index.references, image.composed.created)
        return sorted(names)

    # --- names -------------------------------------------------------------------------------------------------

    def _target_names(self, references: Iterable[Reference], created: str | None) -> set[Reference]:
        """The names that `--rename` and `--tag-template` make of the references of a source."""
        return {
            wanted_reference(reference, created, self.options, hosts=self._hosts_in_names) for reference in references
        }

    @property
    def _hosts_in_names(self) -> bool:
        return self.target is None or self.target.names_have_hosts

    def _wanted(self, image: FinishedImage) -> set[Reference]:
        """The names that an image wants by itself, and not because of a list."""
        return self._target_names(image.references, image.composed.created)

    def _undisputed(self, image: FinishedImage, own: set[Reference]) -> set[Reference]:
        """Those of the names in `own` that nothing else wants: neither an image of this run or in the target, nor a
        list."""
        return set() if image.identity in self._repeated else own - self._disputed

    def _assign(self, walk: ImageWalk) -> Names:
        found = list(self._existing_claims())
        self._disputed = {claim.reference for claim in found}
        identities = PackedTable(key=32)
        names = PackedTable(key=8)
        claims: list[Claim] = []
        listed: list[tuple[ReadyIndex, Claim]] = []
        for image in walk():
            self._see_manifest(image)
            identity = packed_digest(image.identity)
            if identity not in identities:
                identities.add(identity)
            else:
                self._repeated[image.identity] = (self._repeated[image.identity] or 1) + 1
            own = self._wanted(image)
            for reference in own:
                # Two names with one hash count as disputed, too, which changes no result.
                name = hash(reference).to_bytes(8, signed=True)
                if name in names or self.options.name_untagged is not None:
                    self._disputed.add(reference)
                else:
                    names.add(name)
            if len(claims) <= _KEPT_CLAIMS:
                claims += (_claim(image, reference) for reference in sorted(own))
            if image.index is not None:
                self._platforms.setdefault(image.identity, image.composed.platform)
                listed_names = self._target_names(image.index.references, image.composed.created)
                self._disputed |= listed_names
                self._lists.see(image.index, listed_names)
                listed += ((image.index, _claim(image, reference)) for reference in sorted(listed_names - own))
        if len(claims) > _KEPT_CLAIMS:
            claims.clear()
            if self._disputed or self._repeated:
                claims += (claim for image in walk() for claim in self._disputed_claims(image))
        else:
            claims = [claim for claim in claims if self._is_disputed(claim.digest, claim.reference)]
        # Images that the target has keep their names, unless this run converts the same legacy images again.
        existing = self._without_superseded(found, [*claims, *(claim for _, claim in listed)])
        if self._platforms:  # at least one image is in a list
            held: dict[Reference, set[Digest]] = defaultdict(set)
            for claim in (*existing, *claims):
                held[claim.reference].add(claim.digest)
            self._lists.decide(held, identities)
        # A list that lost an image, or whose name another image has, is split: each of its images claims the name.
        claims += (claim for index, claim in listed if self._lists.is_split(index))
        # A list that is carried over is the only owner of its names, even if one of its images has the same reference:
        # the list leads to that image.
        for index, references in self._lists.whole():
            for child in self._lists.children(index):
                self._in_indexes[child].update(references)
        carried = {reference for _, references in self._lists.whole() for reference in references}
        if carried:
            claims = [claim for claim in claims if claim.reference not in carried]
        wanted = {claim.reference for claim in claims} if existing else ()
        claims += [claim for claim in existing if claim.reference in wanted]
        assigned = assign_names(claims, self.options.on_conflict)
        self._note_conflicts(assigned)
        return assigned

    def _is_disputed(self, manifest: Digest, reference: Reference) -> bool:
        return reference in self._disputed or manifest in self._repeated

    def _disputed_claims(self, image: FinishedImage) -> Iterator[Claim]:
        names = sorted(name for name in self._wanted(image) if self._is_disputed(image.identity, name))
        return (_claim(image, name) for name in names)

    def _see_manifest(self, image: FinishedImage) -> None:
        """Notes the new digest of a manifest, for the lists that name it, and the signatures that refer to a
        manifest."""
        if not self._lists.in_oci_types or not image.ready:
            return
        composed = image.composed
        if image.source_digest is not None:
            self._lists.replace_manifest(image.source_digest, composed.manifest_descriptor)
        for reference in image.references:
            if signed := re.fullmatch(_SIGNATURE_TAG, reference.tag):
                self._signatures[Digest(signed[1])].add(str(reference))
        if (subject := parse_subject(composed.manifest)) is not None:
            self._signatures[subject].add(", ".join(map(str, image.references)) or str(composed.manifest_digest))
        for content in () if image.index is None else image.index.contents:
            for manifest, attestation in attestations(content):
                self._signatures[manifest].add(str(attestation))

    def _broken_signatures(self, image: FinishedImage) -> tuple[str, ...]:
        old = (*([] if image.source_digest is None else [image.source_digest]), *self._lists.lost_digest(image.index))
        broken = sorted({name for digest in old for name in self._signatures.get(digest, ())})
        if not broken:
            return ()
        return (
            f"--format oci changes the digest of its manifest, and these refer to the old digest: {', '.join(broken)}; "
            "sign it again, or keep the manifest with --carry-manifests",
        )

    def _name_untagged(self, images: Iterable[FinishedImage], template: str) -> None:
        """`--name-untagged`: names images that have no name, from this run or an earlier one. If another image has the
        name already, it keeps it, and a conflict is reported."""
        taken = self._granted()
        named = {digest for digests in taken.values() for digest in digests} | self._names.refused
        named |= {digest for digest, names in self._in_indexes.items() if names}
        claims: dict[Digest, Claim] = {}
        for image in images:
            if image.identity not in named and image.identity not in claims:
                ids = (image.legacy_id, image.composed.image_id.hex)
                claims[image.identity] = _claim(image, untagged_reference(template, *ids, hosts=self._hosts_in_names))
        before = self._without_superseded(list(self._existing_claims()), claims.values())
        before = [claim for claim in before if claim.reference not in taken]
        for claim in before:
            taken[claim.reference].add(claim.digest)
            if claim.digest in claims and claims[claim.digest].reference != claim.reference:
                del claims[claim.digest]  # an earlier run has named it
        for claim in claims.values():
            holders = taken.get(claim.reference, {claim.digest})
            if claim.digest in holders:
                self._untagged[claim.digest] = claim.reference
            else:
                self.conflicts.append(
                    Conflict(
                        reference=str(claim.reference),
                        platform=claim.platform,
                        kept=min(holders),
                        others=(claim.digest,),
                    )
                )
        wanted = set(self._untagged.values())
        mine = [claims[digest] for digest in self._untagged]
        names = assign_names(
            [*mine, *(claim for claim in before if claim.reference in wanted)], self.options.on_conflict
        )
        self._note_conflicts(names)
        for digest, references in names.by_digest.items():
            self._names.by_digest[digest] |= references
        self._names.indexes |= names.indexes
        self._names.refused |= names.refused

    def _granted(self) -> dict[Reference, set[Digest]]:
        """The manifests that each name of the run leads to."""
        granted: dict[Reference, set[Digest]] = defaultdict(set)
        for digest, names in self._names.by_digest.items():
            for name in names:
                granted[name].add(digest)
        for name, members in self._names.indexes.items():
            granted[name] |= {claim.digest for claim in members}
        for index, references in self._lists.whole():
            for name in references:
                granted[name] |= {Digest.of(self._lists.written(index).content), *self._lists.children(index)}
        return granted

    def _note_conflicts(self, names: Names) -> None:
        for conflict in names.conflicts:
            if conflict.kept is not None:
                self.conflicts.append(
                    Conflict(
                        reference=str(conflict.reference),
                        platform=conflict.platform,
                        kept=conflict.kept.digest,
                        others=tuple(claim.digest for claim in conflict.others),
                    )
                )
        names.conflicts.clear()  # the claims of a large batch take much more memory than what the report needs

    def _without_superseded(self, existing: Sequence[Claim], ours: Iterable[Claim]) -> list[Claim]:
        """`existing` without the claims of images that an earlier run made of the same legacy images.

        The same legacy image, converted again, replaces the earlier result, and that is not a conflict. But a legacy ID
        is random, so another image may have it. An image with another creation time is treated as another image. An
        image with the same time and other layers (such as a tar that was made again from a file tree) gives its name to
        the new one, and a conflict is reported.
        """
        if self.target is None or not existing:
            return list(existing)
        made_of: dict[Digest, set[str]] = defaultdict(set)
        for row in self.target.mapped_images():
            if row.manifest_digest is not None:
                made_of[row.manifest_digest].add(row.legacy_id)
        again: dict[Reference, list[Claim]] = defaultdict(list)
        for claim in ours:
            again[claim.reference].append(claim)
        kept = []
        for claim in existing:
            rivals = again[claim.reference]
            same = [one for one in rivals if one.legacy_id in made_of[claim.digest]]
            # an ordinary claim: the same manifest again, or the image of another legacy image
            if any(one.digest == claim.digest for one in rivals) or not same:
                kept.append(claim)
            elif not any(one.is_remade(claim) for one in same):
                if all(instant(one.created) != instant(claim.created) for one in same):
                    kept.append(claim)
                else:
                    winner = same[0]
                    self.conflicts.append(
                        Conflict(
                            reference=str(claim.reference),
                            platform=claim.platform,
                            kept=winner.digest,
                            others=(claim.digest,),
                        )
                    )
        return kept

    def _existing_claims(self) -> Iterator[Claim]:
        if self.target is None:
            return
        # Conflicts are between images of one platform, so the images of an index claim its name one by one.
        flat = [child for image in self.target.existing_images() for child in image.children or (image,)]
        self._known = {existing.manifest_digest for existing in flat}
        for order, existing in enumerate(flat):
            if existing.reference is not None:
                self._existing[existing.manifest_digest] = existing
                yield Claim(
                    reference=existing.reference,
                    platform=existing.platform or self.options.platform,
                    digest=existing.manifest_digest,
                    created=existing.created,
                    order=_BEFORE_THE_RUN + order,  # `--on-conflict first`: these were first
                    image_id="" if existing.image_id is None else existing.image_id.hex,
                    diff_ids=existing.diff_ids,
                )

    # --- target ------------------------------------------------------------------------------------------------

    def commit(self, images: Iterable[FinishedImage]) -> Iterator[FinishedImage]:
        """Writes the images of `assign`, in the same order, and the lists of them. Yields each image that is not
        refused, then writes it; of images with the same manifest, the first is written. Raises TargetError."""
        done: set[Digest] = set()
        children: dict[Digest, ComposedImage] = {}
        for image in images:
            if self.is_refused(image):
                error = ConflictError("another image claims the same reference, and --on-conflict is fail")
                references = tuple(str(reference) for reference in image.references)
                failure = Failure.of(error, image.source, references=references, legacy_id=image.legacy_id)
                self.failures.append(failure)
                self.progress.emit(failure.event())
                continue
            yield image
            if image.identity in self._in_indexes:
                children[image.identity] = image.composed
            if image.identity not in done:
                if image.identity in self._repeated:
                    done.add(image.identity)
                self.present += image.identity in self._known
                if self.target is not None:
                    composed, listed = image.composed, self._platforms.get(image.identity)
                    # The platform in a complete list goes before that in a list which lost an image.
                    if (
                        listed not in (None, composed.platform)
                        and composed.platform != parse_config(composed.config).platform
                    ):
                        composed = replace(composed, platform=listed)
                    granted = self._names.by_digest.get(image.identity, set())
                    self.target.commit(composed, sorted(granted | self._undisputed(image, self._wanted(image))))
                self.progress.emit(Event(kind="image", name=str(image.identity)))
        if self.target is not None:
            for reference, members in sorted(self._names.indexes.items()):
                if any(claim.order >= 0 for claim in members):  # else the target has this index already
                    entries = [self._index_entry(claim, children) for claim in members]
                    content, media_type = compose_index(entries, self.options.format)
                    self.target.commit_index(content, media_type, [reference])
            for index, names in self._lists.whole():
                carried = self._lists.written(index)
                for nested in carried.nested:
                    self.target.commit_index(nested.content, nested.media_type, [])
                self.target.commit_index(carried.content, carried.media_type, names)

    def _index_entry(self, claim: Claim, children: dict[Digest, ComposedImage]) -> IndexEntry:
        if (child := children.get(claim.digest)) is not None:
            return IndexEntry(descriptor=child.manifest_descriptor, platform=child.platform)
        there = self._existing[claim.digest]
        descriptor = Descriptor(media_type=there.media_type, digest=there.manifest_digest, size=there.size)
        return IndexEntry(descriptor=descriptor, platform=claim.platform)


def _without_os(image: FinishedImage) -> tuple[str, ...]:
    """A warning for OCI images without `os`, which images of Docker 0.6 lack: Docker assumes its own, umoci fails."""
    composed = image.composed
    if composed.config_media_type != MediaType.OCI_CONFIG or parse_config(composed.config).os is not None:
        return ()
    remedy = "" if image.ready else "; --fill-platform writes the platform into it"
    return (f"its config names no os: umoci refuses it (unsupported OS){remedy}",)


def _merged_row(one: ImageInput, other: ImageInput) -> ImageInput:
    """One row for two rows of one image; `one` has the platform."""
    return replace(
        one,
        references=sorted({*one.references, *other.references}),
        names=sorted({*one.names, *other.names}),
        containers=sorted({*one.containers, *other.containers}),
        legacy_digests=sorted({*one.legacy_digests, *other.legacy_digests}),
        warnings=tuple(dict.fromkeys((*one.warnings, *other.warnings))),
        certain=one.certain and other.certain,
    )


def _claim(image: FinishedImage, reference: Reference) -> Claim:
    return Claim(
        reference=reference,
        platform=image.composed.platform,
        digest=image.identity,
        created=image.composed.created,
        order=image.order,
        image_id=image.composed.image_id.hex,
        legacy_id=image.legacy_id,
        diff_ids=tuple(image.composed.diff_ids),
    )
