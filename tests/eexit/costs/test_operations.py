"""Unit costs and costs against torch's formulas over the model's own forward, and against plain loops."""

import copy
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from axes import EXITABLE
from ran import Products
from references import decoder_of, packed_decoder_of, shared_model, unit_costs_of
from tiny_models import VOCABULARY
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import DynamicCache, PreTrainedModel
from transformers.integrations import moe
from untrained import random_gate

from eexit.costs.operations import READS, OpCounts, UnitCosts, cost_columns, multiply_adds, required_ops
from eexit.decode.predictors import measure_unit_costs
from eexit.decode.requests import DecodingConfig
from eexit.method.modes import MODES
from eexit.model.layers import Decoder
from eexit.plan.configuration import EarlyExit

N_LAYERS = 7
N_PROMPT = 7  # tokens: of two decided ones, the first fills the windows of eight tokens, and the second exceeds them
N_DECIDED = 2
LAYER_X = np.array([*EXITABLE, N_LAYERS - 1])
FULL_DEPTH = required_ops(np.full(N_DECIDED, N_LAYERS - 1), LAYER_X, None)
DECODING = DecodingConfig(EXITABLE, N_DECIDED, frozenset())


@torch.inference_mode()
def its_own_multiply_adds(model: PreTrainedModel) -> int:
    """Return the cost of decided tokens in the model's own forward, whose eager code is products that torch counts."""
    model = copy.deepcopy(model)
    model.set_experts_implementation("eager")
    model.set_attn_implementation("eager")
    counter, cache = Products(with_attention=True), DynamicCache(config=model.config)  # drops keys that no window holds
    token_1T = torch.arange(1, N_PROMPT + N_DECIDED + 1)[None] % VOCABULARY
    model(input_ids=token_1T[:, :N_PROMPT], cache=cache, use_cache=True)
    with sdpa_kernel(SDPBackend.MATH), counter:  # Falcon's layers keep torch's attention
        for token in range(N_PROMPT, N_PROMPT + N_DECIDED):
            model(input_ids=token_1T[:, token : token + 1], cache=cache, use_cache=True)
    return counter.multiply_adds


def test_full_depth_costs_what_the_models_own_forward_does(any_model: PreTrainedModel) -> None:
    its_own = its_own_multiply_adds(any_model)
    for decoder in (decoder_of(any_model), packed_decoder_of(any_model)):
        assert multiply_adds(unit_costs_of(decoder, DECODING), FULL_DEPTH, N_PROMPT) == its_own


def test_experts_cost_the_same_however_their_products_are_grouped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moe, "_can_use_grouped_mm", lambda *_: False)
    mixtral = shared_model("mixtral")
    unit_costs = measure_unit_costs(decoder_of(mixtral), DECODING)
    assert multiply_adds(unit_costs, FULL_DEPTH, N_PROMPT) == its_own_multiply_adds(mixtral)


def test_the_parts_of_a_llama_cost_what_their_weights_have_numbers(llama: PreTrainedModel) -> None:
    width, inner, key_width = 32, 64, 2 * 8  # two key heads
    gate = random_gate([EarlyExit("unfrozen", "confidence", 0.5).gated_rule])
    unit_costs = measure_unit_costs(decoder_of(llama), replace(DECODING, gate=gate))
    query = output = width * width
    keys_and_values = 2 * width * key_width
    assert unit_costs.embedding == 0
    assert unit_costs.keys_L.tolist() == [keys_and_values] * N_LAYERS
    assert unit_costs.layer_L.tolist() == [query + keys_and_values + output + 3 * width * inner] * N_LAYERS
    assert unit_costs.position_L.tolist() == [2 * width] * N_LAYERS
    assert unit_costs.mapped_LL is None
    assert unit_costs.read_XK[:, READS.index("head_reads")].tolist() == [width * VOCABULARY] * (len(EXITABLE) + 1)
    assert unit_costs.read_XK[:, READS.index("gate_reads")].tolist() == [width] * len(EXITABLE) + [0]
    assert not unit_costs_of(decoder_of(llama), DECODING).read_XK[:, READS.index("gate_reads")].any()
    model = copy.deepcopy(llama)  # with an adapter inside the query projection, which is left out as a whole
    for layer in model.model.layers:
        layer.self_attn.q_proj = nn.Sequential(layer.self_attn.q_proj, nn.Linear(width, width))
        layer.self_attn.k_proj = nn.Sequential(layer.self_attn.k_proj, nn.Linear(key_width, key_width))
    assert measure_unit_costs(Decoder(model), DECODING).keys_L.tolist() == [keys_and_values + key_width**2] * N_LAYERS
    # DeepSeek's layers keep 16 numbers per position, and expand them to keys and values of four heads at every step.
    expanded, attended = 16 * 4 * (8 + 6), 4 * (8 + 4 + 6)
    of_deepseek = unit_costs_of(decoder_of(shared_model("deepseek_v3")), DECODING)
    assert of_deepseek.position_L.tolist() == [expanded + attended] * N_LAYERS


