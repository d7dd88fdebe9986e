"""Rows without a teacher: what their steps run, what they owe meanwhile, and rows that come and go."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import cache
from itertools import cycle, product
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from axes import EXITABLE, control, some
from ran import run_alone
from references import decoder_of, reference_of, shared_model
from rows import (
    ARCHITECTURES,
    KINDS,
    PROMPTS,
    SAMPLED,
    as_reference,
    assert_as_reference,
    generate,
    modes_of,
    stands_for_others,
)
from tiny_models import GROUPED
from torch.utils._python_dispatch import TorchDispatchMode
from traces import assert_same, traces_of
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from untrained import LINEAR

from eexit.costs.operations import OpCounts, required_ops
from eexit.decode import deferred, engine, slots
from eexit.decode.deferred import DeferredTokens
from eexit.decode.engine import Engine, row_bytes
from eexit.decode.requests import DecodingConfig, PartialOutput, Request
from eexit.decode.score import score
from eexit.method.custom import use_files
from eexit.method.modes import MODES
from eexit.method.rules import BLIND, ONLINE, Parameter
from eexit.model import cache as kv_cache
from eexit.model.cache import KVCache
from eexit.model.decoders import DecoderPair
from eexit.model.layers import ForwardInputs, Visit
from eexit.plan.configuration import Configuration, Draft, EarlyExit, NoExit

MINE = Path(__file__).parents[2] / "support" / "my_exits.py"
FEW = replace(SAMPLED, record_full_depth="none")
ENDING = replace(SAMPLED, eos_token_ids=frozenset(range(0, 97, 11)))
# States in which something is run past an exit; one that maps does what frozen_residual does, behind a map.
RUN_ON = ("unfrozen", "frozen_residual")


def confident(model: PreTrainedModel, modes: Sequence[str] | None = None) -> list[EarlyExit]:
    """An online rule in these modes, or in every one."""
    return [EarlyExit(mode, "confidence", some(model, "confidence")[0]) for mode in modes or modes_of(model)]


@pytest.mark.parametrize("architecture", KINDS)
def test_invariant_7_a_row_runs_what_it_says_and_no_more_than_its_exits_need(architecture: str) -> None:
    model, seen = shared_model(architecture), set()
    decoder, layer_L = decoder_of(model), np.arange(7)
    for configuration in confident(model, None if stands_for_others(model) else RUN_ON):
        request, priced = Request(PROMPTS[0], configuration, 3), architecture in ("llama", "gemma3", "gpt_neox")
        alone = run_alone(decoder, FEW, request, priced=priced)
        counts, exit_T = alone.counts, alone.trace.exit_layer_T[1:]
        least = required_ops(exit_T, np.array([*EXITABLE, 6]), MODES[configuration.mode])
        assert counts.layers_T.tolist() == least.layers_T.tolist()
        writes = configuration.mode in ("frozen_residual", "mapped_residual")
        assert counts.kv_layers_T.tolist() == [int((layer_L > exit).sum()) * writes for exit in exit_T]
        assert counts.reads_TX("head_reads").sum() == (1 + np.searchsorted(EXITABLE, exit_T)).sum()
        seen |= set(exit_T.tolist())
    assert len(seen) > 1


def test_invariant_7_holds_for_every_rule_and_state(llama: PreTrainedModel) -> None:
    """Also for those that look at nothing, at the stream alone, or through a probe."""
    for (rule, parameters), mode in product({rule: some(llama, rule) for rule in (*ONLINE, *BLIND)}.items(), MODES):
        run_alone(
            decoder_of(llama), replace(FEW, readout=LINEAR), Request(PROMPTS[0], EarlyExit(mode, rule, parameters[0]))
        )


def test_oracles_have_no_cost_of_their_own(llama: PreTrainedModel) -> None:
    requests = [Request(PROMPTS[0], EarlyExit(mode, "kl", 0.5)) for mode in MODES]
    assert [trace.counts for trace in generate(llama, requests, FEW)] == [None] * len(MODES)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gemma4", "gpt_oss", "mpt"])
def test_rows_that_come_and_go_are_those_of_the_reference_and_cost_what_they_cost_alone(architecture: str) -> None:
    """Every online rule and every state, in few slots, while others owe."""
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
    moved, move_left = list[int](), KVCache.move_left

    def noted(cache: KVCache, n_columns: int) -> None:
        moved.append(n_columns)
        move_left(cache, n_columns)

    monkeypatch.setattr(KVCache, "move_left", noted)
    model = shared_model(architecture)
    oracles = [EarlyExit(mode, "kl", 0.5) for mode in ("unfrozen", "frozen_residual")]
    rows_of: list[Configuration] = [*confident(model), *oracles, NoExit()]
    for decoding, each in ((ENDING, rows_of), (replace(ENDING, temperature=0.0), [Draft(3, 2)] * 3)):
        requests = [Request(PROMPTS[seed % 3], configuration, seed) for seed, configuration in enumerate(each)]
        as_reference(model, requests, decoding, rows=2)
        assert moved
        moved.clear()


N_LONG = 96
LONG_TEXT = DecodingConfig(EXITABLE, N_LONG, frozenset())
SELDOM = control(95, 0, 0, 5)


@cache
def long_llama() -> PreTrainedModel:
    """A Llama with room for long texts, in which many tokens are owed."""
    torch.manual_seed(0)
    model: PreTrainedModel = LlamaForCausalLM(LlamaConfig(**GROUPED | {"max_position_embeddings": 256})).eval()
    return model


@pytest.mark.parametrize(
    ("mode", "rule", "parameter"),
    [("unfrozen", "random", SELDOM), ("frozen_residual", "random", SELDOM), ("unfrozen", "confidence", 0.3)],
)
def test_the_invariants_hold_for_long_texts_in_which_many_tokens_are_owed(
    mode: str, rule: str, parameter: Parameter
) -> None:
    model, configuration = long_llama(), EarlyExit(mode, rule, parameter)
    decoder, requests = decoder_of(model), [Request(prompt, configuration, 3) for prompt in PROMPTS[:2]]
    trace = traces_of(Engine(decoder, LONG_TEXT).generate(requests))[1]
    assert_same(trace, reference_of(model, requests[1], LONG_TEXT))
    alone = run_alone(decoder, LONG_TEXT, requests[1])
    assert_same(trace, alone.trace)
    scored = score(decoder, LONG_TEXT, requests[1], trace.token_id_T.tolist())
    assert scored.exit_layer_T.tolist() == trace.exit_layer_T.tolist()
    if mode == "unfrozen":
        assert alone.ran.calls_L[-1] < alone.ran.ended_L[-1], "tokens that are owed run together"
    if rule == "random":
        deep_T = np.flatnonzero(trace.exit_layer_T > EXITABLE[0])
        assert np.diff(deep_T).max() > 32, "many tokens must be owed"


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gemma2", "gemma4", "mpt"])
def test_rows_that_alter_the_cache_go_on_as_the_reference_when_the_last_row_that_does_not_has_ended(
    architecture: str,
) -> None:
    """Their tokens were deferred with those of that row, and the next ones aren't written before them."""
    model = shared_model(architecture)
    [threshold] = some(model, "confidence")[:1]
    first, ends = (Request(PROMPTS[at], EarlyExit("unfrozen", "random", control(60, 20, 15, 5)), at) for at in (1, 2))
    modes = [mode for mode in modes_of(model) if mode != "unfrozen"]
    others = [Request(PROMPTS[0], EarlyExit(mode, "confidence", threshold), 3) for mode in modes]

    def stop_at(end: int) -> Callable[[PartialOutput], bool]:
        return lambda row: row.request in (first, ends) and len(row.token_ids) == end

    for end in (6, 10):
        decoding = replace(SAMPLED, max_new_tokens=24, max_rows=2 + len(others), stop_fn=stop_at(end))
        traces = generate(model, [first, ends, *others], decoding)
        assert_as_reference(model, others, traces[2:], replace(decoding, stop_fn=None))


