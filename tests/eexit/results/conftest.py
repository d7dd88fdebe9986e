from pathlib import Path

import pytest
from ray_here import ray_here

from eexit.results.store.folder import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "out")