def looped_cost(unit_costs: UnitCosts, counts: OpCounts, n_prompt: int, hides: bool) -> float:
    """Add up one token, layer and position at a time; with `hides`, tokens are hidden in their skipped layers."""
    total = 0
    for token, (layers, keys) in enumerate(zip(counts.layers_T, counts.kv_layers_T, strict=True)):
        total += unit_costs.embedding
        for rank, name in product(range(len(unit_costs.read_XK)), READS):
            total += int(unit_costs.read_XK[rank, READS.index(name)] * counts.reads_TX(name)[token, rank])
        position = n_prompt + token
        for layer in range(layers):
            total += int(unit_costs.layer_L[layer])
            window = unit_costs.window_L[layer]
            for other in range(position + 1):
                within = window is None or other > position - window
                hidden = hides and other >= n_prompt and layer >= counts.layers_T[other - n_prompt]
                if other == position or (within and not hidden):
                    total += int(unit_costs.position_L[layer])
        total += sum(int(unit_costs.keys_L[layer]) for layer in range(layers, layers + keys))
    return total


@pytest.mark.parametrize("n_prompt", [1, 3, 20])
def test_costs_are_those_of_every_layer_and_position_one_by_one(n_prompt: int) -> None:
    rng = np.random.default_rng(n_prompt)
    n_tokens = 30
    layer_L, keys_L, position_L = (rng.integers(*ends, N_LAYERS) for ends in ((1000, 2000), (100, 200), (1, 50)))
    read_XK, window_L = rng.integers(40, 6000, (4, len(READS))), (None, 4, 8, 1, None, 100, 6)
    unit_costs = UnitCosts(3, layer_L, keys_L, position_L, read_XK, window_L, np.zeros(N_LAYERS), 0)
    layers_T = rng.integers(1, N_LAYERS + 1, n_tokens)
    looks_TXK = rng.integers(0, 3, (n_tokens, 4, len(READS)))
    counts = OpCounts(np.arange(n_tokens), layers_T, rng.integers(0, N_LAYERS + 1 - layers_T), looks_TXK)
    seen, hidden = (multiply_adds(unit_costs, counts, n_prompt, MODES[state]) for state in ("frozen_cache", "skip"))
    assert seen == looped_cost(unit_costs, counts, n_prompt, hides=False)
    assert hidden == looped_cost(unit_costs, counts, n_prompt, hides=True)
    assert hidden < seen


@pytest.mark.parametrize("mode", ["normal", *MODES])
def test_exits_need_what_later_tokens_attend_to(mode: str) -> None:
    its, exits = MODES.get(mode), np.random.default_rng(0).choice([*EXITABLE, 6], 50, p=[0.4, 0.3, 0.25, 0.05])
    counts = required_ops(exits, LAYER_X, its)
    for token, exit_layer in enumerate(exits):
        n_deeper = max([exit_layer, *exits[token + 1 :]]) - exit_layer
        runs, writes = its is None or its.fill == "full depth", its is not None and its.writes_kv
        assert counts.layers_T[token] == exit_layer + 1 + n_deeper * runs
        assert counts.kv_layers_T[token] == n_deeper * writes
        assert counts.reads_TX("head_reads")[token].tolist() == (exit_layer == LAYER_X).tolist()


@pytest.mark.parametrize("mode", [mode for mode, its in MODES.items() if not its.needs_kv_maps])
def test_exits_alone_cost_their_layers_and_one_read_in_any_mode(mode: str) -> None:
    layer_L, position_L, exit_layer_T, head = np.arange(7, 13), np.array([1, 1, 2, 2, 3, 3]), np.array([3, 1, 5, 1]), 99
    read_XK = np.array([[head * (name == "head_reads") for name in READS]] * 3)
    unit_costs = UnitCosts(0, layer_L, layer_L // 3, position_L, read_XK, [None] * 6, layer_L, 0)
    expected = sum(
        head + sum(layer_L[: exit_layer + 1] + position_L[: exit_layer + 1] * (N_PROMPT + place + 1))
        for place, exit_layer in enumerate(exit_layer_T)
    )
    columns = cost_columns(unit_costs, None, exit_layer_T, (1, 3), mode, N_PROMPT)
    assert columns["macs_to_exit"] == expected
    assert (columns["macs_required"] or 0) >= expected or mode == "skip", "whose later tokens attend to fewer positions"
    assert (columns["macs_full"] or 0) > expected
    for its in (None, MODES[mode]):
        nothing = required_ops(np.array([], dtype=np.int64), np.array([1, 3, 5]), its)
        assert multiply_adds(unit_costs, nothing, 5, its) == 0