def test_prompts_of_very_different_lengths_are_prefilled_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "PREFILLED_COLUMNS", 300)  # two of these prompts
    long = tuple(token % 97 for token in range(7, 157))
    requests = [
        Request(prompt, EarlyExit(mode, "confidence", 0.3), seed=3)
        for prompt in ((5,), long, PROMPTS[1], long[:70])
        for mode in ("unfrozen", "skip")
    ]
    as_reference(long_llama(), requests, replace(LONG_TEXT, max_new_tokens=8), rows=6)


def test_a_text_that_never_goes_deeper_runs_nothing_deeper(llama: PreTrainedModel) -> None:
    for mode in MODES:
        alone = run_alone(decoder_of(llama), FEW, Request(PROMPTS[1], EarlyExit(mode, "fixed", 1.0)))
        assert alone.columns["layers_run"] == 2 * (len(alone.trace.token_id_T) - 1)
        assert alone.columns["macs_executed"] >= alone.columns["macs_required"]


SHALLOW = EarlyExit("unfrozen", "fixed", 1.0)  # of whose tokens all deeper layers are deferred


def test_room_for_deferred_tokens_is_accounted_for(monkeypatch: pytest.MonkeyPatch, own_exits: None) -> None:
    """Also where a custom mode of another row needs more hidden states."""
    use_files([str(MINE)])
    held, run = list[int](), DeferredTokens.run

    def noted(its: DeferredTokens, *given: object) -> torch.Tensor:
        head_input_BTF = run(its, *given)  # type: ignore[arg-type]
        held.append(sum(part.nbytes for block in its.blocks for part in block.parts.values()))
        return head_input_BTF

    monkeypatch.setattr(DeferredTokens, "run", noted)
    decoder, length = decoder_of(long_llama()), N_LONG + len(PROMPTS[1])
    of_normal = row_bytes(False, DecoderPair(decoder, decoder), LONG_TEXT, length, [Request((1,), NoExit())])
    for other in (SHALLOW, EarlyExit("between", "fixed", 1.0)):
        requests = [Request(PROMPTS[1], each) for each in (SHALLOW, SHALLOW, other)]
        held.clear()
        traces_of(Engine(decoder, replace(LONG_TEXT, record_full_depth="none")).generate(requests))
        of_row = row_bytes(False, DecoderPair(decoder, decoder), LONG_TEXT, length, requests)
        assert 0.9 * 3 * (of_row - of_normal) < max(held) < 3 * (of_row - of_normal)


