"""Drafts that are looked up in the text itself: the text of full depth, whatever is found, and what is run for it."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from axes import EXITABLE
from references import decoder_of, shared_model
from rows import DECODING, SAMPLED, as_reference, generate
from sampled_texts import are_distributed_so, sequences
from traces import assert_same, traces_of
from transformers import PreTrainedModel

from eexit.decode.engine import Engine
from eexit.decode.rows.requests import Decoding, Request
from eexit.decode.steps import pass_times
from eexit.decode.steps.lookup import best_lengths, find, look_up
from eexit.decode.steps.pass_times import RoundTimes, pass_seconds
from eexit.decode.trace import Trace
from eexit.plan.configuration import MOST_AUTO_TOKENS, Configuration, Draft, Normal
from eexit.reference import drafts as reference

LOOKUPS = [Draft(None, n) for n in (1, 3, 6)]
AUTO = Draft(None, None)
DECODING_ALONE = replace(DECODING, observe="none")
PROMPTS = [(5, 80, 7, 7, 31), (44, 2, 90, 61, 44, 2, 90, 8, 44, 2), (9, 9, 9, 9), (3, 4, 5, 6, 3, 4, 5, 7, 3, 4, 5)]


def requests_of(configurations: Sequence[Configuration], n_rows: int) -> list[Request]:
    """So many rows, with prompts of different lengths."""
    prompts = [(*PROMPTS[row % len(PROMPTS)], *([row] * (row % 3))) for row in range(n_rows)]
    return [Request(prompt, configurations[row % len(configurations)], row) for row, prompt in enumerate(prompts)]


def normal_of(requests: Sequence[Request]) -> list[Request]:
    return [replace(request, configuration=Normal()) for request in requests]


def tokens_of(traces: Sequence[Trace]) -> list[list[int]]:
    return [trace.token_id_T.tolist() for trace in traces]


def accepted(traces: Sequence[Trace]) -> int:
    return sum(int(trace.rounds.accepted_R.sum()) for trace in traces if trace.rounds)


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass of a token more takes a little longer."""
    monkeypatch.setattr(pass_times, "pass_seconds", lambda _, __, most: 1 + 0.02 * np.arange(most + 1))


@pytest.mark.usefixtures("times")
@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mpt"])  # drafts of a layer are checked on every kind
def test_greedy_rows_are_those_of_normal_in_batches_of_any_size(architecture: str) -> None:
    model, decoding = shared_model(architecture), replace(DECODING, max_new_tokens=12, observe="final", record_top_k=0)
    requests = requests_of([*LOOKUPS, AUTO], 15)
    normal = generate(model, normal_of(requests), decoding)
    assert tokens_of(generate(model, requests[-4:], replace(decoding, rows=1))) == tokens_of(normal[-4:])
    for rows in (8, 15):
        traces = generate(model, requests, replace(decoding, rows=rows))
        assert tokens_of(traces) == tokens_of(normal)
        assert any(trace.rounds.drafted_R.any() for trace in traces if trace.rounds), "something must be found"
    for trace, its in zip(traces, normal, strict=True):
        np.testing.assert_allclose(trace.logprob_T, its.logprob_T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("architecture", "decoding"),
    [("llama", DECODING), ("gpt_neox", replace(SAMPLED, eos_token_ids=frozenset(range(0, 97, 11))))],
)
def test_rows_match_the_naive_reference_beside_drafts_of_a_layer(architecture: str, decoding: Decoding) -> None:
    requests = requests_of([*LOOKUPS, Draft(3, 2)], 8)
    as_reference(shared_model(architecture), requests, replace(decoding, max_new_tokens=12), rows=5)


@pytest.mark.usefixtures("times")
@pytest.mark.parametrize("draft", [LOOKUPS[1], AUTO], ids=str)
def test_a_sampled_row_is_that_of_normal_whatever_is_proposed_and_whoever_is_beside_it(
    llama: PreTrainedModel, draft: Draft
) -> None:
    decoding, requests = replace(SAMPLED, temperature=0.3, top_p=0.9), requests_of([draft], 8)
    traces = generate(llama, requests, replace(decoding, rows=3))
    assert tokens_of(traces) == tokens_of(generate(llama, normal_of(requests), decoding))
    assert accepted(traces) > 0
    [alone] = generate(llama, requests[5:6], decoding)
    assert_same(alone if draft.n_tokens else replace(alone, rounds=traces[5].rounds), traces[5])


def test_sampled_texts_have_the_distribution_of_plain_sampling(llama: PreTrainedModel) -> None:
    decoding = Decoding(EXITABLE, 3, frozenset(), temperature=0.5, top_p=0.8, observe="none")
    rows = requests_of(LOOKUPS[1:2], 8)
    traces = generate(llama, rows)
    most = max(range(8), key=lambda row: accepted([traces[row]]))
    prompt = (*rows[most].prompt_token_ids, *tokens_of(traces)[most][:20])  # so that much is right, and much is not
    requests = [Request(prompt, Draft(None, 2), seed) for seed in range(2000)]
    traces = list(traces_of(Engine(decoder_of(llama), decoding).generate(requests)).values())
    assert are_distributed_so(map(tuple, tokens_of(traces)), sequences(llama, prompt, decoding))
    assert 0 < accepted(traces) < sum(int(trace.rounds.drafted_R.sum()) for trace in traces if trace.rounds)


