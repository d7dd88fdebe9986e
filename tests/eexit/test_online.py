"""The loop of online rules: what it runs, tokens that wait for their deeper layers, and observation afterwards."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from axes import EXITABLE, SOME, some
from ran import Multiplied, Ran
from references import decoder_of, packed_decoder_of, reference_of, shared_model
from test_engine import LONG
from test_invariants import ARCHITECTURES, PROMPTS, SAMPLED, grid, modes_of
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from traces import assert_same, traces_of
from transformers import LlamaForCausalLM, PreTrainedModel
from untrained import LINEAR

from eexit import cache, engine, exit_pass, online
from eexit.anatomy import Decoder
from eexit.configuration import Configuration
from eexit.costs import cost_columns, needed
from eexit.engine import Engine
from eexit.online import OnlineBatch
from eexit.prices import find_prices
from eexit.rows import Decoding, Request
from eexit.rules import BLIND, ONLINE
from eexit.shortlist import Shortlist
from eexit.states import STATES

FEW = replace(SAMPLED, max_new_tokens=13, observe=False)


def confident(model: PreTrainedModel) -> list[Configuration]:
    """An online rule in every mode."""
    return [Configuration(mode, "confidence", some(model, "confidence")[0]) for mode in modes_of(model)]


def test_invariant_7_a_row_runs_what_it_says_and_no_more_than_its_exits_need(
    any_model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exit_pass, "rounded", lambda n_rows: n_rows)
    monkeypatch.setattr(cache, "BLOCK_POSITIONS", 1)
    model = copy.deepcopy(any_model)
    model.set_experts_implementation("eager")  # made of products that torch counts
    decoder, seen = Decoder(model), set()
    prices, layer_L = replace(find_prices(decoder, FEW), before=0), np.arange(decoder.n_layers)
    for configuration in confident(model):
        with monkeypatch.context() as patch:
            ran = Multiplied(model, decoder, patch)
            [trace] = traces_of(Engine(decoder, FEW).generate([Request(PROMPTS[0], configuration, 3)])).values()
        counts, exit_T = trace.counts, trace.exit_layer_T[1:]
        assert counts is not None
        layers_T1, keys_T1 = counts.layers_T[:, None], counts.keys_T[:, None]
        assert ran.ended_L.tolist() == (layer_L < layers_T1).sum(0).tolist()
        written = (layer_L >= layers_T1) & (layer_L < layers_T1 + keys_T1)
        assert (ran.begun_L - ran.ended_L).tolist() == written.sum(0).tolist()
        assert ran.reads == counts.reads_TX.sum() == (1 + np.searchsorted(EXITABLE, exit_T)).sum()
        least, _ = needed(exit_T, EXITABLE, decoder.n_layers, STATES[configuration.mode])
        assert counts.layers_T.tolist() == least.layers_T.tolist()
        assert counts.keys_T.tolist() == least.keys_T.tolist()
        columns = cost_columns(prices, counts, exit_T, EXITABLE, configuration.mode, len(PROMPTS[0]))
        assert columns["cost_run"] == ran.multiply_adds(prices)
        seen |= set(exit_T.tolist())
    assert len(seen) > 1


@pytest.mark.parametrize(("rule", "parameter"), [("predicted_kl", 4.0), ("confidence", 0.3), ("patience", 2.0)])
def test_invariant_7_holds_for_a_probe_and_for_a_shortlist(
    llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, rule: str, parameter: float
) -> None:
    monkeypatch.setattr(exit_pass, "rounded", lambda n_rows: n_rows)
    monkeypatch.setattr(cache, "BLOCK_POSITIONS", 1)
    decoder = Decoder(llama)
    decoding = replace(FEW, readout=LINEAR, shortlist=Shortlist(decoder, 5))
    prices = replace(find_prices(decoder, decoding), before=0)
    ran = Multiplied(llama, decoder, monkeypatch)
    configuration = Configuration("frozen_residual", rule, parameter)
    [trace] = traces_of(Engine(decoder, decoding).generate([Request(PROMPTS[0], configuration, 3)])).values()
    counts, exit_T = trace.counts, trace.exit_layer_T[1:]
    assert counts is not None
    looked_T = 1 + np.minimum(np.searchsorted(EXITABLE, exit_T), len(EXITABLE) - 1)
    reads = rule != "predicted_kl"
    assert counts.probed_TX.sum() == (0 if reads else looked_T.sum())
    assert counts.short_reads_TX.sum() == ((looked_T - 1).sum() if reads else 0)
    assert ran.reads == counts.reads_TX.sum() == len(exit_T) + (reads and (exit_T > EXITABLE[0]).sum())
    columns = cost_columns(prices, counts, exit_T, EXITABLE, configuration.mode, len(PROMPTS[0]))
    assert columns["cost_run"] == ran.multiply_adds(prices)
    assert len(set(exit_T)) > 1


def test_invariant_7_rows_of_a_batch_run_together_what_they_say(
    any_model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exit_pass, "rounded", lambda n_rows: n_rows)
    monkeypatch.setattr(online, "MOST_WAITING_TOKENS", 3)
    decoder = packed_decoder_of(any_model)
    ran = Ran(any_model, decoder, monkeypatch)
    requests = grid(confident(any_model), PROMPTS[:2])
    traces = traces_of(Engine(decoder, replace(FEW, rows=5)).generate(requests)).values()
    counts = [trace.counts for trace in traces if trace.counts is not None]
    assert len(counts) == len(requests)
    assert ran.ended_L.sum() == sum(its.layers_T.sum() for its in counts)
    assert (ran.begun_L - ran.ended_L).sum() == sum(its.keys_T.sum() for its in counts)


@pytest.mark.parametrize("compiler", ["cc", "no-such-compiler"])
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gemma2", "mistral", "gpt_oss", "mpt"])
def test_tokens_that_wait_are_those_of_the_reference_whatever_happens_to_other_rows(
    monkeypatch: pytest.MonkeyPatch, use_compiler: Callable[[str], None], architecture: str, compiler: str
) -> None:
    if compiler != "cc":
        use_compiler(compiler)  # attention and comparison are torch's operators'
    crowded: list[bool] = []
    is_crowded = OnlineBatch.crowded

    def watched(batch: OnlineBatch) -> np.ndarray:
        found = is_crowded(batch)
        crowded.append(bool(found.any()))
        return found

    monkeypatch.setattr(OnlineBatch, "crowded", watched)
    monkeypatch.setattr(online, "MOST_WAITING_TOKENS", 3)
    model = shared_model(architecture)
    rules = (*ONLINE, *BLIND) if architecture in ARCHITECTURES else ("confidence", "similarity")
    exits = [Configuration(mode, rule, some(model, rule)[0]) for rule in rules for mode in modes_of(model)]
    requests = [Request(PROMPTS[index % 2], exit, seed=index) for index, exit in enumerate(exits)]
    decoding = replace(SAMPLED, eos_token_ids=frozenset(range(0, 97, 11)))
    few_at_a_time = Engine(packed_decoder_of(model), replace(decoding, rows=3)).generate(requests)
    traces = traces_of(few_at_a_time)
    for index, request in enumerate(requests):
        assert_same(traces[index], reference_of(model, request, decoding))
    assert any(crowded)
    assert len({len(trace.token_id_T) for trace in traces.values()}) > 2, "rows must end at different times"


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mpt"])
def test_observation_in_parts_is_that_of_the_reference(monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    monkeypatch.setattr(online, "OBSERVED_TOKENS", 7)
    monkeypatch.setattr(online, "OBSERVED_POSITIONS", 100)
    model = shared_model(architecture)
    requests = grid([Configuration(mode, "fixed", 3.0) for mode in modes_of(model)], PROMPTS[:2])
    for index, trace in traces_of(Engine(packed_decoder_of(model), SAMPLED).generate(requests)).items():
        assert_same(trace, reference_of(model, requests[index], SAMPLED))


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
    decoder, observe = Decoder(LlamaForCausalLM(LONG).eval()), online.observe
    request = Request(PROMPTS[1], Configuration("frozen_residual", "fixed", 1.0))
    monkeypatch.setattr(online, "OBSERVED_TOKENS", 32)

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
    monkeypatch.setattr(online, "OBSERVED_POSITIONS", 120)
    decoder, observe, largest = decoder_of(shared_model("mpt")), online.observe, Largest()

    def watched(*args: Any) -> None:
        with largest:
            observe(*args)

    monkeypatch.setattr(engine, "observe", watched)
    request = Request(PROMPTS[1], Configuration("frozen_residual", "fixed", SOME["fixed"][0]))
    traces_of(Engine(decoder, replace(SAMPLED, max_new_tokens=55)).generate([request]))
    n_heads, width = 4, 8
    assert 0 < largest.numbers <= 120 * n_heads * width
