"""migration-report.json: parses a report, and lists every problem with its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import orjson

from migrate.blobio.limits import REPORT_BYTES
from migrate.errors import DocumentError, LimitError
from migrate.model.container import Container, Volume
from migrate.model.digest import DiffID, Digest, ImageID
from migrate.model.image import Platform
from migrate.model.legacy import Failure
from migrate.report.document import (
    SCHEMA_VERSION,
    Conflict,
    Duplicate,
    Report,
    ReportImage,
    ReportLayer,
    SourceRow,
    Totals,
    UnconvertedContainer,
    VolumeRow,
)

_T = TypeVar("_T")
_PROBLEMS_SHOWN = 20


def parse_report(raw: bytes) -> Report:
    """A report from its bytes. Unknown fields are ignored.

    Raises DocumentError, which lists every problem with its place, and LimitError.
    """
    if len(raw) > REPORT_BYTES:
        raise LimitError(f"report: larger than the limit of {REPORT_BYTES:,} bytes")
    try:
        document = orjson.loads(raw)
    except (orjson.JSONDecodeError, RecursionError) as exc:
        raise DocumentError(f"report: not JSON: {exc}") from exc
    reading = _Reading()
    report = _parse_document(_Node(document, "report", reading))
    if reading.problems:
        shown = reading.problems[:_PROBLEMS_SHOWN]
        more = len(reading.problems) - len(shown)
        raise DocumentError("; ".join(shown) + (f"; and {more:,} more" if more else ""))
    return report


class _Reading:
    """The problems so far, and values to share: a report has the same rows and digests many times."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.digests: dict[str, Digest] = {}
        self.layers: dict[ReportLayer, ReportLayer] = {}


_NO_DIGEST = Digest("0" * 64)


class _Node:
    """A JSON value with its path. A wrong value is noted and replaced, so that all problems are found in one pass."""

    __slots__ = ("path", "reading", "value")

    def __init__(self, value: object, path: str, reading: _Reading) -> None:
        self.value = value
        self.path = path
        self.reading = reading

    def note(self, problem: str) -> None:
        self.reading.problems.append(f"{self.path}: {problem}")

    def field(self, name: str) -> _Node:
        if isinstance(self.value, dict):
            return _Node(self.value.get(name), f"{self.path}.{name}", self.reading)
        return _Node(None, f"{self.path}.{name}", self.reading)

    def has(self, name: str) -> bool:
        return isinstance(self.value, dict) and self.value.get(name) is not None

    def text(self) -> str:
        if isinstance(self.value, str):
            return self.value
        self.note("not a text")
        return ""

    def optional_text(self) -> str | None:
        return None if self.value is None else self.text()

    def number(self) -> int:
        if isinstance(self.value, int) and not isinstance(self.value, bool) and self.value >= 0:
            return self.value
        self.note("not a whole number of 0 or more")
        return 0

    def optional_number(self) -> int | None:
        return None if self.value is None else self.number()

    def flag(self) -> bool:
        if isinstance(self.value, bool):
            return self.value
        self.note("not true or false")
        return False

    def digest(self) -> Digest:
        text = self.value
        if isinstance(text, str):
            known = self.reading.digests.get(text)
            if known is not None:
                return known
            try:
                digest = self.reading.digests[text] = Digest.parse(text)
            except ValueError:
                pass
            else:
                return digest
        self.note("not a digest sha256:<64 hex digits>")
        return _NO_DIGEST

    def optional_digest(self) -> Digest | None:
        return None if self.value is None else self.digest()

    def rows(self, parse: Callable[[_Node], _T], *, optional: bool = False) -> tuple[_T, ...]:
        if self.value is None and optional:
            return ()
        if not isinstance(self.value, list):
            self.note("not a list")
            return ()
        return tuple(parse(_Node(item, f"{self.path}[{index}]", self.reading)) for index, item in enumerate(self.value))

    def mapping(self) -> dict[str, object]:
        if isinstance(self.value, dict):
            return self.value
        self.note("not an object")
        return {}


