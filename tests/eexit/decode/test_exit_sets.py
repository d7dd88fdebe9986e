"""Exit sets and screens: where rules look and through what, against the reference, by counts, and by scoring.

Exitable are the layers of `EXITABLE`, and sets are parts of them; rows of all sets are in one batch.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from axes import EXITABLE, some
from ran import run_alone
from references import decoder_of, packed_decoder_of, shared_model
from rows import DECODING, PROMPTS, SAMPLED, as_reference, generate, modes_of
from traces import assert_same, traces_of
from transformers import PreTrainedModel
from untrained import LINEAR, PROBE

from eexit.decode.engine import Engine
from eexit.decode.requests import DecodingConfig, Request
from eexit.decode.score import score
from eexit.errors import UsageError
from eexit.method.rules import BLIND, RULES
from eexit.method.screen import Screen
from eexit.method.screen_size import ScreenSize
from eexit.plan.configuration import EarlyExit, NoExit
from eexit.sweeps.head_moment import second_moment

SETS = ((), (3,), (4,), (1, 4), (3, 4))
LOOKING = [rule for rule in RULES if rule not in BLIND]
READING = ("confidence", "margin", "entropy", "patience")
moment_of = cache(second_moment)  # of texts that the model writes for it


def requests_of(model: PreTrainedModel, shift: int, rules: Sequence[str] = LOOKING) -> list[Request]:
    """Each rule with each set that it can use, in one mode after the other; with two of the sets, unless on a Llama."""
    modes, n_sets = modes_of(model), len(SETS) if model is shared_model("llama") else 2
    found: list[Request] = []
    for index, rule in enumerate(rules):
        for layers in (SETS[(shift + index + 2 * n) % len(SETS)] for n in range(n_sets)):
            parameter = some(model, rule)[0]
            if rule != "patience" or not isinstance(parameter, float) or len(layers or EXITABLE) >= parameter:
                exit = EarlyExit(modes[(shift + len(found)) % len(modes)], rule, parameter, layers)
                found.append(Request(PROMPTS[len(found) % 2], exit, seed=len(found)))
    return found


def screen_of(model: PreTrainedModel, rank: int, n_tokens: int, packed: bool = True) -> Screen:
    decoder = packed_decoder_of(model) if packed else decoder_of(model)
    return Screen(decoder, ScreenSize(rank, n_tokens), moment_of(decoder))


@pytest.mark.parametrize(("shift", "architecture"), [(0, "llama"), (1, "gemma3")])  # a set is the engine's
def test_invariant_3_every_rule_exits_within_its_set_as_the_reference_does(shift: int, architecture: str) -> None:
    model, seen = shared_model(architecture), set()
    requests = requests_of(model, shift)
    for request, trace in zip(requests, as_reference(model, requests, SAMPLED), strict=True):
        assert isinstance(request.configuration, EarlyExit)
        outside = np.array([layer not in (request.configuration.layers or EXITABLE) for layer in EXITABLE])
        assert not (trace.exit_prob_TX[1:, :-1][:, outside] != 0).any(), "neither a chance nor an unknown one"
        assert np.isnan(trace.exit_score_TE[1:, outside]).all()
        seen |= {(len(request.configuration.layers), layer) for layer in trace.exit_layer_T[1:].tolist()}
    assert len(seen) >= 8


def test_invariant_3_holds_for_screens_of_every_set(llama: PreTrainedModel) -> None:
    decoding = replace(SAMPLED, readout=LINEAR, screen=screen_of(llama, 6, 9))
    as_reference(llama, requests_of(llama, 3, (*READING, "predicted_kl")), decoding)


def test_a_screen_of_all_tokens_and_full_rank_is_the_whole_head(llama: PreTrainedModel) -> None:
    requests = [Request(PROMPTS[0], NoExit(), seed=3), *requests_of(llama, 3, READING)]
    vocabulary, width = llama.get_output_embeddings().weight.shape
    whole = generate(llama, requests, SAMPLED)
    of_all = replace(SAMPLED, screen=screen_of(llama, width, vocabulary))
    for trace, other in zip(generate(llama, requests, of_all), whole, strict=True):
        assert_same(trace, other)


@pytest.mark.parametrize("layers", [(3,), (1, 4)])
@pytest.mark.parametrize("looks_through", ["head", "screen"])
def test_invariant_7_a_set_is_looked_at_and_no_layer_else(
    llama: PreTrainedModel, looks_through: str, layers: tuple[int, ...]
) -> None:
    decoder, decoding = decoder_of(llama), replace(SAMPLED, record_full_depth="none")
    if looks_through == "screen":
        decoding = replace(decoding, screen=screen_of(llama, 6, 9, packed=False))
    request = Request(PROMPTS[0], EarlyExit("frozen_residual", "confidence", 0.3, layers), 3)
    alone = run_alone(decoder, decoding, request)
    counts, exit_T = alone.counts, alone.trace.exit_layer_T[1:]
    looked_T = np.array([sum(layer <= exit for layer in layers) for exit in exit_T])
    whole_T = looked_T if looks_through == "head" else 0 * looked_T
    unread_T = (exit_T == 6) | (whole_T < looked_T)  # whose token is read by itself
    assert counts.reads_TX("head_reads").sum() == alone.ran.reads == (whole_T + unread_T).sum()
    assert counts.reads_TX("screen_reads").sum() == (looked_T.sum() if looks_through == "screen" else 0)
    assert {*exit_T.tolist()} & {*layers}, "it exits at all"


def test_invariant_8_scoring_gives_the_exits_of_a_set_through_a_screen(llama: PreTrainedModel) -> None:
    decoding = replace(SAMPLED, screen=screen_of(llama, 6, 9, packed=False))
    for request in requests_of(llama, 2, ("confidence", "patience", "similarity", "kl", "agree")):
        [trace] = traces_of(Engine(decoder_of(llama), decoding).generate([request])).values()
        scored = score(decoder_of(llama), decoding, request, trace.token_id_T.tolist())
        assert scored.exit_layer_T.tolist() == trace.exit_layer_T.tolist()
        np.testing.assert_allclose(scored.exit_score_TE, trace.exit_score_TE, rtol=1e-3, atol=1e-4)


def test_exits_by_a_token_that_is_not_the_likeliest_are_counted(llama: PreTrainedModel) -> None:
    """Of two tokens, one always has a probability of at least 0.5, so that every token exits after layer 1."""
    screen = screen_of(llama, 2, 2, packed=False)
    exits = EarlyExit("unfrozen", "confidence", 0.5, (1,)), EarlyExit("unfrozen", "fixed", 1.0)
    trace, fixed = generate(llama, [Request(PROMPTS[0], exit) for exit in exits], replace(SAMPLED, screen=screen))
    assert trace.counts is not None
    assert fixed.counts is not None
    assert set(trace.exit_layer_T[1:].tolist()) == {1}
    text = [*PROMPTS[0], *trace.token_id_T[:-1].tolist()]
    seen_TW = llama(torch.tensor([text]), output_hidden_states=True).hidden_states[2][0, len(PROMPTS[0]) :]
    ready_TH = llama.model.norm(seen_TW)
    logits_TV = llama.lm_head(ready_TH)
    missed_T = (screen.tokens(ready_TH) != logits_TV.argmax(-1, keepdim=True)).all(1)
    misses_TX = trace.counts.reads_TX("screen_misses")
    assert misses_TX[:, 0].tolist() == missed_T.tolist()
    assert 0 < missed_T.sum() < len(missed_T)
    assert misses_TX[:, 1:].sum() == 0
    assert fixed.counts.reads_TX("screen_misses").sum() == 0, "it looks through no screen"


def test_a_sketch_is_the_best_in_the_metric_of_the_streams(llama: PreTrainedModel) -> None:
    """Of rank 8, against the plain truncated SVD of the head: the error of logits on streams of the model's own."""
    decoder = decoder_of(llama)
    moment_HH, weight_VH = moment_of(decoder), llama.get_output_embeddings().weight.detach()
    screen = Screen(decoder, ScreenSize(8, 2), moment_HH)
    u_VH, s_H, v_HH = torch.linalg.svd(weight_VH, full_matrices=False)
    plain_VH = (u_VH[:, :8] * s_H[:8]) @ v_HH[:8]
    root_HH = torch.linalg.cholesky(moment_HH + 1e-6 * torch.eye(len(moment_HH)))

    def error(sketch_VH: torch.Tensor) -> float:
        return float(((weight_VH - sketch_VH) @ root_HH).norm())

    assert error(screen.up_VR @ screen.down_RF) < error(plain_VH)


def test_what_does_not_fit_the_head_is_refused(llama: PreTrainedModel) -> None:
    with pytest.raises(UsageError, match="33:9: the rank is above the width of what the head takes, 32"):
        screen_of(llama, 33, 9)
    with pytest.raises(UsageError, match="8:98: the model has only 97 tokens"):
        screen_of(llama, 8, 98)
    with pytest.raises(ValueError, match="exit set 2,4: layer 2 is not exitable, only 1, 3, 4 are"):
        EarlyExit("unfrozen", "confidence", 0.5, (2, 4)).per_layer(EXITABLE)


def test_a_probe_looks_at_its_set_alone(llama: PreTrainedModel) -> None:
    decoding: DecodingConfig = replace(DECODING, probe=PROBE, max_new_tokens=12)
    [trace] = generate(llama, [Request(PROMPTS[0], EarlyExit("unfrozen", "predicted_kl", 4.0, (4,)), 3)], decoding)
    assert trace.counts is not None
    assert trace.counts.reads_TX("probe_reads")[:, :2].sum() == 0
    assert trace.counts.reads_TX("probe_reads")[:, 2].sum() == len(trace.token_id_T) - 1
