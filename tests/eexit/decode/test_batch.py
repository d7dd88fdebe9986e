"""Rows that come and go, each with its own mode and rule: they stay those of the reference."""

from dataclasses import replace
from functools import partial
from itertools import cycle, product

import numpy as np
import pytest
from axes import EXITABLE, control, some
from ran import run_alone
from references import decoder_of, packed_decoder_of, shared_model
from rows import (
    ARCHITECTURES,
    ENDING,
    MY_EXITS,
    PROMPTS,
    SAMPLED,
    as_reference,
    assert_as_reference,
    assert_scored_alike,
    each_rule,
    generate,
    grid,
    modes_of,
)  # fmt: skip
from traces import assert_same, spy_on

from eexit.decode import deferred, engine, slots
from eexit.decode import score as scoring
from eexit.decode.requests import PartialOutput, Request
from eexit.method.custom import use_files
from eexit.method.rules import BLIND, ONLINE
from eexit.model import cache as kv_cache
from eexit.model.cache import KVCache
from eexit.plan.configuration import Configuration, Draft, EarlyExit, NoExit

PRICED = ("unfrozen", "frozen_residual", "skip")
LONG_PROMPT = tuple(7 * index % 90 + 3 for index in range(40))


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gemma4", "gpt_oss", "mpt"])
def test_invariants_3_and_7_hold_for_rows_that_come_and_go(monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    """Check every online rule and every mode, in as many slots as heads, while others have deferred tokens.

    These run in blocks, which have one token of each row, or some of one. Two prompts are prefilled together.
    """
    monkeypatch.setattr(deferred, "DEFERRED_TOKENS", 4)
    monkeypatch.setattr(engine, "PREFILLED_COLUMNS", 30)
    model, decoding = shared_model(architecture), replace(ENDING, max_new_tokens=16)
    rules, modes = (*ONLINE, *BLIND), modes_of(model)
    pairs = [*zip(rules, cycle(modes), strict=False), *product(rules[:1], modes)]
    exits = [EarlyExit(mode, rule, some(model, rule)[0]) for rule, mode in dict.fromkeys(pairs)]
    exits += [EarlyExit("unfrozen", "random", control(*counts)) for counts in ((90, 0, 0, 10), (60, 20, 15, 5))]
    requests = [Request(PROMPTS[index % 3], exit, seed=index) for index, exit in enumerate(exits)]
    traces = as_reference(model, requests, decoding, rows=4)
    assert len({len(trace.token_id_T) for trace in traces}) > 2, "rows must end at different times"
    for request, trace in [*zip(requests, traces, strict=True)][::-4]:
        alone = run_alone(decoder_of(model), decoding, request)
        assert_same(alone.trace, trace)
        np.testing.assert_equal(vars(alone.counts), vars(trace.counts))


@pytest.mark.parametrize(("shift", "architecture"), [*enumerate((*ARCHITECTURES, "gpt2"))])
def test_invariants_3_4_7_and_8_hold_for_prompts_that_exit(
    monkeypatch: pytest.MonkeyPatch, own_exits: None, shift: int, architecture: str
) -> None:
    """Check every rule and mode, custom ones too, in few slots beside rows without prompt exits.

    A prompt of 40 tokens takes several blocks. Some texts end with their first token.
    """
    monkeypatch.setattr(scoring, "SCORED_TOKENS", 16)
    model, decoding = shared_model(architecture), replace(ENDING, max_new_tokens=6)
    plain = [each for each in each_rule(model, shift) if isinstance(each, EarlyExit)]
    use_files([str(MY_EXITS)])
    plain += [EarlyExit("between", "by_chance", 0.2), EarlyExit("gone", "settled"), EarlyExit("skip", "fell", 0.1)]
    exits = [replace(each, prompt_exits=True) for each in plain]
    configurations: list[Configuration] = [*exits, plain[0], plain[shift + 2], NoExit()]
    prompts = (LONG_PROMPT[:1], LONG_PROMPT[:3], LONG_PROMPT)
    requests = [Request(prompt, each, seed) for seed, prompt in enumerate(prompts) for each in configurations]
    traces = as_reference(model, requests, decoding, rows=7)
    whole = [(request, trace) for request, trace in zip(requests, traces, strict=True) if trace.prompt]
    lengths = {6} if architecture in ("gemma3", "gpt_neox") else {1, 6}  # few of their texts end early
    assert lengths <= {len(trace.token_id_T) for _, trace in whole}
    of_prompts = [trace.prompt.exit_layer_T for trace in traces if trace.prompt]
    assert len(np.unique(np.concatenate(of_prompts))) == len(EXITABLE) + 1
    for request, trace in whole[::5]:
        assert_same(trace, generate(model, [request], decoding)[0])
        assert_scored_alike(packed_decoder_of(model), [request], [trace], decoding)
        if trace.counts:
            is_priced = architecture == "llama" and request.configuration.mode in PRICED
            alone = run_alone(decoder_of(model), replace(decoding, record_full_depth="none"), request, priced=is_priced)
            assert alone.columns["macs_executed"] >= alone.columns["macs_required"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_caches_that_are_moved_to_the_left_change_nothing(monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    for module in (kv_cache, slots, engine):
        monkeypatch.setattr(module, "SLACK_COLUMNS", 3)
    monkeypatch.setattr(kv_cache, "BLOCK_COLUMNS", 8)
    moved = spy_on(monkeypatch, KVCache, "move_left", lambda cache, n_columns: n_columns)
    model = shared_model(architecture)
    exits: list[Configuration] = [NoExit()]
    exits += [EarlyExit(mode, "confidence", some(model, "confidence")[0]) for mode in modes_of(model)]
    exits += [EarlyExit(mode, "kl", 0.5) for mode in ("unfrozen", "frozen_residual")]
    sampled = [Request(PROMPTS[seed % 3], each, seed) for seed, each in enumerate(exits)]
    for decoding, requests in ((ENDING, sampled), (replace(ENDING, temperature=0.0), grid([Draft(3, 2)]))):
        as_reference(model, requests, decoding, rows=2)
        assert moved
        moved.clear()


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gemma2", "gemma4", "mpt"])
def test_rows_go_on_as_the_reference_when_the_last_one_that_leaves_the_cache_alone_has_ended(architecture: str) -> None:
    """Their tokens were deferred with its tokens, and the next ones are not written before them."""
    model = shared_model(architecture)
    exits = EarlyExit("unfrozen", "random", control(60, 20, 15, 5))
    first, ends = (Request(PROMPTS[at], exits, at) for at in (1, 2))
    modes = [mode for mode in modes_of(model) if mode != "unfrozen"]
    others = [Request(PROMPTS[0], EarlyExit(mode, "confidence", some(model, "confidence")[0]), 3) for mode in modes]

    def stop(row: PartialOutput, end: int) -> bool:
        return row.request in (first, ends) and len(row.token_ids) == end

    for end in (6, 10):
        decoding = replace(SAMPLED, max_new_tokens=24, max_rows=2 + len(others), stop_fn=partial(stop, end=end))
        traces = generate(model, [first, ends, *others], decoding)
        assert_as_reference(model, others, traces[2:], replace(decoding, stop_fn=None))
