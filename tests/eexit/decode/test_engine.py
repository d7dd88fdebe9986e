from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from eexit.decode.rows.prefixes import padded
from eexit.model.views import CacheView
from long_llama import LONG
from references import decoder_of
from torch.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from traces import assert_same, kl_request, traces_of
from transformers import LlamaForCausalLM, PreTrainedModel

from eexit.decode.engine import Engine
from eexit.decode.requests import Decoding, Failure, Request, Trace
from eexit.decode.rows import prefixes, slots
from eexit.decode.teacher import PROMPT_STEP_TOKENS
from eexit.model.layers import Decoder
from eexit.plan.config import MAPPING
from eexit.plan.configuration import MODES, Draft, Exit, Normal
from eexit.results.token_columns import LENGTH, STOP

DECODING = Decoding(exitable_layers=(1, 3, 4), max_new_tokens=12, eos_token_ids=frozenset())
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


def test_the_student_runs_no_block_beyond_an_exit(llama: PreTrainedModel, rows_run: Counter[int]) -> None:
    engine = Engine(decoder_of(llama), DECODING)
    requests = [kl_request(PROMPT, "frozen_residual", k) for k in (0.0, 0.3, 1.0, 3.0)]
    rows_run.clear()
    outcomes = traces_of(engine.generate(requests))
    exits = np.concatenate([outcomes[index].exit_layer_T[1:] for index in outcomes])
    assert len(set(exits)) == 4
    for layer in range(7):
        teacher = PROMPT_STEP_TOKENS + n_seen(outcomes.values(), n_slots=4)
        student = (exits >= layer).sum() if layer > 2 else 0  # up to the fork, layer 2, they are one pass
        assert rows_run[layer] == teacher + student


def n_seen(traces: Iterable[Trace], n_slots: int) -> int:
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
@pytest.mark.parametrize("rows", [64, 3])
def test_modes_that_leave_the_state_alone_take_one_pass_over_each_prefix(
    llama: PreTrainedModel, rows_run: Counter[int], requests: list[Request], rows: int
) -> None:
    engine = Engine(decoder_of(llama), replace(DECODING, rows=rows))
    rows_run.clear()
    outcomes = traces_of(engine.generate(requests))
    at_once = [range(start, min(start + rows, len(requests))) for start in range(0, len(requests), rows)]
    seen = sum(n_seen((outcomes[index] for index in indices), min(rows, len(requests))) for indices in at_once)
    assert set(rows_run.values()) == {PROMPT_STEP_TOKENS + seen}
    assert rows == 3 or len(requests) == 1 or seen < 11 * len(requests), "rows with equal prefixes run once"


def test_passes_take_few_numbers_of_rows() -> None:
    for most in (1, 5, 16, 17, 108, 432):
        sizes = {len(padded(np.arange(n), most)) for n in range(most + 1)}
        assert len(sizes - {0}) <= prefixes.MAX_BATCH_SIZES
        assert max(sizes) == most
    assert padded(np.array([4, 9]), 48).tolist() == [4, 9, 9]


