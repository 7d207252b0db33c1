"""The options that several commands share, and how they become `ConvertOptions`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from enum import StrEnum
from functools import partial
from typing import Any, Final, TypeVar

import click
from click.core import ParameterSource

from migrate.model.image import Platform
from migrate.model.legacy import SourceType
from migrate.model.options import (
    CHANGES,
    Compression,
    ConvertOptions,
    EmptyLayers,
    Format,
    ImageOptions,
    NameOptions,
    OnConflict,
    ReadOptions,
)

Command = TypeVar("Command", bound=Callable[..., Any])


class Unreported(click.Option):
    """An option that changes no image, so that the report does not list it."""


unreported = partial(click.option, cls=Unreported)


_SAFETY = frozenset({"dry_run", "force", "check_existing", "strict", "salvage", "check_rootfs"})
_GROUPS = {"Source": ReadOptions, "Images": ImageOptions, "Names": NameOptions}


class GroupedCommand(click.Command):
    """A command whose help lists its many options in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {name: [] for name in (*_GROUPS, "Output", "Safety")}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                named = (
                    name for name, group in _GROUPS.items() if param.name in {field.name for field in fields(group)}
                )
                groups["Safety" if param.name in _SAFETY else next(named, "Output")].append(record)
        for name, records in groups.items():
            with formatter.section(name):
                formatter.write_dl(records)


_PLATFORM_PART = re.compile(r"[A-Za-z0-9._-]+")


def available_cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


JOBS = click.IntRange(1, 1024)
"""The type of `--jobs`. Systems refuse to start many more threads than 1024."""
PROGRESS: Final[dict[str, Any]] = {
    "type": click.Choice(["auto", "bar", "plain", "json", "none"]),
    "default": "auto",
    "show_default": True,
    "help": "On standard error; auto is a bar on a terminal, else a line every few seconds.",
}
"""The arguments of the option `--progress`."""


class PlatformType(click.ParamType):  # type: ignore[type-arg]  # generic at run time only since click 8.4
    name = "OS/ARCH[/VARIANT]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Platform:
        if isinstance(value, Platform):
            return value
        parts = str(value).split("/")
        if len(parts) not in (2, 3) or not all(map(_PLATFORM_PART.fullmatch, parts)):
            self.fail(f"{value!r} is not OS/ARCH or OS/ARCH/VARIANT, such as linux/amd64 or linux/arm/v7", param, ctx)
        return Platform(os=parts[0], architecture=parts[1], variant=parts[2] if len(parts) == 3 else None)


class RenameType(click.ParamType):  # type: ignore[type-arg]
    name = "PATTERN=REPLACEMENT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        pattern, equals, replacement = str(value).partition("=")
        if not equals or not pattern:
            self.fail(f"{value!r} is not PATTERN=REPLACEMENT", param, ctx)
        return pattern, replacement


def choice(
    flag: str, kind: type[StrEnum], *, default: StrEnum | None = None, **attributes: Any
) -> Callable[[Command], Command]:
    """An option that takes one of the values of `kind`."""

    def parse(context: click.Context, param: click.Parameter, value: str | None) -> StrEnum | None:
        del context, param
        return None if value is None else kind(value)

    shown = None if default is None else default.value
    values = click.Choice([one.value for one in kind])
    return click.option(flag, type=values, default=shown, show_default=True, callback=parse, **attributes)


def given_options() -> dict[str, str]:
    """The options that were given on the command line, by the names of their parameters."""
    context = click.get_current_context()
    return {
        param.name: max(param.opts, key=len)
        for param in context.command.params
        if param.name is not None
        and isinstance(param, click.Option)
        and context.get_parameter_source(param.name) is ParameterSource.COMMANDLINE
    }


def _with_options(command: Command, *options: Callable[[Command], Command]) -> Command:
    """`command` with the options, which its help lists in this order."""
    for option in reversed(options):  # click adds each new option before the others
        command = option(command)
    return command


def source_options(command: Command) -> Command:
    """The options of ReadOptions."""
    return _with_options(
        command,
        choice(
            "--source-type",
            SourceType,
            help="Kind of the sources, if their content is ambiguous.",
        ),
        click.option(
            "--inside",
            metavar="PATH",
            help="Path of the source in a directory, tar or disk image: a directory (var/lib/docker) or a file.",
        ),
        click.option("--driver", help="Storage driver to read, of a Docker root with several (aufs, overlay, vfs, …)."),
        click.option("--dm-data", metavar="FILE", help="devicemapper: data device of the thin pool, or its image."),
        click.option("--dm-metadata", metavar="FILE", help="devicemapper: metadata device of the pool, or its image."),
        click.option("--insecure", is_flag=True, help="docker://: allow plain HTTP, and any certificate."),
        click.option(
            "--max-ratio",
            type=click.IntRange(1),
            metavar="N",
            help="Refuse input that decompresses to more than N times its size [1100].",
        ),
    )


