"""Models that tests of several packages use."""

from collections.abc import Callable, Iterator

import pytest
import torch
from tiny_models import ARCHITECTURES, tiny_model
from transformers import PreTrainedModel

from eexit import kernels


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Matrices this small gain nothing from threads, and lose much when others want the cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", params=list(ARCHITECTURES))
def any_model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return tiny_model(request.param)


@pytest.fixture(scope="session")
def llama() -> PreTrainedModel:
    return tiny_model("llama")


@pytest.fixture
def use_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Have the C files compiled anew by this command, whatever it may be."""

    def use(command: str) -> None:
        monkeypatch.setenv("CC", command)
        kernels._compiled.cache_clear()

    yield use
    kernels._compiled.cache_clear()