def test_rows_given_twice_to_a_pass_change_nothing(llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(decoder_of(llama), DECODING)
    modes = ("unfrozen", "frozen_residual")
    requests = [kl_request(PROMPT, mode, k, seed) for mode in modes for seed in range(4) for k in (0.0, 0.3, 1.0, 3.0)]
    once = dict(engine.generate(requests))
    monkeypatch.setattr(prefixes, "MAX_BATCH_SIZES", 2)
    twice = dict(engine.generate(requests))
    for index, trace in once.items():
        assert_same(twice[index], trace)


@dataclass
class Written(TorchDispatchMode):
    """Elements that operators make anew: outside attention all of them, within it those of the largest."""

    outside: int = 0
    largest_in_attention: int = 0
    attending: bool = False

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own, without annotations

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        given = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage().data_ptr() not in given:
                if self.attending:
                    self.largest_in_attention = max(self.largest_in_attention, leaf.numel())
                else:
                    self.outside += leaf.numel()
        return result


def during_a_step(engine: Engine, n_prompt: int, manager: AbstractContextManager[Any]) -> None:
    """Generate for a row without a student, one that never exits and one that always does, the fourth step watched."""
    n_steps = 0

    def progress(_: int) -> None:
        nonlocal n_steps
        n_steps += 1
        if n_steps == 3:
            manager.__enter__()
        if n_steps == 4:
            manager.__exit__(None, None, None)

    prompt = tuple(token % 97 for token in range(n_prompt))
    modes = [("normal", None), ("frozen_residual", 1e9), ("frozen_residual", 0.0)]
    list(engine.generate([kl_request(prompt, mode, k) for mode, k in modes], progress))


def test_nothing_in_a_step_grows_with_the_cache_but_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    engine = Engine(Decoder(LlamaForCausalLM(LONG).eval()), DECODING)
    attend = CacheView.attend

    def step(n_prompt: int) -> Written:
        written = Written()

        def watched(*args: Any) -> torch.Tensor:
            written.attending = True
            result = attend(*args)
            written.attending = False
            return result

        monkeypatch.setattr(CacheView, "attend", watched)
        during_a_step(engine, n_prompt, written)
        return written

    short, long = step(40), step(640)
    assert short.outside == long.outside > 0
    rows, key_heads, width = 3, 2, 16
    assert 0 < long.largest_in_attention < rows * key_heads * width * 640, "a layer's keys or values were copied"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_product_copies_the_cache(dtype: torch.dtype) -> None:
    """A batched product silently makes a whole of operands that are a part of something."""
    torch.manual_seed(0)
    engine = Engine(Decoder(LlamaForCausalLM(LONG).eval().to(dtype)), DECODING)
    profiler = profile(record_shapes=True)
    during_a_step(engine, 600, profiler)
    copied = [
        prod(event.input_shapes[0]) for event in profiler.events()
        if event.name in ("aten::copy_", "aten::clone", "aten::contiguous") and event.input_shapes
    ]  # fmt: skip
    rows, key_heads, width = 3, 2, 16
    assert 0 < max(copied) < rows * key_heads * width * 600


def test_prompts_that_cannot_be_done_fail_alone(llama: PreTrainedModel) -> None:
    good = kl_request(PROMPT, "unfrozen", 1.0)
    requests = [good, replace(good, prompt_token_ids=()), replace(good, prompt_token_ids=(1,) * 64), good]
    outcomes = dict(Engine(decoder_of(llama), DECODING).generate(requests))
    assert outcomes[1] == Failure("the prompt is empty: nothing to continue from")
    assert outcomes[2] == Failure("the prompt has 64 tokens, which leaves no room in the model's context of 64")
    assert isinstance(outcomes[0], Trace)
    assert isinstance(outcomes[3], Trace)
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
    exits = (Normal(), Exit("unfrozen", "kl", 1.0), Exit("skip", "confidence", 0.3))
    requests = [Request((1, 2, 3), each) for each in (*exits, Draft(3, 2))]
    whole = traces_of(Engine(decoder_of(llama), decoding).generate(requests))
    ends = [trace.token_id_T[:4].tolist() for trace in whole.values()]
    stopping = replace(decoding, stops=lambda row: any(row.token_ids[:4] == its for its in ends))
    for index, trace in traces_of(Engine(decoder_of(llama), stopping).generate(requests)).items():
        assert trace.token_id_T.tolist() == whole[index].token_id_T[:4].tolist()
        assert (trace.finish_reason, whole[index].finish_reason) == (STOP, LENGTH)


def test_a_row_whose_numbers_blow_up_fails_alone(llama: PreTrainedModel) -> None:
    requests = [kl_request(PROMPT, "normal", None), kl_request((3, 40, 5), "normal", None)]
    decoder = decoder_of(llama)
    with broken_token(llama, 40):
        outcomes = dict(Engine(decoder, DECODING).generate(requests))
    assert outcomes[1] == Failure("the model's output is not finite at generated token 0")
    assert isinstance(outcomes[0], Trace)


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
    assert outcomes[0] == Failure("the model's output is not finite at generated token 1")
    assert isinstance(outcomes[1], Trace)


def test_a_row_takes_nothing_over_from_a_broken_one_before_it(llama: PreTrainedModel) -> None:
    engine, request = Engine(decoder_of(llama), replace(DECODING, rows=1)), kl_request(PROMPT, "frozen_residual", 0.3)
    [(_, expected)] = engine.generate([request])
    assert isinstance(expected, Trace)
    unused = min(set(range(97)) - {*PROMPT, *expected.token_id_T.tolist()})
    with broken_token(llama, unused):
        outcomes = dict(engine.generate([replace(request, prompt_token_ids=(unused,) * 9), request]))
    assert isinstance(outcomes[0], Failure)
    assert isinstance(outcomes[1], Trace)
    assert outcomes[1].token_id_T.tolist() == expected.token_id_T.tolist()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_ends_where_the_context_does_and_a_limit_beyond_it_costs_nothing(
    llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    decoder = decoder_of(llama)
    assert decoder.context is not None
    modes = [mode for mode in MODES if mode not in MAPPING]
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
