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
@click.option("--config", is_flag=True, help="The config, as `docker inspect` has it, indented.")
@click.option("--manifest", is_flag=True, help="The manifest, as `docker manifest inspect`, indented.")
@click.option("--history", is_flag=True, help="Every step, the newest first, as `docker history`.")
@click.option("--layers", is_flag=True, help="Layers, base first: diffID beside blob digest, and why.")
@click.option("--files", is_flag=True, help="Entries of the layers' tars, as `tar -tv`.")
@click.option("--layer", "layer_number", type=click.IntRange(1), metavar="N", help="With --files: only the Nth layer.")
@click.option("--platform", type=PlatformType(), help="Which image, where the name has several platforms.")
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
    """Look into one image of LAYOUT without Docker: an OCI layout (directory or tar) or a docker archive,
    compressed or not. Of any other source that `convert` reads (an archive before 1.10, a Docker root, a registry's
    storage), the image is shown as `convert` would write it.

    REF is a name (`docker.io/library/` and `:latest` may be left out), an image ID, a manifest digest, a legacy ID
    where LAYOUT holds a report, or a unique prefix of an ID (4 digits or more).

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

    asked = [part for part, is_asked in parts.items() if is_asked]
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(f'--{part}' for part in asked)} exclude each other")
    part = asked[0] if asked else None
    if raw and part not in ("config", "manifest"):
        raise UsageError("--raw goes with --config or --manifest")
    if layer_number is not None and part != "files":
        raise UsageError("--layer goes with --files")
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
    """The layout or archive at `location`. Of anything else that `convert` reads, and of archives whose manifest.json
    does not lead to all of an image, the images that `reference` names are converted into a temporary layout (in
    TMPDIR) first. Raises UsageError for a name that is not there, and what opening a source does."""
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
                    with suppress(MigrateError):  # what is missing is named when the archive itself is shown
                        layout = stack.enter_context(_converted(location, reference, None))
        yield view if layout is None else stack.enter_context(closing(LayoutView(layout)))


@contextmanager
def _converted(location: str, reference: str, error: UnrecognisedSourceError | None) -> Iterator[str]:
    """A temporary layout with the images of a legacy source, or a registry's storage, that `reference` names. `error`
    is what the location is as a layout; it is raised where it is no source either."""
    from migrate.cli.options import available_cpus
    from migrate.convert.run import Conversion
    from migrate.errors import SourceUnreadableError, UnfitSourceError, UnrecognisedSourceError, UsageError
    from migrate.model.options import ConvertOptions

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
    """What to do where `--salvage` reads an image that is not there without it."""
    from migrate.cli.options import available_cpus
    from migrate.convert.run import Conversion
    from migrate.errors import MigrateError
    from migrate.model.options import ConvertOptions

    options = ConvertOptions(images=(reference,), salvage=True, dry_run=True, jobs=available_cpus())
    with suppress(MigrateError), Conversion.opened([location], options) as conversion:
        if conversion.run().report.images:
            command = f"migrate convert --salvage {shlex.quote(location)} LAYOUT"
            return f"`{command}` converts what can be read of it, and LAYOUT can be shown"
    return None


def choose_image(view: LayoutView, reference: str, platform: Platform | None) -> StoredImage:
    """The one image that the words mean; UsageError, with what could have been meant, for none and for several."""
    from migrate.errors import UsageError
    from migrate.layout.view import find_image

    images = view.images()
    found = find_image(images, reference) or _by_legacy_id(view, images, reference)
    if not found:
        advice = _salvage_advice(view.location, reference) if view.is_archive else None
        end = f"; {advice}" if advice else f".{_did_you_mean(images, reference)}"
        raise UsageError(f"{view.location}: no image {reference}{end}")
    platforms = sorted({str(image.platform or "none that is stated") for image in found})
    if platform is not None:
        found = [image for image in found if str(image.platform) == str(platform)]
        if not found:
            raise UsageError(
                f"{view.location}: {reference} is there, but not for {platform}: for {', '.join(platforms)}"
            )
    if len(found) == 1:
        return found[0]
    if len(platforms) == len(found):
        raise UsageError(f"{reference} has {len(found)} platforms: choose by --platform {'|'.join(platforms)}")
    raise UsageError(f"{reference} could be {' or '.join(image.title for image in found[:4])}: give more digits")


def _by_legacy_id(view: LayoutView, images: Sequence[StoredImage], text: str) -> Sequence[StoredImage]:
    """Through the map, where the layout holds one: a legacy ID, a container's, an old digest. What a later run made of
    the same legacy image has its names, and counts alone."""
    from migrate.cli.report_file import read_map
    from migrate.errors import MigrateError
    from migrate.report.mapping import find_images

    if len(text) < 4:
        return []
    try:
        rows = find_images(read_map(view.location)[0], text)
    except MigrateError:  # a layout needs no map; `migrate map` gives the error of a bad one
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
    return f" It holds {shown}." if names else f" It holds {len(images)} images without a name: give an ID."
