"""`docker save` archives of every era: v1 only (0.6 to 1.9), dual (1.10 to 24), OCI layout (25 and later).

The content decides how an archive is read, as in Docker: with a `manifest.json`, the json of a layer is not read as v1.
An archive may be plain or compressed, a file, an unpacked directory or standard input.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain, islice
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from msgspec.structs import replace

from migrate.blobio import limits
from migrate.blobio.payload import Extent, Payload
from migrate.compose.chain import find_heads, walk_chain
from migrate.documents.docker_archive import ArchiveManifestEntry, parse_archive_manifest, parse_repositories
from migrate.documents.oci import parse_ready_config
from migrate.documents.v1_json import LayerDocument
from migrate.errors import (
    DamagedError,
    DocumentError,
    LimitError,
    MigrateError,
    MissingContentError,
    MissingLayerError,
    MissingParentError,
    SourceError,
    SourceUnreadableError,
)
from migrate.layout.names import ARCHIVE_MANIFEST, INDEX, LAYOUT_FILE
from migrate.model.digest import DiffID, Digest
from migrate.model.legacy import (
    Failure,
    LegacyID,
    LegacyImage,
    LegacyLayer,
    PayloadRef,
    SourceListing,
    SourceType,
    is_hex_id,
    is_safe_name,
)
from migrate.model.reference import Reference
from migrate.readers.base import LegacySource, TakeLayer
from migrate.readers.members import DOCUMENTS, REPOSITORIES, Members, TarMembers, clean_name, is_archive_member
from migrate.readers.passing import PassingArchive
from migrate.readers.v1_layers import NOWHERE, V1Layers
from migrate.tar.index import TarIndex
from migrate.tar.members import Member

if TYPE_CHECKING:
    from migrate.readers.oci_content import OciContent
    from migrate.storage.tree import Tree, TreeEntry

_FOLDER_NAME = re.compile(r"(?:[^/]+/)+[^/:]+:[^/:]+")
"""A folder `team/app:1`: Docker 1.0 and 1.1 used the name of an image for its folder (moby #6857)."""
_SHORT_ID = re.compile(r"[0-9a-f]{6,63}")
_KEPT_BYTES = 16 * 1024 * 1024
"""Limit of the layer documents that are kept between the listing and the reading of layers. Others are read again."""
_FURTHER = "//"
"""The key of a payload in the second or a later archive of the file begins with this, since no member's name does. (The
key of a payload that was read from a stream and not kept begins with one `/`.)"""


class DockerArchiveSource(LegacySource):
    """A `docker save` archive whose members are indexed. See `LegacySource`."""

    source_type = SourceType.DOCKER_ARCHIVE

    def __init__(
        self,
        location: str,
        members: Members | PassingArchive,
        *,
        salvage: bool = False,
        file: list[DockerArchiveSource] | None = None,
    ) -> None:
        """`file`: all archives of the file, if this is the second or a later one in it."""
        self.location = location
        self._salvage = salvage
        self._archive = members
        self._file = [] if file is None else file
        self._v1_layers: V1Layers | None = None
        # Images share the layers that they have in common, as long as one of them is in memory.
        self._layers: WeakValueDictionary[LegacyID, LegacyLayer] = WeakValueDictionary()
        self._documents: dict[int, LayerDocument] = {}
        """The json of layers by their places."""
        self._document_bytes = 0
        self._stated: dict[LegacyID, str] = {}
        """The IDs in documents that are not the layer's own."""

    @property
    def is_read_once(self) -> bool:
        return isinstance(self._archive, PassingArchive)

    @property
    def reads_one_file(self) -> bool:
        return isinstance(self._archive, TarMembers | PassingArchive)

    def stream_layers(self, take: TakeLayer, /) -> None:
        def take_member(member: Member, payload: Payload) -> None:
            ref = PayloadRef(key=Members.key_of(member), size=payload.size)
            take(LegacyLayer(legacy_id=_layer_name(member.name), json=b"", parent=None, payload=ref), payload)

        if isinstance(self._archive, PassingArchive):
            self._archive.read_through(take_member)

    @property
    def _members(self) -> Members:
        if isinstance(self._archive, PassingArchive):
            return self._archive.read_through(None)
        return self._archive

    @property
    def _archives(self) -> list[DockerArchiveSource]:
        """All archives in the file, in order, including this one. Each has its own members."""
        if not self._file:
            self._file.append(self)
            for members in self._members.further:
                self._file.append(DockerArchiveSource(self.location, members, salvage=self._salvage, file=self._file))
        return self._file

    def listing(self) -> SourceListing:
        if len(self._archives) == 1:
            return self._list_own()
        found = SourceListing(images=[])
        errors: list[SourceUnreadableError] = []
        for archive in self._archives:
            try:
                own = archive._list_own()
                found = replace(
                    found,
                    images=[*found.images, *own.images],
                    indexes=[*found.indexes, *own.indexes],
                    layers=sorted({*found.layers, *own.layers}),
                    failures=[*found.failures, *own.failures],
                    warnings=[*found.warnings, *own.warnings],
                )
            except SourceUnreadableError as error:
                errors.append(error)
        if len(errors) == len(self._archives):
            raise errors[0]
        return replace(found, failures=[*found.failures, *(Failure.of(error, self.location) for error in errors)])

    def _list_own(self) -> SourceListing:
        """The archive's own images. In the second and later archives, each image has its chain, with payload keys that
        are unique in the whole file."""
        found = self._list_documents()
        if self is self._archives[0]:
            return found
        images: list[LegacyImage] = []
        failures = [*found.failures]
        for image in found.images:
            try:
                images.append(self._image_in_file(image))
            except MigrateError as error:
                failures.append(Failure.of(error, self.location, references=image.references, legacy_id=image.head))
        indexes = [replace(one, children=tuple(map(self._image_in_file, one.children))) for one in found.indexes]
        return replace(found, images=images, failures=failures, indexes=indexes)

    def _image_in_file(self, image: LegacyImage) -> LegacyImage:
        if image.chain is not None:
            return replace(image, chain=tuple(map(self._layer_in_file, image.chain)))
        try:
            return replace(image, chain=walk_chain(image.head, self._find_v1_layer))
        except (MissingLayerError, MissingContentError, MissingParentError):
            # What is missing may be in another source of the run. But if another archive of this file has a layer with
            # the same ID, that layer would be used in place of this archive's.
            others = {name for archive in self._archives if archive is not self for name in archive._layers_of_v1}
            if not others.isdisjoint(self._layers_of_v1):
                raise
            return image

    def _layer_in_file(self, layer: LegacyLayer) -> LegacyLayer:
        number = self._archives.index(self)
        if layer.payload is None or layer.payload.key.startswith("/") or not number:
            return layer
        return replace(layer, payload=replace(layer.payload, key=f"{_FURTHER}{number}/{layer.payload.key}"))

    def _list_documents(self) -> SourceListing:
        failures = [
            Failure(source=self.location, error=problem.error, message=problem.message)
            for problem in self._members.problems
            if problem.fatal
        ]
        # Docker 1.10 and later write manifest.json, OCI layouts have index.json alone, Docker before 1.10 wrote
        # neither.
        if ARCHIVE_MANIFEST in self._members:
            found = self._list_manifest()
            if INDEX in self._members:
                found = self._with_oci_images(found)
            found = self._with_v1_images(found, ARCHIVE_MANIFEST)
        elif LAYOUT_FILE in self._members and INDEX in self._members:
            found = self._with_v1_images(self._oci_content().listing(), INDEX)
        else:
            found = self._list_v1()
        if not (found.images or found.indexes or found.failures or failures):
            from migrate.readers.not_a_source import foreign_tar

            raise foreign_tar(self.location, self._members.names())
        return SourceListing(
            images=found.images,
            indexes=found.indexes,
            layers=found.layers,
            failures=[*found.failures, *failures],
            warnings=[
                *found.warnings,
                *self._members.warnings,
                *(
                    f"{self.location}: member {name} occurs more than once; the last one is used, as Docker does"
                    for name in sorted(self._members.duplicates)
                ),
                *(
                    f"{self.location}: member {name} occurs again behind the damage; the first one is used"
                    for name in sorted(self._members.repeated)
                ),
            ],
        )

    def read_layer(self, legacy_id: LegacyID, /) -> LegacyLayer:
        """A v1 layer. The directory's name is its ID, as for Docker's load, even if the json has another `id`."""
        layer = self._layers.get(legacy_id)
        if layer is None:
            layer = self._layers[legacy_id] = self._find_v1_layer(legacy_id)
        return layer

    def _find_v1_layer(self, legacy_id: LegacyID) -> LegacyLayer:
        """The layer of this archive, or else of another archive in the file, as if Docker loaded one after the other.

        Another archive counts only for a random ID, and only if all archives with this ID have the same json."""
        try:
            return self._layer_in_file(self._read_v1_layer(legacy_id))
        except (MissingLayerError, MissingContentError):
            found: dict[bytes, LegacyLayer] = {}
            for archive in self._archives if is_hex_id(legacy_id) else ():
                with contextlib.suppress(MigrateError):
                    layer = archive._layer_in_file(archive._read_v1_layer(legacy_id))
                    found.setdefault(layer.json, layer)
            if len(found) != 1:
                raise
            return next(iter(found.values()))

    def _read_v1_layer(self, legacy_id: LegacyID) -> LegacyLayer:
        place = self._layers_of_v1.find(legacy_id)
        document = self._read_document(legacy_id, place)
        stated, parent = self._identity(legacy_id, place, document)
        warnings: list[str] = []
        # Docker 1.0.1 wrote archives in which they differ. Docker's load does not look at `id` at all (moby 28.5,
        # image/tarexport/load.go).
        if stated is not None and stated != legacy_id:
            warnings.append(f"layer {legacy_id}: its json states another id, {stated}; the directory's name is used")
        if not (is_hex_id(legacy_id) and len(legacy_id) == 64):
            kind = "has 16 digits" if is_hex_id(legacy_id) else "is not 64 hex digits"
            warnings.append(f"layer {legacy_id}: its ID {kind}")
        return LegacyLayer(
            legacy_id=legacy_id,
            json=document,
            parent=parent,
            payload=self._payload_ref(f"{legacy_id}/layer.tar", legacy_id),
            warnings=tuple(warnings),
        )

    def _identity(self, legacy_id: LegacyID, place: int, document: LayerDocument) -> tuple[str | None, LegacyID | None]:
        """(the ID in the layer's json, the parent), which are parsed once. `place`: that of the layer."""
        if self._layers_of_v1.knows_parent(legacy_id, place):
            return self._stated.get(legacy_id, legacy_id), self._layers_of_v1.parent(legacy_id, place)
        try:
            stated, named, _ = document.identity(f"{self.location}: {legacy_id}/json")
        except MigrateError as error:
            self._keep(place, document)
            raise error.at_layer(legacy_id) from error
        document.forget()
        parent = LegacyID(named) if named else None
        self._layers_of_v1.set_parent(legacy_id, place, parent)
        if stated not in (None, legacy_id):
            self._stated[legacy_id] = stated
        return self._stated.get(legacy_id, legacy_id), parent

    def _read_document(self, legacy_id: LegacyID, place: int) -> LayerDocument:
        """The layer's json, also if the layer's content is lost. Those of layers whose parent is known are counted in
        `_document_bytes` already."""
        if place in self._documents:
            return self._documents[place]
        try:
            document = LayerDocument(self._members.read(f"{legacy_id}/json"))
        except MissingLayerError as error:
            if f"{legacy_id}/layer.tar" in self._members:
                message = f"{self.location}: layer {legacy_id} has a layer.tar but no json"
                raise DamagedError(message, layer=legacy_id) from error
            raise MissingLayerError(f"{self.location}: there is no layer {legacy_id}", layer=legacy_id) from error
        except SourceError as error:
            raise error.at_layer(legacy_id) from error
        if self._layers_of_v1.knows_parent(legacy_id, place):
            return document
        self._document_bytes += len(document)
        if self._document_bytes > limits.DOCUMENTS_BYTES:
            total = f"more than {limits.DOCUMENTS_BYTES:,} bytes of layer documents (DOCUMENTS_BYTES)"
            raise LimitError(f"{self.location}: {total}", layer=legacy_id)
        if self._document_bytes <= _KEPT_BYTES:
            self._keep(place, document)
        return document

    def _keep(self, place: int, document: LayerDocument) -> None:
        if place != NOWHERE:  # a folder that only a link leads to
            self._documents[place] = document

    def open_payload(self, layer: LegacyLayer, /) -> AbstractContextManager[Payload]:
        assert layer.payload is not None
        claim = layer.payload
        if claim.key.startswith(_FURTHER):
            number, _, key = claim.key.removeprefix(_FURTHER).partition("/")
            return self._archives[int(number)].open_payload(replace(layer, payload=replace(claim, key=key)))
        if claim.absent is not None:
            raise MissingContentError(claim.absent, layer=layer.legacy_id)
        # An empty tar that the archive lacks: its bytes follow from its digest.
        if claim.digest is not None and claim.key not in self._members:
            from migrate.readers.registry_images import known_payload

            made = known_payload(claim.digest)
            if made is not None:
                return nullcontext(made)
        return self._members.open(claim.key)

    def find_extent(self, layer: LegacyLayer, /) -> Extent | None:
        assert layer.payload is not None
        key = layer.payload.key
        if key.startswith(_FURTHER):
            number, _, key = key.removeprefix(_FURTHER).partition("/")
            return self._archives[int(number)]._members.find_extent(key)
        return self._members.find_extent(key)

    def close(self) -> None:
        self._archive.close()
        self._file.clear()  # it names this one: nothing of a large archive shall wait for a search for garbage

    def _oci_content(self) -> OciContent:
        from migrate.readers.oci_content import OciContent  # most archives have no index, and need none of its modules

        return OciContent(self.location, self._members, salvage=self._salvage)

    # --- v1 ----------------------------------------------------------------------------------------------------

    def _payload_ref(self, name: str, legacy_id: str) -> PayloadRef:
        try:
            member = self._members.resolve(name)
        except MissingLayerError as error:  # the layer's json is there, only its content is missing
            raise MissingContentError(f"{self.location}: {name} is missing", layer=legacy_id) from error
        except SourceError as error:
            raise error.at_layer(legacy_id) from error
        return PayloadRef(key=self._members.key_of(member), size=member.size)

    @property
    def _layers_of_v1(self) -> V1Layers:
        if self._v1_layers is None:
            files = (name for name in self._members.names() if name.endswith(("/json", "/layer.tar")))
            folders = {name.rpartition("/")[0] for name in files}
            folders.difference_update([name for name in folders if not (is_safe_name(name) or self._is_named(name))])
            folders.update(filter(is_hex_id, self._members.unlisted))
            self._v1_layers = V1Layers(self._members, folders)
        return self._v1_layers

    def _is_named(self, folder: str) -> bool:
        """True for nested folders, which a name with `/` makes. They count only with a layer, since any folder may have
        a `json`."""
        has_layer = f"{folder}/json" in self._members and f"{folder}/layer.tar" in self._members
        return has_layer and _FOLDER_NAME.fullmatch(folder) is not None

    def _list_v1(self) -> SourceListing:
        ids = self._layers_of_v1
        references, failures = self._read_repositories()
        warnings: list[str] = []
        heads = self._find_heads()
        tagged: dict[LegacyID, list[Reference]] = defaultdict(list)
        for place, legacy_id in enumerate(ids):
            # `docker save NAME:TAG` of 1.0 and 1.1 gives a folder the name instead of the ID (moby #6857).
            name, _, tag = legacy_id.rpartition(":")
            if not (name and tag):
                continue
            with contextlib.suppress(MigrateError):
                stated = self._read_document(legacy_id, place).identity(self.location).id
                if stated is not None and is_hex_id(stated):
                    reference = Reference.parse(legacy_id)
                    tagged[legacy_id].append(reference)
                    how = "is that of a folder, as Docker 1.0 and 1.1 saved it"
                    warnings.append(f"{self.location}: the name {reference} {how}")
        for reference, legacy_id in references:
            whole = self._whole_id(legacy_id, ids)
            if whole is not None:
                tagged[whole].append(reference)
                if whole != legacy_id:
                    warnings.append(f"{self.location}: {reference} names {legacy_id}, which is short for {whole}")
            else:
                message = f"{self.location}: {reference} names {legacy_id}, which the archive does not hold"
                missing = MissingLayerError(message, layer=legacy_id)
                failures.append(Failure.of(missing, self.location, references=[reference], legacy_id=legacy_id))
        del references  # many, of which the images have what they need
        # A layer that is another one's parent is an image only if it has a name.
        names = heads.union(tagged)
        images = [LegacyImage(head=head, references=tuple(sorted(tagged.pop(head, ())))) for head in sorted(names)]
        return SourceListing(images=images, layers=ids, failures=failures, warnings=warnings)

    def _find_heads(self) -> set[LegacyID]:
        """The layers that are no layer's parent. A layer whose json cannot be read has none.

        If the layer's content is lost, the image that needs it fails when its chain is walked. Without the parent, the
        parent would become an image of its own.
        """
        ids = self._layers_of_v1
        for place, legacy_id in enumerate(ids):
            with contextlib.suppress(MigrateError):
                self._identity(legacy_id, place, self._read_document(legacy_id, place))
        one = len(self._archives) == 1
        heads = ids.heads() if one else find_heads([self._parent_in_file(*row) for row in enumerate(ids)])
        return {ids[place] for place in heads}

    def _parent_in_file(self, place: int, legacy_id: LegacyID) -> int:
        """The place of the parent, also by the json of another archive in the file."""
        parent: LegacyID | None = None
        if self._layers_of_v1.knows_parent(legacy_id, place):
            parent = self._layers_of_v1.parent(legacy_id, place)
        with contextlib.suppress(MigrateError):
            parent = self._find_v1_layer(legacy_id).parent
        return NOWHERE if parent is None else self._layers_of_v1.find(parent)

    def _whole_id(self, legacy_id: LegacyID, own: V1Layers) -> LegacyID | None:
        """The layer with an ID, which may be shortened: of this archive, or of another one in the file. None if there
        is none, or several. Docker up to 1.9 accepted any unambiguous prefix of an ID."""
        if legacy_id in own:
            return legacy_id
        if not _SHORT_ID.fullmatch(legacy_id) and not is_hex_id(legacy_id):
            return None
        others = {LegacyID(one) for archive in self._archives for one in archive._layers_of_v1}
        for known in (own, others):
            found = [one for one in known if one.startswith(legacy_id)]
            if found:
                return found[0] if len(found) == 1 else None
        return None

    def _read_repositories(self) -> tuple[Sequence[tuple[Reference, LegacyID]], list[Failure]]:
        if REPOSITORIES not in self._members:
            return [], []
        try:
            found, problems = parse_repositories(self._members.read(REPOSITORIES))
        except (DocumentError, SourceError) as error:
            found, problems = (), (f"{REPOSITORIES}: {error.message}; images are converted without their names",)
        failures = [
            Failure(source=self.location, error=DocumentError.code, message=f"{self.location}: {problem}")
            for problem in problems
        ]
        return found, failures

    def _with_v1_images(self, found: SourceListing, document: str) -> SourceListing:
        """`found`, the images of `document`, with the images that only `repositories` and the v1 folders have.

        Tools made for Docker before 1.10 changed the v1 form in archives of Docker 1.10 and left manifest.json as it
        was. If there is a manifest.json, Docker reads nothing else, so such images are converted only with --salvage,
        or if manifest.json names no image.
        """
        if not (self._layers_of_v1 or REPOSITORIES in self._members):
            return found
        listed = {layer.legacy_id for image in found.images for layer in image.chain or ()}
        names = {reference for image in found.images for reference in image.references}
        stated = {*names, *(reference for index in found.indexes for reference in index.references)}
        stated.update(Reference.parse(name) for failure in found.failures for name in failure.references)
        v1 = self._list_v1()
        rest = [
            replace(image, references=new)
            for image in v1.images
            if (new := tuple(name for name in image.references if name not in names))
            or (image.head not in listed and f"{image.head}/json" in self._members)
        ]
        # In archives of Docker 25 and later `repositories` has digests of blobs in place of IDs, so that all its names
        # fail as v1. Names that the documents have are no failure.
        lost = [one for one in v1.failures if not stated.issuperset(map(Reference.parse, one.references or ("",)))]
        if not rest and not lost:
            return found
        if not (found.images or found.indexes or found.failures):
            return replace(v1, warnings=[*v1.warnings, f"{self.location}: {document} names no image; read as v1"])
        if self._salvage:
            warning = (
                f"{self.location}: {document} does not name all images; the others are converted from their v1 form"
            )
            images, others = self._merge_equal_images(found.images, rest)
            return replace(
                found,
                images=[*images, *others],
                failures=[*found.failures, *lost],
                warnings=[*found.warnings, warning],
            )
        shown = [str(name) for image in rest for name in image.references or (image.head,)]
        warnings = [f"{self.location}: {document} does not name all that is here, and Docker reads nothing else"]
        warnings[0] += f"; --salvage converts {', '.join(shown)}" if shown else ""
        warnings += [failure.message for failure in lost]
        return replace(found, warnings=[*found.warnings, *warnings])

    def _merge_equal_images(
        self, images: Sequence[LegacyImage], rest: Sequence[LegacyImage]
    ) -> tuple[list[LegacyImage], list[LegacyImage]]:
        """(`images` with the names of equal images in `rest`, the others of `rest`). Equal: the same layers as exactly
        one of `images`."""
        named = list(images)
        others: list[LegacyImage] = []
        for one in rest:
            chain: list[LegacyID] = []
            with contextlib.suppress(MigrateError):
                chain = [layer.legacy_id for layer in walk_chain(one.head, self.read_layer)]
            same = [
                number
                for number, image in enumerate(named)
                if chain and image.head == one.head and [layer.legacy_id for layer in image.chain or ()] == chain
            ]
            if len(same) == 1:
                image = named[same[0]]
                references = tuple(sorted({*image.references, *one.references}))
                named[same[0]] = replace(image, references=references)
            else:
                others.append(one)
        return named, others

    def _with_oci_images(self, found: SourceListing) -> SourceListing:
        """`found`, the images of manifest.json, with the images, names and lists that only index.json has.

        Images of more than 125 layers, which Docker refuses, and lists of platforms are in index.json only. If both
        files name an image, manifest.json has priority: Docker 25 and later also list manifests of other platforms and
        attestations in index.json whose blobs are not in the archive.
        """
        index = self._oci_content().listing()
        claimed = {reference.full() for image in found.images for reference in image.references}
        claimed |= {Reference.parse(name).full() for failure in found.failures for name in failure.references}
        # BuildKit writes a list of one image and its attestation, whose platform is missing or `unknown`. A list counts
        # as one of several platforms only if it has two images of known platforms.
        lists = [
            one
            for one in index.indexes
            if sum(child.platform is not None and child.platform.os != "unknown" for child in one.children) > 1
        ]
        listed = {_config_digest(child) for one in lists for child in one.children}
        names_of_lists = {reference.full() for one in lists for reference in one.references}
        images: dict[Digest | None, list[LegacyImage]] = defaultdict(list)
        for image in found.images:
            key = _config_digest(image)
            # An image of a list must not also take the list's name: the name would lead to one platform only.
            own = tuple(name for name in image.references if key not in listed or name.full() not in names_of_lists)
            if own or key not in listed:
                images[key].append(replace(image, references=own))
        # An image of manifest.json gets the further names that index.json has for it. Other images are added.
        in_manifest = frozenset(images)
        for image in index.images:
            key = _config_digest(image)
            new = tuple(name for name in image.references if name.full() not in claimed)
            if key not in in_manifest and (new or not image.references):
                images[key].append(replace(image, references=new))
            elif key in in_manifest and new:
                known = images[key][0]
                tags = {
                    name.tag for name in known.references
                }  # old Docker and skopeo write only the tag into index.json
                more = {name for name in new if name.name not in tags}
                images[key][0] = replace(known, references=tuple(sorted({*known.references, *more})))
        names = [{Reference.parse(name).full() for name in failure.references} for failure in index.failures]
        return replace(
            found,
            images=sorted(chain.from_iterable(images.values()), key=lambda image: (image.head, image.references)),
            indexes=lists,
            failures=[
                *found.failures,
                *(failure for failure, own in zip(index.failures, names, strict=True) if own - claimed),
            ],
            warnings=[
                *found.warnings,
                *(
                    f"{self.location}: index.json names an image that is left out: {failure.message}"
                    for failure, own in zip(index.failures, names, strict=True)
                    if not own
                ),
            ],
        )

    # --- manifest.json -----------------------------------------------------------------------------------------

    def _list_manifest(self) -> SourceListing:
        try:
            content = self._members.read(ARCHIVE_MANIFEST)
            from migrate.documents.schema1 import is_manifest

            # Both kinds of files have the same name, and the error of the parser would not help here.
            if is_manifest(content):
                raise DocumentError(
                    "is a registry's manifest, as in skopeo's dir: or an export; unpack it, name the folder"
                )
            entries = parse_archive_manifest(content)
        except (DocumentError, SourceError) as error:
            failure = Failure.of(error, self.location, message=f"{self.location}: manifest.json: {error.message}")
            return SourceListing(images=[], failures=[failure])
        oci = self._oci_content() if INDEX in self._members else None
        images: list[LegacyImage] = []
        failures: list[Failure] = []
        for entry in entries:
            try:
                images.append(self._read_entry(entry, oci))
            except MigrateError as error:
                failures.append(Failure.of(error, self.location, references=entry.repo_tags))
        return SourceListing(images=sorted(images, key=lambda image: (image.head, image.references)), failures=failures)

    def _read_entry(self, entry: ArchiveManifestEntry, oci: OciContent | None) -> LegacyImage:
        if not entry.config:
            raise DocumentError(f"{self.location}: manifest.json has an entry without a Config")
        config = self._members.read(_checked_name(entry.config, self.location))
        facts, warnings = parse_ready_config(config, salvage=self._salvage)
        if len(facts.diff_ids) != len(entry.layers):
            stated, listed = len(facts.diff_ids), len(entry.layers)
            raise DocumentError(f"{self.location}: {entry.config} names {stated} layers, manifest.json names {listed}")
        # Docker 25 and later keep the image's own manifest in the layout beside it, which is carried over.
        manifest = oci.find_manifest(Digest.of(config), entry.layers) if oci is not None else None
        if manifest is not None and oci is not None:
            image = oci.read_image(manifest)
            return LegacyImage(
                head=image.head,
                references=_references(entry),
                chain=image.chain,
                config=image.config,
                manifest=image.manifest,
                platform=image.platform,
                warnings=(*self._name_warnings(entry, config), *image.warnings),
            )
        chain = tuple(
            # The configs of Docker 1.10 to 24 have the layers' order. A layer's folder has an invented ID.
            self._ready_layer(name, diff_id)
            for name, diff_id in zip(entry.layers, facts.diff_ids, strict=True)
        )
        return LegacyImage(
            head=chain[-1].legacy_id if chain else LegacyID(Digest.of(config).hex),
            references=_references(entry),
            chain=chain,
            config=config,
            platform=facts.platform,
            warnings=(*self._name_warnings(entry, config), *warnings),
        )

    def _ready_layer(self, name: str, diff_id: DiffID) -> LegacyLayer:
        """One layer of an image in manifest.json. If its content is missing, the diffID still identifies it: the
        content may come from another image of the run."""
        name = _checked_name(name, self.location)
        legacy_id = _layer_name(name)
        try:
            ref = self._payload_ref(name, legacy_id)
            # Buildpacks write a file of 0 bytes (`blank_0`) for a layer that the engine already has.
            if ref.size == 0 and diff_id != Digest.of(b""):
                raise MissingContentError(
                    f"{self.location}: {name} has 0 bytes, in place of the layer with diffID {diff_id}", layer=legacy_id
                )
        except (MissingContentError, DamagedError) as error:  # DamagedError: a link that leads to no file
            from migrate.tar.known_blobs import known_blob

            is_known = known_blob(diff_id) is not None  # an empty tar, whose bytes follow from its diffID
            absent = None if is_known else error.message
            ref = PayloadRef(key=str(diff_id), digest=diff_id if is_known else None, absent=absent)
        return LegacyLayer(
            legacy_id=legacy_id,
            json=b"",
            parent=None,
            payload=replace(ref, diff_id=diff_id),
        )

    def _name_warnings(self, entry: ArchiveManifestEntry, config: bytes) -> tuple[str, ...]:
        named = posixpath.basename(entry.config).removesuffix(".json").removeprefix("sha256:")
        actual = Digest.of(config).hex
        if len(named) == 64 and named != actual:
            return (f"{entry.config} has the digest sha256:{actual}, not the one it is named by",)
        return ()


def open_tar_members(location: str, fd: int, size: int, index: TarIndex) -> TarMembers:
    """The members of the first archive in the file; `further` has those of the others. `fd` is taken over."""
    members = TarMembers(location, fd, size, index)
    if not index.places and members.duplicates.isdisjoint(DOCUMENTS):
        return members
    from migrate.readers.several_archives import split_archives  # few files need it

    return split_archives(location, fd, size, index, _lacks_nothing)


def _lacks_nothing(members: Members) -> bool:
    """True if these members are an archive that has everything that its documents name."""
    source = DockerArchiveSource(members.location, members)
    try:
        listing = source.listing()
        for image in listing.images:
            layers = walk_chain(image.head, source.read_layer) if image.chain is None else image.chain
            if any(layer.payload is not None and layer.payload.absent is not None for layer in layers):
                return False
    except MigrateError:
        return False
    return bool(listing.images or listing.indexes) and not listing.failures


def _references(entry: ArchiveManifestEntry) -> tuple[Reference, ...]:
    return tuple(sorted({Reference.parse(tag) for tag in entry.repo_tags}))


def _config_digest(image: LegacyImage) -> Digest | None:
    """The digest of the config, by which an image of manifest.json and one of index.json are compared."""
    return None if image.config is None else Digest.of(image.config)


def _layer_name(name: str) -> LegacyID:
    """`<id>/layer.tar` → the ID; `blobs/sha256/<hex>` and `<hex>.tar.gz` → the hex."""
    directory, _, base = name.rpartition("/")
    if (base == "layer.tar" or base.startswith("layer.tar.")) and directory:
        return LegacyID(posixpath.basename(directory))
    return LegacyID(base.partition(".")[0] or base)


def _joined_name(name: str) -> str | None:
    """A name in manifest.json as Docker joins it to the directory that it has unpacked the archive into; None for one
    outside of it."""
    return clean_name(posixpath.normpath(name.lstrip("/")))


def _checked_name(name: str, location: str) -> str:
    cleaned = _joined_name(name)
    if not cleaned:
        raise DamagedError(f"{location}: manifest.json names {name!r}, which is outside the archive")
    return cleaned


def _has_more_than_manifest(tree: Tree, entries: Mapping[str, TreeEntry]) -> bool:
    others = (f"{name}/" if entry.is_folder else name for name, entry in entries.items() if name != ARCHIVE_MANIFEST)
    if any(map(is_archive_member, others)):
        return True
    with contextlib.suppress(MigrateError):
        for named in parse_archive_manifest(tree.read(os.fsencode(ARCHIVE_MANIFEST), limits.JSON_BYTES + 1)):
            first = ((_joined_name(name) or "").partition("/")[0] for name in (named.config, *named.layers))
            if not entries.keys().isdisjoint(first):
                return True
    return False


def is_archive(tree: Tree) -> bool:
    """True for a directory that holds an unpacked archive. (Files are checked in `readers.detect`.)

    Many programs have a file with the name manifest.json. It counts only if something else of an archive is beside it.
    """
    entries = {os.fsdecode(entry.name): entry for entry in tree.entries(b"")}
    documents = {name for name, entry in entries.items() if entry.is_file or entry.is_link}
    if {LAYOUT_FILE, INDEX} <= documents or (ARCHIVE_MANIFEST in documents and _has_more_than_manifest(tree, entries)):
        return True
    # A v1 archive saved by ID has no document at its top, only folders of layers.
    folders = [entry.path for entry in islice(entries.values(), limits.ARCHIVE_MEMBERS) if entry.is_folder]
    return any(all(tree.find(folder + part) is not None for part in (b"/layer.tar", b"/json")) for folder in folders)
