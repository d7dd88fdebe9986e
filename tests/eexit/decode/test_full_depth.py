"""The full-depth pass: what it records changes no text, and prefixes that slots share run once."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from references import decoder_of, packed_decoder_of, shared_model
from rows import PROMPTS, SAMPLED, assert_as_reference, each_rule, generate, grid
from torch import Tensor
from traces import assert_same, kl_request, spy_on, traces_of
from transformers import PreTrainedModel

from eexit.decode import full_depth
from eexit.decode.engine import Engine
from eexit.decode.full_depth import padded
from eexit.decode.requests import DecodingConfig, Request, RequestOutput
from eexit.method.rules import ORACLES
from eexit.model.layers import VisitedLayer
from eexit.plan.configuration import EarlyExit, NoExit
from eexit.plan.sweep_config import Observe
from eexit.results.token_columns import recorded

DECODING = DecodingConfig(exitable_layers=(1, 3, 4), max_new_tokens=12, eos_token_ids=frozenset())
PROMPT = PROMPTS[1]
AT_ONCE = {None, *ORACLES}  # rules beside which a full-depth pass runs


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mpt"])
def test_records_made_in_blocks_and_fewer_are_the_same(monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    """Check each rule in some mode; of oracles, tokens and exits. The prefill records each text's first token."""
    monkeypatch.setattr(full_depth, "OBSERVED_TOKENS", 15)
    monkeypatch.setattr(full_depth, "READ_TOKENS", 3)
    model, observed = shared_model(architecture), list[int]()
    requests = grid([*each_rule(model, 1), EarlyExit("unfrozen", "fixed", 3.0)], PROMPTS[:2])
    traces = traces_of(Engine(packed_decoder_of(model), SAMPLED).generate(requests, observed=observed.append))
    whole, rules = [traces[at] for at in sorted(traces)], [each.configuration.columns["rule"] for each in requests]
    assert_as_reference(model, requests, whole, SAMPLED)
    n_tokens = [len(trace.token_id_T) - 1 for trace, rule in zip(whole, rules, strict=True) if rule not in AT_ONCE]
    assert (sum(observed), len(observed) > 2) == (sum(n_tokens), True)
    record_full_depth: Observe = "final" if architecture == "llama" else "none"
    less = generate(model, requests, replace(SAMPLED, max_rows=5, record_full_depth=record_full_depth))
    kept = {field for field, *_ in recorded(record_full_depth)}
    assert {"kl_TE", "top_prob_TXK"}.isdisjoint(kept)
    assert ("logprob_T" in kept) == (record_full_depth == "final")
    for rule, trace, other in zip(rules, less, whole, strict=True):
        left_out = {field: getattr(trace, field) for field, *_ in recorded() if field not in kept}
        assert rule in ORACLES or not any(column.size for column in left_out.values())
        assert_same(trace, replace(other, **left_out))


def test_a_token_is_read_once_for_each_recorded_layer(llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, n_read = decoder_of(llama), spy_on(monkeypatch, decoder_of(llama), "lm_head", len)
    n_recorded: dict[Observe, int] = {"all": 4, "final": 1, "none": 0}
    for record_full_depth, n_layers in n_recorded.items():
        n_read.clear()
        greedy = replace(SAMPLED, temperature=0.0, record_full_depth=record_full_depth)
        [trace] = traces_of(Engine(decoder, greedy).generate([Request(PROMPTS[0], NoExit())])).values()
        first = max(1, greedy.n_observed)  # of the prefill
        assert sum(n_read) == first + (1 + n_layers) * (len(trace.token_id_T) - 1)


def count_run(layer: VisitedLayer, hidden_BTD: Tensor, *_: object) -> Counter[int]:
    return Counter({layer.index: hidden_BTD[..., 0].numel()})


def n_seen(traces: Iterable[RequestOutput], n_slots: int) -> int:
    """Return how many tokens the full-depth pass runs: each step's unique prefixes, padded."""
    prefixes = {tuple(trace.token_id_T[:n]) for trace in traces for n in range(1, len(trace.token_id_T))}
    return sum(len(padded(np.arange(n), n_slots)) for n in Counter(map(len, prefixes)).values())


def test_an_early_exit_pass_runs_no_layer_beyond_all_exits(
    llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(decoder_of(llama), DECODING)
    ran = spy_on(monkeypatch, VisitedLayer, "run", count_run)
    for kl_factor, deep_steps in ((0, 0), (1e9, 11)):
        ran.clear()
        requests = [kl_request(PROMPT, "frozen_residual", kl_factor, seed) for seed in range(3)]
        traces = traces_of(engine.generate(requests))
        n_full_depth = len(PROMPT) + n_seen(traces.values(), n_slots=3)
        of_layer = sum(ran, Counter[int]())
        for layer in range(7):  # all rows run up to the first exitable layer
            assert of_layer[layer] == n_full_depth + 3 * (deep_steps if layer > 1 else 11)


@pytest.mark.parametrize(("n_seeds", "factors"), [(1, [0.5]), (8, [1e9]), (3, [0.0, 0.5, 2.0, 1e9])])
@pytest.mark.parametrize("n_slots", [64, 3])
def test_modes_that_leave_the_cache_alone_take_one_pass_over_each_prefix(
    llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, n_seeds: int, factors: list[float], n_slots: int
) -> None:
    requests = [kl_request(PROMPT, "unfrozen", k, seed) for seed in range(n_seeds) for k in factors]
    engine = Engine(decoder_of(llama), replace(DECODING, max_rows=n_slots))
    ran = spy_on(monkeypatch, VisitedLayer, "run", count_run)
    outcomes = traces_of(engine.generate(requests))
    at_once = [range(start, min(start + n_slots, len(requests))) for start in range(0, len(requests), n_slots)]
    seen = sum(n_seen((outcomes[index] for index in indices), min(n_slots, len(requests))) for indices in at_once)
    assert {*sum(ran, Counter[int]()).values()} == {len(PROMPT) * len(at_once) + seen}
    assert n_slots == 3 or len(requests) == 1 or seen < 11 * len(requests), "rows with equal prefixes run once"