def test_the_longest_end_that_was_there_before_is_found_where_it_was_last() -> None:
    """As plain loops find it, in texts of few letters, of which many ends repeat."""
    random = np.random.default_rng(0)
    text_BL = random.integers(0, 4, (300, 14))
    n_B = random.integers(1, 15, 300)
    start_B, matched_B = find(text_BL, n_B)
    tokens_BA = look_up(text_BL, n_B, start_B, 6)
    for row, n in enumerate(n_B.tolist()):
        text = text_BL[row, :n].tolist()
        assert (tokens_BA[row].tolist() if matched_B[row] else []) == reference.look_up(text, 6)
        there = [size for size in range(n) if any(text[at : at + size] == text[n - size :] for at in range(n - size))]
        assert matched_B[row] == min(3, max(there, default=0))
    assert set(matched_B.tolist()) == {0, 1, 2, 3}


def test_what_goes_on_beyond_the_text_goes_on_as_it_has_just_been() -> None:
    text_BL, n_B = np.array([[7, 1, 2, 1, 2, 0]]), np.array([5])
    start_B, matched_B = find(text_BL, n_B)
    assert matched_B.tolist() == [2]
    assert look_up(text_BL, n_B, start_B, 5).tolist() == [[1, 2, 1, 2, 1]]


@pytest.mark.parametrize("seed", range(5))
def test_the_best_lengths_yield_the_most_tokens_for_their_time(seed: int) -> None:
    """Of all that there are."""
    random = np.random.default_rng(seed)
    chance_B, most_B = random.uniform(0.05, 0.95, 3), random.integers(0, 4, 3)
    seconds_N = np.append(0, 1 + random.uniform(0, 0.4, 20).cumsum())

    def tokens_per_second(length_B: Sequence[int]) -> float:
        tokens = sum(chance**index for chance, n in zip(chance_B, length_B, strict=True) for index in range(n + 1))
        return float(tokens / seconds_N[3 + sum(length_B)])

    best = max(tokens_per_second(lengths) for lengths in product(*(range(most + 1) for most in most_B)))
    assert tokens_per_second(best_lengths(chance_B, most_B, seconds_N).tolist()) == pytest.approx(best)


def test_more_is_looked_up_where_a_longer_pass_takes_no_longer() -> None:
    chance_B, most_B = np.array([0.4, 0.9, 0.0]), np.array([8, 8, 0])
    assert best_lengths(chance_B, most_B, np.ones(20)).tolist() == [8, 8, 0]
    assert best_lengths(chance_B, most_B, np.arange(20.0) ** 2).tolist() == [0, 0, 0]
    some = best_lengths(chance_B, most_B, 5 + np.arange(20.0))
    assert some[0] < some[1] > 0


def test_how_long_a_pass_takes_is_measured_once(llama: PreTrainedModel) -> None:
    decoder = decoder_of(llama)
    seconds_N = pass_seconds(decoder, DECODING, 9 * 2)
    assert len(seconds_N) == 19
    assert seconds_N[0] == 0 < seconds_N[1]
    assert (np.diff(seconds_N) >= 0).all()
    assert pass_seconds(decoder, DECODING, 3).tolist() == seconds_N[:4].tolist()


def test_times_of_many_tokens_are_those_of_the_calls_that_they_take(
    llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what disturbed a measurement counts for nothing, once a longer pass took less."""
    seconds = {1: 9.0, 2: 2.0, 3: 3.0, 4: 4.0}
    monkeypatch.setattr(pass_times, "_MEASURED", {})
    monkeypatch.setattr(pass_times, "TOKENS_PER_CALL", 4)
    monkeypatch.setattr(pass_times, "_measure", lambda _, __, n_tokens: seconds[n_tokens])
    expected = [0, 2, 2, 3, 4, 4 + 2, 4 + 2, 4 + 3, 4 + 4, 4 + 4 + 2]
    assert pass_seconds(decoder_of(llama), DECODING, 9).tolist() == expected


def test_what_rounds_take_beyond_their_passes_is_learned_from_them() -> None:
    """So that no token is looked up where each takes as long as it is worth, whatever a pass by itself takes."""
    times, random = RoundTimes(), np.random.default_rng(0)
    times.pass_N = 0.1 + 0.0005 * np.arange(65)
    assert times.seconds_N[1:].tolist() == times.pass_N[1:].tolist()
    for n_tokens in random.integers(8, 64, 300):
        times.note(int(n_tokens), times.pass_N[n_tokens] + 0.02 + 0.02 * n_tokens + random.normal(0, 0.01))
    np.testing.assert_allclose(times.seconds_N[8:], 0.12 + 0.0205 * np.arange(8, 65), rtol=0.03)
    chance_B, most_B = np.full(8, 0.5), np.full(8, 7)
    assert (
        best_lengths(chance_B, most_B, times.pass_N).min() > 1 > best_lengths(chance_B, most_B, times.seconds_N).max()
    )
    for _ in range(3000):  # something else slows the machine down no longer
        times.note(int(random.integers(8, 64)), times.pass_N[8])
    assert (np.diff(times.seconds_N) >= 0).all()
    assert best_lengths(chance_B, most_B, times.seconds_N).min() > 1


@pytest.mark.usefixtures("times")
def test_auto_is_decoded_beside_longer_drafts_than_its_own(llama: PreTrainedModel) -> None:
    decoding = replace(DECODING, max_new_tokens=30, rows=2)
    requests = requests_of([Draft(None, 3 * MOST_AUTO_TOKENS), AUTO], 8)
    assert tokens_of(generate(llama, requests, decoding)) == tokens_of(generate(llama, normal_of(requests), decoding))


def test_auto_is_measured_on_this_machine_and_looks_up_no_more_than_eight(llama: PreTrainedModel) -> None:
    traces = generate(llama, requests_of([AUTO], 3), replace(DECODING, max_new_tokens=12))
    assert all(trace.rounds is not None and trace.rounds.drafted_R.max() <= MOST_AUTO_TOKENS for trace in traces)
