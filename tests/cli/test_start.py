"""What a command loads before it does anything: a short one would spend most of its time there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.archives import V1Archive

_LOADED = """
import atexit, os, sys
atexit.register(lambda: print(*sys.modules, file=open(os.environ["LOADED"], "w")))
from migrate.cli import main
main()
"""
_FEW_NEED = {
    *("asyncio", "concurrent", "gzip", "ipaddress", "logging", "multiprocessing", "pathlib", "socket", "ssl"),
    *("subprocess", "tempfile", "urllib"),
}
_FOR_OTHER_SOURCES = {
    *("migrate.readers.access", "migrate.readers.finding", "migrate.readers.not_a_source", "migrate.readers.wrapping"),
    *("migrate.storage.bucket", "migrate.storage.named_files", "migrate.storage.tree", "migrate.tar.known_blobs"),
}
_FOR_A_TARGET = {"migrate.storage.directory_store", "migrate.writers.oci_layout", "migrate.writers.run_memory"}
_EXTRAS = {"cryptography", "dissect", "distributed", "fsspec", "httpx", "jinja2", "tqdm"}


def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> set[str]:
    """The modules that a command has loaded when it ends, with the packages that they are in."""
    loaded = tmp_path / "loaded"
    monkeypatch.setenv("LOADED", str(loaded))
    subprocess.run([sys.executable, "-c", _LOADED, *arguments], check=True, stdout=subprocess.DEVNULL)
    names = set(loaded.read_text().split())
    return names | {name.partition(".")[0] for name in names}


@pytest.fixture
def source(tmp_path: Path) -> str:
    archive = V1Archive()
    archive.tag("app", "1", archive.layer("base"))
    path = tmp_path / "archive.tar"
    path.write_bytes(archive.build())
    return str(path)


def test_convert_of_a_plain_archive_loads_nothing_that_few_runs_need(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = _modules(tmp_path, monkeypatch, "convert", "--progress", "none", source, str(tmp_path / "out"))

    assert modules >= {"migrate", *_FOR_A_TARGET}
    assert not modules & (_FEW_NEED | _EXTRAS | _FOR_OTHER_SOURCES)


def test_a_plan_loads_nothing_for_a_target(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = _modules(tmp_path, monkeypatch, "plan", "--progress", "none", source)

    assert "migrate.convert.run" in modules
    assert not modules & (_FEW_NEED | _EXTRAS | _FOR_OTHER_SOURCES | _FOR_A_TARGET)


def test_the_help_loads_nothing_that_a_run_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = _modules(tmp_path, monkeypatch, "--help")

    assert "migrate" in modules
    assert not modules & (_FEW_NEED | _EXTRAS | {"dataclasses", "hashlib", "msgspec", "orjson", "pathlib"})
