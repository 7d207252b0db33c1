from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.model.reference import Reference
from migrate.model.rename import map_reference, repository_reference

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("name", "tag", "mapped"),
    [
        ("team/app", "1.0", "team/app:1.0"),
        ("library/busybox", "latest", "library/busybox:latest"),
        ("reg.example.com:5000/ns/app", "x", "reg.example.com:5000/ns/app:x"),
        ("Team/App", "Rel_1", "team/app:Rel_1"),
        ("_private/__x", "a", "private/x:a"),
        ("a..b/c___d/e-_f", "1", "a-b/c-d/e-f:1"),
        ("we ird/na+me", "1", "we-ird/na-me:1"),
        ("reg.example.com:5000/NS/App", "x", "reg.example.com:5000/ns/app:x"),
        ("team/app", "bad tag!", "team/app:bad-tag-"),
        ("team/app", "..x", "team/app:x"),
        ("team/app", "---", "team/app:unnamed"),
        ("team//app", "1", "team/unnamed/app:1"),
        ("foo.bar_baz/x", "1", "foo.bar_baz/x:1"),
        ("Foo.bar_Baz/x", "1", "foo.bar_baz/x:1"),
        ("_foo.bar/x", "1", "foo-bar/x:1"),
        ("foo..bar.com/x", "1", "foo-bar-com/x:1"),
        ("_localhost/x", "1", "local-host/x:1"),
        ("f" * 64, "1", f"image-{'f' * 64}:1"),
        ("Team/App", DIGEST, f"team/app@{DIGEST}"),
    ],
)
def test_the_rule(name: str, tag: str, mapped: str) -> None:
    assert str(map_reference(Reference(name, tag))) == mapped


def test_renames_come_first_and_in_order() -> None:
    rules = [(r"^old\.example\.com/", "new/"), ("^new/(.*)$", r"moved/\1")]
    assert str(map_reference(Reference("old.example.com/App", "1"), rules)) == "moved/app:1"
    with pytest.raises(re.error):
        map_reference(Reference("a", "1"), [("(", "")])


@pytest.mark.parametrize(
    ("name", "local"),
    [
        ("busybox", "busybox"),
        ("docker.io/library/busybox", "busybox"),
        ("index.docker.io/team/app", "team/app"),
        ("localhost:5000/team/app", "team/app"),
        ("reg.example.com:5000/team/app", "team/app"),
        ("reg.example.com/team/app", "reg.example.com/team/app"),
        ("library/app", "library/app"),
        ("foo_bar.com/team/app", "foo_bar.com/team/app"),
    ],
)
def test_a_registry_has_names_without_hosts(name: str, local: str) -> None:
    assert repository_reference(Reference(name, "1")) == Reference(local, "1")


@given(st.text(max_size=300), st.text(max_size=150))
def test_what_comes_out_is_accepted_and_stays_as_it_is(name: str, tag: str) -> None:
    mapped = map_reference(Reference(name, tag))
    assert mapped.is_valid and map_reference(mapped) == mapped
    local = repository_reference(Reference(name, tag))
    assert local.is_valid and ":" not in local.name
