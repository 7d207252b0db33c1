"""Shell completion of arguments: files, and the names of the images in a layout."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_MOST_COMPLETIONS = 200
_SAFE = r"[A-Za-z0-9_][A-Za-z0-9_.:/@-]*"


class LocationType(click.ParamType):  # type: ignore[type-arg]  # generic at run time only since click 8.4
    """A path, `-`, or a path with a prefix such as `oci:`. Every value is accepted; shells complete files."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        del param, ctx
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del ctx, param
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


def image_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """References of the images in the layout argument; empty where it cannot be read."""
    del param
    from migrate.errors import MigrateError
    from migrate.layout.view import LayoutView

    # No error is printed: it would appear in the middle of the user's command line.
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
    return _offered(names, incomplete)[:_MOST_COMPLETIONS]


def legacy_ids(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Legacy IDs and names in the map or report argument; empty where it cannot be read."""
    del param
    from migrate.cli.report_file import read_map
    from migrate.errors import MigrateError

    location = ctx.params.get("location")
    if not isinstance(location, str) or location == "-":  # standard input is the terminal of the user here
        return []
    try:
        rows, _ = read_map(location)
    except MigrateError:
        return []
    from click.shell_completion import CompletionItem

    found = {row.legacy_id: ", ".join(filter(_is_safe, row.references)) for row in rows if _is_safe(row.legacy_id)}
    items = [CompletionItem(one, help=title) for one, title in sorted(found.items()) if one.startswith(incomplete)]
    return [*items, *_offered({name for row in rows for name in row.references}, incomplete)][:_MOST_COMPLETIONS]


def _offered(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete) and _is_safe(name)]


def _is_safe(name: str) -> bool:
    """False for names with characters that a shell may interpret. Shells insert a completion without quoting, so that
    `$(…)` in the name of an image, which comes from an untrusted archive, would be run."""
    return re.fullmatch(_SAFE, name) is not None
