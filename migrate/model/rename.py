"""Maps old names to names that today's rules accept. Pure functions.

Registries before 2014 and Docker before 1.7 accepted names that today's reference grammar (distribution,
`reference/regexp.go`) refuses: capitals, leading underscores, several separators in a row, blanks.
docs/reference/names.md has the same rule for users.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

from migrate.model.reference import DEFAULT_HOST, Reference, is_host

_REFUSED: Final = r"[^a-z0-9._-]+"
_SEPARATORS: Final = r"[._-]+"
_ALLOWED_SEPARATORS: Final = r"\.|_|__|-+"
_TAG_REFUSED: Final = r"[^A-Za-z0-9_.-]+"
_HEX_64: Final = r"[0-9a-f]{64}"
_NAME_LENGTH: Final = 255
_TAG_LENGTH: Final = 128
_HUB: Final = (DEFAULT_HOST, "index.docker.io")
_NAMELESS: Final = "unnamed"


def map_reference(reference: Reference, renames: Iterable[tuple[str, str]] = ()) -> Reference:
    """The name of an image in the target. A valid name that no rule matches is not changed.

    First each of `renames`, (regular expression, replacement) as in `re.sub`, changes the repository's name. Then, if
    today's grammar still refuses the name: capitals become small letters, characters outside `a-z0-9._-` become `-`,
    several separators in a row that the grammar refuses become `-`, separators at the ends of a component are removed,
    an empty component becomes `unnamed`, and the dots of a first component that would be a host become `-`. The letters
    of a tag are kept; other characters become `-`, and a leading `.` or `-` is removed. Raises `re.error` for an
    invalid pattern or replacement.
    """
    name = reference.name
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    renamed = Reference(name, reference.tag)
    if renamed.is_valid:
        return renamed
    return Reference(
        _map_name(name),
        reference.tag
        if reference.is_digest
        else (re.sub(_TAG_REFUSED, "-", reference.tag).lstrip(".-")[:_TAG_LENGTH] or _NAMELESS),
    )


def repository_reference(reference: Reference) -> Reference:
    """As `map_reference`, for a target that is a registry, whose names have no host.

    A host with a port is removed, and so are Docker Hub's hosts (`docker.io/library/x` → `x`). Any other first
    component with a dot is kept, because foo.bar in `foo.bar/app` may be a host or a namespace.
    """
    mapped = map_reference(reference)
    host, path = split_host(mapped.name)
    if host in _HUB:
        return Reference(path.removeprefix("library/"), mapped.tag)
    if host is not None and ":" in host:
        return Reference(path, mapped.tag)
    return mapped if host is None else Reference(f"{_map_component(host)}/{path}", mapped.tag)


def split_host(name: str) -> tuple[str | None, str]:
    """(host, rest) as Docker splits a name: a first component with a dot or colon, or `localhost`, is a host."""
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost") and is_host(first):
        return first, rest
    return None, name


def _map_name(name: str) -> str:
    host, path = split_host(name)
    mapped = "/".join(_map_component(component) for component in path.split("/"))
    if host is None and split_host(mapped)[0] is not None:
        first, slash, rest = mapped.partition("/")
        mapped = first.replace(".", "-").replace("localhost", "local-host") + slash + rest
    if host is None and re.fullmatch(_HEX_64, mapped):
        mapped = f"image-{mapped}"  # for Docker, 64 digits are an image ID
    whole = mapped if host is None else f"{host}/{mapped}"
    if len(whole) <= _NAME_LENGTH:
        return whole
    # Two long names with the same beginning must not become one name.
    mark = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return f"{whole[: _NAME_LENGTH - 13].rstrip('._-/')}-{mark}"


def _map_component(component: str) -> str:
    text = re.sub(_REFUSED, "-", component.lower())
    text = re.sub(_SEPARATORS, lambda run: run[0] if re.fullmatch(_ALLOWED_SEPARATORS, run[0]) else "-", text)
    return text.strip("._-") or _NAMELESS
