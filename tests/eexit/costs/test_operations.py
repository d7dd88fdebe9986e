"""Prices and costs against torch's formulas over the model's own forward, and against plain loops."""

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from axes import EXITABLE
from card import Card
from on_cards import decoder_there
from ran import Products
from references import decoder_of, packed_decoder_of, shared_model
from tiny_models import VOCABULARY
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import DynamicCache, PreTrainedModel
from transformers.integrations import moe

from eexit.costs.operations import READS, OpCounts, UnitCosts, cost_columns, multiply_adds, required_ops
from eexit.decode.predictors import measure_unit_costs
from eexit.decode.requests import DecodingConfig
from eexit.method.modes import MODES
from eexit.model.layers import Decoder, ForwardInputs, Visit, VisitedLayer

N_LAYERS = 7
N_PROMPT = 7  # tokens: of two decided ones, the first fills the windows of eight tokens, and the second exceeds them
N_DECIDED = 2
LAYER_X = np.array([*EXITABLE, N_LAYERS - 1])
FULL_DEPTH = required_ops(np.full(N_DECIDED, N_LAYERS - 1), LAYER_X, None)
DECODING = DecodingConfig(EXITABLE, N_DECIDED, frozenset())


@cache
def unit_costs_of(decoder: Decoder) -> UnitCosts:
    return measure_unit_costs(decoder, DECODING)


@torch.inference_mode()
def its_own_multiply_adds(model: PreTrainedModel) -> int:
    """What decided tokens cost in the model's own forward, whose eager code is made of products that torch counts."""
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
        assert multiply_adds(unit_costs_of(decoder), FULL_DEPTH, N_PROMPT) == its_own


def test_experts_cost_the_same_however_their_products_are_grouped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moe, "_can_use_grouped_mm", lambda *_: False)
    mixtral = shared_model("mixtral")
    assert multiply_adds(
        measure_unit_costs(decoder_of(mixtral), DECODING), FULL_DEPTH, N_PROMPT
    ) == its_own_multiply_adds(mixtral)


@pytest.mark.parametrize("architecture", ["falcon", "mixtral", "deepseek_v3"])
def test_prices_are_the_same_on_an_accelerator(architecture: str) -> None:
    model = shared_model(architecture)
    on_cpu, decoder = unit_costs_of(decoder_of(model)), decoder_there(model)
    with Card():
        there = measure_unit_costs(decoder, DECODING)
    for field in fields(UnitCosts):
        np.testing.assert_array_equal(getattr(there, field.name), getattr(on_cpu, field.name), err_msg=field.name)


def test_the_parts_of_a_llama_cost_what_their_weights_say(llama: PreTrainedModel) -> None:
    width, inner, key_width = 32, 64, 2 * 8  # two key heads
    unit_costs = unit_costs_of(decoder_of(llama))
    query = output = width * width
    keys_and_values = 2 * width * key_width
    assert unit_costs.embedding == 0
    assert unit_costs.keys_L.tolist() == [keys_and_values] * N_LAYERS
    assert unit_costs.layer_L.tolist() == [query + keys_and_values + output + 3 * width * inner] * N_LAYERS
    assert unit_costs.position_L.tolist() == [2 * width] * N_LAYERS
    assert unit_costs.read_XK[:, READS.index("head_reads")].tolist() == [width * VOCABULARY] * (len(EXITABLE) + 1)


QUERIES = {"q_proj", "q_norm", "q_a_proj", "q_a_layernorm", "q_b_proj"}
KEYS_AND_VALUES = {"k_proj", "v_proj", "kv_a_proj_with_mqa"}  # matrices of their own
TOGETHER = {"c_attn", "query_key_value", "Wqkv", "qkv_proj"}  # queries, keys and values from one matrix


