"""Man pages, made from the commands themselves: by the wheel's build step, or `python -m tools.manual DIR`.

Format: man(7) as groff and mandoc read it. The pages carry no date, so that equal commands give equal pages.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from migrate.cli.main import COMMANDS, cli
from migrate.errors import EXIT_CODES

_ENVIRONMENT = (
    ("NO_COLOR", "Set to anything but nothing: no colour, whatever the terminal."),
    ("COLUMNS", "The width that tables have to fit."),
)


def render_pages() -> dict[str, str]:
    """File name → page: one for `migrate`, one for each command."""
    context = click.Context(cli, info_name="migrate")
    pages = {"migrate.1": "\n".join(_main_page())}
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        pages[f"migrate-{name}.1"] = "\n".join(_command_page(name, command, context))
    return {name: page + "\n" for name, page in pages.items()}


def _main_page() -> Iterator[str]:
    yield _title("migrate")
    yield from _section("NAME", "migrate \\- turn pre\\-1.10 Docker images into content\\-addressable ones, offline")
    yield from _section("SYNOPSIS", ".B migrate\n.I COMMAND\n[\\fIOPTIONS\\fR] \\fIARGUMENTS\\fR")
    yield ".SH DESCRIPTION"
    yield from _prose(inspect.cleandoc(cli.help or ""))
    yield ".SH COMMANDS"
    for name, summary in COMMANDS.items():
        yield f".TP\n.BR migrate\\-{name} (1)\n{_text(summary)}"
    yield from _exit_codes()
    yield ".SH ENVIRONMENT"
    for name, meaning in _ENVIRONMENT:
        yield f".TP\n.B {name}\n{_text(meaning)}"


def _command_page(name: str, command: click.Command, parent: click.Context) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent)
    usage = " ".join(command.collect_usage_pieces(context))
    yield _title(f"migrate-{name}")
    yield from _section("NAME", f"migrate\\-{name} \\- {_text(COMMANDS[name].rstrip('.'))}")
    yield from _section("SYNOPSIS", f".B migrate {name}\n{_text(usage)}")
    yield ".SH DESCRIPTION"
    yield from _prose(inspect.cleandoc(command.help or ""))
    yield ".SH OPTIONS"
    for parameter in command.get_params(context):
        if isinstance(parameter, click.Option) and not parameter.hidden:
            yield from _option(parameter, context)
    yield from _exit_codes()
    others = [".BR migrate (1)", *(f".BR migrate\\-{other} (1)" for other in COMMANDS if other != name)]
    yield from _section("SEE ALSO", " ,\n".join(others))


def _title(name: str) -> str:
    return f'.TH "{name.upper()}" "1" "" "migrate" "User Commands"'


def _section(title: str, body: str) -> Iterator[str]:
    yield f".SH {title}\n{body}"


def _exit_codes() -> Iterator[str]:
    yield '.SH "EXIT STATUS"'
    for code, meaning in EXIT_CODES.items():
        yield f".TP\n.B {code}\n{_text(meaning)}"


def _option(option: click.Option, context: click.Context) -> Iterator[str]:
    names = ", ".join(f"\\fB{_text(name)}\\fR" for name in (*option.opts, *option.secondary_opts))
    if not option.is_flag and not option.count:
        names += f" \\fI{_text(option.make_metavar(context))}\\fR"
    default = option.default
    shown = "" if option.is_flag or option.count or not isinstance(default, str | int) else f" Default: {default}."
    yield f".TP\n{names}\n{_text((option.help or '') + shown)}"


def _prose(text: str) -> Iterator[str]:
    r"""Paragraphs; click's `\b` blocks keep their lines, and examples come last, in a section of their own."""
    examples: list[str] = []
    for paragraph in text.split("\n\n"):
        lines = paragraph.splitlines()
        if lines and lines[0].strip() == "\b":
            heading, *rest = lines[1:]
            block = "\n".join(_text(line) for line in inspect.cleandoc("\n".join(rest)).splitlines())
            if heading.startswith("Example"):
                examples.append(f".SH EXAMPLES\n.nf\n{block}\n.fi")
            else:
                yield f".PP\n{_text(heading)}\n.nf\n{block}\n.fi"
        else:
            yield ".PP\n" + "\n".join(_text(line) for line in lines)
    yield from examples


def _text(text: str) -> str:
    """Plain text as roff: no escape, no hyphen that is a dash, no line that is a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    ascii_text = "".join(one if one.isascii() else f"\\[u{ord(one):04X}]" for one in escaped)
    return f"\\&{ascii_text}" if ascii_text.startswith(".") else ascii_text


def write_pages(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, page in render_pages().items():
        (directory / name).write_text(page, "utf-8")


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
