"""migration-report.json, read back: bytes → report, with every problem and its place."""

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
    ContainerRow,
    Duplicate,
    Report,
    ReportImage,
    ReportLayer,
    SourceRow,
    Totals,
    VolumeRow,
)

_T = TypeVar("_T")
_PROBLEMS_SHOWN = 20


def parse_report(raw: bytes) -> Report:
    """A report from its bytes. Fields that this version does not know are passed over.

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
    """The problems found so far, and values seen already: a report repeats the same rows and digests many times."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.digests: dict[str, Digest] = {}
        self.layers: dict[ReportLayer, ReportLayer] = {}


_NO_DIGEST = Digest("0" * 64)


class _Node:
    """A JSON value with its path. A wrong value is noted and replaced, so that reading goes on to the next problem."""

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
    return Report(
        tool_name=tool.field("name").text(),
        tool_version=tool.field("version").text(),
        dry_run=node.field("dry_run").flag(),
        started=node.field("started").text(),
        finished=node.field("finished").text(),
        options=node.field("options").mapping(),
        sources=node.field("sources").rows(_parse_source),
        totals=_parse_totals(node.field("totals")),
        images=node.field("images").rows(_parse_image),
        duplicates=node.field("duplicates").rows(_parse_duplicate),
        conflicts=node.field("conflicts").rows(_parse_conflict),
        failures=node.field("failures").rows(_parse_failure),
        warnings=_parse_texts(node.field("warnings")),
        containers=node.field("containers").rows(_parse_container_row, optional=True),
        orphaned_volumes=node.field("orphaned_volumes").rows(_parse_orphaned_volume, optional=True),
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


def _parse_totals(node: _Node) -> Totals:
    special = ("blob_bytes", "blob_bytes_estimated", "damaged_layers")
    numbers = {name: node.field(name).number() for name in Totals.__slots__ if name not in special}
    return Totals(
        **numbers,
        damaged_layers=node.field("damaged_layers").number() if node.has("damaged_layers") else 0,
        blob_bytes=node.field("blob_bytes").optional_number(),
        blob_bytes_estimated=node.has("blob_bytes_estimated") and node.field("blob_bytes_estimated").flag(),
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


def _parse_orphaned_volume(node: _Node) -> VolumeRow:
    place, size = node.field("path").text(), node.field("bytes").optional_number()
    return VolumeRow(source=node.field("source").text(), volume=Volume(path="", source=place, bytes=size))


def _parse_container_row(node: _Node) -> ContainerRow:
    return ContainerRow(source=node.field("source").text(), container=_parse_container(node))


def _parse_container(node: _Node) -> Container:
    return Container(
        id=node.field("id").text(),
        name=node.field("name").text(),
        image=node.field("image").text(),
        state=node.field("state").text(),
        created=node.field("created").optional_text(),
        changed_bytes=node.field("changed_bytes").optional_number(),
        volumes=node.field("volumes").rows(_parse_volume, optional=True),
        unseen=_parse_texts(node.field("unseen_changes")),
        half_removed=node.field("half_removed").flag() if node.has("half_removed") else False,
    )


def _parse_volume(node: _Node) -> Volume:
    return Volume(
        path=node.field("path").text(),
        source=node.field("source").text(),
        bytes=node.field("bytes").optional_number(),
        kind="bind" if node.field("kind").optional_text() == "bind" else "volume",
    )


def _parse_layer(node: _Node) -> ReportLayer:
    diff_id = node.field("diff_id").optional_digest()
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
        flagged=_parse_flagged(node),
        damaged=node.has("damaged") and node.field("damaged").flag(),
    )
    return node.reading.layers.setdefault(layer, layer)


def _parse_flagged(node: _Node) -> tuple[tuple[str, str], ...]:
    if not node.has("flagged"):
        return ()
    entries = node.field("flagged")
    return tuple(sorted((flag, entries.field(flag).text()) for flag in entries.mapping()))


def _parse_platform(node: _Node) -> Platform:
    return Platform(
        os=node.field("os").text(),
        architecture=node.field("architecture").text(),
        variant=node.field("variant").optional_text(),
    )


def _parse_duplicate(node: _Node) -> Duplicate:
    return Duplicate(
        diff_id=DiffID(node.field("diff_id").digest()),
        tar_size=node.field("tar_size").number(),
        copies=node.field("copies").number(),
        legacy_ids=_parse_texts(node.field("legacy_ids")),
        saved_bytes=node.field("saved_bytes").number(),
    )


def _parse_conflict(node: _Node) -> Conflict:
    return Conflict(
        reference=node.field("reference").text(),
        platform=_parse_platform(node.field("platform")),
        kept=node.field("kept").digest(),
        others=node.field("others").rows(_Node.digest),
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
