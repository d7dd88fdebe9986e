"""What has been done to a model so that it computes otherwise is named, with the way out."""

from collections.abc import Callable

import pytest
import torch
from tiny_models import tiny_model
from torch import nn

from eexit.errors import UsageError
from eexit.model.layers import Decoder


def compile_forward(module: nn.Module) -> None:
    module.forward = torch.compile(module.forward)


def compile_module(module: nn.Module) -> None:
    module.compile()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile's own code
@pytest.mark.parametrize("compiles", [compile_forward, compile_module])
@pytest.mark.parametrize("path", ["", "model", "model.layers.3", "model.layers.3.mlp", "lm_head"])
def test_a_model_that_is_compiled_somewhere_is_told_so(compiles: Callable[[nn.Module], None], path: str) -> None:
    model = tiny_model("llama")
    compiles(model.get_submodule(path))
    with pytest.raises(UsageError, match=r"the model is compiled.*: load it without torch\.compile"):
        Decoder(model)


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_under_autocast_a_model_is_told_so(family: str) -> None:
    model = tiny_model(family)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(
            UsageError, match=r"torch\.autocast is on.*outside of torch\.autocast.*dtype=torch.bfloat16"
        ):
            Decoder(model)
        with torch.autocast("cpu", enabled=False):
            assert Decoder(model).n_layers == 7
