"""`manifest.json` and `repositories` of `docker save` archives, and the tag store of a Docker root."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from migrate.blobio.limits import JSON_BYTES
from migrate.documents.go_json import read_document
from migrate.documents.go_struct import Field, MismatchError, Struct, decode_string, decode_strings, decode_structs
from migrate.documents.json_text import (
    check_limits,
    iter_list,
    load_cut_object,
    load_json,
    load_json_lenient,
    shown,
)
from migrate.errors import DocumentError, LimitError
from migrate.model.legacy import LegacyID
from migrate.model.reference import Reference

_LARGE_BYTES: Final = 1024 * 1024
_PIECE_BYTES: Final = 64 * 1024


class ArchiveManifestEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One image of an archive. `config` and `layers` (base first) are names of members, as in the document."""

    config: str
    repo_tags: tuple[str, ...]
    layers: tuple[str, ...]


_decode_images = decode_structs(
    Struct(
        Field("Config", decode_string, ""),
        Field("RepoTags", decode_strings, None),
        Field("Layers", decode_strings, None),
    ),
    "an array of images",
)


def parse_archive_manifest(raw: bytes, limit: int = JSON_BYTES) -> tuple[ArchiveManifestEntry, ...]:
    """The entries of `manifest.json` (Docker >= 1.10), parsed as in Go. An entry without a config has an empty name for
    it, so that the other entries can be read. Raises DocumentError or LimitError."""
    document = read_document(raw, "manifest.json", limit)
    try:
        if document is None:
            raise MismatchError("an array of images")
        images = _decode_images(document, None)
    except MismatchError as exc:
        raise DocumentError(f"manifest.json{exc}" if exc.path else f"manifest.json: not {exc.wanted}") from exc
    return tuple(
        ArchiveManifestEntry(
            config=image.get("Config") or "",
            repo_tags=tuple(image.get("RepoTags") or ()),
            layers=tuple(image.get("Layers") or ()),
        )
        for image in images
    )


def encode_archive_manifest(entries: Iterable[ArchiveManifestEntry]) -> bytes:
    """`manifest.json` as Docker writes it: `RepoTags` is null for an image without a tag, and a newline ends it."""
    return b"".join(iter_archive_manifest(entries))


def iter_archive_manifest(entries: Iterable[ArchiveManifestEntry]) -> Iterator[bytes]:
    """The bytes of `encode_archive_manifest` in pieces."""
    rows = (
        {"Config": entry.config, "RepoTags": list(entry.repo_tags) or None, "Layers": list(entry.layers)}
        for entry in entries
    )
    return iter_list(b"[]\n", rows)


def parse_repositories(raw: bytes) -> tuple[tuple[tuple[Reference, LegacyID], ...], tuple[str, ...]]:
    """((reference, legacy ID) of every tag, in the document's order; the problems of the rest).

    There are two forms: name → tag → ID, as in an archive, and the same under an outer key "Repositories", as in a
    Docker root. A tag with a colon is a digest. The tags before a damaged place are read. Raises DocumentError or
    LimitError for a document of another kind.
    """
    check_limits(raw, "repositories")
    if len(raw) > _LARGE_BYTES and (found := _names_in_pieces(raw)) is not None:
        return found, ()
    problems: list[str] = []
    try:
        document = _members(load_json_lenient(raw, "repositories"), "repositories")
    except DocumentError as error:
        document = _members(load_cut_object(raw, "repositories"), "repositories")
        problems.append(f"{error.message}; the names before that place are read, those behind it are lost")
    # The form of a root's tag store; or a repository called "Repositories", if it has tags itself.
    inner = document.get("Repositories", "")
    if inner is None or (isinstance(inner, dict) and not any(isinstance(value, str) for value in inner.values())):
        document = _members(inner, "repositories: Repositories")
    names, others = _names(document)
    return tuple(names), (*problems, *others)


def _names(document: Mapping[str, Any]) -> tuple[list[tuple[Reference, LegacyID]], list[str]]:
    """The names in name → tag → ID, and the problems of the rest."""
    found: list[tuple[Reference, LegacyID]] = []
    problems: list[str] = []
    for name, tags in document.items():
        try:
            for tag, value in _members(tags, f"repositories: {shown(name)}").items():
                if not isinstance(value, str):
                    raise DocumentError(f"repositories: {shown(name)}, {shown(tag)}: not the ID of an image")
                found.append((Reference(name, tag), LegacyID(value)))
        except DocumentError as error:
            problems.append(error.message)
    return found, problems


def _names_in_pieces(raw: bytes) -> tuple[tuple[Reference, LegacyID], ...] | None:
    """The names of a document that is large and flawless, which is parsed in pieces: whole, it takes ten times its
    size. None for any other document.

    A list of members with commas between them is an object's content, so each piece that is one by itself proves that
    it was cut between two members.
    """
    body = raw.strip(b" \t\r\n")
    if not (body.startswith(b"{") and body.endswith(b"}")):
        return None
    found: list[tuple[Reference, LegacyID]] = []
    seen: set[str] = set()
    start, end = 1, len(body) - 1
    while start <= end:  # equal behind a comma at the end, which no object has
        cut = body.find(b"},", start + _PIECE_BYTES, end) + 1 or end
        try:
            piece = load_json(b"{" + body[start:cut] + b"}", "repositories")
        except (DocumentError, LimitError):
            return None
        names, problems = _names(piece)
        if not piece or problems or "Repositories" in piece or not seen.isdisjoint(piece):
            return None
        found += names
        seen.update(piece)
        start = cut + 1
    return tuple(found)


def _members(value: Any, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DocumentError(f"{where}: not an object")
    return value
