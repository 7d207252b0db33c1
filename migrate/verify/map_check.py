"""Compares the names in a target with migration-map.json, which has the names of all runs, or else with the report."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct, field

from migrate.blobio.limits import CATALOG_BYTES, REPORT_BYTES
from migrate.documents.image_map import Rows, parse_map, rows_of_report
from migrate.errors import MigrateError
from migrate.layout.names import MAP_NAME, REPORT_NAME
from migrate.model.digest import Digest
from migrate.verify.findings import Findings


class KeptRows(Struct, frozen=True):
    """The rows of the map, or else of the report. `where` is the document; `removed` are manifests that `migrate gc`
    has removed."""

    where: str = ""
    rows: Rows = ()
    removed: frozenset[Digest] = field(default=frozenset())


def read_kept(map_content: bytes | None, report: bytes | None, findings: Findings) -> KeptRows:
    """The rows of the two documents, which are None if they do not exist. A map that cannot be read is a finding."""
    try:
        if map_content is not None:
            rows = parse_map(map_content, CATALOG_BYTES)
            removed = (row.manifest_digest for row in rows if row.removed and row.manifest_digest is not None)
            return KeptRows(MAP_NAME, rows, frozenset(removed))
        if report is not None:
            return KeptRows(REPORT_NAME, rows_of_report(report, REPORT_BYTES))
    except MigrateError as error:
        if map_content is not None:
            findings.add(MAP_NAME, error.message)
    return KeptRows()


def check_kept_names(
    findings: Findings, kept: KeptRows, granted: Mapping[str, Collection[Digest]], present: Collection[Digest]
) -> None:
    """Checks every name. `granted`: the manifests that each name of the target leads to. `present`: the images that are
    in the target and complete."""
    given: set[str] = set()
    for row in kept.rows:
        given.update(row.names)
        manifest = row.manifest_digest
        if manifest is None:
            continue
        # a report has the images of one run only, and `check_kept_report` compares it
        if not row.removed and kept.where == MAP_NAME and manifest not in present:
            findings.add(MAP_NAME, f"the image {manifest} (once {row.legacy_id}) is not in the target, or not whole")
        for name in row.names:
            if name not in granted:
                findings.add(kept.where, f"the name {name} of the image {manifest} is gone")
            elif manifest not in granted[name]:
                others = ", ".join(sorted(map(str, granted[name])))
                findings.add(kept.where, f"the name {name} should lead to {manifest} and leads to {others}")
    # Only if runs gave names at all: a layout of other tools has neither a map nor a report.
    if given:
        for name in sorted(name for name in granted.keys() - given if "@" not in name):
            findings.note("names", f"no run of migrate gave the name {name}")


def closure(digests: Iterable[Digest], children: Mapping[Digest, Collection[Digest]]) -> set[Digest]:
    """`digests` and all manifests that they lead to."""
    found: set[Digest] = set()
    pending = list(digests)
    while pending:
        if (current := pending.pop()) not in found:
            found.add(current)
            pending += children.get(current, ())
    return found
