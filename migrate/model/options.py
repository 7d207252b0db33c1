"""The options of one run, as values.

`ConvertOptions` consists of four groups. Each step has the group that it needs as a parameter. A new option is one
field here and one `click.option` in `migrate.cli`. Groups are not compared: methods for that would be compiled at each
start.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Final

from migrate.errors import UsageError
from migrate.model.image import Platform
from migrate.model.legacy import SourceType


class Format(StrEnum):
    """Media types of manifests, configs and layers: Docker's image manifest V2 schema 2, or OCI image spec 1."""

    DOCKER = "docker"
    OCI = "oci"


class Compression(StrEnum):
    """The compression of layer blobs: libdeflate, ISA-L (bytes may differ between runs), zstd (OCI only), or none."""

    GZIP = "gzip"
    GZIP_FAST = "gzip-fast"
    ZSTD = "zstd"
    NONE = "none"


class EmptyLayers(StrEnum):
    """Layers whose tar has no entries: they become history entries only, as in images built by Docker 1.10 and later;
    or they are kept as layers, and the image ID is that of Docker's own migration."""

    DROP = "drop"
    KEEP = "keep"


class OnConflict(StrEnum):
    """The image that gets a name which several images of one platform claim: the one created last, or the first of the
    sources; or the run ends with ConflictError; or all keep it."""

    NEWEST = "newest"
    FIRST = "first"
    FAIL = "fail"
    KEEP_ALL = "keep-all"


class Link(StrEnum):
    """How unchanged blobs are put into a target: reflink or else a copy; hard link; copy."""

    AUTO = "auto"
    HARD = "hard"
    COPY = "copy"


class Changes(StrEnum):
    """The effect of another value of an option."""

    RESULT = "result"
    """Other images, layers or configs. A batch reads the source again."""
    NAMES = "names"
    """Only other names and manifests, which are made after all sources were read. Results of reading stay valid."""
    NOTHING = "nothing"
    """Only another course of the run, and no other byte of an image."""


DEFAULT_PLATFORM = Platform(os="linux", architecture="amd64")

LEVELS: Final[Mapping[Compression, range]] = {
    Compression.GZIP: range(1, 13),
    Compression.GZIP_FAST: range(1, 4),
    Compression.ZSTD: range(1, 20),
    Compression.NONE: range(0),
}
"""The levels of each compression: libdeflate's, ISA-L's, zstd's."""

TEMPLATE_FIELD: Final = r"\{(repo|tag|created)(?::([^{}]*))?\}"
"""A pattern for a field of `--tag-template`; `created` may have strftime's numeric directives after a colon."""

UNTAGGED_FIELD: Final = r"\{(legacy_id|image_id)(?::([1-9][0-9]?))?\}"
"""A pattern for a field of `--name-untagged`, with the number of its characters to use after a colon."""


def _changes(changes: Changes) -> Mapping[str, Changes]:
    """The metadata of a field with another effect than the rest of its group."""
    return {"changes": changes}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ReadOptions:
    """Options for reading a source.

    `source_type`: None recognises the source by its content. `inside`: the path of the source, a directory or a file,
    in a directory, tar or disk image. `driver`: the storage driver of a Docker root that has several. `dm_data`,
    `dm_metadata`: paths of a thin pool's devices or of images of them. `insecure`: registries may use plain HTTP and
    any certificate. `max_ratio`: data that decompresses to more than so many times its size is refused (None: 1100).
    `salvage`: the intact lower layers of damaged images are converted, too. `dry_run`: nothing is written, and each
    layer is read once, so readers keep no copy of a download. `temporary_directory`: for temporary files (None: that of
    the system).
    """

    source_type: SourceType | None = None
    inside: str | None = None
    driver: str | None = None
    dm_data: str | None = None
    dm_metadata: str | None = None
    insecure: bool = False
    max_ratio: int | None = None
    salvage: bool = False
    dry_run: bool = field(default=False, metadata=_changes(Changes.NOTHING))
    temporary_directory: str | None = field(default=None, metadata=_changes(Changes.NOTHING))

    @property
    def pool_files(self) -> tuple[str, ...]:
        """The files of a devicemapper store outside its root."""
        return tuple(path for path in (self.dm_data, self.dm_metadata) if path)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, init=False)
