"""The options that convert, plan and batch share, and their way into `ConvertOptions`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from migrate.errors import UsageError
from migrate.model.image import Platform
from migrate.model.legacy import SourceType
from migrate.model.options import Compression, ConvertOptions, EmptyLayers, Format, OnConflict

Command = TypeVar("Command", bound=Callable[..., Any])

NOT_IN_REPORT = frozenset({"jobs", "progress", "verbose", "quiet", "report", "html", "bytes_", "temporary_directory"})
"""Options that change nothing of what comes out; the report is the same with any of them."""


_PLATFORM_PART = re.compile(r"[A-Za-z0-9._-]+")


def available_cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


JOBS = click.IntRange(1, 1024)
"""Of `--jobs`. No machine has work for more, and systems refuse to start so many threads."""


class PlatformType(click.ParamType[Platform]):
    name = "OS/ARCH[/VARIANT]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Platform:
        if isinstance(value, Platform):
            return value
        parts = str(value).split("/")
        if len(parts) not in (2, 3) or not all(map(_PLATFORM_PART.fullmatch, parts)):
            self.fail(f"{value!r} is not OS/ARCH or OS/ARCH/VARIANT, such as linux/amd64 or linux/arm/v7", param, ctx)
        return Platform(os=parts[0], architecture=parts[1], variant=parts[2] if len(parts) == 3 else None)


class RenameType(click.ParamType[tuple[str, str]]):
    name = "PATTERN=REPLACEMENT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        pattern, equals, replacement = str(value).partition("=")
        if not equals or not pattern:
            self.fail(f"{value!r} is not PATTERN=REPLACEMENT", param, ctx)
        try:
            re.sub(pattern, replacement, "")
        except re.error as error:
            self.fail(f"{value!r}: {error}", param, ctx)
        return pattern, replacement


def given_options() -> dict[str, str]:
    """The options that stand on the command line, by the names of their parameters."""
    context = click.get_current_context()
    return {
        param.name: max(param.opts, key=len)
        for param in context.command.params
        if param.name is not None
        and isinstance(param, click.Option)
        and context.get_parameter_source(param.name) is ParameterSource.COMMANDLINE
    }


def source_options(command: Command) -> Command:
    """What may be needed to read a source."""
    for option in reversed(
        [
            click.option(
                "--source-type",
                type=click.Choice([kind.value for kind in SourceType]),
                help="What the sources are, where their content does not tell.",
            ),
            click.option(
                "--driver", help="Storage driver of a Docker root that holds several (aufs, overlay, vfs, …)."
            ),
            click.option("--dm-data", metavar="FILE", help="devicemapper: the thin pool's data device or its image."),
            click.option(
                "--dm-metadata", metavar="FILE", help="devicemapper: the pool's metadata device or its image."
            ),
            click.option("--insecure", is_flag=True, help="docker://: allow plain HTTP, and any certificate."),
            click.option(
                "--max-ratio",
                type=click.IntRange(1),
                metavar="N",
                help="Refuse as a bomb what decompresses to more than N times its size [1100].",
            ),
        ]
    ):
        command = option(command)
    return command


def image_options(command: Command) -> Command:
    """What decides the images, and with them every byte that comes out."""
    for option in reversed(
        [
            click.option(
                "--format",
                "format_",
                type=click.Choice([kind.value for kind in Format]),
                default=Format.DOCKER.value,
                show_default=True,
                help="Media types: Docker schema 2, or OCI.",
            ),
            click.option(
                "--compression",
                type=click.Choice([kind.value for kind in Compression]),
                default=Compression.GZIP.value,
                show_default=True,
                help="Of layer blobs. zstd needs --format oci; gzip-fast is valid gzip but not byte-reproducible.",
            ),
            click.option("--compression-level", type=int, metavar="N", help="gzip 1 to 12 [2], zstd 1 to 19 [3]."),
            click.option(
                "--empty-layers",
                type=click.Choice([kind.value for kind in EmptyLayers]),
                default=EmptyLayers.DROP.value,
                show_default=True,
                help="drop: only history, as Docker since 1.10 builds. keep: the image ID is Docker's, to the byte.",
            ),
            click.option(
                "--image",
                "images",
                multiple=True,
                metavar="REF_OR_ID",
                help="Only these: a reference, a glob over references, a legacy ID or its prefix. Repeatable.",
            ),
            click.option("--all", "all_layers", is_flag=True, help="Every legacy layer is an image of its own."),
            click.option(
                "--platform",
                type=PlatformType(),
                default="linux/amd64",
                show_default=True,
                help="For images that name none; used in descriptors only.",
            ),
            click.option("--fill-platform", is_flag=True, help="Write it into the config too; changes the image ID."),
            click.option(
                "--on-conflict",
                type=click.Choice([kind.value for kind in OnConflict]),
                default=OnConflict.NEWEST.value,
                show_default=True,
                help="Two images claim one reference on one platform.",
            ),
            click.option(
                "--rename",
                "renames",
                type=RenameType(),
                multiple=True,
                help="Change repository names: a regular expression and its replacement. Repeatable.",
            ),
            click.option(
                "--tag-template",
                metavar="TEMPLATE",
                help="Name images by a template, such as '{repo}:{tag}-{created:%Y%m%d}'.",
            ),
            click.option(
                "--check-rootfs/--no-check-rootfs",
                default=None,
                help="Compare converted layers with the file systems in a Docker root [on for overlay, vfs, btrfs].",
            ),
            click.option("--strict", is_flag=True, help="An image that is not certain to the byte fails."),
            click.option("--salvage", is_flag=True, help="Convert the intact lower part of damaged chains too."),
        ]
    ):
        command = option(command)
    return command


def run_options(command: Command) -> Command:
    """How the run goes and what it tells; none of these changes a byte of the images."""
    for option in reversed(
        [
            click.option("--jobs", "-j", type=JOBS, metavar="N", help="Workers [the CPUs it may use]."),
            click.option("--report", metavar="FILE", help="Write the JSON report there; - is standard output."),
            click.option("--html", metavar="FILE", help="Write the report as one HTML file; - is standard output."),
            click.option(
                "--progress",
                type=click.Choice(["auto", "bar", "plain", "json", "none"]),
                default="auto",
                show_default=True,
                help="On standard error; auto is a bar on a terminal, else a line every few seconds.",
            ),
            click.option("--bytes", "bytes_", is_flag=True, help="Sizes in bytes, not in human units."),
            click.option("--verbose", "-v", count=True, help="Say more; twice for debugging."),
            click.option("--quiet", "-q", is_flag=True, help="Only errors."),
        ]
    ):
        command = option(command)
    return command


def convert_options(values: dict[str, Any], *, dry_run: bool, exact_sizes: bool) -> ConvertOptions:
    """`ConvertOptions` from the parameters of a click command; UsageError for what does not go together."""
    compression = Compression(values["compression"])
    format_ = Format(values["format_"])
    if compression is Compression.ZSTD and format_ is not Format.OCI:
        raise UsageError("--compression zstd needs --format oci: Docker's schema 2 has no media type for it")
    level = values["compression_level"]
    highest = {Compression.GZIP: 12, Compression.GZIP_FAST: 3, Compression.ZSTD: 19, Compression.NONE: 0}[compression]
    if level is not None and not highest:
        raise UsageError(f"--compression-level {level}: --compression {compression} has no levels")
    if level is not None and not 1 <= level <= highest:
        raise UsageError(f"--compression-level {level}: --compression {compression} takes 1 to {highest}")
    return ConvertOptions(
        format=format_,
        compression=compression,
        compression_level=level,
        empty_layers=EmptyLayers(values["empty_layers"]),
        images=tuple(values["images"]),
        all_layers=values["all_layers"],
        platform=values["platform"],
        fill_platform=values["fill_platform"],
        on_conflict=OnConflict(values["on_conflict"]),
        jobs=values["jobs"] or available_cpus(),
        dry_run=dry_run,
        exact_sizes=exact_sizes,
        strict=values["strict"],
        salvage=values["salvage"],
        force=values.get("force", False),
        check_rootfs=values["check_rootfs"],
        driver=values["driver"],
        link=values.get("link") or "auto",
        renames=tuple(values["renames"]),
        tag_template=values["tag_template"],
        dm_data=values["dm_data"],
        dm_metadata=values["dm_metadata"],
        insecure=values.get("insecure", False),
        max_ratio=values["max_ratio"],
    )


def reported_options(values: dict[str, Any]) -> dict[str, object]:
    """The options as given, as the report shows them: plain JSON values, without those that change nothing."""
    shown: dict[str, object] = {}
    for name, value in sorted(values.items()):
        if name in NOT_IN_REPORT or name in ("sources", "target", "source"):
            continue
        key = {"format_": "format", "images": "image", "all_layers": "all", "renames": "rename"}.get(name, name)
        shown[key] = _plain(value)
    return shown


def _plain(value: object) -> object:
    if isinstance(value, Platform):
        return str(value)
    if isinstance(value, tuple):
        return ["=".join(item) if isinstance(item, tuple) else item for item in value]
    return value
