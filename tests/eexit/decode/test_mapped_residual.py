"""Mode `mapped_residual` with maps of both forms: against the reference, and what they cost."""

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from axes import EXITABLE, some
from ran import run_alone
from references import decoder_of, packed_decoder_of, shared_model
from rows import KINDS, PROMPTS, SAMPLED, as_reference, assert_as_reference, generate
from traces import assert_same, traces_of
from transformers import PreTrainedModel
from untrained import N_LAYERS, WIDTH, key_maps, stream_maps

from eexit.decode.engine import Engine, refuse_mode
from eexit.decode.predictors import measure_unit_costs
from eexit.decode.requests import DecodingConfig, Request
from eexit.decode.score import score
from eexit.errors import UsageError
from eexit.method.kv_maps import FORMS, KEYS, STREAMS, KVMaps
from eexit.method.modes import MODES
from eexit.model.layers import Decoder
from eexit.plan.configuration import EarlyExit

MODE = "mapped_residual"


def decoding_of(decoder: Decoder, form: str) -> DecodingConfig:
    tensors = stream_maps() if form == STREAMS else key_maps(decoder)
    return replace(SAMPLED, kv_maps=KVMaps.from_tensors(tensors, EXITABLE, N_LAYERS))


def requests_of(model: PreTrainedModel, mode: str = MODE) -> list[Request]:
    """An online rule and an oracle, each with two prompts."""
    exits = [EarlyExit(mode, rule, some(model, rule)[0]) for rule in ("confidence", "kl")]
    return [Request(prompt, each, seed=3) for prompt in PROMPTS[:2] for each in exits]


@pytest.mark.parametrize("architecture", KINDS)
def test_invariant_3_maps_to_keys_and_values_match_the_reference_where_layers_have_projections(
    architecture: str,
) -> None:
    model = shared_model(architecture)
    if not all(alone.projections for alone in decoder_of(model).for_keys):
        with pytest.raises(AssertionError):
            key_maps(decoder_of(model))
        return
    decoding, requests = decoding_of(decoder_of(model), KEYS), requests_of(model)[:2]
    together = as_reference(model, requests, decoding)
    assert_same(together[0], generate(model, requests[:1], decoding)[0])


@pytest.mark.parametrize("form", FORMS)
def test_maps_match_the_reference_and_scoring(llama: PreTrainedModel, form: str) -> None:
    decoder = decoder_of(llama)
    decoding, requests = decoding_of(decoder, form), requests_of(llama)
    traces = generate(llama, requests, decoding)
    assert_as_reference(llama, requests, traces, decoding)
    for request, trace in zip(requests, traces, strict=True):
        scored = score(decoder, decoding, request, trace.token_id_T.tolist())
        assert scored.exit_layer_T.tolist() == trace.exit_layer_T.tolist()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mpt"])
def test_maps_that_change_nothing_are_frozen_residual(architecture: str) -> None:
    model = shared_model(architecture)
    decoder = packed_decoder_of(model)
    maps = [KVMaps.from_tensors(stream_maps(std=0.0), EXITABLE, N_LAYERS)]
    if architecture == "llama":
        maps.append(KVMaps.from_tensors(own_projections(model), EXITABLE, N_LAYERS))
    frozen = generate(model, requests_of(model, "frozen_residual"), SAMPLED)
    for each in maps:
        outcomes = Engine(decoder, replace(SAMPLED, kv_maps=each)).generate(requests_of(model))
        for index, trace in traces_of(outcomes).items():
            assert_same(trace, frozen[index])


def own_projections(llama: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Maps that are the layers' own projections."""
    tensors = {}
    for layer, module in enumerate(llama.model.layers):
        for part, own in (("key", module.self_attn.k_proj), ("value", module.self_attn.v_proj)):
            for exit_layer in range(layer - 1):
                tensors[f"state.{exit_layer}.{layer}.{part}.weight"] = own.weight.T
                tensors[f"state.{exit_layer}.{layer}.{part}.bias"] = own.weight.new_zeros(len(own.weight))
    return tensors


@pytest.mark.parametrize("form", FORMS)
def test_invariant_7_a_row_runs_what_its_maps_are_priced_at(llama: PreTrainedModel, form: str) -> None:
    decoder = decoder_of(llama)
    decoding = replace(decoding_of(decoder, form), record_full_depth="none")
    request = Request(PROMPTS[0], EarlyExit(MODE, "confidence", some(llama, "confidence")[0]), 3)
    alone = run_alone(decoder, decoding, request, priced=True)
    assert alone.counts.kv_layers_T.max() > 1, "something must be mapped"
    assert alone.columns["macs_required"] <= alone.columns["macs_executed"]


def test_a_mapped_layer_costs_what_its_maps_say(llama: PreTrainedModel) -> None:
    decoder, key_width = decoder_of(llama), 2 * 8  # two key heads
    own = 2 * WIDTH * key_width
    for form, price in {STREAMS: own + WIDTH * WIDTH, KEYS: own}.items():
        unit_costs = measure_unit_costs(decoder, decoding_of(decoder, form))
        assert unit_costs.mapped_LL is not None
        for exit_layer, layer in np.ndindex(N_LAYERS, N_LAYERS):
            is_mapped = exit_layer in EXITABLE and layer > exit_layer + 1
            assert unit_costs.mapped_LL[exit_layer, layer] == (price if is_mapped else own)
    assert measure_unit_costs(decoder, replace(SAMPLED, kv_maps=None)).mapped_LL is None


@pytest.mark.parametrize("form", FORMS)
def test_rows_that_left_at_different_layers_are_mapped_in_one_batch(llama: PreTrainedModel, form: str) -> None:
    """Beside rows of other states, and as rows of different lengths take each other's slots."""
    decoding = replace(decoding_of(decoder_of(llama), form), max_rows=3, eos_token_ids=frozenset(range(0, 97, 11)))
    exits = [EarlyExit(mode, "fixed", layer) for mode in (MODE, "frozen_residual") for layer in (1.0, 3.0, 4.0)]
    exits += [EarlyExit(MODE, "confidence", parameter) for parameter in some(llama, "confidence")]
    requests = [Request(prompt, each, seed) for seed, prompt in enumerate(PROMPTS) for each in exits]
    traces = as_reference(llama, requests, decoding)
    assert len({len(trace.token_id_T) for trace in traces}) > 2


@pytest.mark.parametrize("architecture", KINDS)
def test_where_all_tokens_exit_at_one_layer_every_mode_has_the_same_tokens_and_exits(architecture: str) -> None:
    """Each mode is decoded by itself; what exits leave above the layer is attended to by no token."""
    model = shared_model(architecture)
    decoder = decoder_of(model)
    decoding, traces = decoding_of(decoder, STREAMS), {}
    for mode in MODES:
        with suppress(UsageError):  # a mode that this architecture can't have
            refuse_mode(mode, decoder)
            requests = [Request(prompt, EarlyExit(mode, "fixed", float(EXITABLE[1])), seed=3) for prompt in PROMPTS[:2]]
            traces[mode] = generate(model, requests, decoding)
    assert {"unfrozen", "frozen_residual", MODE} <= {*traces}
    for of_mode in traces.values():
        for one, other in zip(of_mode, traces["unfrozen"], strict=True):
            assert_same(one, other)
