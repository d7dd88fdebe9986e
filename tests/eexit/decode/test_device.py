"""On one and on two simulated accelerators (see `card.py`): no operator mixes devices, rows equal those of the CPU, and
a step launches, copies and waits for little more than transformers' own `generate` (`test_launches.py` has how much).
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from accelerate import dispatch_model
from axes import SOME
from card import DEVICE, OTHER, Card, Counts, Memory, Mixed, There
from long_llama import LONG
from on_cards import N_ON_OTHER, card_of, decoder_there
from references import decoder_of, shared_model
from rows import KINDS
from traces import assert_same, kl_request, traces_of
from transformers import PreTrainedModel
from untrained import KV_MAPS, N_LAYERS, PROBE, key_maps, random_gate, random_probe

from eexit.cpu import packed_linear
from eexit.decode.engine import FREE_SHARE, Engine, budget_of, cache_budget, row_bytes
from eexit.decode.predictors import measure_unit_costs
from eexit.decode.requests import DecodingConfig, Outcome, Request, RequestOutput
from eexit.decode.score import score_texts
from eexit.errors import UsageError
from eexit.method.kv_maps import KEYS, STREAMS, KVMaps
from eexit.method.linear_predictors import Gate
from eexit.method.modes import MODES
from eexit.method.readouts import READOUTS
from eexit.method.rules import BLIND, ONLINE, ORACLES
from eexit.method.screen import Screen
from eexit.method.screen_size import ScreenSize
from eexit.model.adapters import merged
from eexit.model.cache import KVCache
from eexit.model.layers import Decoder
from eexit.model.sources import PEFT_FILES
from eexit.plan.configuration import Draft, EarlyExit
from eexit.plan.model_inspection import CPU_CACHE_BYTES

N_TOKENS = 4
DECODING = DecodingConfig((1, 3, 4), N_TOKENS, eos_token_ids=frozenset(), probe=PROBE, kv_maps=KV_MAPS, record_top_k=3)
PROMPT = (5, 80, 7, 7, 31)
KINDS_OF_ROWS = [("normal", None), *((mode, k) for mode in ("unfrozen", "frozen_residual") for k in (0, 0.3, 1, 3))]
REQUESTS = [kl_request(PROMPT, mode, k, seed=3) for mode, k in KINDS_OF_ROWS]
SEND_THEMSELVES = {"falcon", "gpt_neo", "phimoe"}  # whose code makes a tensor from a number or a list at every call
ASK_THEMSELVES = {"phimoe"}  # whose rotary angles depend on the largest position
# Which prefixes there are goes to the card, and tokens and exits come back. Where rows have students, the host waits
# once more, for the deepest exit.
A_STEP = Counts(to_card=1, to_host=1, waits=["aten.item.default"])
CARDS = pytest.mark.parametrize("spread", [False, True], ids=["card", "cards"])
OVER_TWO = ("llama", "gemma3", "gpt_neo", "bloom", "opt", "gpt_oss")


def decoding_there(decoder: Decoder, decoding: DecodingConfig) -> DecodingConfig:
    """This decoding, with a probe and KV maps on the card."""
    maps = decoding.kv_maps or KV_MAPS
    there = {name: There(part) for name, part in maps.tensors().items()}
    kv_maps = KVMaps.from_tensors(there, decoding.exitable_layers, N_LAYERS).to_decoder_devices(decoder)
    return replace(decoding, probe=random_probe(There), kv_maps=kv_maps)


def on_card(
    model: PreTrainedModel, requests: Sequence[Request], decoding: DecodingConfig, spread: bool = False
) -> tuple[dict[int, RequestOutput], list[Counts]]:
    """What the cards' rows are, and the counts of each step; the first one's are also those of the prompt."""
    steps: list[Counts] = []
    decoder = decoder_there(model, spread)
    with Card() as card:
        engine = Engine(decoder, decoding_there(decoder, decoding))

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
    model: PreTrainedModel, requests: Sequence[Request], decoding: DecodingConfig, spread: bool = False
) -> tuple[dict[int, RequestOutput], list[Counts]]:
    """What `on_card` gives, where the rows are those of the CPU; copies between two cards are counted elsewhere."""
    rows, steps = on_card(model, requests, decoding, spread)
    assert_same_rows(rows, dict(Engine(decoder_of(model), decoding).generate(requests)))
    assert all((step.between > 0) == spread for step in steps)
    return rows, [replace(step, between=0) for step in steps]


@pytest.mark.parametrize(("family", "spread"), [(family, family in OVER_TWO) for family in KINDS])  # on two, or on one
def test_a_card_gives_the_rows_of_the_cpu_and_takes_a_copy_a_step_each_way(family: str, spread: bool) -> None:
    model = shared_model(family)
    rows, steps = as_on_cpu(model, [REQUESTS[0], REQUESTS[2], *REQUESTS[6:8]], DECODING, spread)
    assert len({*rows[2].exit_layer_T, *rows[3].exit_layer_T}) > 1, "students must exit here and there"
    if family in SEND_THEMSELVES:
        assert all(step.blocking_to_card > 0 for step in steps)
        steps = [replace(step, to_card=step.to_card - step.blocking_to_card, blocking_to_card=0) for step in steps]
    if family in ASK_THEMSELVES:
        assert all("aten.is_nonzero.default" in step.waits for step in steps)
        own = "aten.is_nonzero.default"
        steps = [replace(step, waits=[wait for wait in step.waits if wait != own]) for step in steps]
    assert steps[1:] == [A_STEP] * (N_TOKENS - 2)


CHANGES: list[dict[str, Any]] = [
    {"temperature": 0.8, "top_p": 0.9},
    {"readout": READOUTS["raw"], "record_top_k": 0},
    {"exitable_layers": (0, 1, 2, 3, 4, 5)},
    {"exitable_layers": (5,)},
]


@pytest.mark.parametrize(("change", "spread"), [*zip(CHANGES, cycle([False, True]), strict=False)])
def test_a_step_takes_a_copy_however_rows_decode(llama: PreTrainedModel, change: dict[str, Any], spread: bool) -> None:
    decoding = replace(DECODING, **change)
    _, steps = as_on_cpu(llama, REQUESTS, decoding, spread)
    assert steps[1:] == [A_STEP] * (N_TOKENS - 2)


# Every state is on one card under oracles and on two under the other rules, or the other way round.
STATES_AND_FORMS = [*((mode, STREAMS) for mode in MODES), ("mapped_residual", KEYS)]
SPREAD = [False, True] * len(STATES_AND_FORMS)


@pytest.mark.parametrize(
    ("mode", "form", "spread"), [(*each, spread) for each, spread in zip(STATES_AND_FORMS, SPREAD, strict=False)]
)
def test_a_step_takes_a_copy_in_every_mode_and_by_every_oracle(
    llama: PreTrainedModel, mode: str, form: str, spread: bool
) -> None:
    of_keys = KVMaps.from_tensors(key_maps(decoder_of(llama)), range(N_LAYERS), N_LAYERS)
    decoding = replace(DECODING, kv_maps=of_keys) if form == KEYS else DECODING
    exits = [EarlyExit(mode, rule, parameter) for rule in ORACLES for parameter in SOME[rule]]
    _, steps = as_on_cpu(llama, [Request(PROMPT, configuration, seed=3) for configuration in exits], decoding, spread)
    waits = A_STEP.waits if MODES[mode].modifies_kv else []
    assert steps[1:] == [replace(A_STEP, waits=waits)] * (N_TOKENS - 2)


@CARDS
def test_drafts_that_a_layer_reads_are_those_of_the_cpu(llama: PreTrainedModel, spread: bool) -> None:
    requests = [Request(PROMPT, Draft(layer, 2), seed=3) for layer in DECODING.exitable_layers]
    rows, _ = as_on_cpu(llama, requests, replace(DECODING, max_new_tokens=8), spread)
    assert any(trace.drafted_T.any() for trace in rows.values())


@pytest.mark.parametrize(
    ("mode", "form", "spread"), [(*each, spread) for each, spread in zip(STATES_AND_FORMS, SPREAD[1:], strict=False)]
)
def test_online_rules_wait_for_their_decisions_alone(
    llama: PreTrainedModel, mode: str, form: str, spread: bool
) -> None:
    of_keys = KVMaps.from_tensors(key_maps(decoder_of(llama)), range(N_LAYERS), N_LAYERS)
    exits = [EarlyExit(mode, rule, SOME[rule][0]) for rule in (*ONLINE, *BLIND)]
    requests = [Request(PROMPT, configuration, seed=3) for configuration in exits]
    _, steps = as_on_cpu(llama, requests, replace(DECODING, kv_maps=of_keys) if form == KEYS else DECODING, spread)
    assert {step.blocking_to_card for step in steps} == {0}


@CARDS
def test_gates_and_screens_decide_as_on_a_cpu(
    llama: PreTrainedModel, spread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_linear, "is_unquantized", lambda weight: True)  # a tensor there has no memory here
    decoder, exits = (
        decoder_there(llama, spread),
        [EarlyExit("frozen_residual", rule, SOME[rule][0]) for rule in ONLINE],
    )
    requests = [Request(PROMPT, replace(each, gate=gate), seed=3) for each in exits for gate in (None, "0.5")]
    size, moment = ScreenSize(8, 16), torch.eye(llama.config.hidden_size)
    gate = random_gate([each.gated_rule for each in exits])
    here = replace(DECODING, gate=gate, screen=Screen(decoder_of(llama), size, moment))
    expected = dict(Engine(decoder_of(llama), here).generate(requests))
    with Card():
        parts = {name: There(part) for name, part in gate.tensors().items()}
        there = replace(
            decoding_there(decoder, DECODING), gate=Gate.from_tensors(parts, list(gate.maps), rules=gate.rules)
        )
        there = replace(there, screen=Screen(decoder, size, There(moment)))
        rows = traces_of(Engine(decoder, there).generate(requests))
    assert_same_rows(rows, expected)


@pytest.mark.parametrize(("mode", "rule"), [("skip", "kl"), ("frozen_cache", "agree"), ("frozen_residual", "margin")])
def test_texts_are_scored_over_two_cards_as_on_a_cpu(llama: PreTrainedModel, mode: str, rule: str) -> None:
    request, texts = Request(PROMPT, EarlyExit(mode, rule, SOME[rule][0]), seed=3), [(4, 8, 15, 16, 23, 42), (5, 80, 7)]
    decoder = decoder_there(llama, spread=True)
    with Card():
        ours = score_texts(decoder, decoding_there(decoder, DECODING), request, texts)
    for scored, expected in zip(ours, score_texts(decoder_of(llama), DECODING, request, texts), strict=True):
        assert scored.exit_layer_T.tolist() == expected.exit_layer_T.tolist()
        assert scored.exit_token_T.tolist() == expected.exit_token_T.tolist()
        np.testing.assert_allclose(scored.exit_logprob_T, expected.exit_logprob_T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["normal", "frozen_residual"])
def test_what_is_copied_between_cards_does_not_depend_on_how_many_rows_there_are(
    llama: PreTrainedModel, mode: str
) -> None:
    requests = [kl_request(PROMPT, mode, 1, seed) for seed in range(18)]
    some, all_ = (on_card(llama, requests[:n_rows], DECODING, spread=True)[1] for n_rows in (6, 18))
    assert len({step.between for step in (*some[1:], *all_[1:])}) == 1


def test_over_two_cards_a_model_costs_what_it_costs(llama: PreTrainedModel) -> None:
    decoder = decoder_there(llama, spread=True)
    with Card():
        ours = measure_unit_costs(decoder, decoding_there(decoder, DECODING))
    expected = measure_unit_costs(decoder_of(llama), DECODING)
    for name in ("embedding", "layer_L", "keys_L", "position_L", "read_XK", "weight_bytes_L"):
        assert np.array_equal(getattr(ours, name), getattr(expected, name)), name
    assert ours.mapped_LL is not None
    assert expected.mapped_LL is not None
    exits = list(DECODING.exitable_layers)
    assert np.array_equal(ours.mapped_LL[exits], expected.mapped_LL[exits])


@CARDS
def test_nothing_waits_for_rows_that_come_and_go(llama: PreTrainedModel, spread: bool) -> None:
    decoding = replace(DECODING, eos_token_ids=frozenset(range(0, 97, 5)), max_rows=4, max_new_tokens=20)
    requests = [
        replace(request, prompt_token_ids=prompt, seed=seed)
        for prompt in (PROMPT, (44, 2, 90, 61))
        for seed in (0, 1)
        for request in REQUESTS[::2]
    ]
    rows, steps = as_on_cpu(llama, requests, decoding, spread)
    assert len({len(trace.token_id_T) for trace in rows.values()}) > 3, "rows must end at different times"
    assert {step.blocking_to_card for step in steps} == {0}
    assert all(step.waits in ([], A_STEP.waits) for step in steps)


def test_what_a_card_has_room_for_but_does_not_use_yet_changes_nothing() -> None:
    torch.manual_seed(0)
    model = tf.LlamaForCausalLM(LONG).eval()
    prompts = [tuple(range(3, 40)), tuple(token % 97 for token in range(400)), (5, 7)]
    requests = [replace(request, prompt_token_ids=prompt) for prompt in prompts for request in REQUESTS[4:6]]
    decoding = replace(DECODING, max_rows=2)
    as_on_cpu(model, requests, decoding)


@pytest.mark.parametrize("rows_of_room", [1, 5, 100])
def test_as_many_rows_are_in_flight_as_the_card_has_room_for(
    llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, rows_of_room: int
) -> None:
    decoding, requests = replace(DECODING, max_new_tokens=3), REQUESTS[:6]
    decoder = decoder_there(llama)
    with Card():
        engine = Engine(decoder, decoding)
        length = len(PROMPT) + decoding.max_new_tokens
        room = rows_of_room * row_bytes(True, engine.decoders, decoding, length, requests)
        monkeypatch.setattr(Memory, "taken", (1 << 30) - int(room / FREE_SHARE) - 100)
        outcomes = dict(engine.generate(requests))
        assert engine.n_slots == min(rows_of_room, len(requests))
        half = Engine(engine.decoder, replace(decoding, memory_share=2**-30 * room / FREE_SHARE / 2))
        assert_same_rows(dict(half.generate(requests)), outcomes)
        assert half.n_slots == max(1, min(rows_of_room // 2, len(requests)))


def test_a_cpu_and_what_tells_no_memory_have_a_fixed_room() -> None:
    assert cache_budget(torch.device("cpu"), 1.0) == cache_budget(torch.device("mps"), 1.0) == CPU_CACHE_BYTES


def refusal_of(model: PreTrainedModel) -> str:
    with pytest.raises(UsageError) as refusal:
        Decoder(model)
    return str(refusal.value)


WAY_OUT = (
    "load it onto as many devices as hold all of it, with a device_map (of a sweep's actors, --gpus-per-actor), or "
    "give --quantize"
)


def test_a_model_that_is_offloaded_in_part_is_refused_in_a_line(llama: PreTrainedModel, tmp_path: Path) -> None:
    with Card() as card:
        model = card.take(llama, partial(card_of, llama))
        model.model.layers[3].to_empty(device="meta")
        assert refusal_of(model) == (
            "LlamaForCausalLM is not supported: model.layers.3.self_attn.q_proj.weight is offloaded to the CPU's "
            f"memory or to disk, and other weights are on privateuseone:0, privateuseone:1: {WAY_OUT}"
        )
        model = card.take(llama)
        model.lm_head = torch.nn.Linear(32, 97, bias=False)
        assert "lm_head.weight is in the CPU's memory, and other weights are on privateuseone:0: " in refusal_of(model)
        model = card.take(llama, partial(card_of, llama))
        model.model.layers[3].mlp = model.model.layers[0].mlp
        assert refusal_of(model).endswith(
            "layer 3 is on privateuseone:0 and privateuseone:1: give a device_map that has each layer on one device"
        )
    on_disk = dispatch_model(copy.deepcopy(llama), {"": "cpu", "model.layers.3": "disk"}, offload_dir=str(tmp_path))
    assert f"is offloaded to the CPU's memory or to disk, and other weights are on the CPU: {WAY_OUT}" in refusal_of(
        on_disk
    )


def test_an_adapter_is_not_merged_into_weights_on_two_cards(llama: PreTrainedModel, tmp_path: Path) -> None:
    for name in PEFT_FILES:
        (tmp_path / name).touch()
    with Card() as card, pytest.raises(UsageError, match=r"merged into .* are on privateuseone:0, privateuse"):
        merged(card.take(llama, partial(card_of, llama)), str(tmp_path))


def test_over_two_cards_the_one_that_is_full_first_says_how_many_rows_there_are(
    llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, free = decoder_there(llama, spread=True), {DEVICE: 1 << 30, OTHER: 1 << 29}
    monkeypatch.setattr(Memory, "mem_get_info", lambda its, device: (free[device], 1 << 30))
    assert budget_of(decoder, 1.0) == int(FREE_SHARE * (1 << 29)) * N_LAYERS // N_ON_OTHER
    free[OTHER] = 1 << 30
    assert budget_of(decoder, 1.0) == int(FREE_SHARE * (1 << 30)) * N_LAYERS // (N_LAYERS - N_ON_OTHER)


def test_rows_are_not_copied_one_by_one() -> None:
    operators = []
    for n_slots in (1, 7):
        with Card() as card, torch.inference_mode():
            prompt, cache = KVCache(4, 1, 32), KVCache(4, n_slots, 48)
            prompt.begin(1, 0, 20)
            for columns in prompt.columns:
                columns.update(There(torch.zeros(1, 2, 20, 8)), There(torch.zeros(1, 2, 20, 4)))
            with card.counted() as counts:
                slots = There(torch.arange(n_slots))
                cache.copy_rows(prompt, There(torch.zeros(n_slots, dtype=torch.long)), slots)
        operators.append(counts.operators)
    assert 0 < operators[0] == operators[1]


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
