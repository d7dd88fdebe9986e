"""Unit costs are counted in one thread, with nothing set on the process or on the model, which others use meanwhile."""

import copy
from dataclasses import fields
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from axes import EXITABLE
from references import decoder_of, shared_model, unit_costs_of
from torch import Tensor, nn
from transformers import PreTrainedModel

from eexit.costs.operations import UnitCosts
from eexit.decode.predictors import measure_unit_costs
from eexit.decode.requests import DecodingConfig
from eexit.errors import UsageError
from eexit.model.layers import Decoder

DECODING = DecodingConfig(EXITABLE, 2, frozenset())


class Opaque(nn.Module):
    """A linear module whose product is no operator of torch, as in many quantised checkpoints.

    While it or a copy runs, it notes what is set on the process and on the modules that were made.
    """

    made: ClassVar[list[nn.Module]] = []
    seen: ClassVar[set[tuple[int, bool, bool]]] = set()

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("qweight", torch.zeros(out_features, in_features))
        self.made.append(self)

    def forward(self, input: Tensor) -> Tensor:
        of_all = nn.modules.module
        hooks = [of_all._global_forward_hooks, of_all._global_forward_pre_hooks]
        hooks += [each for module in self.made for each in (module._forward_hooks, module._forward_pre_hooks)]
        kernels = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()
        self.seen.add((sum(map(len, hooks)), *kernels))
        return torch.from_numpy(input.numpy() @ self.get_buffer("qweight").numpy().T)


def with_queries_by(kind: type[Any]) -> PreTrainedModel:
    model = copy.deepcopy(shared_model("llama"))
    for layer in model.model.layers:
        [weight] = layer.self_attn.q_proj.state_dict().values()
        layer.self_attn.q_proj = kind(32, 32, bias=False)
        [its] = layer.self_attn.q_proj.state_dict().values()
        its.copy_(weight)
    return model


def test_linear_modules_that_no_operator_shows_are_counted_by_their_shapes_with_nothing_set_anywhere() -> None:
    model = with_queries_by(Opaque)
    decoder, buffer = Decoder(model), model.model.layers[0].self_attn.q_proj.qweight
    hooks = [[*module._forward_hooks, *module._forward_pre_hooks] for module in model.modules()]
    Opaque.seen.clear()
    ours = measure_unit_costs(decoder, DECODING)
    expected = unit_costs_of(decoder_of(shared_model("llama")), DECODING)
    for field in fields(UnitCosts):
        if "weight_bytes" not in field.name:
            np.testing.assert_array_equal(getattr(ours, field.name), getattr(expected, field.name), err_msg=field.name)
    assert Opaque.seen == {(0, True, True)}
    assert model.model.layers[0].self_attn.q_proj.qweight is buffer
    assert [[*module._forward_hooks, *module._forward_pre_hooks] for module in model.modules()] == hooks


class Uneven(nn.Linear):
    """A linear layer that multiplies a hundred times as often in every second pass of a single token."""

    calls = 0

    def forward(self, input: Tensor) -> Tensor:
        self.calls += input.shape[1] == 1
        for _ in range(99 * (self.calls % 2)):
            super().forward(input)
        return super().forward(input)


def test_counts_that_no_layer_can_have_are_an_error() -> None:
    decoder = Decoder(with_queries_by(Uneven))
    with pytest.raises(UsageError, match=r"multiply-adds can't be counted: (a position in )?layer 0 would have -"):
        measure_unit_costs(decoder, DECODING)
