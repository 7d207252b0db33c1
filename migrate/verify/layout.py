"""Verifies an OCI layout in a directory or in a tar: index.json, blobs, manifest.json, map and report."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from migrate.blobio.limits import CATALOG_BYTES, REPORT_BYTES
from migrate.documents.docker_archive import ArchiveManifestEntry, parse_archive_manifest
from migrate.documents.json_text import load_json, load_json_lenient
from migrate.documents.oci import IMAGE_NAME, REF_NAME, IndexEntry, parse_index
from migrate.errors import MigrateError
from migrate.layout.names import MAP_NAME, REPORT_NAME, blob_path
from migrate.model.digest import Digest
from migrate.model.image import MediaType
from migrate.model.reference import Reference, is_loadable_name
from migrate.verify.files import Files, TarFiles, read_small
from migrate.verify.findings import Findings
from migrate.verify.hashing import HashedFile, hash_files
from migrate.verify.map_check import check_kept_names, closure, read_kept
from migrate.verify.report_check import check_kept_report
from migrate.verify.walk import LayerUse, Walk, check_names

_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")
_DOCUMENTS: Final = frozenset({"oci-layout", "index.json", "manifest.json", MAP_NAME, REPORT_NAME})


def verify_layout(files: Files, findings: Findings, jobs: int) -> None:
    _LayoutCheck(files, findings).run(jobs)


class _LayoutCheck:
    def __init__(self, files: Files, findings: Findings) -> None:
        self.files = files
        self.findings = findings
        self.walk = Walk(files, findings, blob_path)
        self.entries: Sequence[IndexEntry] = ()
        self._loadable: set[tuple[str, tuple[str, ...]]] = set()

    def run(self, jobs: int) -> None:
        blobs: dict[str, Digest] = {}
        for name in self.files.names():
            match = _BLOB.fullmatch(name)
            if match:
                blobs[name] = Digest(match[1])
            elif name.startswith("blobs/"):
                self.findings.add(name, "is not the name of a blob")
            elif name not in _DOCUMENTS:
                self.findings.note(name, "does not belong to the layout")
        self._check_version()
        self._check_index()
        rows = self._read_archive_manifest()
        for position, row in enumerate(rows or ()):
            self._check_row(row, f"manifest.json [{position}]")
        if rows is not None:
            self._check_against_index(rows)
        hashed = hash_files(
            self.files, {name: digest in self.walk.uses for name, digest in blobs.items()}, jobs, self.findings
        )
        # `check_layers` skips blobs that do not have their digest, so a damaged blob is reported once.
        check_names(self.findings, blobs, hashed)
        self.walk.check_layers(hashed)
        self._check_kept(rows is not None, hashed)
        self.findings.images = len(self.walk.images)
        unnamed = blobs.keys() - {blob_path(digest) for digest in self.walk.reached}
        if unnamed:
            self.findings.note("blobs", f"no image names {len(unnamed)} of the blobs")

    def _check_kept(self, has_archive_manifest: bool, hashed: Mapping[str, HashedFile]) -> None:
        """Checks the files that this program adds to a layout: manifest.json, the map and the report."""
        report, kept_map = self._document(REPORT_NAME, REPORT_BYTES), self._document(MAP_NAME)
        kept = read_kept(kept_map, report, self.findings)
        if report is not None:
            check_kept_report(self.walk, report, hashed, kept.removed)
        granted: dict[str, set[Digest]] = {}
        for entry in self.entries:
            if name := entry.name:
                granted.setdefault(name, set()).update(closure([entry.descriptor.digest], self.walk.children))
        check_kept_names(self.findings, kept, granted, self.walk.images)
        # Entries that this program wrote always have a full name and a platform. Entries of other programs may not.
        ours = {(name, row.manifest_digest) for row in kept.rows if not row.removed for name in row.names}
        for position, entry in enumerate(self.entries):
            name = entry.name
            if name is None or (name, entry.descriptor.digest) not in ours:
                continue
            reference, where = Reference.parse(name), f"index.json manifests[{position}]"
            if IMAGE_NAME not in entry.annotations and reference.is_valid and not reference.is_digest:
                self.findings.add(where, f"has lost {IMAGE_NAME}, by which containerd names {name}")
            if entry.platform is None and entry.descriptor.digest in self.walk.images:
                self.findings.add(where, f"has lost the platform of {name}")
        stated = {(row.manifest_digest, row.platform) for row in kept.rows}
        for manifest, platform, where, message in self.walk.other_platforms:
            if (manifest, str(platform)) in stated:  # taken from a list of the source that could not be carried over
                self.findings.note(where, message)
            else:
                self.findings.add(where, message)
        is_ours = report is not None or kept_map is not None
        if is_ours and not has_archive_manifest and any(shape.loadable for shape in self.walk.images.values()):
            self.findings.add("manifest.json", "is missing: `docker load` needs it")

    def _document(self, name: str, limit: int | None = None) -> bytes | None:
        if name not in self.files.names():
            return None
        try:
            return read_small(self.files, name, limit or CATALOG_BYTES)
        except (MigrateError, OSError) as exc:
            self.findings.add(name, str(exc))
            return None

    def _check_version(self) -> None:
        if "oci-layout" not in self.files.names():
            self._missing("oci-layout")
            return
        content = self._document("oci-layout")
        if content is None:
            return
        try:
            document = load_json(content, "oci-layout")
        except MigrateError as exc:
            self.findings.add("oci-layout", exc.message)
            return
        if not isinstance(document, dict) or document.get("imageLayoutVersion") != "1.0.0":
            self.findings.add("oci-layout", 'imageLayoutVersion is not "1.0.0"')

    def _missing(self, name: str) -> None:
        """A missing document is a warning only if a run was killed right after its start: then there is at most one
        other document and no blob. An archive gets its name when it is complete."""
        if isinstance(self.files, TarFiles) or self.files.names().keys() - {"oci-layout", "index.json"}:
            self.findings.add(name, "is missing")
        else:
            self.findings.note(name, "is missing: a run was killed before it wrote anything else")

    # --- index.json ----------------------------------------------------------------------------------------------

    def _check_index(self) -> None:
        if "index.json" not in self.files.names():
            self._missing("index.json")
            return
        content = self._document("index.json")
        if content is None:
            return
        try:
            index = parse_index(content, CATALOG_BYTES)
        except MigrateError as exc:
            self.findings.add("index.json", exc.message)
            return
        if index.media_type != MediaType.OCI_INDEX:
            self.findings.add("index.json", f"has the media type {index.media_type!r}")
        self.entries = index.manifests
        halves = _half_platforms(content)
        seen: dict[tuple[str | None, Digest], int] = {}
        for position, entry in enumerate(index.manifests):
            where = f"index.json manifests[{position}]"
            key = (entry.annotations.get(REF_NAME), entry.descriptor.digest)
            if key in seen:
                self.findings.add(where, f"is the same as manifests[{seen[key]}]")
            seen[key] = position
            # The full name must match the short one. Docker 25 and later write only the tag as the short name.
            name, full = entry.annotations.get(REF_NAME), entry.annotations.get(IMAGE_NAME)
            if full is not None and name is None:
                self.findings.add(where, f"has {IMAGE_NAME} {full!r} without {REF_NAME}")
            elif (
                (full is not None and name is not None)
                and Reference.parse(name).full() != full
                and full.rpartition(":")[2] != name
            ):
                self.findings.add(where, f"{IMAGE_NAME} is {full!r}, and {REF_NAME} is {name!r}")
            if entry.platform is None and position in halves:
                self.findings.add(where, "its platform has no os or no architecture")
            self.walk.enter(entry.descriptor, entry.platform, where)
        digests: dict[str, set[Digest]] = {}
        for entry in self.entries:
            name = entry.name
            if name is not None:
                digests.setdefault(name, set()).add(entry.descriptor.digest)
        for shared, claimed in sorted(digests.items()):
            if len(claimed) > 1:
                self.findings.note("index.json", f"{len(claimed)} images have the name {shared}")

    # --- manifest.json -------------------------------------------------------------------------------------------

    def _read_archive_manifest(self) -> Sequence[ArchiveManifestEntry] | None:
        content = self._document("manifest.json")
        if content is None:
            return None
        try:
            return parse_archive_manifest(content, CATALOG_BYTES)
        except MigrateError as exc:
            self.findings.add("manifest.json", exc.message)
            return None

    def _check_row(self, row: ArchiveManifestEntry, where: str) -> None:
        """Checks an image as `docker load` reads it: config and layers, independently of index.json."""
        digest = self._named_blob(row.config, f"{where} Config")
        layers = [self._named_blob(name, f"{where} Layers[{place}]") for place, name in enumerate(row.layers)]
        for tag in row.repo_tags:
            if not is_loadable_name(tag):
                self.findings.add(f"{where} RepoTags", f"{tag!r} is not a name that Docker accepts")
        config = None if digest is None else self.walk.config(digest)
        if config is None or not self.walk.check_counts(config, len(layers), where):
            return
        for place, (layer, diff_id) in enumerate(zip(layers, config.diff_ids, strict=True)):
            if layer is not None:
                use = LayerUse(f"{where} Layers[{place}]", diff_id, None)
                self.walk.uses.setdefault(layer, []).append(use)

    def _named_blob(self, name: str, where: str) -> Digest | None:
        match = _BLOB.fullmatch(name)
        if match is None:
            self.findings.add(where, f"{name!r} is not the path of a blob")
            return None
        if name not in self.files.names():
            self.findings.add(where, f"names {name}, which is not there")
            return None
        self.walk.reached.add(Digest(match[1]))
        return Digest(match[1])

    def _check_against_index(self, rows: Sequence[ArchiveManifestEntry]) -> None:
        """manifest.json must have the same images with the same names as index.json, if Docker can load them."""
        # The marker has the digests of the new manifest.json and index.json. If only the first one matches, a run was
        # killed between the two; the next run writes both again, so differences are warnings.
        marker = self.files.state("finishing")
        documents = [self._document(name) for name in ("manifest.json", "index.json")]
        found = [None if content is None else str(Digest.of(content)) for content in documents]
        stated = (marker or b"").decode("ascii", "replace").split()
        was_ended = len(stated) == 2 and found[0] == stated[0] and found[1] != stated[1]
        report = self.findings.note if was_ended else self.findings.add
        listed = {(row.config, row.layers): set(row.repo_tags) for row in rows}
        if len(listed) != len(rows):
            report("manifest.json", "holds an image twice")
        # config and layers of every image, and the names that lead to it, also through an index
        expected: dict[tuple[str, tuple[str, ...]], set[str]] = {}
        for entry in self.entries:
            name = entry.name
            for manifest in closure([entry.descriptor.digest], self.walk.children):
                key = self._key(manifest)
                if key is not None:
                    expected.setdefault(key, set()).update([name] if name else [])
                    if self.walk.images[manifest].loadable:
                        self._loadable.add(key)
        for key in listed.keys() - expected.keys():
            report("manifest.json", f"holds an image that index.json does not: {key[0]}")
        for key, names in sorted(expected.items()):
            tags = listed.get(key)
            if tags is None:
                if key in self._loadable:
                    report("manifest.json", f"lacks an image of index.json: {key[0]}")
                continue
            # the loadable names of this image itself, without those of indexes
            own = {
                entry.name
                for entry in self.entries
                if entry.name and is_loadable_name(entry.name) and self._key(entry.descriptor.digest) == key
            }
            if not tags <= names or own - tags:
                report("manifest.json", f"{key[0]} has the tags {sorted(tags)}, in index.json {sorted(names)}")

    def _key(self, manifest: Digest) -> tuple[str, tuple[str, ...]] | None:
        shape = self.walk.images.get(manifest)
        return None if shape is None else (blob_path(shape.config), tuple(map(blob_path, shape.layers)))


def _half_platforms(content: bytes) -> set[int]:
    """The positions of entries with a platform that lacks `os` or `architecture`, which OCI requires."""
    document = load_json_lenient(content, "index.json", CATALOG_BYTES)
    entries = document.get("manifests") if isinstance(document, dict) else None
    platforms = [entry.get("platform") if isinstance(entry, dict) else None for entry in entries or ()]
    return {
        place
        for place, platform in enumerate(platforms)
        if isinstance(platform, dict) and platform and not (platform.get("os") and platform.get("architecture"))
    }
