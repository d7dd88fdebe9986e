"""On a simulated accelerator (see `card.py`): no operator mixes devices, rows equal those of the CPU, and a step makes
few copies.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import transformers as tf
from axes import SOME
from card import DEVICE, Card, Counts, Memory, Mixed, There
from long_llama import LONG
from references import check_attention_of_every, decoder_of, shared_model
from tiny_models import ARCHITECTURES
from torch import Tensor
from traces import assert_same, kl_request, traces_of
from transformers import PreTrainedModel
from untrained import N_LAYERS, PROBE, STATE_MAPS, key_maps, random_probe

from eexit.decode.engine import Engine
from eexit.decode.rows.memory import FREE_SHARE, cache_budget
from eexit.decode.rows.requests import Decoding, Outcome, Request
from eexit.decode.steps.batch import Batch
from eexit.decode.trace import Trace
from eexit.errors import UsageError
from eexit.method.readouts import READOUTS
from eexit.method.rules import BLIND, ONLINE, ORACLES
from eexit.method.state_maps import KEYS, STREAMS, StateMaps
from eexit.method.states import STATES
from eexit.model.cache import N_STACKS, KVCache
from eexit.model.decoder import Decoder
from eexit.plan.configuration import Draft, Exit
from eexit.plan.model_facts import CPU_CACHE_BYTES

N_TOKENS = 4
DECODING = Decoding((1, 3, 4), N_TOKENS, eos_token_ids=frozenset(), probe=PROBE, state_maps=STATE_MAPS, record_top_k=3)
PROMPT = (5, 80, 7, 7, 31)
MODES = [("normal", None), *((mode, k) for mode in ("unfrozen", "frozen_residual") for k in (0, 0.3, 1, 3))]
REQUESTS = [kl_request(PROMPT, mode, k, seed=3) for mode, k in MODES]
SEND_THEMSELVES = {"falcon", "gpt_neo", "phimoe"}  # whose code makes a tensor from a number or a list at every call
ASK_THEMSELVES = {
    "diffllama",  # whose mask is left out if nothing is padded, which transformers looks at first
    "phimoe",  # whose rotary angles depend on the largest position
}
A_STEP = Counts(to_card=2, to_host=2)  # which rows there are, and where they go; their exits, and what is recorded


@cache
def decoder_there(model: PreTrainedModel) -> Decoder:
    """Of a model on the card, where it takes seconds to check the attention of more than some layers."""
    with pytest.MonkeyPatch.context() as patch, Card() as card:
        check_attention_of_every(3, patch)
        return Decoder(card.take(model))


def on_card(
    model: PreTrainedModel, requests: Sequence[Request], decoding: Decoding
) -> tuple[dict[int, Trace], list[Counts]]:
    """What the card's rows are, and the counts of each step; the first one's are also those of the prompt."""
    steps: list[Counts] = []
    decoder = decoder_there(model)
    with Card() as card:
        maps = decoding.state_maps or STATE_MAPS
        there = {name: There(part) for name, part in maps.tensors().items()}
        state_maps = StateMaps.of(maps.form, there, decoding.exitable_layers, N_LAYERS)
        engine = Engine(decoder, replace(decoding, probe=random_probe(There), state_maps=state_maps))

        def progress(_: int) -> None:
            steps.append(replace(card.counts, operators=0))
            card.counts = Counts()

        card.counts = Counts()
        return traces_of(engine.generate(requests, progress)), steps


def assert_same_rows(ours: Mapping[int, Outcome], theirs: Mapping[int, Outcome]) -> None:
    assert ours.keys() == theirs.keys()
    for index, trace in theirs.items():
        assert_same(ours[index], trace)


def as_on_cpu(
    model: PreTrainedModel, requests: Sequence[Request], decoding: Decoding
) -> tuple[dict[int, Trace], list[Counts]]:
    """What `on_card` gives, where the rows are those of the CPU."""
    rows, steps = on_card(model, requests, decoding)
    assert_same_rows(rows, dict(Engine(decoder_of(model), decoding).generate(requests)))
    return rows, steps


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_a_card_gives_the_rows_of_the_cpu_and_takes_two_copies_a_step_each_way(family: str) -> None:
    model = shared_model(family)
    rows, steps = as_on_cpu(model, [REQUESTS[0], REQUESTS[2], *REQUESTS[6:8]], DECODING)
    assert len({*rows[2].exit_layer_T, *rows[3].exit_layer_T}) > 1, "students must exit here and there"
    if family in SEND_THEMSELVES:
        assert all(step.blocking_to_card > 0 for step in steps)
        steps = [replace(step, to_card=step.to_card - step.blocking_to_card, blocking_to_card=0) for step in steps]
    if family in ASK_THEMSELVES:
        assert all({*step.waits} == {"aten.is_nonzero.default"} for step in steps)
        steps = [replace(step, waits=[]) for step in steps]
    assert steps[1:] == [A_STEP] * (N_TOKENS - 2)
    assert steps[0] == Counts(to_card=3, to_host=3), "a prompt is one copy more, and one back"


CHANGES: list[dict[str, Any]] = [
    {"temperature": 0.8, "top_p": 0.9},
    {"readout": READOUTS["raw"], "record_top_k": 0},
    {"exitable_layers": (0, 1, 2, 3, 4, 5)},
    {"exitable_layers": (5,)},
]


@pytest.mark.parametrize("change", CHANGES, ids="-".join)
def test_a_step_takes_two_copies_however_rows_decode(llama: PreTrainedModel, change: dict[str, Any]) -> None:
    decoding = replace(DECODING, **change)
    _, steps = as_on_cpu(llama, REQUESTS, decoding)
    assert steps[1:] == [A_STEP] * (N_TOKENS - 2)


@pytest.mark.parametrize(("mode", "form"), [*((mode, STREAMS) for mode in STATES), ("mapped_residual", KEYS)])
def test_a_step_takes_two_copies_in_every_mode_and_by_every_oracle(
    llama: PreTrainedModel, mode: str, form: str
) -> None:
    of_keys = StateMaps.of(KEYS, key_maps(decoder_of(llama)), range(N_LAYERS), N_LAYERS)
    decoding = replace(DECODING, state_maps=of_keys) if form == KEYS else DECODING
    exits = [Exit(mode, rule, parameter) for rule in ORACLES for parameter in SOME[rule]]
    _, steps = as_on_cpu(llama, [Request(PROMPT, configuration, seed=3) for configuration in exits], decoding)
    assert steps[1:] == [A_STEP] * (N_TOKENS - 2)


def test_a_round_of_looked_up_drafts_takes_two_copies_there_and_one_back(llama: PreTrainedModel) -> None:
    requests = [Request(PROMPT * 2, Draft(None, 3), seed) for seed in range(3)]
    rows, steps = as_on_cpu(llama, requests, replace(DECODING, observe="none", max_new_tokens=12))
    assert any(trace.drafted_T.any() for trace in rows.values())
    assert {(step.to_card, step.blocking_to_card, step.to_host) for step in steps[1:]} == {(2, 0, 1)}


@pytest.mark.parametrize("mode", STATES)
def test_online_rules_wait_for_their_decisions_alone(llama: PreTrainedModel, mode: str) -> None:
    exits = [Exit(mode, rule, parameter) for rule in (*ONLINE, *BLIND) for parameter in SOME[rule]]
    requests = [Request(PROMPT, configuration, seed=3) for configuration in exits]
    _, steps = as_on_cpu(llama, requests, DECODING)
    assert {step.blocking_to_card for step in steps} == {0}


def test_nothing_waits_for_rows_that_come_and_go(llama: PreTrainedModel) -> None:
    decoding = replace(DECODING, eos_token_ids=frozenset(range(0, 97, 5)), rows=4, max_new_tokens=20)
    requests = [
        replace(request, prompt_token_ids=prompt, seed=seed)
        for prompt in (PROMPT, (44, 2, 90, 61))
        for seed in (0, 1)
        for request in REQUESTS
    ]
    rows, steps = as_on_cpu(llama, requests, decoding)
    assert len({len(trace.token_id_T) for trace in rows.values()}) > 3, "rows must end at different times"
    assert {step.blocking_to_card for step in steps} == {0}
    assert not any(step.waits for step in steps)


def test_what_a_card_has_room_for_but_does_not_use_yet_changes_nothing() -> None:
    torch.manual_seed(0)
    model = tf.LlamaForCausalLM(LONG).eval()
    prompts = [tuple(range(3, 40)), tuple(token % 97 for token in range(400)), (5, 7)]
    requests = [replace(request, prompt_token_ids=prompt) for prompt in prompts for request in REQUESTS[4:6]]
    decoding = replace(DECODING, rows=2)
    as_on_cpu(model, requests, decoding)


@pytest.mark.parametrize("rows_of_room", [1, 5, 100])
def test_as_many_rows_are_in_flight_as_the_card_has_room_for(
    llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, rows_of_room: int
) -> None:
    decoding = replace(DECODING, max_new_tokens=3)
    decoder = decoder_there(llama)
    with Card():
        engine = Engine(decoder, decoding)
        room = rows_of_room * Batch.row_bytes(
            engine.decoders, engine.decoding, len(PROMPT) + decoding.max_new_tokens, REQUESTS
        )
        monkeypatch.setattr(Memory, "taken", (1 << 30) - int(room / FREE_SHARE) - 100)
        outcomes = dict(engine.generate(REQUESTS))
        assert engine.n_slots == min(rows_of_room, len(REQUESTS))
        half = Engine(engine.decoder, replace(decoding, memory_share=2**-30 * room / FREE_SHARE / 2))
        assert_same_rows(dict(half.generate(REQUESTS)), outcomes)
        assert half.n_slots == max(1, min(rows_of_room // 2, len(REQUESTS)))


def test_a_cpu_and_what_tells_no_memory_have_a_fixed_room() -> None:
    assert cache_budget(torch.device("cpu")) == cache_budget(torch.device("mps")) == CPU_CACHE_BYTES


def test_a_model_on_several_devices_is_refused_in_a_line(llama: PreTrainedModel) -> None:
    with Card() as card:
        model = card.take(llama)
        model.lm_head = torch.nn.Linear(32, 97, bias=False)
        with pytest.raises(UsageError) as refusal:
            Decoder(model)
    assert str(refusal.value) == (
        "LlamaForCausalLM is not supported: it is spread over several devices (cpu, privateuseone:0); load it onto "
        "one, without device_map or with one such as {'': 'cuda:0'}"
    )


def operators_of_copies(n_layers: int, n_slots: int) -> tuple[int, int]:
    """How many operators load a prompt into so many slots, and copy as many."""

    def there(*shape: int) -> Tensor:
        return There(torch.zeros(shape))

    with Card() as card:
        prompt, cache = KVCache(1, 32), KVCache(3 * n_slots, 48)
        prompt.reserve(32)
        for layer in range(n_layers):
            prompt.layer(layer, there(2, 1, 8), there(2, 1, 4))
        with card.counted() as load:
            cache.load(slice(0, n_slots), prompt, range(n_layers), 20)
        slots = [There(torch.arange(n_slots) + start) for start in (0, n_slots)]
        with card.counted() as copy:
            cache.copy_slots(*slots)
    return load.operators, copy.operators


def test_neither_layers_nor_slots_are_copied_one_by_one() -> None:
    few = operators_of_copies(n_layers=N_STACKS, n_slots=1)
    assert few == operators_of_copies(n_layers=4 * N_STACKS, n_slots=7)
    assert 0 < few[1] == 4 * N_STACKS, "keys and values, from there and to here"


def test_the_card_tells_what_would_cost_something() -> None:
    with torch.inference_mode(), Card() as card:
        there, here = There(torch.arange(6.0).view(2, 3)), torch.ones(2, 3)
        mixes: tuple[Callable[[], Any], ...] = (
            lambda: there + here, lambda: torch.cat([there, here]), lambda: there[torch.tensor([0])],
        )  # fmt: skip
        for mix in mixes:
            with pytest.raises(Mixed):
                mix()
        waiting: tuple[Callable[[], Any], ...] = (
            lambda: there.sum().item(), lambda: bool(there[0, 0] > 1), lambda: int(there[1, 1]), there.unique,
            lambda: there.nonzero(), lambda: there[there > 1], lambda: torch.where(there > 1),
        )  # fmt: skip
        for wait in waiting:
            with card.counted() as counts:
                wait()
            assert len(counts.waits) == 1
        for back in (
            there.cpu,
            there.tolist,
            lambda: torch.empty(2, 3).copy_(there),
            lambda: there.to("cpu", non_blocking=True),
        ):
            with card.counted() as counts:
                back()
            assert counts.to_host == 1
        blocking: tuple[Callable[[], Any], ...] = (
            lambda: here.to(DEVICE), lambda: torch.tensor([1], device=DEVICE), lambda: there.copy_(here),
            lambda: here.to(DEVICE, non_blocking=True), lambda: here.pin_memory().to(DEVICE),
        )  # fmt: skip
        for send in blocking:
            with card.counted() as counts:
                send()
            assert (counts.to_card, counts.blocking_to_card) == (1, 1)
        with card.counted() as counts:
            sent = here.pin_memory().to(DEVICE, non_blocking=True)
            view = (sent * 2 + torch.tensor(1))[:, 1:]
            view.add_(1)
        assert (sent.device, view.tolist()) == (DEVICE, [[4, 4], [4, 4]])
        assert counts == Counts(operators=counts.operators, to_card=1)
