"""Rows that come and go, each with its own mode and rule: they stay those of the reference."""

from collections.abc import Callable
from dataclasses import fields, replace
from itertools import cycle, product

import numpy as np
import pytest
from axes import control, some
from references import shared_model
from rows import ARCHITECTURES, ENDING, PROMPTS, SAMPLED, as_reference, assert_as_reference, generate, modes_of
from traces import spy_on

from eexit.costs.operations import OpCounts
from eexit.decode import engine, slots
from eexit.decode.requests import PartialOutput, Request
from eexit.method.rules import BLIND, ONLINE
from eexit.model import cache as kv_cache
from eexit.model.cache import KVCache
from eexit.plan.configuration import Configuration, Draft, EarlyExit, NoExit


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gemma4", "gpt_oss", "mpt"])
def test_invariants_3_and_7_hold_for_rows_that_come_and_go(architecture: str) -> None:
    """Check every online rule and every mode, in few slots, while others have deferred tokens."""
    model = shared_model(architecture)
    rules, modes = (*ONLINE, *BLIND), modes_of(model)
    pairs = [*zip(rules, cycle(modes), strict=False), *product(rules[:1], modes)]
    exits = [EarlyExit(mode, rule, some(model, rule)[0]) for rule, mode in dict.fromkeys(pairs)]
    requests = [Request(PROMPTS[index % 3], exit, seed=index) for index, exit in enumerate(exits)]
    traces = as_reference(model, requests, ENDING, rows=3)
    assert len({len(trace.token_id_T) for trace in traces}) > 2, "rows must end at different times"
    for request, trace in list(zip(requests, traces, strict=True))[::4]:
        [alone] = generate(model, [request], ENDING)
        for field in fields(OpCounts):
            np.testing.assert_array_equal(getattr(alone.counts, field.name), getattr(trace.counts, field.name))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_caches_that_are_moved_to_the_left_change_nothing(monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    for module in (kv_cache, slots, engine):
        monkeypatch.setattr(module, "SLACK_COLUMNS", 3)
    monkeypatch.setattr(kv_cache, "BLOCK_COLUMNS", 8)
    moved = spy_on(monkeypatch, KVCache, "move_left", lambda cache, n_columns: n_columns)
    model = shared_model(architecture)
    exits: list[Configuration] = [EarlyExit(mode, "kl", 0.5) for mode in ("unfrozen", "frozen_residual")]
    exits += [EarlyExit(mode, "confidence", some(model, "confidence")[0]) for mode in modes_of(model)]
    drafts: list[Configuration] = [Draft(3, 2)] * 3
    for decoding, each in ((ENDING, [*exits, NoExit()]), (replace(ENDING, temperature=0.0), drafts)):
        requests = [Request(PROMPTS[seed % 3], configuration, seed) for seed, configuration in enumerate(each)]
        as_reference(model, requests, decoding, rows=2)
        assert moved
        moved.clear()


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gemma2", "gemma4", "mpt"])
def test_rows_go_on_as_the_reference_when_the_last_one_that_leaves_the_cache_alone_has_ended(architecture: str) -> None:
    """Their tokens were deferred with its tokens, and the next ones are not written before them."""
    model = shared_model(architecture)
    exits = EarlyExit("unfrozen", "random", control(60, 20, 15, 5))
    first, ends = (Request(PROMPTS[at], exits, at) for at in (1, 2))
    threshold, modes = some(model, "confidence")[0], [mode for mode in modes_of(model) if mode != "unfrozen"]
    others = [Request(PROMPTS[0], EarlyExit(mode, "confidence", threshold), 3) for mode in modes]

    def stop_at(end: int) -> Callable[[PartialOutput], bool]:
        return lambda row: row.request in (first, ends) and len(row.token_ids) == end

    for end in (6, 10):
        decoding = replace(SAMPLED, max_new_tokens=24, max_rows=2 + len(others), stop_fn=stop_at(end))
        traces = generate(model, [first, ends, *others], decoding)
        assert_as_reference(model, others, traces[2:], replace(decoding, stop_fn=None))
