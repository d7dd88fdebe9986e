"""Steps without a teacher: what they run, tokens that wait for their deeper layers, and observation afterwards."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import cycle, product
from typing import Any

import numpy as np
import pytest
import torch
from axes import EXITABLE, SOME, control, some
from eexit.decode.steps import observing
from eexit.decode.steps.batch import Batch
from long_llama import LONG
from ran import Ran, run_alone
from references import decoder_of, packed_decoder_of, reference_of, shared_model
from rows import ARCHITECTURES, KINDS, PROMPTS, SAMPLED, as_reference, grid, modes_of, stands_for_others
from tiny_models import GROUPED
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from traces import assert_same, traces_of
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from untrained import LINEAR

from eexit.decode import engine, token_pass
from eexit.decode.costs.counting import cost_columns, needed
from eexit.decode.decoders import Decoders
from eexit.decode.engine import Engine
from eexit.decode.prices import find_prices
from eexit.decode.requests import Decoding, Request, Trace
from eexit.decode.score import score
from eexit.method.rules import BLIND, ONLINE, Parameter
from eexit.method.states import STATES
from eexit.model.layers import Decoder
from eexit.plan.config import Observe
from eexit.plan.configuration import Exit, Normal

FEW = replace(SAMPLED, observe="none")
# States in which layers run something for tokens that wait; one that maps does what frozen_residual does, behind a map.
RUN_LATER = ("unfrozen", "frozen_residual")


def confident(model: PreTrainedModel, modes: Sequence[str] | None = None) -> list[Exit]:
    """An online rule in these modes, or in every one."""
    return [Exit(mode, "confidence", some(model, "confidence")[0]) for mode in modes or modes_of(model)]


@pytest.mark.parametrize("architecture", KINDS)
def test_invariant_7_a_row_runs_what_it_says_and_no_more_than_its_exits_need(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shared_model(architecture)
    monkeypatch.setattr(model.config, "_experts_implementation", "eager")  # made of products that torch counts
    decoder, seen = decoder_of(model), set()
    layer_L = np.arange(decoder.n_layers)
    for configuration in confident(model, None if stands_for_others(model) else RUN_LATER):
        alone = run_alone(model, decoder, FEW, Request(PROMPTS[0], configuration, 3))
        counts, ran, exit_T = alone.counts, alone.ran, alone.trace.exit_layer_T[1:]
        layers_T1, keys_T1 = counts.layers_T[:, None], counts.keys_T[:, None]
        assert ran.ended_L.tolist() == (layer_L < layers_T1).sum(0).tolist()
        written = (layer_L >= layers_T1) & (layer_L < layers_T1 + keys_T1)
        assert (ran.begun_L - ran.ended_L).tolist() == written.sum(0).tolist()
        assert ran.reads == counts.looks_TX("head_reads").sum() == (1 + np.searchsorted(EXITABLE, exit_T)).sum()
        least, _ = needed(exit_T, EXITABLE, decoder.n_layers, STATES[configuration.mode])
        assert counts.layers_T.tolist() == least.layers_T.tolist()
        assert counts.keys_T.tolist() == least.keys_T.tolist()
        seen |= set(exit_T.tolist())
    assert len(seen) > 1


def test_invariant_7_holds_for_a_probe(llama: PreTrainedModel) -> None:
    request = Request(PROMPTS[0], Exit("frozen_residual", "predicted_kl", 4.0), 3)
    alone = run_alone(llama, decoder_of(llama), replace(FEW, readout=LINEAR), request)
    counts, exit_T = alone.counts, alone.trace.exit_layer_T[1:]
    looked_T = 1 + np.minimum(np.searchsorted(EXITABLE, exit_T), len(EXITABLE) - 1)
    assert counts.looks_TX("probe_reads").sum() == looked_T.sum()
    assert alone.ran.reads == counts.looks_TX("head_reads").sum() == len(exit_T)
    assert len(set(exit_T)) > 1


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "mpt"])
def test_invariant_7_rows_of_a_batch_run_together_what_they_say(
    monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    monkeypatch.setattr(token_pass, "rounded", lambda n_rows: n_rows)
    monkeypatch.setattr(token_pass, "TOKENS_PER_CALL", 3)
    model = shared_model(architecture)
    decoder = packed_decoder_of(model)
    ran = Ran(model, decoder, monkeypatch)
    requests = grid(confident(model), PROMPTS[:2])
    traces = traces_of(Engine(decoder, replace(FEW, rows=5)).generate(requests)).values()
    counts = [trace.counts for trace in traces if trace.counts is not None]
    assert len(counts) == len(requests)
    assert ran.ended_L.sum() == sum(its.layers_T.sum() for its in counts)
    assert (ran.begun_L - ran.ended_L).sum() == sum(its.keys_T.sum() for its in counts)


@pytest.mark.parametrize(
    ("architecture", "compiler"),
    [
        *((architecture, "cc") for architecture in ("llama", "gemma2", "gpt_oss", "mpt")),
        *((architecture, "no-such-compiler") for architecture in ("gemma2", "gpt_oss")),  # of caps, windows and sinks
    ],
)
def test_tokens_that_wait_are_those_of_the_reference_whatever_happens_to_other_rows(
    monkeypatch: pytest.MonkeyPatch, use_compiler: Callable[[str], None], architecture: str, compiler: str
) -> None:
    if compiler != "cc":
        use_compiler(compiler)  # attention and comparison are torch's operators'
    n_parts, in_parts = set(), token_pass.in_parts

    def watched(rows: np.ndarray) -> list[np.ndarray]:
        parts = in_parts(rows)
        n_parts.add(len(parts))
        return parts

    monkeypatch.setattr(token_pass, "in_parts", watched)
    monkeypatch.setattr(token_pass, "TOKENS_PER_CALL", 2)
    model = shared_model(architecture)
    rules, modes = (*ONLINE, *BLIND), modes_of(model)
    pairs = [*zip(rules, cycle(modes), strict=False), *product(rules[:1], modes)]
    exits = [Exit(mode, rule, some(model, rule)[0]) for rule, mode in dict.fromkeys(pairs)]
    requests = [Request(PROMPTS[index % 2], exit, seed=index) for index, exit in enumerate(exits)]
    decoding = replace(SAMPLED, eos_token_ids=frozenset(range(0, 97, 11)))
    traces = as_reference(model, requests, decoding, rows=3)
    assert max(n_parts) > 1
    assert len({len(trace.token_id_T) for trace in traces}) > 2, "rows must end at different times"


@pytest.mark.parametrize("architecture", ["gemma3", "mpt"])
def test_observation_in_parts_is_that_of_the_reference(monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    monkeypatch.setattr(observing, "OBSERVED_TOKENS", 5)
    monkeypatch.setattr(observing, "OBSERVED_POSITIONS", 100)
    model = shared_model(architecture)
    as_reference(model, grid([Exit(mode, "fixed", 3.0) for mode in modes_of(model)], PROMPTS[:2]), SAMPLED)


@cache
def long_llama() -> PreTrainedModel:
    """A Llama with room for long texts, in which many tokens wait."""
    torch.manual_seed(0)
    model: PreTrainedModel = LlamaForCausalLM(LlamaConfig(**GROUPED | {"max_position_embeddings": 256})).eval()
    return model


N_LONG = 100  # tokens
LONG_TEXT = replace(SAMPLED, max_new_tokens=N_LONG)
SELDOM = control(40, 1, 0, 1)  # tokens go deep so seldom that many wait


@pytest.mark.parametrize("mode", STATES)
def test_what_no_later_token_needs_is_never_run_however_long_the_text(mode: str) -> None:
    """Of tokens that all exit at the first exitable layer without being looked at, full depth is far away."""
    decoder, decoding = decoder_of(long_llama()), replace(LONG_TEXT, observe="none")
    request, prices = Request(PROMPTS[1], Exit(mode, "fixed", 1.0)), find_prices(decoder, decoding)
    [trace] = traces_of(Engine(decoder, decoding).generate([request])).values()
    columns = cost_columns(prices, trace.counts, trace.exit_layer_T[1:], EXITABLE, mode, len(PROMPTS[1]))
    assert columns["cost_run"] == columns["cost_needed"]
    assert columns["layers_run"] == 2 * (N_LONG - 1)


@pytest.mark.parametrize(
    ("mode", "rule", "parameter"),
    [("unfrozen", "random", SELDOM), ("frozen_residual", "random", SELDOM), ("unfrozen", "confidence", 0.3)],
)
def test_the_invariants_hold_for_long_texts_in_which_many_tokens_wait(
    monkeypatch: pytest.MonkeyPatch, mode: str, rule: str, parameter: Parameter
) -> None:
    monkeypatch.setattr(token_pass, "rounded", lambda n_rows: n_rows)
    monkeypatch.setattr(token_pass, "TOKENS_PER_CALL", 24)
    model, configuration = long_llama(), Exit(mode, rule, parameter)
    decoder, requests = decoder_of(model), [Request(prompt, configuration, 3) for prompt in PROMPTS[:2]]
    with monkeypatch.context() as patch:
        ran = Ran(model, decoder, patch)
        traces = traces_of(Engine(decoder, LONG_TEXT).generate(requests))
    trace = traces[1]
    assert_same(trace, reference_of(model, requests[1], LONG_TEXT))
    assert_same(trace, traces_of(Engine(decoder, LONG_TEXT).generate(requests[1:]))[0])
    scored = score(decoder, LONG_TEXT, requests[1], trace.token_id_T.tolist())
    assert scored.exit_layer_T.tolist() == trace.exit_layer_T.tolist()
    run, least = zip(*(counts_of(its, mode) for its in traces.values()), strict=True)
    assert run == least
    assert ran.ended_L.sum() == sum(sum(layers) for layers, _ in run)
    assert (ran.begun_L - ran.ended_L).sum() == sum(sum(keys) for _, keys in run)
    deep_T = np.flatnonzero(trace.exit_layer_T > EXITABLE[0])
    assert rule != "random" or np.diff(deep_T).max() > 32, "many tokens must wait"


@pytest.mark.parametrize(("observe", "kept"), [("all", 4), ("final", 1), ("none", 0)])
@pytest.mark.parametrize("mode", ["normal", *STATES])
def test_room_for_rows_in_which_every_token_waits_is_accounted_for(mode: str, observe: Observe, kept: int) -> None:
    decoder, decoding, length = decoder_of(long_llama()), replace(LONG_TEXT, observe=observe), N_LONG + len(PROMPTS[1])
    configuration = Normal() if mode == "normal" else Exit(mode, "fixed", 1.0)
    requests = [Request(PROMPTS[1], configuration)] * 3
    decoders = Decoders.of(decoder)
    waiting = Batch(3, length, decoders, decoding, requests).student.waiting
    indices = waiting.token_SP, waiting.segment_SP, waiting.exit_SP
    held = sum(part.nbytes for part in (*indices, waiting.hidden_SPW, waiting.streams_SPXW))
    others = decoder.cache_bytes_per_token * length + decoder.vocabulary * 4
    assert 3 * (Batch.row_bytes(decoders, decoding, length, requests) - others) == held
    streams = {"normal": 0, "unfrozen": 1 + kept}.get(mode, 1)  # that a token keeps
    assert waiting.hidden_SPW.numel() + waiting.streams_SPXW.numel() == 3 * N_LONG * decoder.width * streams


def counts_of(trace: Trace, mode: str) -> tuple[tuple[list[int], list[int]], tuple[list[int], list[int]]]:
    """Layers run and keys written alone for each token, and those that its exits need."""
    assert trace.counts is not None
    least, _ = needed(trace.exit_layer_T[1:], EXITABLE, 7, STATES[mode])
    both = [(counts.layers_T.tolist(), counts.keys_T.tolist()) for counts in (trace.counts, least)]
    return both[0], both[1]


class Largest(TorchDispatchMode):
    """The most numbers in any tensor that an operator makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own, without annotations
        self.numbers = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        given = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage().data_ptr() not in given:
                self.numbers = max(self.numbers, leaf.numel())
        return result


