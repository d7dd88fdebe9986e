import gc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from references import decoder_of, shared_model
from traces import assert_same, kl_request, traces_of
from transformers import PreTrainedModel

from eexit.decode import full_depth, slots
from eexit.decode.engine import Engine
from eexit.decode.full_depth import padded
from eexit.decode.requests import DecodingConfig, Request, RequestFailure, RequestOutput
from eexit.model.cache import KVCache
from eexit.plan.configuration import Configuration, Draft, EarlyExit, NoExit, exiting_modes
from eexit.plan.grid_types import MAPPING
from eexit.plan.runs import LENGTH, STOP

DECODING = DecodingConfig(exitable_layers=(1, 3, 4), max_new_tokens=12, eos_token_ids=frozenset())
PROMPT = (5, 80, 7, 7, 31)


@pytest.fixture
def rows_run(llama: PreTrainedModel) -> Iterator[Counter[int]]:
    """How many rows each layer's feed-forward block was run for, per layer."""
    counts: Counter[int] = Counter()

    def hook(layer: int) -> Callable[..., None]:
        def count(_: torch.nn.Module, args: tuple[Any, ...], __: object) -> None:
            counts[layer] += args[0].shape[0] * args[0].shape[1]

        return count

    handles = [layer.mlp.register_forward_hook(hook(index)) for index, layer in enumerate(llama.model.layers)]
    yield counts
    for handle in handles:
        handle.remove()


def test_keys_and_values_are_freed_with_the_rows_without_waiting_for_a_collection(llama: PreTrainedModel) -> None:
    """Python would collect cycles of references by how many objects there are, and caches are few, and large."""
    requests = [
        Request(PROMPT, configuration)
        for configuration in (
            NoExit(),
            EarlyExit("frozen_residual", "kl", 0.5),
            EarlyExit("skip", "confidence", 0.02),
            Draft(1, 2),
        )
    ]
    gc.collect()
    gc.disable()
    try:
        traces_of(Engine(decoder_of(llama), DECODING).generate(requests))
        held = [each for each in gc.get_objects() if isinstance(each, KVCache)]
    finally:
        gc.enable()
    assert not held


@pytest.mark.parametrize(("kl_factor", "deep_steps"), [(0.0, 0), (1e9, 11)])
def test_no_block_runs_beyond_where_all_have_left(
    llama: PreTrainedModel, rows_run: Counter[int], kl_factor: float, deep_steps: int
) -> None:
    requests = [kl_request(PROMPT, "frozen_residual", kl_factor, seed) for seed in range(3)]
    engine = Engine(decoder_of(llama), DECODING)
    rows_run.clear()
    teacher = len(PROMPT) + n_seen(traces_of(engine.generate(requests)).values(), n_slots=3)
    for layer in range(7):  # all rows run up to the first exitable layer
        assert rows_run[layer] == teacher + 3 * (deep_steps if layer > 1 else 11)


def n_seen(traces: Iterable[RequestOutput], n_slots: int) -> int:
    """How many rows the teacher runs for: each step's unique prefixes, padded."""
    prefixes = {tuple(trace.token_id_T[:n]) for trace in traces for n in range(1, len(trace.token_id_T))}
    in_step = Counter(map(len, prefixes)).values()
    return sum(len(padded(np.arange(n), n_slots)) for n in in_step)


@pytest.mark.parametrize(
    "requests",
    [
        [kl_request(PROMPT, "unfrozen", 0.5)],
        [kl_request(PROMPT, "unfrozen", 1e9, seed) for seed in range(8)],
        [kl_request(PROMPT, "unfrozen", k, seed) for seed in range(3) for k in (0.0, 0.5, 2.0, 1e9)],
    ],
    ids=["unfrozen", "alike", "apart"],
)
@pytest.mark.parametrize("n_slots", [64, 3])
def test_modes_that_leave_the_state_alone_take_one_pass_over_each_prefix(
    llama: PreTrainedModel, rows_run: Counter[int], requests: list[Request], n_slots: int
) -> None:
    engine = Engine(decoder_of(llama), replace(DECODING, max_rows=n_slots))
    rows_run.clear()
    outcomes = traces_of(engine.generate(requests))
    at_once = [range(start, min(start + n_slots, len(requests))) for start in range(0, len(requests), n_slots)]
    seen = sum(n_seen((outcomes[index] for index in indices), min(n_slots, len(requests))) for indices in at_once)
    assert set(rows_run.values()) == {len(PROMPT) * len(at_once) + seen}
    assert n_slots == 3 or len(requests) == 1 or seen < 11 * len(requests), "rows with equal prefixes run once"


