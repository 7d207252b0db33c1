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
_FEW_NEED = {"asyncio", "concurrent", "gzip", "logging", "multiprocessing", "socket", "ssl", "subprocess", "tempfile"}
_EXTRAS = {"cryptography", "dissect", "distributed", "fsspec", "httpx", "jinja2", "tqdm"}


def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> set[str]:
    """The packages that a command has loaded when it ends."""
    loaded = tmp_path / "loaded"
    monkeypatch.setenv("LOADED", str(loaded))
    subprocess.run([sys.executable, "-c", _LOADED, *arguments], check=True, stdout=subprocess.DEVNULL)
    return {name.partition(".")[0] for name in loaded.read_text().split()}


def test_convert_of_a_plain_archive_loads_nothing_that_few_runs_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = V1Archive()
    archive.tag("app", "1", archive.layer("base"))
    source = tmp_path / "archive.tar"
    source.write_bytes(archive.build())

    modules = _modules(tmp_path, monkeypatch, "convert", "--progress", "none", str(source), str(tmp_path / "out"))

    assert "migrate" in modules
    assert not modules & (_FEW_NEED | _EXTRAS)


def test_the_help_loads_nothing_that_a_run_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = _modules(tmp_path, monkeypatch, "--help")

    assert "migrate" in modules
    assert not modules & (_FEW_NEED | _EXTRAS | {"dataclasses", "hashlib", "msgspec", "orjson", "pathlib"})
