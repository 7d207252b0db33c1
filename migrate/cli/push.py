"""`migrate push`."""

from __future__ import annotations

import sys

import click

from migrate.cli.completion import LocationType
from migrate.cli.options import JOBS, PROGRESS, available_cpus


@click.command("push", short_help="Upload a layout to a registry.")
@click.argument("layout", metavar="LAYOUT", type=LocationType())
@click.argument("target", metavar="docker://HOST[:PORT][/PREFIX]")
@click.option("--image", "images", multiple=True, metavar="REF", help="Push only these references. Globs. Repeatable.")
@click.option("--all", "untagged", is_flag=True, help="Push images without a reference, too, as untagged:<digest>.")
@click.option("--dry-run", is_flag=True, help="Print what would be sent, and send nothing.")
@click.option("--insecure", is_flag=True, help="Allow plain HTTP, and any certificate.")
@click.option("--jobs", "-j", type=JOBS, metavar="N", help="Uploads at a time [twice the CPUs].")
@click.option("--progress", **PROGRESS)
@click.option("--quiet", "-q", is_flag=True, help="No summary.")
def command(
    layout: str,
    target: str,
    images: tuple[str, ...],
    untagged: bool,
    dry_run: bool,
    insecure: bool,
    jobs: int | None,
    progress: str,
    quiet: bool,
) -> None:
    """Upload the images of an OCI image LAYOUT to a registry.

    Blobs that the registry has are not sent again. A blob that several repositories need is sent once. Credentials are
    those of `docker login`. Trusted certificates are the system's and /etc/docker/certs.d/HOST/ca.crt. To continue
    after an interruption, run the same command again.

    \b
    Examples:
      migrate push new-layout/ docker://registry.example.com
      migrate push new-layout/ docker://registry.example.com/old --image 'team/*'
      migrate push --dry-run new-layout/ docker://localhost:5000
    """
    from migrate.cli.progress import make_progress
    from migrate.errors import UsageError
    from migrate.layout.view import open_layout
    from migrate.model.options import ConvertOptions
    from migrate.model.progress import Event
    from migrate.writers.push import Pusher
    from migrate.writers.push_layout import read_layout
    from migrate.writers.registry import RegistryTarget, placed, split_registry_target

    if not target.startswith("docker://"):
        raise UsageError(f"target {target!r}: push writes to docker://HOST[:PORT][/PREFIX] only")
    location = target.removeprefix("docker://")
    _, prefix = split_registry_target(location)
    # The whole layout is read before the registry is contacted, so that a damaged one is not pushed in part.
    source = open_layout(layout)
    found = read_layout(source, lambda reference: placed(prefix, reference), patterns=images, untagged=untagged)
    if images and not found.names:
        raise UsageError(f"no image of {layout} matches --image {', '.join(images)}")
    registry = RegistryTarget(location, ConvertOptions(insecure=insecure))
    try:
        with make_progress(progress, quiet=quiet, verbose=0) as shown:
            pusher = Pusher(registry.client, jobs or 2 * available_cpus(), shown)
            preview = pusher.preview(found.manifests, found.names) if dry_run else None
            if preview is None:
                pusher.push(found.manifests, found.names)
            if found.left_out:
                shown.emit(Event(kind="warning", message=_left_out(found.left_out)))
        traffic = registry.client.traffic
    finally:
        registry.close()
        source.tree.close()
    if preview is not None:
        for name in preview.names:
            click.echo(f"{name.repository}:{name.tag}  {name.digest}")
        click.echo(
            f"{len(preview.names)} of {len(found.names)} names would be pushed: {preview.blobs} blobs"
            f" ({preview.blob_bytes:,} bytes) to send, {preview.mounts} to mount"
        )
    elif not quiet:
        click.echo(
            f"{len(found.names)} names pushed: {traffic.uploads} blobs sent ({traffic.blob_bytes:,} bytes),"
            f" {traffic.mounts} mounted, {traffic.skipped} there already"
        )
    # with --progress json, the warning event above has this message
    if not quiet and found.left_out and progress != "json":
        click.echo(_left_out(found.left_out), err=True)
    sys.exit(0)


def _left_out(number: int) -> str:
    return f"{number} images without a reference were left out (--all sends them)"
