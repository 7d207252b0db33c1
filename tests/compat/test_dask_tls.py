"""The TLS example of docs/howto/cluster.md: its commands and its configuration, on a scheduler and a worker."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from migrate.model.progress import SilentProgress
from migrate.verify import verify
from tests.compat.test_dask import ROOT, start_dask, write_shelf
from tests.peers import free_port

pytestmark = pytest.mark.peer
PAGE = (ROOT / "docs/howto/cluster.md").read_text()


def example(language: str, word: str) -> str:
    (found,) = (text for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if word in text)
    return str(found)


STRANGER = """
import os, sys
from distributed import Client
try:
    Client(sys.argv[1], timeout="2s", set_as_default=False)
except (OSError, RuntimeError, TypeError):
    os._exit(7)
"""
"""In a process of its own: Dask waits without end for the loop of a client that was refused, if the garbage collector
finds it while another client starts."""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_example_of_the_page(tmp_path: Path) -> None:
    for line in example("sh", "openssl").splitlines():
        subprocess.run(shlex.split(line), check=True, capture_output=True, cwd=tmp_path)
    (tmp_path / "config").mkdir()
    text = example("yaml", "require-encryption").replace("/etc/dask/", f"{tmp_path}/")
    (tmp_path / "config/tls.yaml").write_text(text)
    shelf = write_shelf(tmp_path / "shelf", 6)
    address = f"tls://127.0.0.1:{free_port()}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DASK_CONFIG": str(tmp_path / "config")}

    with ExitStack() as stack:
        start = partial(start_dask, stack, tmp_path, environment)
        start("scheduler", "--protocol", "tls", "--host", address, "--no-show", "--no-dashboard")
        start("worker", address, "--nthreads", "1", "--host", "127.0.0.1", "--no-dashboard")
        done = subprocess.run(
            [sys.executable, "-m", "migrate", "batch", "-q", "--scheduler", address, shelf, tmp_path / "layout"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr + (tmp_path / "dask.log").read_text()[-2_000:]
        assert verify(str(tmp_path / "layout"), 1, SilentProgress()) == []
        for stranger in (address, address.replace("tls://", "tcp://")):
            refused = subprocess.run([sys.executable, "-c", STRANGER, stranger], timeout=60, check=False)
            assert refused.returncode == 7
