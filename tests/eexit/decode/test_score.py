"""Scoring a text gives the exits with which it was generated (invariant 8), and the probabilities of its tokens.

Sets, screens, gates, KV maps, custom modes and students are scored where they are compared with the reference.
"""

from dataclasses import replace

import numpy as np
import pytest
from axes import SOME
from reference.generation import generate_one
from references import decoder_of, packed_decoder_of, shared_model
from rows import DECODING, KINDS, PROMPTS, SAMPLED, assert_scored_alike, modes_of, together
from transformers import PreTrainedModel

from eexit.decode import score as scoring
from eexit.decode.requests import Request
from eexit.decode.score import score_texts
from eexit.method.modes import MODES
from eexit.plan.configuration import NORMAL, EarlyExit, NoExit


@pytest.mark.parametrize("architecture", KINDS)
def test_invariant_8_holds_for_every_family_and_mode(monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    monkeypatch.setattr(scoring, "SCORED_TOKENS", 6)
    model = shared_model(architecture)
    requests, traces = together(model)
    assert_scored_alike(packed_decoder_of(model), requests, traces, SAMPLED)
    assert {request.configuration.mode for request in requests} == {NORMAL, *modes_of(model)}


OF_OTHER_KINDS = [("frozen_residual", rule) for rule in ("patience", "kl", "random")]
TEXTS = ([7, 7, 30, 2, 2, 61, 13], [7], [5, 80], [7, 7, 30, 2, 90, 61, 13, 8, 8, 70, 21])


@pytest.mark.parametrize("prompt", [PROMPTS[1], ()], ids=["prompt", "no prompt"])
@pytest.mark.parametrize(("mode", "rule"), [*((mode, "confidence") for mode in (NORMAL, *MODES)), *OF_OTHER_KINDS])
def test_texts_are_scored_as_by_the_naive_reference_token_by_token(
    llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, mode: str, rule: str, prompt: tuple[int, ...]
) -> None:
    """Several behind one prompt, in passes of a few tokens; behind no prompt, all tokens but the first are decided."""
    monkeypatch.setattr(scoring, "SCORED_TOKENS", 12)
    decoder = decoder_of(llama)
    exits = NoExit() if mode == NORMAL else EarlyExit(mode, rule, SOME[rule][0])
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
        assert mode == NORMAL or rule != "confidence" or len(text) < 3 or len({*scored.exit_layer_T[1:].tolist()}) > 1