def _parse_document(node: _Node) -> Report:
    node.mapping()
    version = node.field("schema_version")
    if version.number() > SCHEMA_VERSION:
        raise DocumentError(f"report: schema_version {version.value}; this program reads up to {SCHEMA_VERSION}")
    tool = node.field("tool")
    totals = node.field("totals")
    special = ("blob_bytes", "blob_bytes_estimated", "damaged_layers")
    return Report(
        tool_name=tool.field("name").text(),
        tool_version=tool.field("version").text(),
        dry_run=node.field("dry_run").flag(),
        started=node.field("started").text(),
        finished=node.field("finished").text(),
        options=node.field("options").mapping(),
        sources=node.field("sources").rows(_parse_source),
        totals=Totals(
            **{name: totals.field(name).number() for name in Totals.__struct_fields__ if name not in special},
            damaged_layers=totals.field("damaged_layers").number() if totals.has("damaged_layers") else 0,
            blob_bytes=totals.field("blob_bytes").optional_number(),
            blob_bytes_estimated=totals.has("blob_bytes_estimated") and totals.field("blob_bytes_estimated").flag(),
        ),
        images=node.field("images").rows(_parse_image),
        duplicates=node.field("duplicates").rows(
            lambda row: Duplicate(
                diff_id=DiffID(row.field("diff_id").digest()),
                tar_size=row.field("tar_size").number(),
                copies=row.field("copies").number(),
                legacy_ids=_parse_texts(row.field("legacy_ids")),
                saved_bytes=row.field("saved_bytes").number(),
            )
        ),
        conflicts=node.field("conflicts").rows(
            lambda row: Conflict(
                reference=row.field("reference").text(),
                platform=_parse_platform(row.field("platform")),
                kept=row.field("kept").digest(),
                others=row.field("others").rows(_Node.digest),
            )
        ),
        failures=node.field("failures").rows(_parse_failure),
        # reports of earlier versions lack the following fields
        warnings=_parse_texts(node.field("warnings")),
        containers=node.field("containers").rows(
            lambda row: UnconvertedContainer(source=row.field("source").text(), container=_parse_container(row)),
            optional=True,
        ),
        orphaned_volumes=node.field("orphaned_volumes").rows(
            lambda row: VolumeRow(
                source=row.field("source").text(),
                volume=Volume(path="", source=row.field("path").text(), bytes=row.field("bytes").optional_number()),
            ),
            optional=True,
        ),
        deep=node.field("deep").mapping() if node.has("deep") else None,
    )


def _parse_texts(node: _Node) -> tuple[str, ...]:
    return node.rows(_Node.text, optional=True)


def _parse_source(node: _Node) -> SourceRow:
    return SourceRow(
        location=node.field("location").text(),
        type=node.field("type").optional_text(),
        images=node.field("images").number(),
        failed=node.field("failed").number(),
        warnings=_parse_texts(node.field("warnings")),
        **{name: node.field(name).text() for name in ("outcome", "error", "reason", "uri") if node.has(name)},
    )


def _parse_image(node: _Node) -> ReportImage:
    return ReportImage(
        source=node.field("source").text(),
        references=node.field("references").rows(_Node.text),
        legacy_id=node.field("legacy_id").text(),
        image_id=ImageID(node.field("image_id").digest()),
        manifest_digest=node.field("manifest_digest").optional_digest(),
        platform=_parse_platform(node.field("platform")),
        created=node.field("created").optional_text(),
        exact=node.field("exact").flag(),
        layers=node.field("layers").rows(_parse_layer),
        names=_parse_texts(node.field("names")),
        containers=_parse_texts(node.field("containers")),
        container=_parse_container(node.field("from_container")) if node.has("from_container") else None,
        legacy_digests=node.field("legacy_digests").rows(_Node.digest) if node.has("legacy_digests") else (),
        warnings=_parse_texts(node.field("warnings")),
    )


def _parse_container(node: _Node) -> Container:
    return Container(
        id=node.field("id").text(),
        name=node.field("name").text(),
        image=node.field("image").text(),
        state=node.field("state").text(),
        created=node.field("created").optional_text(),
        changed_bytes=node.field("changed_bytes").optional_number(),
        volumes=node.field("volumes").rows(
            lambda row: Volume(
                path=row.field("path").text(),
                source=row.field("source").text(),
                bytes=row.field("bytes").optional_number(),
                kind="bind" if row.field("kind").optional_text() == "bind" else "volume",
            ),
            optional=True,
        ),
        unseen=_parse_texts(node.field("unseen_changes")),
        half_removed=node.field("half_removed").flag() if node.has("half_removed") else False,
    )


def _parse_layer(node: _Node) -> ReportLayer:
    diff_id = node.field("diff_id").optional_digest()
    flagged = node.field("flagged")
    entries = flagged.mapping() if node.has("flagged") else {}
    # `flagged`, `damaged` and `note` are optional fields: earlier versions did not write the first two
    layer = ReportLayer(
        legacy_id=node.field("legacy_id").text(),
        diff_id=None if diff_id is None else DiffID(diff_id),
        blob_digest=node.field("blob_digest").optional_digest(),
        tar_size=node.field("tar_size").number(),
        blob_size=node.field("blob_size").optional_number(),
        empty=node.field("empty").flag(),
        origin=node.field("origin").optional_text(),
        note=node.field("note").optional_text(),
        flags=_parse_texts(node.field("flags")),
        flagged=tuple(sorted((flag, flagged.field(flag).text()) for flag in entries)),
        damaged=node.has("damaged") and node.field("damaged").flag(),
    )
    return node.reading.layers.setdefault(layer, layer)  # images share layers: one object each saves memory


def _parse_platform(node: _Node) -> Platform:
    return Platform(
        os=node.field("os").text(),
        architecture=node.field("architecture").text(),
        variant=node.field("variant").optional_text(),
    )


def _parse_failure(node: _Node) -> Failure:
    return Failure(
        source=node.field("source").text(),
        references=_parse_texts(node.field("references")),
        legacy_id=node.field("legacy_id").optional_text(),
        layer=node.field("layer").optional_text(),
        error=node.field("error").text(),
        message=node.field("message").text(),
    )
