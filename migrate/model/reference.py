"""Image references, parsed once and kept as in the source.

Grammar: distribution's `reference` package (components of lower-case letters and digits with single separators, tag
`[\\w][\\w.-]{0,127}`). A first component with a dot or a colon, or `localhost`, is a registry's host. If it cannot be a
host (`foo_bar.com/x`), the whole name is a path.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from functools import lru_cache

from msgspec import Struct

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_HOST_LABEL}(?:\.{_HOST_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HEX64 = re.compile(r"[0-9a-f]{64}")
_OLD_PATH = r"(?a)[\w-][\w.-]*(?:/[\w-][\w.-]*)*"

DEFAULT_HOST = "docker.io"
DEFAULT_NAMESPACE = "library"


def is_tag(text: str) -> bool:
    """True for a tag that registries accept."""
    return _TAG.fullmatch(text) is not None


def is_host(text: str) -> bool:
    """True for a host of a name, with or without a port."""
    return re.fullmatch(_HOST, text) is not None


def is_repository_path(text: str) -> bool:
    """True for a repository's path in a URL. Capitals are accepted, as by old registries. Other characters are refused,
    since they could lead a request to another place."""
    return re.fullmatch(_OLD_PATH, text) is not None


class Reference(Struct, frozen=True, order=True, gc=False):
    """A reference. `name` and `tag` are exactly as in the source. `tag` may be a digest (`sha256:<hex>`), which is
    written after `@`."""

    name: str
    tag: str

    def __str__(self) -> str:
        return f"{self.name}{'@' if self.is_digest else ':'}{self.tag}"

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parses `repo:tag`, `repo@sha256:…` or `repo` (tag `latest`). Accepts any text: see `is_valid`."""
        name, at, digest = text.partition("@")
        if at:
            return cls(name, digest)
        head, colon, tag = text.rpartition(":")
        if not colon or "/" in tag:
            return cls(text, "latest")
        return cls(head, tag)

    @property
    def is_digest(self) -> bool:
        return _DIGEST.fullmatch(self.tag) is not None

    @property
    def is_valid(self) -> bool:
        """True if today's Docker accepts the reference."""
        return _is_valid(self)

    def familiar(self) -> Reference:
        """Without `docker.io/` and `library/`, as `docker images` shows it."""
        host, path = self._split()
        if host in (DEFAULT_HOST, "index.docker.io"):
            host = None
        if host is None and path.startswith(f"{DEFAULT_NAMESPACE}/") and path.count("/") == 1:
            path = path.removeprefix(f"{DEFAULT_NAMESPACE}/")
        return Reference(path if host is None else f"{host}/{path}", self.tag)

    def full(self) -> str:
        """The full form, which containerd uses, such as `docker.io/library/busybox:latest`."""
        host, path = self._split()
        if host in (None, "index.docker.io"):
            host = DEFAULT_HOST
        if host == DEFAULT_HOST and "/" not in path:
            path = f"{DEFAULT_NAMESPACE}/{path}"
        return f"{host}/{path}{'@' if self.is_digest else ':'}{self.tag}"

    def spellings(self) -> tuple[str, ...]:
        """The forms that a user may write: as it is, the short form and the full form; all three also without the
        tag."""
        full, end = self.full(), f"{'@' if self.is_digest else ':'}{self.tag}"
        familiar = self.familiar()
        return str(self), str(familiar), full, self.name, familiar.name, full.removesuffix(end)

    def matches(self, pattern: str) -> bool:
        """True if the pattern, a glob for `NAME:TAG`, matches one of the spellings. Without a tag it matches every
        tag."""
        return any(text == pattern or fnmatchcase(text, pattern) for text in self.spellings())

    def _split(self) -> tuple[str | None, str]:
        first, slash, rest = self.name.partition("/")
        if slash and ("." in first or ":" in first or first == "localhost"):
            return first, rest
        return None, self.name


@lru_cache(1_024)
def _is_valid(reference: Reference) -> bool:
    if not (reference.is_digest or _TAG.fullmatch(reference.tag)):
        return False
    if _HEX64.fullmatch(reference.name):  # Docker reads it as an image ID and refuses it as a name
        return False
    if len(reference.name) > 255:
        return False
    host, path = reference._split()
    if host is not None and re.fullmatch(_HOST, host) and _PATH.fullmatch(path):
        return True
    return _PATH.fullmatch(reference.name) is not None  # also where the first component only looks like a host


def is_loadable_name(text: str) -> bool:
    """True for a name with a tag, as `docker load` accepts it."""
    reference = Reference.parse(text)
    return reference.is_valid and not reference.is_digest and str(reference) == text
