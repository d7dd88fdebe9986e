"""Mode `mapped_residual` with maps of both forms, and what all modes have in common."""

from dataclasses import replace

import numpy as np
import pytest
from axes import EXITABLE, some
from ran import run_alone
from references import decoder_of, packed_decoder_of, shared_model
from rows import ENDING, KINDS, PROMPTS, SAMPLED, as_reference, assert_scored_alike, generate
from traces import assert_same
from transformers import PreTrainedModel
from untrained import N_LAYERS, WIDTH, key_maps, stream_maps

from eexit.decode.predictors import measure_unit_costs
from eexit.decode.requests import DecodingConfig, Request
from eexit.errors import UsageError
from eexit.method.kv_maps import FORMS, KEYS, STREAMS, KVMaps
from eexit.method.modes import refuse_mode
from eexit.model.layers import Decoder
from eexit.plan.configuration import EarlyExit

MODE = "mapped_residual"


def decoding_of(decoder: Decoder, form: str) -> DecodingConfig:
    tensors = stream_maps() if form == STREAMS else key_maps(decoder)
    return replace(SAMPLED, kv_maps=KVMaps.from_tensors(tensors, EXITABLE, N_LAYERS))


@pytest.mark.parametrize("architecture", KINDS)
def test_invariants_3_and_4_hold_for_maps_to_keys_and_values_where_layers_have_projections(architecture: str) -> None:
    model = shared_model(architecture)
    if not all(alone.projections for alone in decoder_of(model).for_keys):
        with pytest.raises(AssertionError):
            key_maps(decoder_of(model))
        return
    decoding = decoding_of(decoder_of(model), KEYS)
    exits = [EarlyExit(MODE, rule, some(model, rule)[0]) for rule in ("confidence", "kl")]
    requests = [Request(PROMPTS[0], each, seed=3) for each in exits]
    together = as_reference(model, requests, decoding)
    assert_same(together[0], generate(model, requests[:1], decoding)[0])


@pytest.mark.parametrize("form", FORMS)
def test_invariants_3_and_8_hold_for_rows_of_several_exits_and_modes(llama: PreTrainedModel, form: str) -> None:
    """Check rows of different lengths that take each other's slots."""
    decoding = replace(decoding_of(decoder_of(llama), form), eos_token_ids=ENDING.eos_token_ids)
    exits = [EarlyExit(mode, "fixed", layer) for mode in (MODE, "frozen_residual") for layer in (1.0, 3.0, 4.0)]
    exits += [EarlyExit(MODE, rule, parameter) for rule in ("confidence", "kl") for parameter in some(llama, rule)]
    requests = [Request(prompt, each, seed) for seed, prompt in enumerate(PROMPTS) for each in exits]
    traces = as_reference(llama, requests, decoding, rows=3)
    assert len({len(trace.token_id_T) for trace in traces}) > 2
    assert_scored_alike(packed_decoder_of(llama), requests, traces, decoding)


@pytest.mark.parametrize(("form", "price"), [(STREAMS, WIDTH * WIDTH), (KEYS, 0)])
def test_invariant_7_holds_at_the_unit_costs_of_maps(llama: PreTrainedModel, form: str, price: int) -> None:
    decoder = decoder_of(llama)
    decoding = replace(decoding_of(decoder, form), record_full_depth="none")
    request = Request(PROMPTS[0], EarlyExit(MODE, "confidence", some(llama, "confidence")[0]), 3)
    alone = run_alone(decoder, decoding, request, priced=True)
    assert alone.counts.kv_layers_T.max() > 1, "a layer must be mapped"
    mapped_LL, own = measure_unit_costs(decoder, decoding).mapped_LL, 2 * WIDTH * 2 * 8  # two key heads
    assert mapped_LL is not None
    for exit_layer, layer in np.ndindex(N_LAYERS, N_LAYERS):
        is_mapped = exit_layer in EXITABLE and layer > exit_layer + 1
        assert mapped_LL[exit_layer, layer] == own + price * is_mapped


def test_a_mode_that_needs_what_a_model_lacks_is_refused() -> None:
    masks = "mode skip can't be used with this model: its layers are given no attention masks"
    with pytest.raises(UsageError, match=masks):
        refuse_mode("skip", decoder_of(shared_model("mpt")))
    with pytest.raises(UsageError, match="mode frozen_cache can't be used with this model: its layers' keys and valu"):
        refuse_mode("frozen_cache", decoder_of(shared_model("gemma4")))
