"""Parses the name of a target (a prefix as in skopeo, or a plain path for an OCI layout), and opens it."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from migrate.errors import UsageError
from migrate.layout.names import PATH_PREFIXES, REGISTRY_PREFIX, plain_path, split_prefix
from migrate.model.options import ConvertOptions
from migrate.storage.store import is_url

if TYPE_CHECKING:
    from migrate.writers.base import ImageTarget

_KINDS = tuple(prefix for prefix in PATH_PREFIXES if prefix != "dir")
_PREFIX = r"[A-Za-z][A-Za-z0-9._-]*"
_WINDOWS = r"[A-Za-z]:[\\/]"
_ARCHIVE = r"(?is).*[^/]\.(tar(\.(gz|bz2|xz|zst))?|tgz|tbz2?|txz|tzst)"
_COMPRESSED = r"(?is)(.*[^/])\.(t?gz|bz2|tbz2?|t?xz|zst|tzst|lz4|lzma|br|zip|7z)"


def open_target(text: str, options: ConvertOptions) -> ImageTarget:
    """Opens the target, and creates it if it does not exist. In a dry run, returns a target that writes nothing and
    gives images the same names and blobs. Raises UsageError for a text that names no target, and TargetError."""
    prefix, rest = parse_target(text)
    if options.dry_run:
        from migrate.writers.discard import Discard, DiscardArchive, DiscardRepositories

        kinds = {
            "docker-archive": DiscardArchive,
            "registry-storage": DiscardRepositories,
            "docker": DiscardRepositories,
        }
        return kinds.get(prefix, Discard)()
    # Imported when needed, because imports take most of the time that a command needs to start.
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


def goes_to_stdout(text: str) -> bool:
    prefix, _, path = text.partition(":")
    return prefix in ("oci-archive", "docker-archive") and path in ("-", "/dev/stdout")


def target_path(text: str) -> str | None:
    """The path of a target on disk, or None for other targets."""
    path = plain_path(text)
    return None if path in ("", "-") or "://" in text else path


def target_url(text: str) -> str | None:
    """The URL of a target in a bucket, or None for other targets."""
    url = plain_path(text)
    return url if "://" in url and not url.startswith(REGISTRY_PREFIX) else None


def name_warnings(text: str) -> list[str]:
    """A warning for archives with a name such as `images.tar.gz`: archives are written without compression."""
    prefix, path = parse_target(text)
    match = re.fullmatch(_COMPRESSED, path) if prefix.endswith("-archive") else None
    if match is None:
        return []
    plain = match[1] if match[1].lower().endswith(".tar") else f"{match[1]}.tar"
    return [f"{path}: is written as a plain tar; name it {plain}, or pipe {prefix}:- into a compressor"]


def parse_target(text: str) -> tuple[str, str]:
    """(prefix, path) of a target; the prefix of a plain path is `oci`, that of a registry `docker`.

    Raises UsageError, with the right form, for a text that is not a target. That includes forms of other programs,
    which would give a file or directory with a strange name here.
    """
    if text in ("", "-"):
        raise UsageError(f"target {text!r}: name a directory, or docker-archive:- for standard output")
    if text.startswith(REGISTRY_PREFIX):
        return "docker", text.removeprefix(REGISTRY_PREFIX)
    if re.match(_WINDOWS, text):
        raise UsageError(f"target {text!r}: a Windows path; inside WSL it is /mnt/{text[0].lower()}/{text[3:]}")
    prefix, path = split_prefix(text)
    if prefix is not None and prefix != "dir":
        if not path:
            raise UsageError(f"target {text!r}: no path follows the prefix")
        if ":" in path and "://" not in path and not os.path.exists(path):
            raise UsageError(
                f"target {text!r}: a target takes no image name; images keep the names of their sources, and --rename "
                f"and --tag-template change them: write {prefix}:{path.partition(':')[0]}"
            )
        return prefix, path
    if is_url(text):
        return "oci", text
    other, colon, _ = text.partition(":")
    if colon and re.fullmatch(_PREFIX, other) and not os.path.exists(text):
        import difflib  # only needed for errors

        close = difflib.get_close_matches(other, _KINDS, n=1)
        hint = f"did you mean {close[0]}:?" if close else f"a directory of that name is ./{text}"
        raise UsageError(f"target {text!r}: {other}: is not a kind of target ({', '.join(_KINDS)}, docker://); {hint}")
    if re.fullmatch(_ARCHIVE, text) and not os.path.lexists(text):
        raise UsageError(
            f"target {text!r}: a plain path is the directory of an OCI layout, but this looks like an archive; "
            f"write docker-archive:{text} for `docker load`, oci-archive:{text}, or {text}/ for a directory"
        )
    return "oci", text