@torch.inference_mode()
def test_keys_and_values_alone_are_written_without_queries_and_priced_so(any_model: PreTrainedModel) -> None:
    decoder, called, inputs = (
        decoder_of(any_model),
        Counter[str](),
        ForwardInputs.from_texts([[7, 8]], torch.device("cpu")),
    )
    alone, whole = decoder.cache(1, 2), decoder.cache(1, 2)
    handles = [
        module.register_forward_pre_hook(lambda _, __, path=path: called.update([path]))
        for path, module in any_model.named_modules()
        if path.rpartition(".")[2] in QUERIES | KEYS_AND_VALUES | TOGETHER
    ]
    paths_of = {layer: path for path, layer in any_model.named_modules() if layer in set(decoder.layers)}

    def visiting(run: Callable[[VisitedLayer, Tensor], object]) -> Visit:
        def visit(layer: VisitedLayer, hidden_BTW: Tensor) -> Tensor:
            run(layer, hidden_BTW)
            return hidden_BTW  # the same enters every layer

        return visit

    decoder.run(visiting(VisitedLayer.write_keys), inputs, alone)
    for handle in handles:
        handle.remove()
    decoder.run(visiting(VisitedLayer.run), inputs, whole)
    for ours, its in zip(alone.columns, whole.columns, strict=True):
        assert torch.equal(ours.keys, its.keys)
        assert torch.equal(ours.values, its.values)
    unit_costs = unit_costs_of(decoder)
    assert unit_costs.keys_L.tolist() == unit_costs_of(packed_decoder_of(any_model)).keys_L.tolist()
    for module, keys in zip(decoder.layers, unit_costs.keys_L, strict=True):
        ran = {path.rpartition(".")[2] for path in called if path.startswith(f"{paths_of[module]}.")}
        weights = [its.weight for path, its in module.named_modules() if path.rpartition(".")[2] in ran]
        assert ran in (KEYS_AND_VALUES - {"kv_a_proj_with_mqa"}, {"kv_a_proj_with_mqa"}, *({name} for name in TOGETHER))
        assert keys == sum(weight.numel() for weight in weights)
        maker = decoder.for_keys[decoder.layers.index(module)]
        own = [path.rpartition(".")[2] for path in maker.projections or ()]
        assert own == (["k_proj", "v_proj"] if ran == {"k_proj", "v_proj"} else [])
    assert set(called.values()) == {1}


def test_a_query_projection_with_adapters_inside_is_left_out_as_a_whole(llama: PreTrainedModel) -> None:
    model = copy.deepcopy(llama)
    for layer in model.model.layers:
        layer.self_attn.q_proj = nn.Sequential(layer.self_attn.q_proj, nn.Linear(32, 32))
        layer.self_attn.k_proj = nn.Sequential(layer.self_attn.k_proj, nn.Linear(16, 16))
    unit_costs = measure_unit_costs(Decoder(model), DECODING)
    assert unit_costs.keys_L.tolist() == [2 * 32 * 16 + 16 * 16] * N_LAYERS


def test_keys_that_layers_expand_from_what_they_keep_are_part_of_each_position() -> None:
    """DeepSeek's layers keep 16 numbers per position, and make keys and values of four heads of them at every step."""
    unit_costs = unit_costs_of(decoder_of(shared_model("deepseek_v3")))
    expanded, attended = 16 * 4 * (8 + 6), 4 * (8 + 4 + 6)
    assert unit_costs.position_L.tolist() == [expanded + attended] * N_LAYERS


def looped_cost(unit_costs: UnitCosts, counts: OpCounts, n_prompt: int, hides: bool) -> float:
    """`costs.cost`, one token, layer and position at a time; with `hides`, of a state that leaves nothing."""
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
    unit_costs = UnitCosts(
        embedding=3,
        layer_L=rng.integers(1000, 2000, N_LAYERS),
        keys_L=rng.integers(100, 200, N_LAYERS),
        position_L=rng.integers(1, 50, N_LAYERS),
        read_XK=rng.integers(40, 6000, (4, len(READS))),
        window_L=(None, 4, 8, 1, None, 100, 6),
        weight_bytes_L=np.zeros(N_LAYERS),
        head_weight_bytes=0,
    )
    layers_T = rng.integers(1, N_LAYERS + 1, n_tokens)
    looks_TXK = rng.integers(0, 3, (n_tokens, 4, len(READS)))
    counts = OpCounts(np.arange(n_tokens), layers_T, rng.integers(0, N_LAYERS + 1 - layers_T), looks_TXK)
    seen, hidden = (multiply_adds(unit_costs, counts, n_prompt, MODES[state]) for state in ("frozen_cache", "skip"))
    assert seen == looped_cost(unit_costs, counts, n_prompt, hides=False)
    assert hidden == looped_cost(unit_costs, counts, n_prompt, hides=True)
    assert hidden < seen


