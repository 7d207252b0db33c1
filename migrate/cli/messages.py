"""The last message of a run that ends early, on standard error: a line of text, or an event with `--progress json`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise


def wants_events(arguments: Sequence[str]) -> bool:
    """True where `--progress json` is among the arguments of a command: standard error then has JSON lines only.

    Reads the raw arguments, because the message may be that they cannot be parsed.
    """
    mode = ""
    for argument, following in pairwise([*arguments, ""]):
        if argument == "--progress":
            mode = following
        elif argument.startswith("--progress="):
            mode = argument.removeprefix("--progress=")
    return mode == "json"


def print_end(message: str, exit_code: int, text: str | None = None) -> None:
    """Prints a message on standard error. `text` is the line of text, if it is not `migrate: {message}`."""
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
    """Up to three of the names that contain `text`; tags of a repository with this name come first."""
    found = {name for name in names if text and text in name}
    return sorted(found, key=lambda name: (not name.startswith(f"{text}:"), name))[:3]
