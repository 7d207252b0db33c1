"""What a shell may offer for an argument: files, and the names of the images in a layout."""

from __future__ import annotations

from typing import Any

import click
from click.shell_completion import CompletionItem

_MOST = 200


class Location(click.ParamType):  # type: ignore[type-arg]  # generic at run time only since click 8.4
    """A path, `-`, or one with a prefix such as `oci:`. Anything is let through; shells complete files."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        del param, ctx
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del ctx, param
        return [CompletionItem(incomplete, type="file")]


def image_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """References of the images in the layout that was named before; nothing where it cannot be read."""
    del param
    from migrate.errors import MigrateError
    from migrate.layout.view import LayoutView

    location = ctx.params.get("location")
    if not isinstance(location, str):
        return []
    try:
        view = LayoutView(location)
        try:
            names = {name for image in view.images() for name in image.references}
        finally:
            view.close()
    except MigrateError:
        return []
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)][:_MOST]


def legacy_ids(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Legacy IDs and names of the report that was named before."""
    del param
    from migrate.cli.report_file import read_report
    from migrate.errors import MigrateError

    location = ctx.params.get("location")
    if not isinstance(location, str) or location == "-":
        return []
    try:
        report = read_report(location)
    except MigrateError:
        return []
    found = {image.legacy_id: image.title for image in report.images}
    items = [CompletionItem(one, help=title) for one, title in sorted(found.items()) if one.startswith(incomplete)]
    names = sorted({name for image in report.images for name in image.references if name.startswith(incomplete)})
    return [*items, *map(CompletionItem, names)][:_MOST]
