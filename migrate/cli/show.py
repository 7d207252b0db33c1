"""`migrate show`."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING

import click

from migrate.cli.completion import LocationType, image_names
from migrate.cli.options import PlatformType

if TYPE_CHECKING:
    from migrate.errors import UnrecognisedSourceError
    from migrate.layout.view import LayoutView, StoredImage
    from migrate.model.image import Platform


@click.command("show", short_help="Show config, manifest, history, layers or files of an image.")
@click.argument("location", metavar="LAYOUT", type=LocationType())
@click.argument("reference", metavar="REF", shell_complete=image_names)
@click.option("--config", is_flag=True, help="The config, indented, as `docker inspect` shows it.")
@click.option("--manifest", is_flag=True, help="The manifest, indented, as `docker manifest inspect` shows it.")
@click.option("--history", is_flag=True, help="All history entries, the newest first, as `docker history` shows them.")
@click.option("--layers", is_flag=True, help="Layers, base first: diffID, blob digest, and why the two differ.")
@click.option("--files", is_flag=True, help="Entries of the tars of the layers, as `tar -tv` lists them.")
@click.option("--layer", "layer_number", type=click.IntRange(1), metavar="N", help="With --files: only the Nth layer.")
@click.option("--platform", type=PlatformType(), help="Platform of the image, if the name has several.")
@click.option("--raw", is_flag=True, help="With --config and --manifest: the exact bytes, whose sha256 is the ID.")
@click.option("--json", "as_json", is_flag=True, help="The summary, history, layers or files as JSON.")
@click.option("--bytes", "bytes_", is_flag=True, help="Sizes in bytes, not in human units.")
@click.option("--no-trunc", is_flag=True, help="Commands and IDs in full.")
def command(
    location: str,
    reference: str,
    layer_number: int | None,
    platform: Platform | None,
    raw: bool,
    as_json: bool,
    bytes_: bool,
    no_trunc: bool,
    **parts: bool,
) -> None:
    """Show one image of LAYOUT: an OCI layout (directory or tar) or a docker archive, compressed or not. LAYOUT may
    also be any other source that `convert` reads (an archive from before Docker 1.10, a Docker root, the storage of a
    registry): the image is then shown as `convert` would write it.

    REF is a name (`docker.io/library/` and `:latest` may be left out), an image ID, a manifest digest, a legacy ID if
    LAYOUT has a report, or a unique prefix of an ID (4 digits or more).

    \b
    Examples:
      migrate show new-layout/ busybox
      migrate show new-layout/ acme/web:1.0 --history
      migrate show new-layout/ acme/web:1.0 --layers
      migrate show new-layout/ acme/web:1.0 --files --layer 2
      migrate show new-layout/ acme/web:1.0 --config --raw | sha256sum
    """
    from migrate.cli import show_parts
    from migrate.errors import UsageError

    chosen = [part for part, is_given in parts.items() if is_given]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(f'--{part}' for part in chosen)} exclude each other")
    part = chosen[0] if chosen else None
    if raw and part not in ("config", "manifest"):
        raise UsageError("--raw needs --config or --manifest")
    if layer_number is not None and part != "files":
        raise UsageError("--layer needs --files")
    with opened_view(location, reference) as view:
        image = choose_image(view, reference, platform)
        shown = show_parts.ImageText(view, image, view.location, exact_bytes=bytes_, full=no_trunc)
        actions: dict[str | None, Callable[[], None]] = {
            None: lambda: shown.summary(as_json),
            "config": lambda: shown.document(view.config(image), raw),
            "manifest": lambda: shown.manifest(raw),
            "history": lambda: shown.history(as_json),
            "layers": lambda: shown.layers(as_json),
            "files": lambda: shown.files(as_json, layer_number),
        }
        actions[part]()
        sys.stdout.flush()


@contextmanager
def opened_view(location: str, reference: str) -> Iterator[LayoutView]:
    """The layout or archive at `location`.

    Images of other sources, and of archives in which manifest.json does not lead to all files of an image, are first
    converted into a temporary layout (in TMPDIR): those that `reference` names. Raises UsageError if there is none, and
    as `open_source` does.
    """
    from migrate.errors import MigrateError, SourceError, UnrecognisedSourceError
    from migrate.layout.names import REGISTRY_PREFIX
    from migrate.layout.view import LayoutView

    with ExitStack() as stack:
        layout = None
        if location.startswith(REGISTRY_PREFIX):
            layout = stack.enter_context(_converted(location, reference, None))
            yield stack.enter_context(closing(LayoutView(layout)))
            return
        try:
            view = stack.enter_context(closing(LayoutView(location)))
        except UnrecognisedSourceError as error:
            layout = stack.enter_context(_converted(location, reference, error))
        else:
            try:
                is_whole = view.leads_to(reference)
            except SourceError:
                layout = stack.enter_context(_converted(location, reference, None))
            else:
                if not is_whole:
                    with suppress(MigrateError):  # the archive itself is shown then, with an error for what it lacks
                        layout = stack.enter_context(_converted(location, reference, None))
        yield view if layout is None else stack.enter_context(closing(LayoutView(layout)))


@contextmanager
def _converted(location: str, reference: str, error: UnrecognisedSourceError | None) -> Iterator[str]:
    """A temporary layout with the images of a source that `reference` names. `error` is the reason why the location
    cannot be opened as a layout; it is raised if the location is not a source, either."""
    from migrate.cli.options import available_cpus
    from migrate.convert.run import Conversion
    from migrate.errors import SourceUnreadableError, UnfitSourceError, UnrecognisedSourceError, UsageError
    from migrate.model.options import ConvertOptions

    # Only the images that `reference` names are converted: the source may be a Docker root of many gigabytes.
    options = ConvertOptions(images=(reference,), jobs=available_cpus())
    with tempfile.TemporaryDirectory(prefix="migrate-show-") as directory:
        layout = os.path.join(directory, "layout")
        try:
            with Conversion.opened([location], options, layout) as conversion:
                opening = conversion.sources[0].error
                if error is not None and isinstance(opening, (UnrecognisedSourceError, UnfitSourceError)):
                    raise error
                outcome = conversion.run()
        except UsageError as problem:
            advice = _salvage_advice(location, reference) or "`migrate inspect` lists what is there"
            raise UsageError(f"{location}: no image {reference}; {advice}") from problem
        failures = outcome.report.failures
        if failures and not outcome.report.images:
            salvage = _salvage_advice(location, reference)
            raise SourceUnreadableError(f"{failures[0].message}{f'; {salvage}' if salvage else ''}")
        yield layout


@cache
def _salvage_advice(location: str, reference: str) -> str | None:
    """What to do about an image that only `--salvage` can read; None for other images."""
    from migrate.cli.options import available_cpus
    from migrate.convert.run import Conversion
    from migrate.errors import MigrateError
    from migrate.model.options import ConvertOptions

    options = ConvertOptions(images=(reference,), salvage=True, dry_run=True, jobs=available_cpus())
    with suppress(MigrateError), Conversion.opened([location], options) as conversion:
        if conversion.run().report.images:
            command = f"migrate convert --salvage {shlex.quote(location)} LAYOUT"
            return f"`{command}` converts the readable part, which `migrate show LAYOUT` then shows"
    return None


def choose_image(view: LayoutView, reference: str, platform: Platform | None) -> StoredImage:
    """The image that `reference` and `platform` name. Raises UsageError, with suggestions, if it is not exactly one."""
    from migrate.errors import UsageError
    from migrate.layout.view import find_image

    images = view.images()
    found = find_image(images, reference) or _by_legacy_id(view, images, reference)
    if not found:
        advice = _salvage_advice(view.location, reference) if view.is_archive else None
        end = f"; {advice}" if advice else f".{_did_you_mean(images, reference)}"
        raise UsageError(f"{view.location}: no image {reference}{end}")
    # BuildKit puts the attestations of an image under its name, too, with the platform unknown/unknown.
    if platform is None:
        found = [one for one in found if one.platform is None or one.platform.os != "unknown"] or found
    platforms = sorted({str(image.platform or "not stated") for image in found})
    if platform is not None:
        found = [image for image in found if str(image.platform) == str(platform)]
        if not found:
            raise UsageError(
                f"{view.location}: {reference} has no image for {platform}; it has: {', '.join(platforms)}"
            )
    if len(found) == 1:
        return found[0]
    # Several images with different platforms are one name in an index. Otherwise a prefix was too short.
    if len(platforms) == len(found):
        raise UsageError(f"{reference} has {len(found)} platforms: choose one by --platform {'|'.join(platforms)}")
    raise UsageError(f"{reference} matches {' and '.join(image.title for image in found[:4])}: give more digits")


def _by_legacy_id(view: LayoutView, images: Sequence[StoredImage], text: str) -> Sequence[StoredImage]:
    """Images by a legacy ID, the ID of a container, or an old digest, from the layout's map, if it has one. If several
    runs converted one legacy image, only the image of the last run has names, and only that one is returned."""
    from migrate.cli.report_file import read_map
    from migrate.errors import MigrateError
    from migrate.report.mapping import find_images

    if len(text) < 4:
        return []
    try:
        rows = find_images(read_map(view.location)[0], text)
    except MigrateError:  # a layout may have no map; `migrate map` reports the error of a damaged one
        return []
    digests = {row.manifest_digest for row in rows if row.names} or {row.manifest_digest for row in rows}
    return [image for image in images if image.manifest in digests]


def _did_you_mean(images: Sequence[StoredImage], text: str) -> str:
    import difflib

    from migrate.cli.messages import names_with

    names = sorted({name for image in images for name in image.references})
    close = names_with(text, names) or difflib.get_close_matches(text, names, n=3, cutoff=0.5)
    if close:
        return f" Did you mean {' or '.join(close)}?"
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f" It has {shown}." if names else f" It has {len(images)} images without a name: give an ID."
