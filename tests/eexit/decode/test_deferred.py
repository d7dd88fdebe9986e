"""Deferred tokens: they run together, in blocks, before others join, and their memory is accounted for."""

from dataclasses import replace
from functools import cache
from typing import Any, cast

import numpy as np
import pytest
from axes import EXITABLE, control
from ran import run_alone
from references import decoder_of, packed_decoder_of
from rows import MY_EXITS, PROMPTS, assert_as_reference, assert_scored_alike, generate
from tiny_models import tiny_model
from traces import assert_same, spy_on, traces_of
from transformers import PreTrainedModel

from eexit.decode import deferred
from eexit.decode.deferred import Block, DeferredTokens
from eexit.decode.engine import Engine, row_bytes
from eexit.decode.requests import DecodingConfig, Request
from eexit.method.custom import use_files
from eexit.method.rules import Parameter
from eexit.model.decoders import DecoderPair
from eexit.plan.configuration import EarlyExit, NoExit

N_LONG = 96
LONG_TEXT = DecodingConfig(EXITABLE, N_LONG, frozenset())
UNOBSERVED = replace(LONG_TEXT, record_full_depth="none")
SELDOM = control(95, 0, 0, 5)
SHALLOW = EarlyExit("unfrozen", "fixed", 1.0)  # of whose tokens all deeper layers are deferred


@cache
def long_llama() -> PreTrainedModel:
    """Return a Llama with room for long texts, in which many tokens are deferred."""
    return tiny_model("llama", max_position_embeddings=256)


@pytest.mark.parametrize(
    ("mode", "rule", "parameter"),
    [("unfrozen", "random", SELDOM), ("frozen_residual", "random", SELDOM), ("unfrozen", "confidence", 0.3)],
)
def test_invariants_3_4_7_and_8_hold_for_long_texts(mode: str, rule: str, parameter: Parameter) -> None:
    model, configuration = long_llama(), EarlyExit(mode, rule, parameter)
    requests = [Request(prompt, configuration, 3) for prompt in PROMPTS[:2]]
    decoding = replace(LONG_TEXT, record_top_k=1)
    trace = generate(model, requests, decoding)[1]
    assert_as_reference(model, requests[1:], [trace], decoding)
    assert_scored_alike(packed_decoder_of(model), requests[1:], [trace], decoding)
    alone = run_alone(decoder_of(model), decoding, requests[1])
    assert_same(trace, alone.trace)
    if mode == "unfrozen":
        assert alone.ran.calls_L[-1] < alone.ran.ended_L[-1], "deferred tokens run together"
    if rule == "random":
        deep_T = np.flatnonzero(trace.exit_layer_T > EXITABLE[0])
        assert np.diff(deep_T).max() > 32, "many tokens must be deferred"


def test_their_memory_is_accounted_for_and_a_step_copies_few_of_them(
    monkeypatch: pytest.MonkeyPatch, own_exits: None
) -> None:
    """Also where another row's custom mode needs more hidden states."""
    use_files([str(MY_EXITS)])
    decoder = decoder_of(long_llama())

    def deferred_bytes(its: DeferredTokens, *_: object) -> int:
        return sum(part.nbytes for block in its.blocks for part in block.parts.values())

    def bytes_of(requests: list[Request]) -> int:
        return row_bytes(False, DecoderPair(decoder, decoder), LONG_TEXT, N_LONG + len(PROMPTS[1]), requests)

    held = spy_on(monkeypatch, DeferredTokens, "run", deferred_bytes)
    copied = spy_on(monkeypatch, Block, "append", lambda block, _: block.shape.numel())
    for other in (SHALLOW, EarlyExit("between", "fixed", 1.0)):
        requests = [Request(PROMPTS[1], each) for each in (SHALLOW, SHALLOW, other)]
        held.clear()
        traces_of(Engine(decoder, UNOBSERVED).generate(requests))
        expected = 3 * (bytes_of(requests) - bytes_of([Request((1,), NoExit())]))
        assert 0.9 * expected < max(held) < expected
    assert 0 < max(copied) < 3 * N_LONG / 2


@pytest.mark.parametrize("joins", [True, False], ids=["a row joins", "a row goes deeper"])
def test_they_run_in_blocks(monkeypatch: pytest.MonkeyPatch, joins: bool) -> None:
    """Before a row joins, or with a step that goes as deep; progress is reported after each block."""
    monkeypatch.setattr(deferred, "DEFERRED_TOKENS", 40)
    exit, n_rows, last_token = (SHALLOW, 2, 60) if joins else (EarlyExit("unfrozen", "random", SELDOM), 3, N_LONG)
    requests = [Request((number, 7), exit, 3) for number in range(3)]
    end = requests[0], last_token
    decoding = replace(UNOBSERVED, max_rows=n_rows, stop_fn=lambda row: (row.request, len(row.token_ids)) == end)
    reported = list[int]()  # as progress
    engine, last = Engine(decoder_of(long_llama()), decoding), cast(Any, long_llama()).model.layers[-1].mlp
    run_together = spy_on(monkeypatch, last, "forward", lambda hidden_BTD: hidden_BTD[..., 0].numel())
    traces = traces_of(engine.generate(requests, reported.append))
    assert 20 < max(run_together) <= 40 + len(requests)
    assert reported.count(0) >= 2
    assert sum(reported) == sum(len(trace.token_id_T) - 1 for trace in traces.values())
