"""The fixtures of this folder's tests: a small model, and those that `tests/support` has."""

import pytest
from byte_model import save_byte_model
from ray_here import ray_here


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    save_byte_model(folder)
    return str(folder)
