"""A package that exits, one that drafts, and what the sweep behind them wrote."""

from collections.abc import Iterator
from typing import Any

import pytest
from taken_settings import Folders, exit_key, loaded, make, texts_of
from transformers import PreTrainedModel

import eexit
from eexit.costs.operations import UnitCosts
from eexit.custom_generate.setting import Setting
from eexit.decode.predictors import measure_unit_costs


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return make(tmp_path_factory.mktemp("taken"), "llama")


@pytest.fixture(scope="module")
def model(folders: Folders) -> PreTrainedModel:
    return loaded(folders["model"])


@pytest.fixture
def own_model(folders: Folders) -> PreTrainedModel:
    return loaded(folders["model"])


@pytest.fixture
def setting(folders: Folders) -> Setting:
    return eexit.load(folders["exits"])


@pytest.fixture
def drafts(folders: Folders) -> Setting:
    return eexit.load(folders["drafts"])


@pytest.fixture(scope="session")
def prompts(folders: Folders) -> list[list[int]]:
    return texts_of(folders["sweep"], exit_key())[0]


@pytest.fixture(scope="session")
def prompt(prompts: list[list[int]]) -> list[int]:
    return max(prompts, key=len)


@pytest.fixture(scope="module")
def prices_are_found_once() -> Iterator[None]:
    """Keep the unit costs of the first model, for tests that do not read costs."""
    found: list[UnitCosts] = []

    def once(*given: Any) -> UnitCosts:
        found[:] = found or [measure_unit_costs(*given)]
        return found[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eexit.custom_generate.setting.measure_unit_costs", once)
        yield
