"""Scoring a text gives the exits with which it was generated (invariant 8), and the probabilities of its tokens.

Sets, screens, gates, KV maps, custom modes and students are scored where they are compared with the reference.
"""

from dataclasses import replace

import numpy as np
import pytest
from axes import SOME
from reference.generation import generate_one
from references import decoder_of, packed_decoder_of, shared_model
from rows import DECODING, KINDS, PROMPTS, SAMPLED, assert_scored_alike, exits_of, generate, modes_of, together
from transformers import PreTrainedModel

from eexit.decode import score as scoring
from eexit.decode.requests import Request
from eexit.decode.score import score_texts
from eexit.method.modes import MODES
from eexit.method.rules import RULES
from eexit.plan.configuration import NORMAL, EarlyExit, NoExit


@pytest.mark.parametrize(("at", "rule"), [*enumerate(RULES)])
def test_invariant_8_of_every_rule(llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, at: int, rule: str) -> None:
    """Each rule with all its parameters in two modes, and so each mode with four rules, oracles among them."""
    monkeypatch.setattr(scoring, "SCORED_TOKENS", 10)
    modes = [mode for index, mode in enumerate(MODES) if (index - at) % len(MODES) in (0, 2)]
    exits = [EarlyExit(mode, rule, parameter) for mode in modes for parameter in SOME[rule]]
    requests = [Request(PROMPTS[1], exit, seed=5) for exit in exits]
    traces = generate(llama, requests, SAMPLED)
    assert_scored_alike(packed_decoder_of(llama), requests, traces, SAMPLED)
    assert len(exits_of(traces)) > 1


@pytest.mark.parametrize("architecture", KINDS)
def test_invariant_8_holds_for_every_family_and_mode(monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    monkeypatch.setattr(scoring, "SCORED_TOKENS", 6)
    model = shared_model(architecture)
    requests, traces = together(model)
    assert_scored_alike(packed_decoder_of(model), requests, traces, SAMPLED)
    assert {request.configuration.mode for request in requests} == {NORMAL, *modes_of(model)}


TEXTS = ([7, 7, 30, 2, 2, 61, 13], [7], [5, 80], [7, 7, 30, 2, 90, 61, 13, 8, 8, 70, 21])


@pytest.mark.parametrize("prompt", [PROMPTS[1], ()], ids=["prompt", "no prompt"])
@pytest.mark.parametrize("mode", [NORMAL, *MODES])
def test_texts_are_scored_as_by_the_naive_reference_token_by_token(
    llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, mode: str, prompt: tuple[int, ...]
) -> None:
    """Several behind one prompt, in passes of a few tokens; behind no prompt, all tokens but the first are decided."""
    monkeypatch.setattr(scoring, "SCORED_TOKENS", 12)
    decoder = decoder_of(llama)
    exits = NoExit() if mode == NORMAL else EarlyExit(mode, "confidence", SOME["confidence"][0])
    request = Request(prompt, exits, seed=3)
    for text, scored in zip(TEXTS, score_texts(decoder, DECODING, request, TEXTS), strict=True):
        if prompt or len(text) > 1:  # else no token is decided
            decoding, decided = replace(DECODING, max_new_tokens=len(text)), slice(len(prompt) > 0, None)
            naive = generate_one(llama, decoder, request, decoding, forced=text)
            assert scored.exit_layer_T[1:].tolist() == naive.exit_layer_T[decided].tolist()
            assert scored.exit_token_T[1:].tolist() == naive.exit_top_token_ids_TK[decided, 0].tolist()
            log_p = naive.exit_logprob_T[decided]
            np.testing.assert_allclose(scored.exit_logprob_T[1:], log_p, rtol=1e-4, atol=1e-4)
        assert np.isnan(scored.exit_logprob_T[0]) == (not prompt)
        assert mode == NORMAL or len(text) < 3 or len(set(scored.exit_layer_T[1:].tolist())) > 1


@pytest.mark.parametrize("rule", ["confidence", "patience", "kl", "random"])  # one of each kind
def test_a_text_is_scored_beside_others_as_alone(llama: PreTrainedModel, rule: str) -> None:
    decoder, configuration = decoder_of(llama), EarlyExit("frozen_residual", rule, SOME[rule][0])
    for prompt in (PROMPTS[2], ()):
        request = Request(prompt, configuration, seed=1)
        for text, beside in zip(TEXTS, score_texts(decoder, DECODING, request, TEXTS), strict=True):
            for name, column in vars(score_texts(decoder, DECODING, request, [text])[0]).items():
                np.testing.assert_allclose(getattr(beside, name), column, rtol=1e-4, atol=1e-4, err_msg=name)
