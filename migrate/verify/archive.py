"""Verifies an archive in the form of `docker save`: manifest.json, configs and layers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from migrate.blobio.limits import CATALOG_BYTES, JSON_BYTES
from migrate.documents.docker_archive import ArchiveManifestEntry, parse_archive_manifest
from migrate.documents.oci import ConfigFacts, parse_config
from migrate.errors import MigrateError
from migrate.model.digest import Digest
from migrate.model.reference import is_loadable_name
from migrate.verify.files import Files, read_small
from migrate.verify.findings import Findings
from migrate.verify.hashing import hash_files
from migrate.verify.walk import LayerUse, Walk, check_names, check_unpacked

_CONFIG = re.compile(r"([0-9a-f]{64})\.json")
_LAYER = re.compile(r"([0-9a-f]{64})\.tar")


def verify_archive(files: Files, findings: Findings, jobs: int) -> None:
    _ArchiveCheck(files, findings).run(jobs)


class _ArchiveCheck:
    def __init__(self, files: Files, findings: Findings) -> None:
        self.files = files
        self.findings = findings
        self.walk = Walk(files, findings, str)
        self.uses: list[tuple[str, LayerUse]] = []
        self.configs: dict[str, ConfigFacts | None] = {}
        self.reached = {"manifest.json", "repositories"}

    def run(self, jobs: int) -> None:
        try:
            rows = parse_archive_manifest(read_small(self.files, "manifest.json", CATALOG_BYTES), CATALOG_BYTES)
        except (MigrateError, OSError) as exc:
            self.findings.add("manifest.json", str(exc))
            rows = ()
        for position, row in enumerate(rows):
            where = f"manifest.json [{position}]"
            config = self._config(row.config, where)
            present = [self._is_there(name, f"{where} Layers[{place}]") for place, name in enumerate(row.layers)]
            if config is None or not self.walk.check_counts(config, len(row.layers), where):
                continue
            for place, (name, diff_id) in enumerate(zip(row.layers, config.diff_ids, strict=True)):
                if present[place]:
                    self.uses.append((name, LayerUse(f"{where} Layers[{place}]", diff_id, None)))
        self._check_tags(rows)
        self.findings.images = len(rows)
        layers = {name for name, _ in self.uses}
        # Members with a digest as their name: configs, and, in archives of this program, layers (the diffID).
        stated: dict[str, Digest] = {}
        for name in self.files.names():
            match = _CONFIG.fullmatch(name) or _LAYER.fullmatch(name)
            if match:
                stated[name] = Digest(match[1])
        hashed = hash_files(self.files, {name: name in layers for name in layers | stated.keys()}, jobs, self.findings)
        check_names(self.findings, {n: d for n, d in stated.items() if n.endswith(".json")}, hashed)
        for name, digest in stated.items():
            result = hashed[name]
            if name.endswith(".tar") and digest not in (result.digest, result.diff_id):
                self.findings.add(name, result.error or f"the bytes have the digest {result.digest}")
        for name, use in self.uses:
            if hashed[name].digest is None:
                self.findings.add(name, hashed[name].error or "cannot be read")
            else:
                check_unpacked(self.findings, use, hashed[name])
        for name in sorted(self.files.names().keys() - self.reached - stated.keys()):
            self.findings.note(name, "no image of manifest.json names it")

    def _config(self, name: str, where: str) -> ConfigFacts | None:
        if not self._is_there(name, f"{where} Config"):
            return None
        if name not in self.configs:
            self.configs[name] = None
            try:
                self.configs[name] = parse_config(read_small(self.files, name, JSON_BYTES))
            except (MigrateError, OSError) as exc:
                self.findings.add(name, str(exc))
        return self.configs[name]

    def _is_there(self, name: str, where: str) -> bool:
        if name not in self.files.names():
            self.findings.add(where, f"names {name!r}, which is not there")
            return False
        self.reached.add(name)
        return True

    def _check_tags(self, rows: Sequence[ArchiveManifestEntry]) -> None:
        seen: dict[str, int] = {}
        for position, row in enumerate(rows):
            for tag in row.repo_tags:
                where = f"manifest.json [{position}] RepoTags"
                if not is_loadable_name(tag):
                    self.findings.add(where, f"{tag!r} is not a name that Docker accepts")
                if tag in seen:
                    self.findings.note(where, f"{tag} is also the name of image [{seen[tag]}]")
                seen[tag] = position
