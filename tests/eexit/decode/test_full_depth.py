"""The full-depth pass: what it records changes no text, and prefixes that slots share run once."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from ran import OpRecorder
from references import decoder_of, shared_model
from rows import PROMPTS, SAMPLED, assert_as_reference, each_rule, generate, grid, modes_of
from traces import CLOSE, kl_request, spy_on, traces_of
from transformers import PreTrainedModel

from eexit.decode import full_depth
from eexit.decode.engine import Engine
from eexit.decode.full_depth import padded
from eexit.decode.requests import DecodingConfig, Request, RequestOutput
from eexit.method.rules import ORACLES
from eexit.plan.configuration import EarlyExit, NoExit
from eexit.plan.sweep_config import Observe
from eexit.results.token_columns import recorded

DECODING = DecodingConfig(exitable_layers=(1, 3, 4), max_new_tokens=12, eos_token_ids=frozenset())
PROMPT = PROMPTS[1]


@pytest.mark.parametrize(("architecture", "record_full_depth"), [("llama", "final"), ("gemma3", "none")])
def test_texts_and_recorded_columns_are_those_of_recording_all(architecture: str, record_full_depth: Observe) -> None:
    """Check each rule in some mode; of oracles, tokens and exits."""
    model = shared_model(architecture)
    requests = grid([*each_rule(model, 1), EarlyExit("unfrozen", "fixed", 3.0)], PROMPTS[:2])
    whole = generate(model, requests, replace(SAMPLED, max_rows=5))
    less = generate(model, requests, replace(SAMPLED, max_rows=5, record_full_depth=record_full_depth))
    kept = {field for field, *_ in recorded(record_full_depth)}
    assert {"kl_TE", "top_prob_TXK"}.isdisjoint(kept)
    assert ("logprob_T" in kept) == (record_full_depth == "final")
    for request, trace, other in zip(requests, less, whole, strict=True):
        for field, *_ in recorded():
            mine, theirs = getattr(trace, field), getattr(other, field)
            if field not in kept:
                assert not mine.size or request.configuration.columns["rule"] in ORACLES
            elif field in CLOSE:
                np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4, err_msg=field)
            else:
                np.testing.assert_array_equal(mine, theirs, err_msg=field)


@pytest.mark.parametrize("architecture", ["gemma3", "mpt"])
def test_records_made_in_blocks_are_those_of_the_reference(monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    """All tokens are reported but each text's first, which the prefill records."""
    monkeypatch.setattr(full_depth, "OBSERVED_TOKENS", 15)
    monkeypatch.setattr(full_depth, "READ_TOKENS", 3)
    model, observed = shared_model(architecture), list[int]()
    requests = grid([NoExit(), *(EarlyExit(mode, "fixed", 3.0) for mode in modes_of(model))], PROMPTS[:2])
    traces = traces_of(Engine(decoder_of(model), SAMPLED).generate(requests, observed=observed.append))
    assert_as_reference(model, requests, [traces[index] for index in range(len(requests))], SAMPLED)
    assert sum(observed) == sum(len(trace.token_id_T) - 1 for trace in traces.values())
    assert len(observed) > 2


def test_a_token_is_read_once_for_each_recorded_layer(llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = decoder_of(llama)
    n_recorded: dict[Observe, int] = {"all": 4, "final": 1, "none": 0}
    n_read = spy_on(monkeypatch, decoder, "lm_head", len)
    for record_full_depth, n_layers in n_recorded.items():
        n_read.clear()
        greedy = replace(SAMPLED, temperature=0.0, record_full_depth=record_full_depth)
        [trace] = traces_of(Engine(decoder, greedy).generate([Request(PROMPTS[0], NoExit())])).values()
        first = max(1, greedy.n_observed)  # of the prefill
        assert sum(n_read) == first + (1 + n_layers) * (len(trace.token_id_T) - 1)


def n_seen(traces: Iterable[RequestOutput], n_slots: int) -> int:
    """Return how many tokens the full-depth pass runs: each step's unique prefixes, padded."""
    prefixes = {tuple(trace.token_id_T[:n]) for trace in traces for n in range(1, len(trace.token_id_T))}
    return sum(len(padded(np.arange(n), n_slots)) for n in Counter(map(len, prefixes)).values())


@pytest.mark.parametrize(("kl_factor", "deep_steps"), [(0.0, 0), (1e9, 11)])
def test_an_early_exit_pass_runs_no_layer_beyond_all_exits(
    llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, kl_factor: float, deep_steps: int
) -> None:
    requests = [kl_request(PROMPT, "frozen_residual", kl_factor, seed) for seed in range(3)]
    ran = OpRecorder(decoder_of(llama), monkeypatch)
    n_full_depth = n_seen(traces_of(Engine(decoder_of(llama), DECODING).generate(requests)).values(), n_slots=3)
    deep, shallow = (n_full_depth + 3 * n_steps for n_steps in (deep_steps, 11))
    assert ran.ended_L.tolist() == [shallow] * 2 + [deep] * 5, "all rows run up to the first exitable layer"


ALIKE = [kl_request(PROMPT, "unfrozen", 1e9, seed) for seed in range(8)]
APART = [kl_request(PROMPT, "unfrozen", k, seed) for seed in range(3) for k in (0.0, 0.5, 2.0, 1e9)]


@pytest.mark.parametrize("requests", [[kl_request(PROMPT, "unfrozen", 0.5)], ALIKE, APART], ids=len)
@pytest.mark.parametrize("n_slots", [64, 3])
def test_modes_that_leave_the_cache_alone_take_one_pass_over_each_prefix(
    llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, requests: list[Request], n_slots: int
) -> None:
    ran = OpRecorder(decoder_of(llama), monkeypatch)
    outcomes = traces_of(Engine(decoder_of(llama), replace(DECODING, max_rows=n_slots)).generate(requests))
    at_once = [range(start, min(start + n_slots, len(requests))) for start in range(0, len(requests), n_slots)]
    seen = sum(n_seen((outcomes[index] for index in indices), min(n_slots, len(requests))) for indices in at_once)
    assert {*ran.ended_L.tolist()} == {seen}
    assert n_slots == 3 or len(requests) == 1 or seen < 11 * len(requests), "rows with equal prefixes run once"
