"""Unit costs are counted in one thread, with nothing set on the process or on the model, which others use meanwhile."""

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from axes import EXITABLE
from byte_model import save_byte_model
from references import decoder_of, shared_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import eexit
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

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("qweight", linear.weight.detach())

    def forward(self, input: Tensor) -> Tensor:
        return torch.from_numpy(input.numpy() @ self.get_buffer("qweight").numpy().T)


def with_queries_by(kind: type[Any]) -> PreTrainedModel:
    model = copy.deepcopy(shared_model("llama"))
    for layer in model.model.layers:
        own = layer.self_attn.q_proj
        layer.self_attn.q_proj = made = kind(own) if kind is Opaque else kind(32, 32, bias=False)
        made.load_state_dict({"weight": own.weight.detach()} if kind is not Opaque else made.state_dict())
    return model


def test_nothing_is_set_on_the_process_or_the_model_while_products_are_counted() -> None:
    decoder = Decoder(with_queries_by(Watchful))
    Watchful.seen.clear()
    assert_equal(measure_unit_costs(decoder, DECODING), measure_unit_costs(decoder_of(shared_model("llama")), DECODING))
    assert Watchful.seen == {(0, True, True, 0)}


def test_linear_modules_that_no_operator_shows_are_counted_by_their_shapes_in_a_copy() -> None:
    model = with_queries_by(Opaque)
    decoder, buffer, n_hooks = Decoder(model), model.model.layers[0].self_attn.q_proj.qweight, n_hooks_of(model)
    ours, expected = (measure_unit_costs(each, DECODING) for each in (decoder, decoder_of(shared_model("llama"))))
    assert ours.layer_L.tolist() == expected.layer_L.tolist()
    assert ours.keys_L.tolist() == expected.keys_L.tolist()
    assert model.model.layers[0].self_attn.q_proj.qweight is buffer
    assert n_hooks_of(model) == n_hooks


def n_hooks_of(model: PreTrainedModel) -> int:
    """The shared model, of which others are copies, may have some of the naive reference's."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("architecture", ["llama", "falcon"])
def test_a_thread_that_generates_and_threads_that_count_do_not_meet(architecture: str) -> None:
    model = shared_model(architecture)
    expected, decoder = measure_unit_costs(decoder_of(model), DECODING), decoder_of(model)
    token_1T = torch.tensor([[1, 2, 3]])

    def generate() -> Tensor:
        made: Tensor = model.generate(token_1T, max_new_tokens=6, do_sample=False, pad_token_id=0)  # type: ignore[operator]  # of a mixin
        return made

    alone = generate()
    with ThreadPoolExecutor(4) as pool:
        texts = [pool.submit(generate) for _ in range(12)]
        counted = [pool.submit(measure_unit_costs, decoder, DECODING) for _ in range(12)]
        for text in texts:
            assert torch.equal(text.result(), alone)
        for unit_costs in counted:
            assert_equal(unit_costs.result(), expected)


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


def test_sweeps_of_one_model_in_threads_have_the_rows_of_one_alone(tmp_path: Any) -> None:
    folder = tmp_path / "model"
    save_byte_model(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def sweep(_: int) -> pd.DataFrame:
        grid: Any = {"rules": {"confidence": [0.5]}, "exit_every": 2, "max_new_tokens": 3, "quiet": True}
        runs = eexit.sweep(["one", "two"], model=model, tokenizer=tokenizer, **grid).runs
        return runs.drop(columns=[name for name in runs if str(name).endswith("_seconds")])

    alone = sweep(0)
    with ThreadPoolExecutor(3) as pool:
        for runs in pool.map(sweep, range(6)):
            pd.testing.assert_frame_equal(runs, alone)
    assert (alone.macs_full > 0).all()
