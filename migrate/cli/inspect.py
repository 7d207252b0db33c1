"""`migrate inspect`."""

from __future__ import annotations

import sys
from typing import Any

import click

from migrate.cli.completion import LocationType
from migrate.cli.options import source_options


@click.command("inspect", short_help="List images, references, chains and layers of a source.")
@click.argument("source", metavar="SOURCE", type=LocationType())
@source_options
@click.option("--containers", is_flag=True, help="Docker roots: list an image for every container, too.")
@click.option(
    "--container",
    multiple=True,
    metavar="ID_OR_NAME",
    help="Docker roots: list an image for this container, too. Repeatable.",
)
@click.option(
    "--run-commands",
    is_flag=True,
    help="With --containers or --container: print a script of `docker run` commands with the old options.",
)
@click.option("--salvage", is_flag=True, help="List what only `convert --salvage` converts, too.")
@click.option("--tree", is_flag=True, help="Draw the layer tree, as the old `docker images --tree` did.")
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON on standard output.")
@click.option("--bytes", "bytes_", is_flag=True, help="Sizes in bytes, not in human units.")
@click.option("--no-trunc", is_flag=True, help="IDs in full.")
def command(
    source: str,
    containers: bool,
    container: tuple[str, ...],
    run_commands: bool,
    tree: bool,
    as_json: bool,
    bytes_: bool,
    no_trunc: bool,
    **values: Any,
) -> None:
    """List the images, layers and containers of SOURCE, as it records them. Nothing is hashed, nothing is written.

    \b
    Examples:
      migrate inspect archive.tar
      migrate inspect --tree /mnt/old-disk/var/lib/docker
      migrate inspect --json archive.tar | jq '.images[].references'
      migrate inspect --containers --run-commands /mnt/old-disk/var/lib/docker
    """
    from migrate.cli.inventory_text import render_images, render_tree
    from migrate.cli.outputs import safe_json
    from migrate.cli.run_commands import render_run_commands
    from migrate.cli.terminal import terminal_width
    from migrate.convert.selection import choose_containers
    from migrate.documents.json_text import encode_json_pretty
    from migrate.errors import UsageError
    from migrate.model.options import ReadOptions
    from migrate.model.text import printable
    from migrate.readers.detect import open_source
    from migrate.readers.inventory import inventory_document, take_inventory

    if tree and as_json:
        raise UsageError("--tree and --json exclude each other: the JSON has every layer with its parent")
    if run_commands and (tree or as_json):
        raise UsageError("--run-commands prints a script; the JSON has the same under containers[].run")
    if run_commands and not (containers or container):
        raise UsageError("--run-commands needs --containers or --container")
    opened = open_source(source, ReadOptions(**values))
    try:
        chosen = choose_containers(opened.listing(), container, all_containers=containers)
        inventory = take_inventory(opened, chosen)
    finally:
        opened.close()
    if run_commands:
        ids = {image.head for image in chosen}
        rows = tuple(row for row in inventory.containers if row.container.id in ids)
        click.echo(render_run_commands(rows, source), nl=False)
    elif as_json:
        sys.stdout.buffer.write(safe_json(encode_json_pretty(inventory_document(inventory))))
    else:
        render = render_tree if tree else render_images
        text = render(inventory, width=terminal_width(sys.stdout), exact_bytes=bytes_, full_ids=no_trunc)
        click.echo(text, nl=False)
    if not inventory.images and not inventory.failures:
        click.echo(f"migrate: error: {printable(source)}: holds no image", err=True)
    for failure in inventory.failures:
        click.echo(f"migrate: error: {printable(failure.message)}", err=True)
    for warning in inventory.warnings:
        click.echo(f"migrate: warning: {printable(warning)}", err=True)
    # the codes of convert: 3 where some of the images cannot be read, 4 where none can
    sys.exit(3 if inventory.failures and inventory.images else 4 if not inventory.images else 0)
