"""The invariants that must always hold, by number. The engine runs the model with packed weights."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from axes import ALWAYS, EXITABLE, NEVER, SOME, some
from ran import run_alone
from reference.generation import LEAVE
from reference.rules import STOPS
from references import decoder_of, reference_of, shared_model
from rows import (
    ARCHITECTURES,
    DECODING,
    ENDING,
    KINDS,
    PROMPTS,
    SAMPLED,
    as_reference,
    assert_as_reference,
    each_rule,
    exits_of,
    generate,
    grid,
    modes_of,
    together,
)  # fmt: skip
from scipy.stats import chi2
from tiny_models import VOCABULARY
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from traces import assert_same, kl_request
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from untrained import LINEAR

from eexit import KLExitGenerator
from eexit.costs.operations import required_ops
from eexit.decode.requests import DecodingConfig, Request
from eexit.method.modes import MODES
from eexit.method.readouts import READOUTS
from eexit.method.rules import ORACLES, RULES
from eexit.model.layers import Decoder
from eexit.plan.configuration import EarlyExit, NoExit

SHORT = replace(DECODING, max_new_tokens=8)  # beyond sliding windows
PAIRS = {  # of a state and a rule: on a Llama each, and on the others each rule in one state after the other
    **{f"llama-{rule}": ("llama", [(mode, rule) for mode in MODES]) for rule in RULES},
    **{
        architecture: (architecture, [([*MODES][(shift + at) % len(MODES)], rule) for at, rule in enumerate(RULES)])
        for shift, architecture in enumerate(ARCHITECTURES[1:])
    },
}


def test_every_rule_is_tested() -> None:
    assert SOME.keys() == ALWAYS.keys() == NEVER.keys() == RULES.keys() == STOPS.keys()
    assert {mode.fill for mode in MODES.values() if mode.modifies_kv} == LEAVE.keys() - {"hidden", "kv"}


def test_invariant_1_normal_is_greedy_generate(any_model: PreTrainedModel) -> None:
    requests = [kl_request(prompt, "normal", None) for prompt in PROMPTS[:2]]
    options: Any = {"max_new_tokens": SHORT.max_new_tokens, "do_sample": False, "pad_token_id": 0}
    for prompt, trace in zip(PROMPTS[:2], generate(any_model, requests, SHORT), strict=True):
        generated = any_model.generate(torch.tensor([prompt]), **options)  # type: ignore[operator]  # of a mixin
        assert [*prompt, *trace.token_id_T.tolist()] == generated[0].tolist()


@pytest.mark.parametrize("rule", RULES)
def test_invariant_2_the_ends_of_every_rule(llama: PreTrainedModel, rule: str) -> None:
    always, never = ([EarlyExit(mode, rule, each) for mode in MODES for each in ends[rule]] for ends in (ALWAYS, NEVER))
    normal, *traces = generate(llama, grid([NoExit(), *always, *never], PROMPTS[:1]), SHORT)
    for trace in traces[: len(always)]:
        assert (trace.exit_layer_T[1:] == EXITABLE[0]).all()
    for trace in traces[len(always) :]:
        assert trace.token_id_T.tolist() == normal.token_id_T.tolist()
        assert (trace.exit_layer_T == llama.config.num_hidden_layers - 1).all()


def test_invariant_3_rule_kl_and_an_online_one_match_the_naive_reference(any_model: PreTrainedModel) -> None:
    requests, traces = together(any_model)
    assert_as_reference(any_model, requests, traces, SAMPLED)
    final = any_model.config.num_hidden_layers - 1
    rules = [request.configuration.columns["rule"] for request in requests]
    of_rule = {rule: exits_of(trace for trace, its in zip(traces, rules, strict=True) if its == rule) for rule in rules}
    assert of_rule["kl"] == {*EXITABLE, final}, "the comparison must cover every exit"
    assert {EXITABLE[0], final} <= of_rule["confidence"]


@pytest.mark.parametrize(("architecture", "pairs"), PAIRS.values(), ids=PAIRS)
def test_invariant_3_holds_for_every_rule_and_mode(architecture: str, pairs: Sequence[tuple[str, str]]) -> None:
    model = shared_model(architecture)
    prompts = {"gemma3": PROMPTS[:1]}.get(architecture, PROMPTS[1:2])
    decoding = {"llama": SHORT, "gemma3": replace(SAMPLED, max_new_tokens=16)}.get(architecture, SAMPLED)
    exits = [EarlyExit(mode, rule, parameter) for mode, rule in pairs for parameter in some(model, rule)]
    _, *traces = as_reference(model, grid([NoExit(), *exits], prompts), decoding)
    for pair in pairs:
        of_pair = [trace for exit, trace in zip(exits, traces, strict=True) if (exit.mode, exit.rule) == pair]
        assert {trace.counts is None for trace in of_pair} == {pair[1] in ORACLES}
        # The layers of a random Gemma always agree.
        assert len(exits_of(of_pair)) > 1 or (architecture, pair[1]) == ("gemma3", "agree")


def test_invariant_3_holds_for_the_kl_generator(llama: PreTrainedModel) -> None:
    words = WordLevel({f"w{index}": index for index in range(VOCABULARY)}, unk_token="w0")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words))
    generator = KLExitGenerator(llama, tokenizer, "frozen_residual", EXITABLE)
    inputs = {"input_ids": torch.tensor(PROMPTS[1:2])}
    _, exit_layers, prediction = generator.generate(inputs, kl_strength=0.5, max_new_tokens=8, seed=3)
    expected = reference_of(llama, kl_request(PROMPTS[1], "frozen_residual", 0.5, seed=3), SHORT)
    assert prediction.token_ids == expected.token_id_T.tolist()
    assert exit_layers == expected.exit_layer_T.tolist()
    np.testing.assert_allclose(prediction.kl, expected.kl_TE, rtol=1e-4, atol=1e-4)


CHANGES: list[dict[str, Any]] = [
    {"readout": READOUTS["raw"]}, {"readout": LINEAR}, {"temperature": 0.8, "top_p": 0.9}, {"exitable_layers": (5,)},
    {"exitable_layers": (0, 1, 2, 3, 4, 5)}, {"eos_token_ids": frozenset(range(0, 97, 7))},
]  # fmt: skip


@pytest.mark.parametrize(("shift", "change"), [*enumerate(CHANGES)], ids=["-".join(change) for change in CHANGES])
def test_invariant_3_holds_however_rows_decode(llama: PreTrainedModel, shift: int, change: dict[str, Any]) -> None:
    decoding, fitting = replace(DECODING, **change), []
    for configuration in each_rule(llama, shift):
        with suppress(ValueError):  # a parameter that names other layers
            if isinstance(configuration, EarlyExit):
                configuration.per_layer(decoding.exitable_layers)
            fitting.append(configuration)
    as_reference(llama, grid(fitting, PROMPTS[1:2]), replace(decoding, max_new_tokens=6))


@pytest.mark.parametrize("architecture", KINDS)  # on the others, invariant 3 compares rows with those of one alone
def test_invariant_4_a_row_is_the_same_alone_and_beside_others(architecture: str) -> None:
    model = shared_model(architecture)
    requests, traces = together(model)
    for index in (0, 4, 8, -1) if architecture in ARCHITECTURES else (4, -1):  # another mode, rule or prompt each
        assert_same(traces[index], generate(model, [requests[index]], SAMPLED)[0])


# Torch's attention, without windows and with, and one of the model's own.
@pytest.mark.parametrize(("shift", "architecture"), [*enumerate(["llama", "gemma3", "mpt"])])
def test_invariant_4_a_row_does_not_depend_on_its_neighbours(shift: int, architecture: str) -> None:
    model = shared_model(architecture)
    exits = each_rule(model, shift)
    requests = [Request(prompt, exit, seed) for seed, prompt in enumerate(PROMPTS[:2]) for exit in exits]
    all_at_once, shuffled = generate(model, requests, ENDING), np.random.default_rng(0).permutation(len(requests))
    few_at_a_time = generate(model, [requests[index] for index in shuffled], replace(ENDING, max_rows=3))
    for index, trace in zip(shuffled, few_at_a_time, strict=True):
        assert_same(trace, all_at_once[index])
    for request, trace in [*zip(requests, all_at_once, strict=True)][::10]:
        assert_same(trace, generate(model, [request], ENDING)[0])
    assert len({len(trace.token_id_T) for trace in all_at_once}) > 2, "rows must end at different times"


@pytest.mark.parametrize("rule", ["kl", "random", "predicted_kl"])  # oracle, blind, and one that looks up to its exit
def test_invariant_5_exits_are_as_frequent_as_their_probabilities(llama: PreTrainedModel, rule: str) -> None:
    """Compare, at each layer, the tokens that reached it. That probabilities are the reference's is invariant 3."""
    exits = [EarlyExit(mode, rule, some(llama, rule)[-1]) for mode in MODES]
    requests = [Request(PROMPTS[1], exits[seed % len(exits)], seed) for seed in range(132)]
    traces = generate(llama, requests, replace(DECODING, max_new_tokens=40, temperature=1.0))
    exit_N = np.searchsorted([*EXITABLE, 6], np.concatenate([trace.exit_layer_T[1:] for trace in traces]))
    probability_NX = np.concatenate([trace.exit_prob_TX[1:] for trace in traces]).astype(np.float64)
    whole_N = ~np.isnan(probability_NX).any(-1)
    np.testing.assert_allclose(probability_NX[whole_N].sum(-1), 1, atol=1e-5)
    assert len(exit_N) >= 5000
    squares = list[float]()
    for rank in range(len(EXITABLE)):
        there_N = exit_N >= rank
        stop_N = probability_NX[there_N, rank] / (1 - probability_NX[there_N, :rank].sum(-1))
        beyond, variance = (exit_N[there_N] == rank).sum() - stop_N.sum(), (stop_N * (1 - stop_N)).sum()
        if stop_N.any():
            assert variance > 25, "every exit must be left to chance, and be counted"
            squares.append(beyond**2 / variance)
        else:
            assert beyond == 0
    assert sum(squares) < chi2.ppf(0.999, len(squares))


