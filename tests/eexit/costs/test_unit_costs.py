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


def assert_equal(ours: UnitCosts, expected: UnitCosts) -> None:
    for field in fields(UnitCosts):
        np.testing.assert_array_equal(getattr(ours, field.name), getattr(expected, field.name), err_msg=field.name)


class Watchful(nn.Linear):
    """A linear layer that notes what is set on the process while it runs."""

    seen: ClassVar[set[object]] = set()

    def forward(self, input: Tensor) -> Tensor:
        module = nn.modules.module
        hooks = len(module._global_forward_hooks) + len(module._global_forward_pre_hooks)
        kernels = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()
        self.seen.add((hooks, *kernels, len(self._forward_hooks)))
        return super().forward(input)


class Opaque(nn.Module):
    """A linear module whose product is no operator of torch, such as those of many quantised checkpoints."""

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("qweight", torch.zeros(out_features, in_features))

    def forward(self, input: Tensor) -> Tensor:
        return torch.from_numpy(input.numpy() @ self.get_buffer("qweight").numpy().T)


def with_queries_by(kind: type[Any]) -> PreTrainedModel:
    model = copy.deepcopy(shared_model("llama"))
    for layer in model.model.layers:
        [weight] = layer.self_attn.q_proj.state_dict().values()
        layer.self_attn.q_proj = kind(32, 32, bias=False)
        [its] = layer.self_attn.q_proj.state_dict().values()
        its.copy_(weight)
    return model


def test_nothing_is_set_on_the_process_or_the_model_while_products_are_counted() -> None:
    decoder = Decoder(with_queries_by(Watchful))
    Watchful.seen.clear()
    assert_equal(measure_unit_costs(decoder, DECODING), unit_costs_of(decoder_of(shared_model("llama"))))
    assert Watchful.seen == {(0, True, True, 0)}


def n_hooks_of(model: PreTrainedModel) -> int:
    """Count hooks; a copy of the shared model may have some of the naive reference's."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_linear_modules_that_no_operator_shows_are_counted_by_their_shapes_in_a_copy() -> None:
    model = with_queries_by(Opaque)
    decoder, buffer, n_hooks = Decoder(model), model.model.layers[0].self_attn.q_proj.qweight, n_hooks_of(model)
    ours, expected = measure_unit_costs(decoder, DECODING), unit_costs_of(decoder_of(shared_model("llama")))
    assert ours.layer_L.tolist() == expected.layer_L.tolist()
    assert ours.keys_L.tolist() == expected.keys_L.tolist()
    assert model.model.layers[0].self_attn.q_proj.qweight is buffer
    assert n_hooks_of(model) == n_hooks


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
