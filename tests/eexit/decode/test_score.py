"""Scoring a text gives the exits with which it was generated (invariant 8), and the probabilities of its tokens."""

from dataclasses import replace

import numpy as np
import pytest
from axes import SOME
from naive_scores import score_naively
from references import decoder_of, packed_decoder_of, shared_model
from rows import DECODING, KINDS, PROMPTS, SAMPLED, modes_of, together
from traces import traces_of
from transformers import PreTrainedModel

from eexit.decode import score as scoring
from eexit.decode.engine import Engine
from eexit.decode.requests import DecodingConfig, Request, RequestOutput
from eexit.decode.score import score, score_texts
from eexit.method.modes import MODES
from eexit.method.rules import RULES
from eexit.model.layers import Decoder
from eexit.plan.configuration import NORMAL, EarlyExit, NoExit


def check_score(decoder: Decoder, decoding: DecodingConfig, request: Request, trace: RequestOutput) -> set[int]:
    """Returns the layers that were exited at."""
    scored = score(decoder, decoding, request, trace.token_id_T.tolist())
    assert scored.exit_layer_T.tolist() == trace.exit_layer_T.tolist(), request
    for name in ("exit_logprob_T", "exit_prob_TX", "exit_score_TE"):
        mine, other = getattr(scored, name), getattr(trace, name)
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-4, err_msg=name)
    assert scored.exit_token_T[1:].tolist() == trace.exit_top_token_ids_TK[1:, 0].tolist()
    return set(trace.exit_layer_T.tolist())


def check_scores(model: PreTrainedModel, requests: list[Request], decoding: DecodingConfig = SAMPLED) -> set[int]:
    """`check_score` of rows that are generated for it; returns the layers that any of them exited at."""
    decoder, seen = decoder_of(model), set[int]()
    for index, trace in traces_of(Engine(decoder, decoding).generate(requests)).items():
        seen |= check_score(decoder, decoding, requests[index], trace)
    return seen


@pytest.mark.parametrize(("at", "rule"), [*enumerate(RULES)])
def test_invariant_8_scoring_a_text_gives_the_exits_of_generating_it(
    llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, at: int, rule: str
) -> None:
    """Each rule with all its parameters in two states, and so each state with four rules, oracles among them."""
    monkeypatch.setattr(scoring, "SCORED_TOKENS", 10)
    modes = [mode for index, mode in enumerate(MODES) if (index - at) % len(MODES) in (0, 2)]
    exits = [EarlyExit(mode, rule, parameter) for mode in modes for parameter in SOME[rule]]
    assert len(check_scores(llama, [Request(PROMPTS[1], exit, seed=5) for exit in exits])) > 1


@pytest.mark.parametrize("architecture", KINDS)
def test_invariant_8_holds_for_normal_the_seeds_rule_and_an_online_one_in_every_state(
    monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    monkeypatch.setattr(scoring, "SCORED_TOKENS", 6)
    model = shared_model(architecture)
    decoder, seen, modes = packed_decoder_of(model), set[int](), set[str]()
    for request, trace in zip(*together(model), strict=True):
        seen |= check_score(decoder, SAMPLED, request, trace)
        modes.add(request.configuration.mode)
    assert len(seen) > 1
    assert modes == {NORMAL, *modes_of(model)}


def test_a_text_may_be_anything_and_of_any_length(llama: PreTrainedModel) -> None:
    decoder = decoder_of(llama)
    request = Request(PROMPTS[0], EarlyExit("unfrozen", "confidence", SOME["confidence"][0]))
    one = score(decoder, DECODING, request, [7])
    assert (one.exit_layer_T.tolist(), one.exit_prob_TX.tolist()) == ([6], [[0, 0, 0, 1]])
    several = score(decoder, DECODING, request, [7, 7, 30, 2, 2])
    assert several.exit_logprob_T[0] == pytest.approx(one.exit_logprob_T[0])
    normal = score(decoder, DECODING, replace(request, configuration=NoExit()), [7, 7, 30, 2, 2])
    assert set(normal.exit_layer_T.tolist()) == {6}


TEXTS = ([7, 7, 30, 2, 2, 61, 13], [7], [5, 80], [7, 7, 30, 2, 90, 61, 13, 8, 8, 70, 21])


@pytest.mark.parametrize("prompt", [PROMPTS[1], ()], ids=["prompt", "no prompt"])
@pytest.mark.parametrize("mode", [NORMAL, *MODES])
def test_texts_are_scored_as_the_naive_reference_would_token_by_token(
    llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, mode: str, prompt: tuple[int, ...]
) -> None:
    """Several behind one prompt, in passes of a few tokens; behind no prompt, all tokens but the first are decided."""
    monkeypatch.setattr(scoring, "SCORED_TOKENS", 12)
    decoder = decoder_of(llama)
    exits = NoExit() if mode == NORMAL else EarlyExit(mode, "confidence", SOME["confidence"][0])
    request = Request(prompt, exits, seed=3)
    for text, scored in zip(TEXTS, score_texts(decoder, DECODING, request, TEXTS), strict=True):
        naive = score_naively(llama, decoder, DECODING, request, text)
        assert scored.exit_layer_T[1:].tolist() == [layer for layer, _, _ in naive]
        assert scored.exit_token_T[1:].tolist() == [token for _, _, token in naive]
        np.testing.assert_allclose(scored.exit_logprob_T[1:], [log_p for _, log_p, _ in naive], rtol=1e-4, atol=1e-4)
        assert np.isnan(scored.exit_logprob_T[0]) == (not prompt)
        assert mode == NORMAL or len(text) < 3 or len(set(scored.exit_layer_T[1:].tolist())) > 1


@pytest.mark.parametrize("rule", ["confidence", "patience", "kl", "random"])  # one of each kind
def test_a_text_is_scored_beside_others_as_alone(llama: PreTrainedModel, rule: str) -> None:
    decoder, configuration = decoder_of(llama), EarlyExit("frozen_residual", rule, SOME[rule][0])
    for prompt in (PROMPTS[2], ()):
        request = Request(prompt, configuration, seed=1)
        for text, beside in zip(TEXTS, score_texts(decoder, DECODING, request, TEXTS), strict=True):
            alone = score(decoder, DECODING, request, text)
            for name, column in vars(alone).items():
                np.testing.assert_allclose(getattr(beside, name), column, rtol=1e-4, atol=1e-4, err_msg=name)
