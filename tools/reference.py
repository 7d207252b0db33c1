"""Generates docs/reference/cli.md from the commands: `python -m tools.reference`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from migrate.cli.main import COMMANDS, cli
from migrate.errors import EXIT_CODES

_INTRODUCTION = """# Command line

Generated from the program by `python -m tools.reference`.

## Exit codes

| code | meaning |
|---|---|
{codes}

Results are written to standard output, everything else to standard error: one line `migrate: error: …` for each
failure, and progress. With `--progress json`, standard error has [events](progress.md#json-lines) only.

If standard output cannot be written (closed, or the disk is full), the exit code is 5. If its reader has ended
(`| head`), the program ends silently with 141, as shells expect. Characters that the encoding of the terminal lacks are
written as escapes, and so are bytes of names that are not UTF-8 (`caf\\xe9.tar`); in JSON, CSV and HTML these bytes are
U+FFFD, and a URI beside the name leads to the file. `find` and `map`, which read the [map](map.md), show this URI.
"""


def render_reference() -> str:
    """The whole page, Markdown."""
    context = click.Context(cli, info_name="migrate")
    codes = "\n".join(f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items())
    parts = [_INTRODUCTION.format(codes=codes)]
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        parts.append("\n".join(_command_lines(name, command, context)))
    return "\n".join(parts)


def _command_lines(name: str, command: click.Command, parent: click.Context) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent)
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"## migrate {name}\n"
    yield f"```\nmigrate {name} {usage}\n```\n"
    yield from _prose(inspect.cleandoc(command.help or ""))
    yield "\n| option | does | default |\n|---|---|---|"
    for parameter in command.get_params(context):
        if isinstance(parameter, click.Option) and not parameter.hidden:
            yield _option_row(parameter, context)
    yield ""


def _prose(text: str) -> Iterator[str]:
    r"""Paragraphs as they are; click's `\b` blocks (examples) as code."""
    for paragraph in text.split("\n\n"):
        lines = paragraph.splitlines()
        if lines and lines[0].strip() == "\b":
            yield f"{lines[1]}\n\n```\n" + inspect.cleandoc("\n".join(lines[2:])) + "\n```\n"
        else:
            yield paragraph + "\n"


def _option_row(option: click.Option, context: click.Context) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    if not option.is_flag and not option.count:
        names += f" `{option.make_metavar(context).replace('|', chr(92) + '|')}`"
    default = option.default
    shown = "" if option.is_flag or option.count or not isinstance(default, str | int) else f"`{default}`"
    return f"| {names} | {(option.help or '').replace('|', chr(92) + '|')} | {shown} |"


if __name__ == "__main__":
    click.echo(render_reference(), nl=False)