def test_passes_take_few_numbers_of_rows() -> None:
    for most in (1, 5, 16, 17, 108, 432):
        sizes = {len(padded(np.arange(n), most)) for n in range(most + 1)}
        assert len(sizes - {0}) <= full_depth.MAX_BATCH_SIZES
        assert max(sizes) == most
    assert padded(np.array([4, 9]), 48).tolist() == [4, 9, 9]


def test_rows_given_twice_to_a_pass_change_nothing(llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(decoder_of(llama), DECODING)
    modes = ("unfrozen", "frozen_residual")
    requests = [kl_request(PROMPT, mode, k, seed) for mode in modes for seed in range(4) for k in (0.0, 0.3, 1.0, 3.0)]
    once = dict(engine.generate(requests))
    monkeypatch.setattr(full_depth, "MAX_BATCH_SIZES", 2)
    twice = dict(engine.generate(requests))
    for index, trace in once.items():
        assert_same(twice[index], trace)


def test_prompts_that_cannot_be_done_fail_alone(llama: PreTrainedModel) -> None:
    good = kl_request(PROMPT, "unfrozen", 1.0)
    requests = [good, replace(good, prompt_token_ids=()), replace(good, prompt_token_ids=(1,) * 64), good]
    outcomes = dict(Engine(decoder_of(llama), DECODING).generate(requests))
    assert outcomes[1] == RequestFailure("the prompt is empty: nothing to continue from")
    assert outcomes[2] == RequestFailure("the prompt has 64 tokens, which leaves no room in the model's context of 64")
    assert isinstance(outcomes[0], RequestOutput)
    assert isinstance(outcomes[3], RequestOutput)
    assert outcomes[0].token_id_T.tolist() == outcomes[3].token_id_T.tolist()


@contextmanager
def broken_token(model: PreTrainedModel, token_id: int) -> Iterator[None]:
    """Within it, whatever follows this token is NaN."""
    weight: Any = model.get_input_embeddings().weight
    original = weight[token_id].detach().clone()
    with torch.no_grad():
        weight[token_id] = torch.nan
        yield
        weight[token_id] = original


def test_rows_end_where_they_are_told_to_stop(llama: PreTrainedModel) -> None:
    """In every loop: beside a teacher, without one, and with drafts, which give several tokens at a time."""
    decoding = replace(DECODING, max_new_tokens=12)
    exits = (NoExit(), EarlyExit("unfrozen", "kl", 1.0), EarlyExit("skip", "confidence", 0.3))
    requests = [Request((1, 2, 3), each) for each in (*exits, Draft(3, 2))]
    whole = traces_of(Engine(decoder_of(llama), decoding).generate(requests))
    ends = [trace.token_id_T[:4].tolist() for trace in whole.values()]
    stopping = replace(decoding, stop_fn=lambda row: any(row.token_ids[:4] == its for its in ends))
    for index, trace in traces_of(Engine(decoder_of(llama), stopping).generate(requests)).items():
        assert trace.token_id_T.tolist() == whole[index].token_id_T[:4].tolist()
        assert (trace.finish_reason, whole[index].finish_reason) == (STOP, LENGTH)


def test_a_row_takes_no_record_over_from_the_one_before_it(llama: PreTrainedModel) -> None:
    requests = [Request(PROMPT, EarlyExit("skip", "confidence", 0.02)), Request(PROMPT, NoExit())]
    engine = Engine(decoder_of(llama), replace(DECODING, max_rows=1))
    outcomes = traces_of(engine.generate(requests))
    assert outcomes[1].exit_prob_TX[:, -1].tolist() == [1] * 12
    assert np.isnan(outcomes[1].exit_score_TE).all()


def test_a_row_whose_numbers_blow_up_fails_alone(llama: PreTrainedModel) -> None:
    requests = [kl_request(PROMPT, "normal", None), kl_request((3, 40, 5), "normal", None)]
    decoder = decoder_of(llama)
    with broken_token(llama, 40):
        outcomes = dict(Engine(decoder, DECODING).generate(requests))
    assert outcomes[1] == RequestFailure("the model's output is not finite at generated token 0")
    assert isinstance(outcomes[0], RequestOutput)


def test_a_student_whose_numbers_blow_up_fails_alone(llama: PreTrainedModel) -> None:
    engine, passes = Engine(decoder_of(llama), DECODING), 0

    def break_students(_: torch.nn.Module, __: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        nonlocal passes
        passes += 1  # the prompt's pass, then the first step's, by the teacher and by the student
        return output * torch.nan if passes == 3 else output

    handle = llama.model.layers[6].mlp.register_forward_hook(break_students)
    requests = [kl_request(PROMPT, mode, 1e9) for mode in ("frozen_residual", "unfrozen")]
    outcomes = dict(engine.generate(requests))
    handle.remove()
    assert outcomes[0] == RequestFailure("the model's output is not finite at generated token 1")
    assert isinstance(outcomes[1], RequestOutput)


@pytest.mark.parametrize(
    "exit",
    [
        EarlyExit("frozen_residual", "kl", 0.3),
        EarlyExit("unfrozen", "confidence", 0.3),
        EarlyExit("skip", "confidence", 0.3),
    ],
)
@pytest.mark.parametrize("n_rows", [1, 2])
def test_a_row_takes_nothing_over_from_a_broken_one_before_it(
    llama: PreTrainedModel, exit: EarlyExit, n_rows: int
) -> None:
    """Nor do rows that are there meanwhile. The longer prompt's keys and values are NaN in more columns."""
    engine, request = Engine(decoder_of(llama), replace(DECODING, max_rows=n_rows)), Request(PROMPT, exit)
    [(_, expected)] = engine.generate([request])
    assert isinstance(expected, RequestOutput)
    unused = max(set(range(97)) - {*PROMPT, *expected.token_id_T.tolist()})
    broken = replace(request, prompt_token_ids=(unused,) * 9)
    with broken_token(llama, unused):
        outcomes = dict(engine.generate([broken, request, broken, request]))
    for index, outcome in outcomes.items():
        assert isinstance(outcome, RequestOutput if index % 2 else RequestFailure)
        assert isinstance(outcome, RequestFailure) or outcome.token_id_T.tolist() == expected.token_id_T.tolist()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_ends_where_the_context_does_and_a_limit_beyond_it_costs_nothing(
    llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    decoder = decoder_of(llama)
    assert decoder.context is not None
    modes = [mode for mode in exiting_modes() if mode not in MAPPING]
    requests = [kl_request(PROMPT, mode, 1.0, seed) for mode in modes for seed in (0, 1)]
    monkeypatch.setattr(slots, "FIRST_ROOM_TOKENS", 4)
    for n_tokens in (12, 10**9):
        decoding = replace(DECODING, max_new_tokens=n_tokens, temperature=temperature)
        outcomes = traces_of(Engine(decoder, decoding).generate(requests))
        made = [len(outcome.token_id_T) for outcome in outcomes.values()]
        assert made == [min(n_tokens, decoder.context - len(PROMPT))] * len(requests)
        assert {outcome.finish_reason for outcome in outcomes.values()} == {LENGTH}
        if n_tokens == 12:
            short = outcomes
    monkeypatch.undo()
    at_once = traces_of(Engine(decoder, replace(decoding, max_new_tokens=12)).generate(requests))
    for index, outcome in at_once.items():
        assert_same(short[index], outcome)
        np.testing.assert_array_equal(outcomes[index].token_id_T[:12], outcome.token_id_T)


CONTEXT = 64  # of the tiny models
NEAR_CONTEXT = [  # where rows are as long as the context, beside shorter ones; the teacher has a cache of its own
    [NoExit()],
    [EarlyExit("unfrozen", "fixed", 3.0), EarlyExit("frozen_residual", "fixed", 3.0)],
    [EarlyExit("unfrozen", "kl", 1.0)],
    [Draft(3, 4)],
]


@pytest.mark.parametrize("exits", NEAR_CONTEXT, ids=lambda exits: exits[0].key)
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "gpt_neo", "bloom", "mpt"])
def test_rows_beside_others_reach_the_end_of_the_context(architecture: str, exits: list[Configuration]) -> None:
    """GPT-Neo and MPT have masks or biases for no more columns than that."""
    decoder, decoding = decoder_of(shared_model(architecture)), replace(DECODING, max_new_tokens=99, max_rows=3)
    prompts = tuple(range(3, 3 + CONTEXT - 4)), PROMPT[:3], PROMPT[2:]
    requests = [Request(prompt, each) for prompt in prompts for each in exits]
    together = traces_of(Engine(decoder, decoding).generate(requests))
    for index, request in enumerate(requests):
        assert len(together[index].token_id_T) == CONTEXT - len(request.prompt_token_ids)
        if index % 2 == 0:
            [alone] = traces_of(Engine(decoder, decoding).generate([request])).values()
            assert_same(together[index], alone)
