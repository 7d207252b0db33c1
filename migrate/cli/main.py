"""The command `migrate`. The module of a subcommand is imported when it is used, so that `migrate --help` is fast."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import click

from migrate import __version__
from migrate.cli import INTERRUPTED
from migrate.cli.messages import print_end, wants_events
from migrate.cli.streams import ReaderGoneError, prepare_streams
from migrate.errors import EXIT_CODES, MigrateError, SourceUnreadableError

COMMANDS = {
    "convert": "Convert every image of the sources into one target.",
    "plan": "Report what a conversion would do; write nothing.",
    "batch": "Convert thousands of sources, with a journal and workers.",
    "inspect": "List images, references, chains and layers of a source.",
    "verify": "Recompute every digest, size and diffID of a target.",
    "push": "Upload a layout to a registry.",
    "report": "Render a report as text, JSON or HTML.",
    "map": "Find the new image ID and digest of an old ID.",
    "find": "Find the images that have or had a name, and their sources.",
    "gc": "Remove untagged images and blobs that no image needs.",
    "export": "Write an image's root file system as one tar.",
    "show": "Show config, manifest, history, layers or files of an image.",
}


_OTHER_PROGRAMS = {
    "version": "`migrate --version`",
    "help": "`migrate --help`, or `migrate COMMAND --help`",
    **dict.fromkeys(("load", "import", "save", "pull", "download", "copy"), "`migrate convert SOURCE TARGET`"),
    **dict.fromkeys(("upload", "sync"), "`migrate push LAYOUT docker://HOST`"),
    **dict.fromkeys(
        ("list", "ls", "images", "info"), "`migrate inspect SOURCE`, or `migrate map LAYOUT` for what was converted"
    ),
    **dict.fromkeys(("check", "validate", "fsck"), "`migrate verify LAYOUT`"),
    **dict.fromkeys(("prune", "clean", "rmi"), "`migrate gc LAYOUT`"),
    "search": "`migrate find LAYOUT NAME`",
    **dict.fromkeys(("extract", "unpack", "mount"), "`migrate export LAYOUT REF`"),
    "rewrite": "`migrate map LAYOUT --rewrite FILE...`",
    **dict.fromkeys(("dry-run", "dryrun"), "`migrate plan SOURCE`"),
}
"""Commands of other programs, and the command that does the same here."""
_EXIT_CODES = "\n".join(["\b", "Exit codes:", *(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES.items())])
"""Below the help of every command. `\\b` keeps click from wrapping the lines."""
_READER_GONE = 141
"""128 + SIGPIPE: the exit code that a shell gives a program that the signal ended."""


class _StoppedError(Exception):
    """Ctrl-C. click would print a line of its own for KeyboardInterrupt."""


class LazyGroup(click.Group):
    """A group that lists its commands from COMMANDS, and imports the module of a command when it is used."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:  # click would print an empty line, also with `--progress json`
            raise _StoppedError from stop

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"migrate.cli.{cmd_name}").command
        command.epilog = _EXIT_CODES
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            if args[0] in _OTHER_PROGRAMS:
                raise click.UsageError(f"no such command {args[0]!r}: use {_OTHER_PROGRAMS[args[0]]}") from error
            if args[0].startswith("-"):  # an option of a command, before the command: `migrate --all convert`
                raise click.UsageError(f"{error.message.rstrip('.')}: options come after the command", ctx) from error
            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            if close and "did you mean" not in error.message.lower():
                raise click.UsageError(f"{error.message} Did you mean {close[0]!r}?", ctx) from error
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EXIT_CODES,
)
@click.version_option(__version__, prog_name="migrate")
def cli() -> None:
    """Convert Docker images from before Docker 1.10 into content-addressable ones, offline.

    \b
    Examples:
      migrate convert archive.tar new-layout/      from a `docker save` archive
      migrate plan /mnt/old/var/lib/docker         report what convert would do
      migrate verify new-layout/                   check the result byte by byte
      tar -C new-layout -c . | docker load         into any Docker since 1.10
    """


def run() -> None:
    """Runs the command line and exits, with the codes in docs/reference/cli.md."""
    prepare_streams()
    code = _exit_code(lambda: cli.main(prog_name="migrate", standalone_mode=False))
    sys.exit(_exit_code(sys.stdout.flush) or code)


def _message(error: click.ClickException) -> str:
    """The message of a click error in the style of all other errors, with the `--help` command that explains more."""
    message = error.format_message().rstrip(".")
    message = message[:1].lower() + message[1:]
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None:
        return message
    see = " See" if message.endswith(("?", "?)")) else "; see"
    return f"{message}{see} `{context.command_path} --help`"


def _print_error(message: str, code: int) -> None:
    from migrate.model.text import printable

    print_end(message, code, f"migrate: error: {printable(message)}")


def _exit_code(step: Callable[[], object]) -> int:
    """Runs `step` and returns the exit code of its outcome. The reason of an error is printed."""
    try:
        code = step()
    except SystemExit as stop:
        code = stop.code
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.ClickException as error:
        code = 2 if isinstance(error, click.UsageError) else error.exit_code
        if not sys.argv[1:]:
            error.show()  # `migrate` without arguments prints its help, which click raises as an error since 8.2
        else:
            _print_error(_message(error), code)
    except (KeyboardInterrupt, click.Abort, _StoppedError):
        if not wants_events(sys.argv[1:]):
            click.echo(err=True)  # a terminal has printed ^C on this line
        print_end(INTERRUPTED, 130)
        code = 130
    except MigrateError as error:
        _print_error(error.message, error.exit_code)
        code = error.exit_code
    except PermissionError as error:  # from a `stat` outside the code that translates errors
        code = SourceUnreadableError.exit_code
        _print_error(f"{error.filename}: may not be read by this user: run as root", code)
    except ReaderGoneError:
        code = _READER_GONE
    return code if isinstance(code, int) else 0