def test_no_decided_token_costs_nothing(llama: PreTrainedModel) -> None:
    unit_costs = unit_costs_of(decoder_of(llama))
    none = np.array([], dtype=np.int64)
    for state in (MODES["skip"], None):
        assert multiply_adds(unit_costs, required_ops(none, LAYER_X, state), 5, state) == 0


EXITS = [3, 1, 6, 1, 4, 3]  # the layers that six tokens exit at
LAYERS_TO_EXIT = [4, 2, 7, 2, 5, 4]
# What the exits need in each state: layers, and layers of which keys and values alone are written. The third token
# exits after the last layer, so that those before it must be full; the fifth reaches to layer 4.
NEEDED = {
    "normal": ([7, 7, 7, 5, 5, 4], [0] * 6),
    "unfrozen": ([7, 7, 7, 5, 5, 4], [0] * 6),
    "frozen_residual": (LAYERS_TO_EXIT, [3, 5, 0, 3, 0, 0]),
    "mapped_residual": (LAYERS_TO_EXIT, [3, 5, 0, 3, 0, 0]),
    "frozen_cache": (LAYERS_TO_EXIT, [0] * 6),
    "skip": (LAYERS_TO_EXIT, [0] * 6),
}


@pytest.mark.parametrize("mode", ["normal", *MODES])
def test_exits_need_what_later_tokens_attend_to(mode: str) -> None:
    counts = required_ops(np.array(EXITS), LAYER_X, MODES.get(mode))
    assert (counts.layers_T.tolist(), counts.kv_layers_T.tolist()) == NEEDED[mode]
    assert [LAYER_X[rank] for rank in counts.reads_TX("head_reads").argmax(1)] == EXITS
    assert counts.reads_TX("head_reads").sum(1).tolist() == [1] * 6


@pytest.mark.parametrize("mode", MODES)
def test_any_exits_need_what_the_state_does_token_by_token(mode: str) -> None:
    state, exits = MODES[mode], np.random.default_rng(0).choice([*EXITABLE, 6], 50, p=[0.4, 0.3, 0.25, 0.05])
    counts = required_ops(exits, LAYER_X, state)
    for token, exit_layer in enumerate(exits):
        deeper = range(exit_layer + 1, max([exit_layer, *exits[token + 1 :]]) + 1)
        run = len(deeper) if state.fill == "full depth" else 0
        written = len(deeper) if state.writes_kv else 0
        assert counts.layers_T[token] == exit_layer + 1 + run
        assert counts.kv_layers_T[token] == written


@pytest.mark.parametrize("mode", [mode for mode, state in MODES.items() if not state.needs_kv_maps])
def test_exits_alone_cost_their_layers_and_one_read(mode: str) -> None:
    """Whatever the state."""
    n_layers, exitable_layers, head = 6, (1, 3), 100
    layer_L, position_L = np.array([7, 8, 9, 10, 11, 12]), np.array([1, 1, 2, 2, 3, 3])
    read_XK = np.zeros((len(exitable_layers) + 1, len(READS)), np.int64)
    read_XK[:, READS.index("head_reads")] = head
    unit_costs = UnitCosts(0, layer_L, layer_L // 3, position_L, read_XK, [None] * n_layers, layer_L, 0)
    exit_layer_T = np.array([3, 1, 5, 1])
    expected = 0
    for place, exit_layer in enumerate(exit_layer_T):
        for layer in range(exit_layer + 1):
            expected += layer_L[layer] + position_L[layer] * (N_PROMPT + place + 1)
        expected += head
    columns = cost_columns(unit_costs, None, exit_layer_T, exitable_layers, mode, N_PROMPT)
    assert columns["macs_to_exit"] == expected
    assert (columns["macs_required"] or 0) >= expected or mode == "skip", "whose later tokens attend to fewer positions"
    assert (columns["macs_full"] or 0) > expected
