"""The choices of one run, as values that every step may read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from migrate.model.image import Platform


class Format(StrEnum):
    DOCKER = "docker"
    OCI = "oci"


class Compression(StrEnum):
    GZIP = "gzip"
    GZIP_FAST = "gzip-fast"
    ZSTD = "zstd"
    NONE = "none"


class EmptyLayers(StrEnum):
    DROP = "drop"
    KEEP = "keep"


class OnConflict(StrEnum):
    NEWEST = "newest"
    FIRST = "first"
    FAIL = "fail"
    KEEP_ALL = "keep-all"


DEFAULT_PLATFORM = Platform(os="linux", architecture="amd64")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """The options of `convert`, `plan` and `batch` that change what comes out (docs/reference/cli.md)."""

    format: Format = Format.DOCKER
    compression: Compression = Compression.GZIP
    compression_level: int | None = None
    empty_layers: EmptyLayers = EmptyLayers.DROP
    images: tuple[str, ...] = ()
    all_layers: bool = False
    platform: Platform = DEFAULT_PLATFORM
    fill_platform: bool = False
    on_conflict: OnConflict = OnConflict.NEWEST
    jobs: int = 1
    dry_run: bool = False
    exact_sizes: bool = False
    strict: bool = False
    salvage: bool = False
    force: bool = False
    check_rootfs: bool | None = None
    driver: str | None = None
    link: str = "auto"
    renames: tuple[tuple[str, str], ...] = ()
    tag_template: str | None = None
    dm_data: str | None = None
    dm_metadata: str | None = None
    insecure: bool = False
    max_ratio: int | None = None

    @property
    def pool_files(self) -> tuple[str, ...]:
        """What is read of a devicemapper store beside its root."""
        return tuple(path for path in (self.dm_data, self.dm_metadata) if path)

    @property
    def for_readers(self) -> dict[str, str]:
        """What readers may want to know beside the location, as `SourceOptions.extra` takes it."""
        return {name: "yes" for name in ("dry_run", "insecure", "salvage") if getattr(self, name)}
