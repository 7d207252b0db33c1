"""Why a run ends early, on standard error: a line for people, or an event where a program reads events."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise


def wants_events(arguments: Sequence[str]) -> bool:
    """True where `--progress json` is among the arguments of a command: nothing but JSON lines may be written.

    Of the arguments as they are, for the error can be that they cannot be parsed.
    """
    mode = ""
    for argument, following in pairwise([*arguments, ""]):
        if argument == "--progress":
            mode = following
        elif argument.startswith("--progress="):
            mode = argument.removeprefix("--progress=")
    return mode == "json"


def print_end(message: str, exit_code: int, text: str | None = None) -> None:
    """`text` is the line for people, where it has more than `message`."""
    line = f"migrate: {message}" if text is None else text
    if wants_events(sys.argv[1:]):
        line = encode_event({"event": "error", "exit_code": exit_code, "message": message})
    print(line, file=sys.stderr, flush=True)


def encode_event(fields: dict[str, object]) -> str:
    """One line of `--progress json`, without its end."""
    import json

    from migrate.documents.json_text import with_safe_texts

    return json.dumps(with_safe_texts(fields))


def names_with(text: str, names: Iterable[str]) -> list[str]:
    """Up to three of the names that hold `text`, the tags of a repository of this name first."""
    found = {name for name in names if text and text in name}
    return sorted(found, key=lambda name: (not name.startswith(f"{text}:"), name))[:3]