def image_options(command: Command) -> Command:
    """The options of ImageOptions and NameOptions: which images are made, their bytes and their names."""
    return _with_options(
        command,
        choice(
            "--format",
            Format,
            default=Format.DOCKER,
            help="Media types of the result: Docker schema 2, or OCI.",
        ),
        click.option(
            "--carry-manifests",
            is_flag=True,
            help="With --format oci: keep the manifests of the sources, with Docker's media types and their digests.",
        ),
        choice(
            "--compression",
            Compression,
            default=Compression.GZIP,
            help="Compression of layers. zstd needs --format oci; Docker before 23 and umoci 0.4 cannot read it, and "
            "skopeo 1.9 cannot make a docker-archive of it. The bytes of gzip-fast may differ between runs.",
        ),
        click.option(
            "--compression-level",
            type=int,
            metavar="N",
            help="gzip 1 to 12 [2], gzip-fast 1 to 3, zstd 1 to 19 [3].",
        ),
        choice(
            "--empty-layers",
            EmptyLayers,
            default=EmptyLayers.DROP,
            help="drop: layers without files become history entries. keep: they stay layers, as in Docker's own "
            "migration, and image IDs are the same as there.",
        ),
        click.option(
            "--image",
            "images",
            multiple=True,
            metavar="REF_OR_ID",
            help="Convert only these images: NAME (every tag), NAME:TAG, a glob, a legacy ID or its prefix. "
            "Repeatable.",
        ),
        click.option(
            "--exclude",
            multiple=True,
            metavar="REF_OR_ID",
            help="Leave out these names, in the same forms. An image that loses its last name is left out. Repeatable.",
        ),
        click.option("--containers", is_flag=True, help="Docker roots: make an image of every container, too."),
        click.option(
            "--container",
            multiple=True,
            metavar="ID_OR_NAME",
            help="Docker roots: make an image of this container, even if it is half removed. Repeatable.",
        ),
        click.option("--all", "all_layers", is_flag=True, help="Make an image of every legacy layer."),
        click.option(
            "--platform",
            type=PlatformType(),
            default="linux/amd64",
            show_default=True,
            help="Platform of images that name none; written into descriptors only.",
        ),
        click.option(
            "--fill-platform", is_flag=True, help="Write the platform into the config, too; changes the image ID."
        ),
        choice(
            "--on-conflict",
            OnConflict,
            default=OnConflict.NEWEST,
            help="Which image gets a name that several images of one platform have.",
        ),
        click.option(
            "--rename",
            "renames",
            type=RenameType(),
            multiple=True,
            help="Change repository names by a regular expression and its replacement. Repeatable.",
        ),
        click.option(
            "--tag-template",
            metavar="TEMPLATE",
            help="Name images by a template, such as '{repo}:{tag}-{created:%Y%m%d}'.",
        ),
        click.option(
            "--name-untagged",
            metavar="TEMPLATE",
            help="Name images without a name by a template, such as 'untagged/{legacy_id:12}:latest'; also {image_id}.",
        ),
        click.option(
            "--check-rootfs/--no-check-rootfs",
            default=None,
            help="Compare converted layers with the file systems in a Docker root [on for overlay, vfs, btrfs].",
        ),
        click.option("--strict", is_flag=True, help="Fail images whose layers may not be Docker's own, byte for byte."),
        click.option("--salvage", is_flag=True, help="Convert the intact lower layers of damaged images, too."),
    )


def run_options(command: Command) -> Command:
    """Options of the run and its output; none of these changes a byte of the images."""
    return _with_options(
        command,
        unreported("--jobs", "-j", type=JOBS, metavar="N", help="Number of workers [the CPUs it may use]."),
        unreported("--report", metavar="FILE", help="Write the JSON report to FILE; - is standard output."),
        unreported(
            "--html",
            metavar="FILE",
            help="Write the report to FILE as one HTML page; - is standard output.",
        ),
        unreported("--progress", **PROGRESS),
        unreported("--bytes", "bytes_", is_flag=True, help="Sizes in bytes, not in human units."),
        unreported("--verbose", "-v", count=True, help="Print more; twice for debugging."),
        unreported("--quiet", "-q", is_flag=True, help="Print only errors."),
    )


def writing_options(command: Command) -> Command:
    """Options of the commands that write a target."""
    return _with_options(
        command,
        click.option("--dry-run", is_flag=True, help="Read and convert everything, but write nothing."),
        click.option("--force", is_flag=True, help="Continue even if the target seems to have too little free space."),
        unreported(
            "--check-existing",
            is_flag=True,
            help="Read and check every blob in the target, even if its file is unchanged since an earlier run.",
        ),
    )


def convert_options(values: Mapping[str, Any], **more: Any) -> ConvertOptions:
    """`ConvertOptions` from the parameters of a click command, which have the names of its fields, and from `more`.
    Raises UsageError for options that exclude each other."""
    chosen = {name: values[name] for name in CHANGES.keys() & values.keys()} | more
    return ConvertOptions(**(chosen | {"jobs": values["jobs"] or available_cpus()}))


def reported_options(values: Mapping[str, Any]) -> dict[str, object]:
    """The options as the report lists them: plain JSON values, without those that change no image."""
    options = [param for param in click.get_current_context().command.params if isinstance(param, click.Option)]
    names = {max(option.opts, key=len): str(option.name) for option in options if not isinstance(option, Unreported)}
    return {flag.lstrip("-").replace("-", "_"): _plain(values[name]) for flag, name in sorted(names.items())}


def _plain(value: object) -> object:
    if isinstance(value, Platform):
        return str(value)
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, tuple):
        return ["=".join(item) if isinstance(item, tuple) else item for item in value]
    return value