UNOBSERVED = replace(SAMPLED, record_full_depth="none")


def assert_runs_what_exits_need(
    decoder: Decoder, configuration: EarlyExit, priced: bool = False, decoding: DecodingConfig = UNOBSERVED
) -> np.ndarray:
    """Assert that an output runs what its counts state, and no layer that its exits don't need; return the exits."""
    alone = run_alone(decoder, decoding, Request(PROMPTS[0], configuration, 3), priced=priced)
    exit_T, layer_L = alone.trace.exit_layer_T[1:], np.arange(decoder.n_layers)
    least = required_ops(exit_T, np.array([*EXITABLE, 6]), MODES[configuration.mode])
    assert alone.counts.layers_T.tolist() == least.layers_T.tolist()
    writes = configuration.mode in ("frozen_residual", "mapped_residual")
    assert alone.counts.kv_layers_T.tolist() == [int((layer_L > exit).sum()) * writes for exit in exit_T]
    assert alone.columns["macs_executed"] >= alone.columns["macs_required"]
    if configuration.rule == "confidence":
        assert alone.counts.reads_TX("head_reads").sum() == (1 + np.searchsorted(EXITABLE, exit_T)).sum()
    return exit_T


@pytest.mark.parametrize("architecture", KINDS)
def test_invariant_7_a_row_runs_what_its_counts_state_and_no_more_than_its_exits_need(architecture: str) -> None:
    model = shared_model(architecture)
    modes = modes_of(model) if architecture in ARCHITECTURES else ("unfrozen", "frozen_residual")
    exits = [EarlyExit(mode, "confidence", some(model, "confidence")[0]) for mode in modes]
    priced = architecture in ("llama", "gemma3", "gpt_neox")
    assert len(np.unique([assert_runs_what_exits_need(decoder_of(model), each, priced) for each in exits])) > 1


def test_invariant_7_holds_for_every_rule_and_mode(llama: PreTrainedModel) -> None:
    """Check also rules that read nothing, only the hidden state, or a probe."""
    for rule in RULES.keys() - ORACLES.keys():
        for mode in MODES:
            exit = EarlyExit(mode, rule, some(llama, rule)[0])
            assert_runs_what_exits_need(decoder_of(llama), exit, decoding=replace(UNOBSERVED, readout=LINEAR))
