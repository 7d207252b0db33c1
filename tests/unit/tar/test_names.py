"""Names of entries as paths, by one rule for everything that reads a tar."""

from __future__ import annotations

import pytest

from migrate.tar.names import below_root, go_clean, leads_out, shown_name

NAMES = [  # name, Go's filepath.Clean, below the root, refused by Docker
    (b"a/b", b"a/b", b"a/b", False),
    (b"a/b/", b"a/b", b"a/b", False),
    (b"./a//b/", b"a/b", b"a/b", False),
    (b"/a", b"/a", b"a", False),
    (b"//a", b"/a", b"a", False),
    (b"///a//b", b"/a/b", b"a/b", False),
    (b"a/../b", b"b", b"b", False),
    (b"a/../../b", b"../b", b"b", True),
    (b"../b", b"../b", b"b", True),
    (b"..", b"..", b"", True),
    (b"/../b", b"/b", b"b", False),
    (b"..a/b..", b"..a/b..", b"..a/b..", False),
    (b"a/.", b"a", b"a", False),
    (b".", b".", b"", False),
    (b"", b".", b"", False),
    (b"./", b".", b"", False),
]


@pytest.mark.parametrize(("name", "cleaned", "path", "refused"), NAMES)
def test_names_as_paths(name: bytes, cleaned: bytes, path: bytes, refused: bool) -> None:
    assert (go_clean(name), below_root(name), leads_out(name)) == (cleaned, path, refused)


def test_bytes_that_are_no_text_are_shown() -> None:
    assert shown_name(b"a\xff") == "a\\xff"
