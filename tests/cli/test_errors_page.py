"""docs/reference/errors.md has every word that the field `error` can hold, and messages that the program prints."""

from __future__ import annotations

import errno
import importlib
import os
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import migrate
from migrate.errors import EXIT_CODES, MigrateError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "errors.md"


def kinds(base: type[MigrateError]) -> Iterator[type[MigrateError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from kinds(kind)


def test_every_code_has_a_cause_and_a_remedy() -> None:
    for module in pkgutil.walk_packages(migrate.__path__, "migrate."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found = re.findall(r"^\| `([a-z-]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", PAGE.read_text(), re.M)
    rows = [row for row in found if row[0] != "error"]
    scopes = {kind.code: kind.scope for kind in kinds(MigrateError) if kind.__module__.startswith("migrate.")}
    assert sorted(row[0] for row in rows) == sorted([*scopes, "bug"])
    for code, costs, cause, remedy in rows:
        assert cause.strip().endswith("."), code
        assert remedy.strip().endswith("."), code
        assert scopes.get(code) == costs or costs[0].isdigit(), code
    assert {kind.exit_code for kind in kinds(MigrateError)} <= EXIT_CODES.keys()


def test_messages_are_those_of_the_program() -> None:
    source = "\n".join(path.read_text("utf-8") for path in Path(migrate.__file__).parent.rglob("*.py"))
    rows = re.findall(r"^\| `([^`]+ [^`]+)` \| `?([a-z-]+)`? \| (.+) \|$", PAGE.read_text("utf-8"), re.M)
    assert len(rows) > 15
    of_the_system = {os.strerror(number) for number in errno.errorcode}
    codes = {"warning", *(kind.code for kind in kinds(MigrateError))}
    for message, code, remedy in rows:
        assert message in source or message in of_the_system, message
        assert code in codes, message
        assert remedy.endswith("."), message
