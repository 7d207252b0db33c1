"""`migrate.api` gives what the command gives, for the same options."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Sequence
from dataclasses import fields
from inspect import isfunction, signature
from pathlib import Path
from typing import Any

import click
import pytest
from msgspec.structs import replace

from migrate import api
from migrate.cli.main import cli
from migrate.convert import sources
from migrate.errors import SourceError, SourceUnreadableError, UsageError
from migrate.model.legacy import SourceType
from migrate.model.options import (
    Compression,
    ConvertOptions,
    EmptyLayers,
    Format,
    ImageOptions,
    NameOptions,
    OnConflict,
    ReadOptions,
    RunOptions,
)
from migrate.model.progress import Event
from migrate.readers.base import LegacySource
from migrate.report.document import Report
from migrate.report.parse import parse_report
from tests.archives import V1Archive, layer_tar
from tests.command import migrate
from tests.unit.model.test_options import OTHER
from tests.v1_registry import V1Tree

JOBS = ("--jobs", "1")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    made = V1Archive()
    made.layer("base")
    made.layer("empty", "base", tar=layer_tar())
    made.tag("team/app", "1.0", made.layer("top", "empty"))
    made.tag("other", "latest", made.layer("alone"))
    path = tmp_path / "a.tar"
    path.write_bytes(made.build())
    return path


def content(target: Path) -> dict[str, bytes]:
    """What other programs read of a layout: everything but the report and the state of migrate."""
    index = [path for path in target.iterdir() if path.is_file() and not path.name.startswith("migration-")]
    return {str(path.relative_to(target)): path.read_bytes() for path in [*index, *(target / "blobs/sha256").iterdir()]}


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((), ConvertOptions()),
        (("--empty-layers", "keep", "--all"), ConvertOptions(empty_layers=EmptyLayers.KEEP, all_layers=True)),
        (
            ("--format", "oci", "--compression", "zstd", "--compression-level", "7"),
            ConvertOptions(format=Format.OCI, compression=Compression.ZSTD, compression_level=7),
        ),
        (
            ("--image", "team/*", "--rename", "^team/=new/"),
            ConvertOptions(images=("team/*",), renames=(("^team/", "new/"),)),
        ),
        (("--tag-template", "{tag}-{created:%Y}"), ConvertOptions(tag_template="{tag}-{created:%Y}")),
    ],
)
def test_convert_writes_what_the_command_writes(
    arguments: tuple[str, ...], options: ConvertOptions, archive: Path, tmp_path: Path
) -> None:
    outcome = api.convert(archive, tmp_path / "api", options)
    assert migrate("convert", *arguments, *JOBS, archive, tmp_path / "command").code == outcome.exit_code == 0
    assert content(tmp_path / "api") == content(tmp_path / "command")
    assert api.verify(tmp_path / "api") == []


def test_salvage(archive: Path, tmp_path: Path) -> None:
    tree = V1Tree(tmp_path / "registry")
    tree.add_archive(archive.read_bytes())
    for folder in (tree.root / "images").iterdir():
        (folder / "_inprogress").write_text("true")
    lost = api.convert(tree.root, tmp_path / "without")
    found = api.convert(tree.root, tmp_path / "with", ConvertOptions(salvage=True))
    assert (lost.exit_code, lost.report.images) == (4, ())
    assert found.report.images
    assert migrate("convert", "--salvage", *JOBS, tree.root, tmp_path / "command").code == found.exit_code
    assert content(tmp_path / "with") == content(tmp_path / "command")


@pytest.mark.parametrize("option", [field.name for field in fields(ReadOptions)])
@pytest.mark.parametrize("call", ["convert", "plan"])
def test_each_option_of_a_reader_reaches_it(
    call: str, option: str, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[ReadOptions] = []

    def open_source(location: str, options: ReadOptions) -> LegacySource:
        seen.append(options)
        raise SourceUnreadableError(f"{location}: not today")

    monkeypatch.setattr(sources, "open_source", open_source)
    options = dataclasses.replace(ConvertOptions(), **{option: OTHER[option]})
    outcome = api.convert(archive, tmp_path / "out", options) if call == "convert" else api.plan(archive, options)
    assert outcome.exit_code == 4
    assert [getattr(one, option) for one in seen] == [OTHER[option]]


@pytest.mark.parametrize(
    "target", ["layout", "docker-archive:images.tar", "registry-storage:storage", "oci-archive:o.tar"]
)
def test_a_dry_run_writes_nothing_and_reports_the_same(target: str, archive: Path, tmp_path: Path) -> None:
    prefix, _, name = target.rpartition(":")
    place = f"{prefix}:{tmp_path / name}" if prefix else str(tmp_path / name)
    dry = api.convert(archive, place, ConvertOptions(dry_run=True)).report
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar"}
    real = api.convert(archive, place).report
    assert replace(dry, dry_run=False, started=real.started, finished=real.finished) == real


def test_plan_writes_nothing(archive: Path, tmp_path: Path) -> None:
    assert api.plan(archive).report.totals.images == 2
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar"}


def test_inspect(archive: Path, tmp_path: Path) -> None:
    assert len(api.inspect(archive).images) == 2
    assert len(api.inspect(archive, options=ReadOptions(source_type=SourceType.DOCKER_ARCHIVE)).images) == 2
    with pytest.raises(SourceError, match="holds no source of type registry-v1"):
        api.inspect(archive, source_type="registry-v1")
    with pytest.raises(UsageError, match="source type zip: not one of docker-archive, docker-root, "):
        api.inspect(archive, source_type="zip")
    with pytest.raises(SourceError, match="No such file or directory"):
        api.inspect(tmp_path / "absent")


def test_a_source_that_cannot_be_read_is_a_failure_and_not_an_exception(archive: Path, tmp_path: Path) -> None:
    outcome = api.convert([archive, tmp_path / "absent.tar"], tmp_path / "out")
    assert (outcome.exit_code, len(outcome.report.images)) == (3, 2)
    (failure,) = outcome.report.failures
    assert failure.source == str(tmp_path / "absent.tar")
    assert "No such file or directory" in failure.message


def test_a_conflict_is_reported(archive: Path, tmp_path: Path) -> None:
    other = V1Archive()
    other.tag("other", "latest", other.layer("newer"))
    (tmp_path / "b.tar").write_bytes(other.build())
    report = api.convert(
        [archive, tmp_path / "b.tar"], tmp_path / "out", ConvertOptions(on_conflict=OnConflict.FIRST)
    ).report
    assert [conflict.reference for conflict in report.conflicts] == ["other:latest"]


@pytest.mark.parametrize("where", ["the source itself", "in the source", "around the source"])
def test_a_target_in_or_around_a_source_is_refused(where: str, archive: Path, tmp_path: Path) -> None:
    tree = V1Tree(tmp_path / "outer" / "registry")
    tree.add_archive(archive.read_bytes())
    place = {"the source itself": tree.root, "in the source": tree.root / "new", "around the source": tree.root.parent}
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="never written to"):
        api.convert(tree.root, place[where])
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_progress_is_reported(archive: Path, tmp_path: Path) -> None:
    class Collecting:
        def __init__(self) -> None:
            self.events: list[Event] = []

        def emit(self, event: Event, /) -> None:
            self.events.append(event)

    progress: Any = Collecting()
    api.convert(archive, tmp_path / "out", progress=progress)
    assert {event.kind for event in progress.events} >= {"stage", "layer"}
    progress.events.clear()
    assert api.verify(tmp_path / "out", progress=progress) == []
    assert progress.events


def test_verify_finds_damage(archive: Path, tmp_path: Path) -> None:
    api.convert(archive, tmp_path / "out")
    blob = max((tmp_path / "out/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    blob.write_bytes(blob.read_bytes()[:-1])
    assert any(blob.name in f"{finding.where} {finding.message}" for finding in api.verify(tmp_path / "out"))


PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "api.md").read_text("utf-8")


@pytest.mark.parametrize("name", api.__all__)
def test_the_reference_has_each_name_and_each_parameter_and_option(name: str) -> None:
    value = getattr(api, name)
    assert value.__doc__
    assert not value.__doc__.startswith(f"{name}(")  # what dataclass writes where there is no docstring
    assert re.search(rf"`{name}\b", PAGE), name
    if isfunction(value):
        (call,) = re.findall(rf"^\| `{name}\((.*?)\)` \|", PAGE, re.M)
        assert set(re.findall(r"(\w+)(?==|,|$)", re.sub(r"=\w+", "", call))) == set(signature(value).parameters)


def test_the_reference_has_each_option_and_no_other() -> None:
    table = PAGE[PAGE.index("| group | field |") :]
    named = [word for cell in re.findall(r"^\| \w* ?\| (`[^|]*`) \|", table, re.M) for word in re.findall(r"\w+", cell)]
    assert named == [
        field.name for group in (ReadOptions, ImageOptions, NameOptions, RunOptions) for field in fields(group)
    ]


# --- each option, and many together ----------------------------------------------------------------------------------

_NOT_OF_THE_COMMAND = {"temporary_directory", "exact_sizes"}  # a directory beside the target; always on
_WANTS_OCI = {"carry_manifests"}


def _as_arguments(command: str, chosen: dict[str, Any]) -> list[str]:
    """The command line that asks for the fields of `chosen`."""
    context = click.Context(cli)
    found = cli.get_command(context, command)
    assert found is not None
    arguments: list[str] = []
    for option in found.params:
        if not isinstance(option, click.Option) or option.name not in chosen:
            continue
        value = chosen[option.name]
        flag = max(option.opts, key=len)
        if option.is_flag:
            arguments.append(flag if value else option.secondary_opts[0])
            continue
        for one in value if isinstance(value, tuple) else (value,):
            arguments += [flag, "=".join(one) if isinstance(one, tuple) else str(one)]
    return arguments


def _options_of(command: str) -> list[str]:
    found = cli.get_command(click.Context(cli), command)
    assert found is not None
    return sorted({str(param.name) for param in found.params} & OTHER.keys())


def _with_what_it_needs(names: Sequence[str]) -> dict[str, Any]:
    chosen = {name: OTHER[name] for name in names}
    return chosen | ({"format": Format.OCI} if _WANTS_OCI & chosen.keys() else {})


def _result(report: Report) -> tuple[object, ...]:
    failures = [(one.source, one.error, one.message) for one in report.failures]
    return report.images, failures, report.warnings, report.conflicts, report.totals


def _by_the_command(command: str, chosen: dict[str, Any], archive: Path, target: Path) -> object:
    places = [str(archive)] if command == "plan" else [str(archive), str(target)]
    report = target.with_suffix(".json")
    done = migrate(command, *_as_arguments(command, chosen), "--report", report, *places)
    if done.code == 2:
        return done.errors[0].removeprefix("migrate: error: ")
    return done.code, _result(parse_report(report.read_bytes())) if report.exists() else None


def _by_the_interface(command: str, chosen: dict[str, Any], archive: Path, target: Path) -> object:
    try:
        options = ConvertOptions(**{"jobs": 1} | chosen)
        if command == "plan":
            outcome = api.plan(archive, options)
        elif command == "convert":
            outcome = api.convert(archive, target, options)
        else:
            done = api.batch(archive, target, options)
            try:
                return done.exit_code, _result(done.read_report())
            finally:
                done.close()
    except UsageError as error:
        return error.message
    return outcome.exit_code, _result(outcome.report)


def _compare(command: str, names: Sequence[str], archive: Path, tmp_path: Path) -> None:
    chosen = _with_what_it_needs(names)
    by_command = _by_the_command(command, chosen, archive, tmp_path / "by-command" / "target")
    by_interface = _by_the_interface(command, chosen, archive, tmp_path / "by-interface" / "target")
    assert str(by_interface).replace("by-interface", "by-command") == str(by_command)
    targets = [tmp_path / by / "target" for by in ("by-command", "by-interface")]
    assert targets[0].exists() == targets[1].exists()
    if targets[0].exists():
        assert content(targets[0]) == content(targets[1])


@pytest.fixture
def places(tmp_path: Path) -> Path:
    for name in ("by-command", "by-interface"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.mark.parametrize("name", _options_of("convert"))
def test_each_option_of_convert(name: str, archive: Path, places: Path) -> None:
    _compare("convert", [name], archive, places)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("command", ["convert", "plan"])
def test_many_options_together(command: str, seed: int, archive: Path, places: Path) -> None:
    names = random.Random(f"{command} {seed}").sample(sorted({*_options_of(command)} - {"dm_data", "dm_metadata"}), 4)
    _compare(command, names, archive, places)


@pytest.mark.parametrize("seed", range(2))
def test_many_options_of_a_batch(seed: int, archive: Path, places: Path) -> None:
    names = random.Random(f"batch {seed}").sample(sorted({*_options_of("batch")} - {"jobs", "source_type"}), 3)
    _compare("batch", names, archive, places)


def test_all_options_are_of_one_of_the_commands() -> None:
    assert {*_options_of("convert"), *_options_of("plan"), *_NOT_OF_THE_COMMAND} == OTHER.keys()


@pytest.mark.parametrize("name", [field.name for field in fields(RunOptions)])
def test_a_plan_refuses_options_about_a_target(tmp_path: Path, name: str) -> None:
    source = tmp_path / "a.tar"
    source.write_bytes(V1Archive().build())
    options = dataclasses.replace(ConvertOptions(), **{name: OTHER[name]})
    if name in ("jobs", "exact_sizes"):
        api.plan(source, options)
        return
    with pytest.raises(UsageError, match=f"^--{name.replace('_', '-')}: only for a target, and a plan has none$"):
        api.plan(source, options)
