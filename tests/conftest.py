"""Fixtures that several folders share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.peers import DockerEngine, docker_engine

os.environ.pop("COLUMNS", None)  # of the terminal in which the tests run; pytest-xdist hands it on
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("local", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def engine() -> Iterator[DockerEngine]:
    """One Docker engine for the whole run; each test removes the images it loaded."""
    with docker_engine() as started:
        yield started
