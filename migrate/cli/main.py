"""The command `migrate`. Subcommands load when they are used, so that `--help` costs no import of theirs."""

from __future__ import annotations

import gc
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
    "map": "Find the image ID and digest that a legacy ID became.",
    "find": "Find which source holds a name, and who has it.",
    "gc": "Remove untagged images and blobs that nothing names.",
    "export": "Write an image's root file system as one tar.",
    "show": "Show config, manifest, history, layers or files of an image.",
}


_ELSEWHERE = {
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
"""Commands of other programs, and what does the same here."""
_GC_THRESHOLDS = (50_000, 20, 50)
"""Modules and the values of many layers live until the end: looking for garbage among them as often as Python does
costs a tenth of a run, and of the program's start."""
_EXIT_CODES = "\n".join(["\b", "Exit codes:", *(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES.items())])
"""Below the help of every command. `\\b` keeps click from wrapping the lines."""
_READER_GONE = 141
"""128 + SIGPIPE: the exit code that a shell gives a program that the signal ended."""


class _StoppedError(Exception):
    """Ctrl-C. click would print a line of its own for KeyboardInterrupt."""


class LazyGroup(click.Group):
    """Knows its commands by name and help line alone; the module of a command is imported when it runs."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:  # click would write an empty line, also between events
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

            if args[0] in _ELSEWHERE:
                raise click.UsageError(f"no such command {args[0]!r}: use {_ELSEWHERE[args[0]]}") from error
            if args[0].startswith("-"):
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
    """Turns pre-1.10 Docker images into content-addressable ones, offline.

    \b
    Examples:
      migrate convert archive.tar new-layout/      from a `docker save` tarball
      migrate plan /mnt/old/var/lib/docker         what a conversion would do
      migrate verify new-layout/                   is every byte as it should be?
      tar -C new-layout -c . | docker load         into any Docker since 1.10
    """


def run() -> None:
    """Runs the command line and exits: 0 to 5 and 130 as docs/reference/cli.md lists them."""
    gc.set_threshold(*_GC_THRESHOLDS)
    prepare_streams()
    code = _exit_code(lambda: cli.main(prog_name="migrate", standalone_mode=False))
    sys.exit(_exit_code(sys.stdout.flush) or code)


def _message(error: click.ClickException) -> str:
    """click's text in the style of all other errors, with the command whose --help has the options."""
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
    """Of what `step` does; the reason of an early end is printed."""
    try:
        code = step()
    except SystemExit as stop:
        code = stop.code
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.ClickException as error:
        code = 2 if isinstance(error, click.UsageError) else error.exit_code
        if not sys.argv[1:]:
            error.show()  # the help of `migrate` alone, which click gives as an error since 8.2
        else:
            _print_error(_message(error), code)
    except (KeyboardInterrupt, click.Abort, _StoppedError):
        if not wants_events(sys.argv[1:]):
            click.echo(err=True)  # behind the ^C of a terminal
        print_end(INTERRUPTED, 130)
        code = 130
    except MigrateError as error:
        _print_error(error.message, error.exit_code)
        code = error.exit_code
    except PermissionError as error:  # from a stat whose error no other code handles
        code = SourceUnreadableError.exit_code
        _print_error(f"{error.filename}: may not be read by this user: run as root", code)
    except ReaderGoneError:
        code = _READER_GONE
    return code if isinstance(code, int) else 0
