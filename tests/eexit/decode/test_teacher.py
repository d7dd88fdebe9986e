"""What full depth is asked about texts: it changes what is known of them, and not the texts."""

from dataclasses import replace

import numpy as np
import pytest
from references import decoder_of, save_adapter, shared_model
from rows import PROMPTS, SAMPLED, assert_as_reference, each_rule, generate, grid, modes_of
from torch import Tensor
from traces import CLOSE, traces_of
from transformers import PreTrainedModel

from eexit.decode import full_depth
from eexit.decode.engine import Engine
from eexit.decode.requests import Request
from eexit.method.rules import ORACLES
from eexit.model.adapters import merged
from eexit.plan.configuration import Configuration, EarlyExit, NoExit
from eexit.plan.sweep_config import Observe
from eexit.results.token_columns import recorded


def kinds(model: PreTrainedModel) -> list[Configuration]:
    """`normal`, each online rule in some mode."""
    exits = [each for each in each_rule(model, 1) if not (isinstance(each, EarlyExit) and each.is_oracle)]
    return [*exits, EarlyExit("unfrozen", "fixed", 3.0)]


@pytest.mark.parametrize(("architecture", "record_full_depth"), [("llama", "final"), ("gemma3", "none")])
def test_texts_are_the_same_and_what_is_observed_is_what_all_would_say(
    architecture: str, record_full_depth: Observe
) -> None:
    model = shared_model(architecture)
    requests = grid(kinds(model), PROMPTS[:2])
    whole = generate(model, requests, replace(SAMPLED, max_rows=5))
    less = generate(model, requests, replace(SAMPLED, max_rows=5, record_full_depth=record_full_depth))
    kept = {field for field, *_ in recorded(record_full_depth)}
    assert {"kl_TE", "top_prob_TXK"}.isdisjoint(kept)
    assert ("logprob_T" in kept) == (record_full_depth == "final")
    for trace, other in zip(less, whole, strict=True):
        for field, *_ in recorded():
            mine, theirs = getattr(trace, field), getattr(other, field)
            if field not in kept:
                assert not mine.size
            elif field in CLOSE:
                np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4, err_msg=field)
            else:
                np.testing.assert_array_equal(mine, theirs, err_msg=field)


@pytest.mark.parametrize("architecture", ["gemma3", "mpt"])
def test_observation_in_parts_is_that_of_the_reference(monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    """And all tokens are told of but each text's first, which the prompt's pass observes."""
    monkeypatch.setattr(full_depth, "OBSERVED_TOKENS", 15)
    monkeypatch.setattr(full_depth, "READ_TOKENS", 3)
    model, observed = shared_model(architecture), list[int]()
    requests = grid([NoExit(), *(EarlyExit(mode, "fixed", 3.0) for mode in modes_of(model))], PROMPTS[:2])
    outcomes = Engine(decoder_of(model), SAMPLED).generate(requests, observed=observed.append)
    traces = traces_of(outcomes)
    assert_as_reference(model, requests, [traces[index] for index in range(len(requests))], SAMPLED)
    assert sum(observed) == sum(len(trace.token_id_T) - 1 for trace in traces.values())
    assert len(observed) > 2


@pytest.mark.parametrize("record_full_depth", ["final", "none"])
def test_oracles_decide_alike_whatever_is_recorded_with_an_adapter_too(
    llama: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory, record_full_depth: Observe
) -> None:
    student = decoder_of(merged(llama, save_adapter(llama, tmp_path_factory.mktemp("adapter"))))
    requests = grid(
        [NoExit(), *(EarlyExit("frozen_residual", rule, 1.0 if rule == "kl" else None) for rule in ORACLES)]
    )
    for other in (None, student):
        engines = (
            Engine(decoder_of(llama), replace(SAMPLED, record_full_depth=each), other)
            for each in ("all", record_full_depth)
        )
        whole, less = (traces_of(engine.generate(requests)) for engine in engines)
        for index, trace in less.items():
            assert trace.token_id_T.tolist() == whole[index].token_id_T.tolist()
            assert trace.exit_layer_T.tolist() == whole[index].exit_layer_T.tolist()


@pytest.mark.parametrize(("record_full_depth", "reads"), [("all", 1 + 4), ("final", 1 + 1), ("none", 1)])
def test_a_token_of_normal_is_read_once_for_itself_and_once_for_each_layer_that_is_observed(
    llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, record_full_depth: Observe, reads: int
) -> None:
    decoder, n_read = decoder_of(llama), 0
    head = decoder.lm_head

    def counted(ready_BH: Tensor) -> Tensor:
        nonlocal n_read
        n_read += len(ready_BH)
        return head(ready_BH)

    monkeypatch.setattr(decoder, "lm_head", counted)
    greedy = replace(SAMPLED, temperature=0.0, record_full_depth=record_full_depth)
    [trace] = traces_of(Engine(decoder, greedy).generate([Request(PROMPTS[0], NoExit())])).values()
    first = max(1, greedy.n_observed)  # of the prompt's pass
    assert n_read == first + reads * (len(trace.token_id_T) - 1)