def test_observation_of_a_longer_text_takes_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    decoder, observe = Decoder(LlamaForCausalLM(LONG).eval()), observing.observe
    request = Request(PROMPTS[1], Exit("frozen_residual", "fixed", 1.0))
    monkeypatch.setattr(observing, "OBSERVED_TOKENS", 32)

    def largest(n_tokens: int) -> int:
        largest = Largest()

        def watched(*args: Any) -> None:
            with largest:
                observe(*args)

        monkeypatch.setattr(engine, "observe", watched)
        decoding = Decoding((1, 3, 4), n_tokens, frozenset(), record_top_k=3)
        traces_of(Engine(decoder, decoding).generate([request]))
        return largest.numbers

    assert largest(300) == largest(60) > 0


def test_observation_copies_keys_for_few_tokens_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers that attend by code of their own get a row's keys for each of its tokens."""
    monkeypatch.setattr(observing, "OBSERVED_POSITIONS", 120)
    decoder, observe, largest = decoder_of(shared_model("mpt")), observing.observe, Largest()

    def watched(*args: Any) -> None:
        with largest:
            observe(*args)

    monkeypatch.setattr(engine, "observe", watched)
    request = Request(PROMPTS[1], Exit("frozen_residual", "fixed", SOME["fixed"][0]))
    traces_of(Engine(decoder, replace(SAMPLED, max_new_tokens=55)).generate([request]))
    n_heads, width = 4, 8
    assert 0 < largest.numbers <= 120 * n_heads * width
