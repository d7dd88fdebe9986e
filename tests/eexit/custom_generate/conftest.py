"""A package that exits, one that drafts, and what the sweep behind them wrote."""

import pytest
from taken_settings import Folders, exit_key, loaded, make, texts_of
from transformers import PreTrainedModel

import eexit
from eexit.custom_generate.setting import Setting


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