def test_a_step_does_not_copy_all_deferred_tokens() -> None:
    class Copies(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]  # torch's own, without annotations
            self.most = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = function(*args, **(kwargs or {}))
            if function is torch.ops.aten.cat.default:
                self.most = max(self.most, made.numel())
            return made

    decoder, requests = decoder_of(long_llama()), [Request(PROMPTS[1], SHALLOW)] * 3
    decoding = replace(LONG_TEXT, record_full_depth="none")
    with Copies() as copies:
        traces_of(Engine(decoder, decoding).generate(requests))
    assert 0 < copies.most < 3 * N_LONG * decoder.width / 2


def passes_of(
    model: PreTrainedModel, decoding: DecodingConfig, requests: Sequence[Request]
) -> tuple[list[int], list[int]]:
    """Numbers of tokens that the last layer runs at a time behind the prompts, and those that progress is told."""
    told, sizes = list[int](), list[int]()

    def note(_: torch.nn.Module, given: tuple[Any, ...]) -> None:
        sizes.append(given[0].shape[0] * given[0].shape[1])

    engine, layers = (
        Engine(decoder_of(model), replace(decoding, record_full_depth="none")),
        cast(Any, model).model.layers,
    )
    handle = layers[-1].mlp.register_forward_pre_hook(note)
    traces_of(engine.generate(requests, told.append))
    handle.remove()
    return sizes, told


@pytest.mark.parametrize("joins", [True, False], ids=["a row joins", "a row goes deeper"])
def test_deferred_tokens_run_in_blocks(monkeypatch: pytest.MonkeyPatch, joins: bool) -> None:
    """Before a row joins, or with a step that goes as deep; progress is told after each block."""
    monkeypatch.setattr(deferred, "DEFERRED_TOKENS", 40)
    prompts = [(number, 7) for number in range(3)]
    if joins:
        requests = [Request(prompt, SHALLOW) for prompt in prompts]
        decoding = replace(
            LONG_TEXT, max_rows=2, stop_fn=lambda row: row.request == requests[0] and len(row.token_ids) == 60
        )
    else:
        requests = [Request(prompt, EarlyExit("unfrozen", "random", SELDOM), 3) for prompt in prompts]
        decoding = LONG_TEXT
    sizes, told = passes_of(long_llama(), decoding, requests)
    assert 20 < max(sizes) <= 40 + len(prompts)
    assert told.count(0) >= 2
    assert sum(told) == sum(len(trace.token_id_T) - 1 for trace in generate(long_llama(), requests, decoding))


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gemma4", "gpt_oss", "mpt"])
def test_deferred_tokens_in_blocks_are_those_of_the_reference(
    monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    """Each alone runs what it says, no more. A block has one token of three rows, or some of one."""
    monkeypatch.setattr(deferred, "DEFERRED_TOKENS", 4)
    model = shared_model(architecture)
    seldom = [control(90, 0, 0, 10), control(60, 20, 15, 5)]
    exits = [
        *(EarlyExit("unfrozen", "random", each) for each in seldom),
        *confident(model, ["unfrozen", modes_of(model)[-1]]),
    ]
    requests = [Request(PROMPTS[index % 3], exit, seed=index) for index, exit in enumerate([*exits, exits[0]])]
    decoding = replace(ENDING, max_new_tokens=24)
    traces = as_reference(model, requests, decoding, rows=3)
    for request, trace in zip(requests[:2], traces, strict=False):
        assert_same(run_alone(decoder_of(model), decoding, request).trace, trace)


def test_rows_in_flight_run_what_they_owe_before_others_come(
    llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, requests = (
        decoder_of(llama),
        [Request(PROMPTS[seed], EarlyExit("unfrozen", "fixed", 1.0)) for seed in range(3)],
    )
    ends = dict(zip(PROMPTS, (5, 8, 5), strict=True))
    decoding = replace(FEW, max_rows=2, stop_fn=lambda row: len(row.token_ids) >= ends[row.request.prompt_token_ids])
    passes, run = list[int](), decoder.run

    def noted(visit: Visit, inputs: ForwardInputs, *given: Any) -> torch.Tensor:
        passes.append(inputs.token_BT.shape[1])
        return run(visit, inputs, *given)

    monkeypatch.setattr(decoder, "run", noted)
    traces_of(Engine(decoder, decoding).generate(requests))
    assert passes[1:] == [1, 1, 1, 1, 4, max(map(len, PROMPTS[2:])), 1, 1, 1, 1], "once, all that was owed together"