class ImageOptions:
    """Options for the choice of images and for their bytes.

    `compression_level`: None is 2 for gzip, 3 for zstd. `images`, `exclude`: references, globs for them, legacy IDs or
    their prefixes; without `images`, all images. `all_layers`: every legacy layer becomes an image. `containers`: every
    container of a Docker root becomes an image; `container`: those with these IDs or names. `platform`: for images
    without one, written into descriptors, and with `fill_platform` into the config. `strict`: an image with a layer
    that is not exact fails. `check_rootfs`: layers are compared with the file systems in a Docker root (None: for
    overlay, vfs and btrfs).
    """

    format: Format = field(default=Format.DOCKER, metadata=_changes(Changes.NAMES))
    carry_manifests: bool = field(default=False, metadata=_changes(Changes.NAMES))
    compression: Compression = Compression.GZIP
    compression_level: int | None = None
    empty_layers: EmptyLayers = EmptyLayers.DROP
    images: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    all_layers: bool = False
    containers: bool = False
    container: tuple[str, ...] = ()
    platform: Platform = DEFAULT_PLATFORM
    fill_platform: bool = False
    strict: bool = False
    check_rootfs: bool | None = None

    @property
    def changes_manifests(self) -> bool:
        """True if manifests of the source get the media types of `--format oci`."""
        return self.format is Format.OCI and not self.carry_manifests

    def check_images(self) -> None:
        """UsageError for options that do not fit the format, and for a level that the compression does not have."""
        if self.compression is Compression.ZSTD and self.format is not Format.OCI:
            raise UsageError("--compression zstd needs --format oci: Docker's schema 2 has no media type for it")
        if self.carry_manifests and self.format is not Format.OCI:
            raise UsageError("--carry-manifests needs --format oci: without it no manifest of a source is changed")
        level, levels = self.compression_level, LEVELS[self.compression]
        if level is not None and not levels:
            raise UsageError(f"--compression-level {level}: --compression {self.compression} has no levels")
        if level is not None and level not in levels:
            allowed = f"{levels.start} to {levels.stop - 1}"
            raise UsageError(f"--compression-level {level}: --compression {self.compression} takes {allowed}")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class NameOptions:
    """Options for the names of the images in the target.

    `renames`: pairs of a regular expression for the repository's name and its replacement, applied in order.
    `tag_template`: `NAME:TAG` with the fields `{repo}`, `{tag}` and `{created:FORMAT}`. `name_untagged`: the same for
    images without a name, with the fields `{legacy_id}` and `{image_id}`, each with or without a length.
    """

    on_conflict: OnConflict = OnConflict.NEWEST
    renames: tuple[tuple[str, str], ...] = ()
    tag_template: str | None = None
    name_untagged: str | None = None

    def check_names(self) -> None:
        """UsageError for a `--rename` that `re` refuses, and for an unknown field in a template."""
        for pattern, replacement in self.renames:
            try:
                re.sub(pattern, replacement, "")
            except (re.error, IndexError) as exc:
                raise UsageError(f"--rename {pattern}={replacement}: {exc}") from exc
        if self.tag_template:
            _check_template(self.tag_template)
        untagged = self.name_untagged
        if untagged is not None and (not untagged or re.search(r"[{}@]", re.sub(UNTAGGED_FIELD, "", untagged))):
            raise UsageError(
                f"--name-untagged {untagged}: is NAME:TAG with the fields {{legacy_id}} and {{image_id}}, each with a "
                "length of 1 to 99 or without, as in untagged/{legacy_id:12}:latest"
            )


def _check_template(template: str) -> None:
    if re.search(r"[{}]", re.sub(TEMPLATE_FIELD, "", template)):
        raise UsageError(f"--tag-template {template}: fields are {{repo}}, {{tag}} and {{created:FORMAT}}")
    times = "".join(match[2] or "" for match in re.finditer(TEMPLATE_FIELD, template))
    for directive in re.findall(r"%(.?)", times):
        if directive not in [*"YmdHMSj%"]:
            raise UsageError(f"--tag-template {template}: %{directive} is none of %Y %m %d %H %M %S %j")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, init=False)
class RunOptions:
    """Options for the course of the run. `jobs`: number of threads (processes in a batch), 1 or more. `exact_sizes`: a
    plan compresses, too. `force`: start although the free space may not be enough. `check_existing`: read every blob
    that the target has already, also if its file is unchanged since a run read it."""

    jobs: int = 1
    exact_sizes: bool = False
    force: bool = False
    link: Link = Link.AUTO
    check_existing: bool = False

    def check_without_target(self) -> None:
        """UsageError for options about a target, for a run without one."""
        given = {"--force": self.force, "--link": self.link is not Link.AUTO, "--check-existing": self.check_existing}
        if named := [name for name, is_given in given.items() if is_given]:
            raise UsageError(f"{', '.join(named)}: only for a target, and a plan has none")


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(ReadOptions, ImageOptions, NameOptions, RunOptions):
    """The options of `convert`, `plan` and `batch` (docs/reference/cli.md).

    Raises UsageError for options that exclude each other.
    """

    def __post_init__(self) -> None:
        self.check_images()
        self.check_names()


_GROUPS: Final[Mapping[type[Any], Changes]] = {
    ReadOptions: Changes.RESULT,
    ImageOptions: Changes.RESULT,
    NameOptions: Changes.NAMES,
    RunOptions: Changes.NOTHING,
}
CHANGES: Final[Mapping[str, Changes]] = {
    option.name: option.metadata.get("changes", default)
    for group, default in _GROUPS.items()
    for option in fields(group)
}
"""Field of `ConvertOptions` → the effect of another value."""
