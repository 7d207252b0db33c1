"""Replaces old image IDs, digests and names in a text by the new ones of a map."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from msgspec import Struct, field

from migrate.documents.image_map import MappedImage
from migrate.model.reference import Reference

_SHORT = 12
_WORD = re.compile(
    r"(?<![\w./:@+-])"
    r"(?:sha256:(?P<digest>[0-9a-f]{64})"
    r"|(?P<scheme>docker://|docker-daemon:)?(?P<name>\w(?:[\w.-]*\w)?(?::\d+(?=/))?(?:/\w(?:[\w.-]*\w)?)*)"
    r"(?::(?P<tag>\w(?:[\w.-]{0,126}\w)?))?(?:@sha256:(?P<pinned>[0-9a-f]{64}))?)"
    r"(?![\w/@-]|[:.]\w)",
    re.ASCII,
)
"""A word that may be an image: an ID, a digest, a name. Parts of longer words (a path, a UUID) do not match."""
_IMAGE_KEY = re.compile(r"(?:\bimage[\"']?\s*[:=]|\bfrom)\s*[\"']?$", re.IGNORECASE)
_ENGINE = re.compile(r"\b(?:docker|podman|nerdctl|crictl|ctr|buildah|skopeo)\b")
"""A name without a tag may be any word. It is treated as an image after `image:`, `IMAGE=` and `FROM`, and, if it has a
slash, in a line with the command of an engine."""


class Rewritten(Struct, frozen=True):
    """A text in which `count` words were replaced; `doubts` are words that match several images and were not."""

    text: str
    count: int
    doubts: tuple[str, ...] = ()


class Rewriter(Struct):
    """Replaces legacy IDs (64 or 12 digits), digests of old manifests, and names that images no longer have. A word
    that matches several new images is not replaced.
    """

    ids: dict[str, set[str]] = field(default_factory=dict)
    digests: dict[str, set[str]] = field(default_factory=dict)
    names: dict[str, set[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, images: Iterable[MappedImage]) -> Rewriter:
        rewriter = cls()
        rows = [image for image in images if not image.removed]
        there = {_full(name) for row in rows for name in row.names}
        named = {row.legacy_id for row in rows if row.names}
        for row in rows:
            if row.legacy_id in named and not row.names:
                continue  # a later run converted the same legacy image again, and that image has the names
            rewriter.ids.setdefault(row.legacy_id, set()).add(row.image_id.hex)
            rewriter.ids.setdefault(row.legacy_id[:_SHORT], set()).add(row.image_id.hex[:_SHORT])
            if row.manifest_digest is not None:
                for old in row.legacy_digests:
                    rewriter.digests.setdefault(old.hex, set()).add(row.manifest_digest.hex)
            for reference, new in _renamed(row):
                if _full(reference) not in there:
                    rewriter.names.setdefault(_full(reference), set()).add(new)
        return rewriter

    def rewrite(self, text: str) -> Rewritten:
        count = 0
        doubts: dict[str, None] = {}

        def replace(match: re.Match[str]) -> str:
            nonlocal count
            found = set(self._new_words(match, text[text.rfind("\n", 0, match.start()) + 1 : match.start()]))
            # A word with several possible replacements is kept and reported, because only the user can choose.
            if len(found) > 1:
                doubts[match[0]] = None
            if len(found) != 1 or found == {match[0]}:
                return match[0]
            count += 1
            return found.pop()

        return Rewritten(_WORD.sub(replace, text), count, tuple(doubts))

    def _new_words(self, match: re.Match[str], before: str) -> Iterator[str]:
        """The possible replacements of a word; `before` is the part of its line before it."""
        if match["digest"]:
            yield from (f"sha256:{new}" for new in self.digests.get(match["digest"], ()))
        elif match["pinned"]:
            # Docker ignores the tag beside a digest, so a pin without a tag stays without one.
            for new in self.digests.get(match["pinned"], ()):
                tag = f":{match['tag']}" if match["tag"] else ""
                for name in self._new_names(match) or {match["name"] + tag}:
                    kept = name if match["tag"] else Reference.parse(name).name
                    yield f"{match['scheme'] or ''}{kept}@sha256:{new}"
        elif not match["tag"] and not match["scheme"] and match["name"] in self.ids:
            yield from self.ids[match["name"]]
        elif (
            match["tag"]
            or match["scheme"]
            or _IMAGE_KEY.search(before)
            or ("/" in match["name"] and _ENGINE.search(before))
        ):
            yield from (f"{match['scheme'] or ''}{name}" for name in self._new_names(match))

    def _new_names(self, match: re.Match[str]) -> set[str]:
        """New names for the name in a word; without a tag if the word has no tag and the new one is `latest`."""
        reference = Reference(match["name"], match["tag"] or "latest")
        new = {Reference.parse(name) for name in self.names.get(reference.full(), ())}
        return {one.name if not match["tag"] and one.tag == "latest" else str(one) for one in new}


def _renamed(row: MappedImage) -> Iterator[tuple[str, str]]:
    """References that the image no longer has, each with its new name: one with the same tag, or else every new one."""
    new = [name for name in row.names if name not in row.references]
    for reference in row.references:
        if reference in row.names:
            continue
        same_tag = [name for name in new if Reference.parse(name).tag == Reference.parse(reference).tag]
        for name in same_tag or new:
            yield reference, name


def _full(name: str) -> str:
    return Reference.parse(name).full()
