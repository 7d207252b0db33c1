"""The names of a Docker root's containers, in `linkgraph.db`.

moby 0.6.5 to 1.9, pkg/graphdb/graphdb.go: SQLite, `entity(id)` and `edge(entity_id, parent_id, name)`. The names of
containers are the edges whose parent is `0`; an edge whose parent is a container is the alias of a link.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from migrate.errors import DocumentError

_TEXT_BYTES: Final = 64 * 1024
_STEPS: Final = 10_000_000
"""Limit of the steps of SQLite's virtual machine, for a damaged database with cycles. A name needs about ten."""


def parse_link_graph(raw: bytes, what: str) -> Mapping[str, frozenset[str]]:
    """Container ID → its names, without their leading slash. DocumentError if SQLite cannot read it."""
    try:
        import sqlite3  # missing in some builds of Python, and seldom needed
    except ImportError as error:
        raise DocumentError(f"{what}: this Python is built without sqlite3, which reads it") from error

    found: dict[str, set[str]] = {}
    connection = sqlite3.connect(":memory:")
    try:
        connection.deserialize(raw)
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _TEXT_BYTES)
        connection.set_progress_handler(lambda: True, _STEPS)
        # A view or virtual table in place of the table could run code or read other data.
        kinds = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'edge' AND type = 'table'").fetchall()
        if [str(sql).upper().startswith("CREATE TABLE") for (sql,) in kinds] != [True]:
            raise DocumentError(f"{what}: not Docker's database of names: it has no table edge")
        for container, name in connection.execute("SELECT entity_id, name FROM edge WHERE parent_id = '0'"):
            if isinstance(container, str) and isinstance(name, str):
                found.setdefault(container, set()).add(name.strip("/"))
    except (sqlite3.Error, OverflowError, MemoryError) as error:
        raise DocumentError(f"{what}: not Docker's database of names: {error or 'an empty file'}") from error
    finally:
        connection.close()
    return {container: frozenset(names) for container, names in found.items()}
