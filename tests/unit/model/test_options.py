from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from migrate.batch.recipe import options_document, parse_options, recipe_of
from migrate.errors import UsageError
from migrate.model.image import Platform
from migrate.model.legacy import SourceType
from migrate.model.options import (
    CHANGES,
    LEVELS,
    Changes,
    Compression,
    ConvertOptions,
    EmptyLayers,
    Format,
    Link,
    OnConflict,
    ReadOptions,
)

OTHER: dict[str, Any] = {
    "source_type": SourceType.DOCKER_ROOT,
    "inside": "var/lib/docker",
    "driver": "vfs",
    "dm_data": "/pool/data",
    "dm_metadata": "/pool/metadata",
    "insecure": True,
    "max_ratio": 5000,
    "salvage": True,
    "dry_run": True,
    "temporary_directory": "/spool",
    "format": Format.OCI,
    "carry_manifests": True,
    "compression": Compression.NONE,
    "compression_level": 9,
    "empty_layers": EmptyLayers.KEEP,
    "images": ("app:*", "0123456789ab"),
    "exclude": ("test/*",),
    "all_layers": True,
    "containers": True,
    "container": ("db", "0123"),
    "platform": Platform(os="linux", architecture="arm", variant="v7"),
    "fill_platform": True,
    "strict": True,
    "check_rootfs": False,
    "on_conflict": OnConflict.KEEP_ALL,
    "renames": (("^old/", "new/"),),
    "tag_template": "{repo}:{tag}-{created:%Y}",
    "name_untagged": "untagged/{legacy_id:12}:latest",
    "jobs": 7,
    "exact_sizes": True,
    "force": True,
    "link": Link.HARD,
    "check_existing": True,
}
"""For each option a value that is not its default."""


def options_without(name: str) -> ConvertOptions:
    """The defaults, and what the option needs beside it."""
    return ConvertOptions(format=Format.OCI) if name == "carry_manifests" else ConvertOptions()


def test_the_table_has_each_option() -> None:
    assert list(OTHER) == [field.name for field in fields(ReadOptions)] + [
        name for name in CHANGES if name not in {field.name for field in fields(ReadOptions)}
    ]
    assert all(getattr(ConvertOptions(), name) != value for name, value in OTHER.items())
    assert CHANGES.keys() == {field.name for field in fields(ConvertOptions)}


@pytest.mark.parametrize("name", OTHER)
def test_a_source_is_read_again_only_for_an_option_that_changes_what_it_gives(name: str) -> None:
    changed = replace(options_without(name), **{name: OTHER[name]})
    is_read_again = recipe_of(changed) != recipe_of(options_without(name))
    assert is_read_again is (CHANGES[name] is Changes.RESULT)


@pytest.mark.parametrize("name", OTHER)
def test_a_journal_keeps_each_option_that_changes_something(name: str) -> None:
    changed = replace(options_without(name), **{name: OTHER[name]})
    expected = ConvertOptions() if CHANGES[name] is Changes.NOTHING else changed
    assert parse_options(options_document(changed)) == expected


@pytest.mark.parametrize("document", [{"colour": "red"}, {"format": "zip"}, {"platform": "linux"}, {"platform": []}])
def test_a_journal_of_another_version_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="options that this version of migrate does not have"):
        parse_options(document)


@pytest.mark.parametrize("compression", Compression)
def test_levels_that_a_compression_does_not_have(compression: Compression) -> None:
    levels = LEVELS[compression]
    chosen = ConvertOptions(format=Format.OCI, compression=compression)
    for level in {-1, 0, levels.start - 1, levels.stop}:
        with pytest.raises(UsageError, match=f"--compression-level {level}: --compression {compression} "):
            replace(chosen, compression_level=level)
    for level in levels:
        assert replace(chosen, compression_level=level).compression_level == level


def test_zstd_needs_oci() -> None:
    with pytest.raises(UsageError, match="--compression zstd needs --format oci"):
        ConvertOptions(compression=Compression.ZSTD)


@pytest.mark.parametrize("template", ["{repo", "{nothing}", "{0}", "{created:%Q}", "{repo.name}", "{created:100%}"])
def test_a_template_that_cannot_be_filled(template: str) -> None:
    with pytest.raises(UsageError, match="--tag-template"):
        ConvertOptions(tag_template=template)


@pytest.mark.parametrize("template", ["", "{id}", "x:{legacy_id:0}", "x:{image_id:a}", "{legacy_id", "x@{image_id}"])
def test_a_template_for_the_untagged_that_cannot_be_filled(template: str) -> None:
    with pytest.raises(UsageError, match="--name-untagged"):
        ConvertOptions(name_untagged=template)


@pytest.mark.parametrize("rename", [("(", "x"), ("a", r"\1"), ("(a)", r"\g<name>")])
def test_a_rename_that_re_refuses(rename: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match="--rename"):
        ConvertOptions(renames=(rename,))
