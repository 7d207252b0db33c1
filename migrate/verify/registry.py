"""Verifies the storage of a registry (distribution v2, filesystem driver): blobs, links and images.

Paths: distribution's registry/storage/paths.go. Schema-1 manifests of an old registry are not checked.
"""

from __future__ import annotations

import re
from typing import Final

from migrate.blobio.limits import SMALL_FILE_BYTES
from migrate.documents.json_text import load_json_lenient
from migrate.documents.oci import parse_index, parse_manifest
from migrate.documents.schema1 import is_index, is_schema1
from migrate.errors import MigrateError
from migrate.model.digest import Digest
from migrate.model.image import Descriptor
from migrate.verify.files import Files, read_small
from migrate.verify.findings import Findings
from migrate.verify.hashing import hash_files
from migrate.verify.map_check import KeptRows, check_kept_names, closure
from migrate.verify.walk import Walk, check_names, is_elsewhere

UNTAGGED: Final = "untagged"
REGISTRY_ROOT: Final = ("docker", "registry", "v2")
_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{2})/([0-9a-f]{64})/data")
_LINK = re.compile(
    r"repositories/(?P<name>[^_][^/]*(?:/[^_][^/]*)*)/"
    r"(?:_layers/sha256/(?P<layer>[0-9a-f]{64})"
    r"|_manifests/revisions/sha256/(?P<revision>[0-9a-f]{64})"
    r"|_manifests/tags/(?P<current>[^/]+)/current"
    r"|_manifests/tags/(?P<tag>[^/]+)/index/sha256/(?P<indexed>[0-9a-f]{64}))/link"
)
_OLD_LINK = re.compile(r"repositories/.*/(?:_layers/tarsum/.*|signatures/sha256/[0-9a-f]{64})/link")


def data_path(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex[:2]}/{digest.hex}/data"


def verify_registry(files: Files, findings: Findings, jobs: int, kept: KeptRows) -> None:
    """`kept`: the rows of the map or report, which are beside the tree."""
    _RegistryCheck(files, findings).run(jobs, kept)


class _RegistryCheck:
    def __init__(self, files: Files, findings: Findings) -> None:
        self.files = files
        self.findings = findings
        self.walk = Walk(files, findings, data_path)
        self.layers: set[tuple[str, Digest]] = set()
        self.revisions: dict[tuple[str, Digest], str] = {}
        self.tags: dict[tuple[str, str, Digest], str] = {}
        self.indexed: set[tuple[str, str, Digest]] = set()

    def run(self, jobs: int, kept: KeptRows) -> None:
        blobs: dict[str, Digest] = {}
        for name in self.files.names():
            match = _BLOB.fullmatch(name)
            if match and match[2].startswith(match[1]):
                blobs[name] = Digest(match[2])
            elif name.startswith("blobs/"):
                self.findings.add(name, "is not the name of a blob")
        self._read_links()
        self._check_tags()
        for (repository, digest), where in sorted(self.revisions.items()):
            self._check_revision(repository, digest, where)
        hashed = hash_files(
            self.files, {name: digest in self.walk.uses for name, digest in blobs.items()}, jobs, self.findings
        )
        check_names(self.findings, blobs, hashed)
        self.walk.check_layers(hashed)
        # The manifests that each name leads to. A revision can be pulled by its digest, which is a name, too.
        granted: dict[str, set[Digest]] = {}
        for repository, tag, digest in self.tags:
            if repository != UNTAGGED:
                granted[f"{repository}:{tag}"] = closure([digest], self.walk.children)
        for repository, digest in self.revisions:
            granted[f"{repository}@{digest}"] = closure([digest], self.walk.children)
        check_kept_names(self.findings, kept, granted, self.walk.images)
        self.findings.images = len(self.walk.images)

    def _read_links(self) -> None:
        for name in self.files.names():
            # unfinished uploads, and links that only registries up to 2.4 wrote, belong to no image of this program
            if name.startswith("blobs/") or "/_uploads/" in name or _OLD_LINK.fullmatch(name):
                continue
            match = _LINK.fullmatch(name)
            if match is None:
                self.findings.note(name, "does not belong to a registry's storage")
                continue
            try:
                digest = Digest.parse(read_small(self.files, name, SMALL_FILE_BYTES).decode("ascii"))
            except (MigrateError, OSError, ValueError) as exc:
                self.findings.add(name, f"is not a link to a digest: {exc}")
                continue
            stated = match["layer"] or match["revision"] or match["indexed"]
            if stated is not None and stated != digest.hex:
                self.findings.add(name, f"links to {digest}")
            elif match["layer"]:
                self.layers.add((match["name"], digest))
                if data_path(digest) not in self.files.names():
                    self.findings.add(name, "its blob is not there")
            elif match["revision"]:
                self.revisions[match["name"], digest] = name
            elif match["current"]:
                self.tags[match["name"], match["current"], digest] = name
            else:
                self.indexed.add((match["name"], match["tag"], digest))

    def _check_tags(self) -> None:
        current = {(repository, tag) for repository, tag, _ in self.tags}
        for repository, tag in sorted({(repository, tag) for repository, tag, _ in self.indexed} - current):
            where = f"repositories/{repository}/_manifests/tags/{tag}"
            self.findings.note(
                where, "has no current/link: the tag was removed, or a run was killed before it wrote it"
            )
        for (repository, tag, digest), where in sorted(self.tags.items()):
            if (repository, digest) not in self.revisions:
                self.findings.add(where, f"names {digest}, which is no revision of {repository}")
            if (repository, tag, digest) not in self.indexed:
                self.findings.add(where, f"names {digest}, which the tag's own index does not list")

    def _check_revision(self, repository: str, digest: Digest, where: str) -> None:
        name = data_path(digest)
        if name not in self.files.names():
            self.findings.add(where, "its blob is not there")
            return
        content = self.walk.content(digest)
        if content is None:
            return
        try:
            if is_schema1(load_json_lenient(content, name)):
                self.findings.note(where, "is a schema-1 manifest, which verify does not check")
                return
            has_children = is_index(content)
            media_type = parse_index(content).media_type if has_children else parse_manifest(content).media_type
        except MigrateError as exc:
            self.findings.add(name, exc.message)
            return
        self.walk.enter(Descriptor(media_type=media_type, digest=digest, size=len(content)), None, where)
        # A registry serves a blob or manifest only if the repository has a link to it, as a layer or as a revision.
        if has_children:
            named = [(entry.descriptor.digest, True) for entry in parse_index(content).manifests]
        else:
            manifest = parse_manifest(content)
            blobs = [manifest.config, *(layer for layer in manifest.layers if not is_elsewhere(layer))]
            named = [(blob.digest, False) for blob in blobs]
        for needed, is_manifest in named:
            linked = (repository, needed) in (self.revisions if is_manifest else self.layers)
            if not linked:
                self.findings.add(where, f"names {needed}, which {repository} has no link to")
