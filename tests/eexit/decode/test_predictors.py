"""Exit sets, screens and gates: the layers that rules read and through what. Sets are subsets of `EXITABLE`."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import cycle
from typing import cast

import numpy as np
import pytest
import torch
from axes import EXITABLE, some
from ran import run_alone
from references import decoder_of, packed_decoder_of, shared_model
from rows import PROMPTS, SAMPLED, as_reference, assert_scored_alike, generate, grid, modes_of
from traces import assert_same
from transformers import PreTrainedModel
from untrained import LINEAR, random_gate

from eexit.decode.requests import DecodingConfig, Request, RequestOutput
from eexit.method.rules import BLIND, RULES
from eexit.method.screen import Screen
from eexit.method.screen_size import ScreenSize
from eexit.plan.configuration import EarlyExit
from eexit.sweeps.head_moment import second_moment

SETS = ((), (3,), (4,), (1, 4), (3, 4))
READING = [rule for rule in RULES if rule not in BLIND]
GATED = ("confidence", "margin", "entropy")
SCREENED = (*GATED, "patience", "predicted_kl", "kl")
moment_of = cache(second_moment)  # of texts that the model writes for it


def reads_TX(trace: RequestOutput, name: str) -> np.ndarray:
    assert trace.counts
    return trace.counts.reads_TX(name)


def with_sets(model: PreTrainedModel, shift: int, rules: Sequence[str]) -> list[Request]:
    """Return each rule with each set that it can use, the modes in turn; with two of the sets, unless on a Llama."""
    n_sets, n_agreeing = len(SETS) if model is shared_model("llama") else 2, cast(float, some(model, "patience")[0])
    pairs = [(rule, SETS[(shift + at + 2 * n) % len(SETS)]) for at, rule in enumerate(rules) for n in range(n_sets)]
    can = [(rule, layers) for rule, layers in pairs if rule != "patience" or len(layers or EXITABLE) >= n_agreeing]
    in_turn = zip(cycle(modes_of(model)), can, strict=False)
    exits = [EarlyExit(mode, rule, some(model, rule)[0], layers) for mode, (rule, layers) in in_turn]
    return [Request(PROMPTS[at % 2], exit, seed=at) for at, exit in enumerate(exits)]


def screened(model: PreTrainedModel, rank: int, n_tokens: int, packed: bool = True) -> DecodingConfig:
    decoder = packed_decoder_of(model) if packed else decoder_of(model)
    return replace(SAMPLED, screen=Screen(decoder, ScreenSize(rank, n_tokens), moment_of(decoder)))


# Sets are independent of layers.
@pytest.mark.parametrize(("shift", "architecture", "rank"), [(0, "llama", 0), (1, "gemma3", 0), (3, "llama", 6)])
def test_invariants_3_and_8_hold_for_sets_and_for_screens_of_each(shift: int, architecture: str, rank: int) -> None:
    model, seen = shared_model(architecture), set()
    decoding = replace(screened(model, rank, 9), readout=LINEAR) if rank else SAMPLED
    requests = with_sets(model, shift, SCREENED if rank else READING)
    traces = as_reference(model, requests, decoding)
    assert_scored_alike(packed_decoder_of(model), requests, traces, decoding)
    for request, trace in zip(requests, traces, strict=True):
        assert isinstance(request.configuration, EarlyExit)
        outside = np.array([layer not in (request.configuration.layers or EXITABLE) for layer in EXITABLE])
        assert not (trace.exit_prob_TX[1:, :-1][:, outside] != 0).any(), "neither a probability nor an unknown one"
        assert np.isnan(trace.exit_score_TE[1:, outside]).all()
        seen |= {(len(request.configuration.layers), layer) for layer in trace.exit_layer_T[1:].tolist()}
        if request.configuration.rule == "predicted_kl":
            assert not reads_TX(trace, "probe_reads")[:, :-1][:, outside].any()
    assert len(seen) >= 8


@pytest.mark.parametrize("layers", [(3,), (1, 4)])
@pytest.mark.parametrize("is_screened", [False, True])
def test_invariant_7_only_the_set_is_read(llama: PreTrainedModel, is_screened: bool, layers: tuple[int, ...]) -> None:
    decoding = replace(screened(llama, 6, 9, packed=False) if is_screened else SAMPLED, record_full_depth="none")
    request = Request(PROMPTS[0], EarlyExit("frozen_residual", "confidence", 0.3, layers), 3)
    alone = run_alone(decoder_of(llama), decoding, request)
    exit_T = alone.trace.exit_layer_T[1:]
    n_read_T = np.array([sum(layer <= exit for layer in layers) for exit in exit_T])
    whole_T = 0 * n_read_T if is_screened else n_read_T
    unread_T = (exit_T == 6) | (whole_T < n_read_T)  # whose token needs a read of the head
    assert alone.counts.reads_TX("head_reads").sum() == alone.ran.reads == (whole_T + unread_T).sum()
    assert alone.counts.reads_TX("screen_reads").sum() == n_read_T.sum() * is_screened
    assert {*exit_T.tolist()} & {*layers}, "it exits at all"


def test_exits_by_a_token_that_is_not_the_likeliest_are_counted(llama: PreTrainedModel) -> None:
    """Of two tokens, one always has a probability of at least 0.5, so that every token exits after layer 1."""
    decoding = screened(llama, 2, 2, packed=False)
    exits = EarlyExit("unfrozen", "confidence", 0.5, (1,)), EarlyExit("unfrozen", "fixed", 1.0)
    trace, fixed = generate(llama, [Request(PROMPTS[0], exit) for exit in exits], decoding)
    assert decoding.screen
    assert set(trace.exit_layer_T[1:].tolist()) == {1}
    text = torch.tensor([[*PROMPTS[0], *trace.token_id_T[:-1].tolist()]])
    hidden_TD = llama(text, output_hidden_states=True).hidden_states[2][0, len(PROMPTS[0]) :]
    head_input_TF = llama.model.norm(hidden_TD)
    likeliest_T1 = llama.lm_head(head_input_TF).argmax(-1, keepdim=True)
    missed_T = (decoding.screen.tokens(head_input_TF) != likeliest_T1).all(1)
    assert reads_TX(trace, "screen_misses").tolist() == [[missed, 0, 0, 0] for missed in missed_T.tolist()]
    assert 0 < missed_T.sum() < len(missed_T)
    assert not reads_TX(fixed, "screen_misses").any()


def with_gates(model: PreTrainedModel, threshold: str | None, sets: Sequence[tuple[int, ...]]) -> list[Request]:
    """Return each rule and mode in turn, with each of these sets."""
    pairs = [*zip(cycle(modes_of(model)), GATED * 2, strict=False)]
    exits = [EarlyExit(mode, rule, some(model, rule)[0], layers, threshold) for layers in sets for mode, rule in pairs]
    return grid(exits, PROMPTS[:1])


def gating(model: PreTrainedModel) -> DecodingConfig:
    keys = [EarlyExit("unfrozen", rule, some(model, rule)[0]).gated_rule for rule in GATED]
    return replace(SAMPLED, gate=random_gate(keys), readout=LINEAR)


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])  # gates are independent of layers
def test_invariants_3_and_8_hold_for_gated_rules(architecture: str) -> None:
    model = shared_model(architecture)
    decoding, passed = gating(model), set()
    requests = [*with_gates(model, "0.4", [()]), *with_gates(model, "0.5", [(4,)])]
    traces = as_reference(model, requests, decoding)
    assert_scored_alike(packed_decoder_of(model), requests, traces, decoding)
    for trace in traces:
        gates, scored = reads_TX(trace, "gate_reads")[:, :-1], ~np.isnan(trace.exit_score_TE[1:])
        assert (np.minimum(gates, reads_TX(trace, "head_reads")[:, :-1]) >= scored).all()
        passed |= {*(gates - scored).ravel().tolist()}
    assert passed == {0, 1}, "the gate has some layers read, and others not"


def test_a_threshold_of_0_changes_nothing_and_the_perfect_gate_no_exit(llama: PreTrainedModel) -> None:
    requests = [with_gates(llama, threshold, [(), (4,)]) for threshold in (None, "0", "perfect")]
    for traces in zip(*(generate(llama, each, gating(llama)) for each in requests), strict=True):
        for trace in traces[1:]:
            assert_same(trace, traces[0])
