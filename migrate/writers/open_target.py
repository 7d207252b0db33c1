"""The target that the user names: a prefix as in skopeo, or a plain path for an OCI layout."""

from __future__ import annotations

import re

from migrate.errors import UsageError
from migrate.layout.names import PATH_PREFIXES, plain_path
from migrate.model.options import ConvertOptions
from migrate.writers.base import ImageTarget

_PREFIX = re.compile(r"([a-z][a-z0-9+-]*):(.*)", re.DOTALL)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://.*", re.DOTALL)


def open_target(text: str, options: ConvertOptions) -> ImageTarget:
    """Opens (and where needed creates) the target. In a dry run it writes nothing, and gives images the names and blobs
    that they would have. UsageError for a text that names none, TargetError if it fails."""
    prefix, rest = _checked(text)
    if options.dry_run:
        return _rehearsal(prefix)
    match prefix:
        case "oci":
            from migrate.writers.oci_layout import OciLayout

            return OciLayout(rest, options)
        case "oci-archive":
            from migrate.writers.docker_archive import OciArchive

            return OciArchive(rest, options)
        case "docker-archive":
            from migrate.writers.docker_archive import DockerArchive

            return DockerArchive(rest, options)
        case "registry-storage":
            from migrate.writers.registry_storage import RegistryStorage

            return RegistryStorage(rest, options)
        case _:
            from migrate.writers.registry import RegistryTarget

            return RegistryTarget(rest, options)


def _rehearsal(prefix: str) -> ImageTarget:
    from migrate.writers.discard import Discard, DiscardArchive, DiscardRepositories

    kinds = {"docker-archive": DiscardArchive, "registry-storage": DiscardRepositories, "docker": DiscardRepositories}
    return kinds.get(prefix, Discard)()


def _checked(text: str) -> tuple[str, str]:
    prefix, rest = _split(text)
    if prefix != "docker" and not rest:
        raise UsageError(f"target {text!r}: no path follows the prefix")
    return prefix, rest


def goes_to_stdout(text: str) -> bool:
    return re.fullmatch(r"(?:oci|docker)-archive:(?:-|/dev/stdout)", text) is not None


def target_path(text: str) -> str | None:
    """The path of a target on disk, None for one that is elsewhere."""
    path = plain_path(text)
    return None if path in ("", "-") or "://" in text else path


def target_url(text: str) -> str | None:
    """The URL of a target in a bucket, None for one that is elsewhere."""
    url = plain_path(text)
    return url if "://" in url and not url.startswith("docker://") else None


def _split(text: str) -> tuple[str, str]:
    match = _PREFIX.fullmatch(text)
    if match and match[1] in PATH_PREFIXES:
        return match[1], match[2]
    if text.startswith("docker://"):
        return "docker", text.removeprefix("docker://")
    if _URL.fullmatch(text):
        raise UsageError(f"target {text!r}: only docker:// and paths can be written to")
    if match and "/" not in match[1] and match[1] in ("docker", "dir", "docker-daemon", "containers-storage"):
        raise UsageError(f"target {text!r}: {match[1]}: is none of oci, oci-archive, docker-archive, registry-storage")
    if text in ("", "-"):
        raise UsageError(f"target {text!r}: name a directory, or docker-archive:- for standard output")
    return "oci", text
