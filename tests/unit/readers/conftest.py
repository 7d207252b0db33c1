from __future__ import annotations

import pytest

from tests.stores import StoreShelf


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> StoreShelf:
    return StoreShelf(tmp_path_factory.mktemp("stores"))
