"""On one and on two simulated accelerators (see `card.py`): no operator mixes devices, rows equal those of the CPU, and
a step launches, copies and waits for little more than transformers' own `generate`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import cycle
from statistics import median
from typing import Any, cast

import numpy as np
import pytest
import torch
from axes import SOME
from card import DEVICE, Card, Counts, Mixed, There, decoder_there
from references import decoder_of, shared_model
from rows import KINDS, grid
from tiny_models import tiny_model
from traces import assert_same, kl_request, traces_of
from transformers import PreTrainedModel
from untrained import KV_MAPS, N_LAYERS, PROBE, key_maps, random_gate

from eexit.cpu import packed_linear
from eexit.decode.engine import Engine
from eexit.decode.predictors import measure_unit_costs
from eexit.decode.requests import DecodingConfig, Request, RequestOutput
from eexit.decode.score import score_texts
from eexit.method.kv_maps import KEYS, STREAMS, KVMaps
from eexit.method.modes import MODES
from eexit.method.readouts import READOUTS
from eexit.method.rules import BLIND, ONLINE, ORACLES
from eexit.method.screen import Screen
from eexit.method.screen_size import ScreenSize
from eexit.model.layers import Decoder
from eexit.plan.configuration import Configuration, Draft, EarlyExit, NoExit

N_TOKENS = 4
DECODING = DecodingConfig((1, 3, 4), N_TOKENS, eos_token_ids=frozenset(), probe=PROBE, kv_maps=KV_MAPS, record_top_k=3)
PROMPT = (5, 80, 7, 7, 31)
KINDS_OF_ROWS = [("normal", None), *((mode, k) for mode in ("unfrozen", "frozen_residual") for k in (0, 0.3, 1, 3))]
REQUESTS = [kl_request(PROMPT, mode, k, seed=3) for mode, k in KINDS_OF_ROWS]
SEND_THEMSELVES = {"falcon", "gpt_neo", "phimoe"}  # whose code makes a tensor from a number or a list at every call
# Prefixes go to the card, and tokens and exits come back. The host waits once more, for the deepest exit.
A_STEP = Counts(to_card=1, to_host=1, waits=["aten.item.default"])
CARDS = pytest.mark.parametrize("spread", [False, True], ids=["card", "cards"])
OVER_TWO = ("llama", "gemma3", "gpt_neo", "bloom", "opt", "gpt_oss")
Run = tuple[dict[int, RequestOutput], list[Counts]]
Launches = tuple[float, float, float]


def decoding_there(decoder: Decoder, decoding: DecodingConfig) -> DecodingConfig:
    """Return this decoding, with its probe, gate and KV maps on the card."""
    kv_maps = decoding.kv_maps and decoding.kv_maps.to_decoder_devices(decoder)
    probe, gate = decoding.probe and decoding.probe.to(DEVICE), decoding.gate and decoding.gate.to(DEVICE)
    return replace(decoding, probe=probe, gate=gate, kv_maps=kv_maps)


def on_card(model: PreTrainedModel, requests: Sequence[Request], decoding: DecodingConfig, spread: bool = False) -> Run:
    """Return the cards' outputs, and the counts of each step; the first one's include those of prefill."""
    steps: list[Counts] = []
    decoder = decoder_there(model, spread)
    with Card() as card:
        engine = Engine(decoder, decoding_there(decoder, decoding))
        card.pop_counts()
        return traces_of(engine.generate(requests, lambda _: steps.append(card.pop_counts()))), steps


def as_cpu(model: PreTrainedModel, requests: Sequence[Request], decoding: DecodingConfig, spread: bool = False) -> Run:
    """Return the same as `on_card`, with host copies and waits alone; assert that the outputs are those of the CPU."""
    rows, steps = on_card(model, requests, decoding, spread)
    for index, expected in traces_of(Engine(decoder_of(model), decoding).generate(requests)).items():
        assert_same(rows[index], expected)
    assert all((step.between > 0) == spread for step in steps)
    return rows, [replace(step, operators=0, between=0) for step in steps]


@pytest.mark.parametrize(("family", "spread"), [(family, family in OVER_TWO) for family in KINDS])  # on two, or on one
def test_a_card_gives_the_rows_of_the_cpu_and_takes_a_copy_a_step_each_way(family: str, spread: bool) -> None:
    model = shared_model(family)
    rows, steps = as_cpu(model, [REQUESTS[0], REQUESTS[2], *REQUESTS[6:8]], DECODING, spread)
    assert len({*rows[2].exit_layer_T, *rows[3].exit_layer_T}) > 1, "tokens must exit here and there"
    if family in SEND_THEMSELVES:
        assert all(step.blocking_to_card > 0 for step in steps)
        steps = [replace(step, to_card=step.to_card - step.blocking_to_card, blocking_to_card=0) for step in steps]
    if family == "phimoe":  # whose rotary angles depend on the largest position
        own = "aten.is_nonzero.default"
        assert all(own in step.waits for step in steps)
        steps = [replace(step, waits=[wait for wait in step.waits if wait != own]) for step in steps]
    assert steps[1:] == [A_STEP] * (N_TOKENS - 2)


CHANGES: list[dict[str, Any]] = [
    {"temperature": 0.8, "top_p": 0.9}, {"readout": READOUTS["raw"], "record_top_k": 0},
    {"exitable_layers": (0, 1, 2, 3, 4, 5)}, {"exitable_layers": (5,)},
]  # fmt: skip


@pytest.mark.parametrize(("change", "spread"), [*zip(CHANGES, cycle([False, True]), strict=False)])
def test_a_step_takes_a_copy_however_rows_decode(llama: PreTrainedModel, change: dict[str, Any], spread: bool) -> None:
    _, steps = as_cpu(llama, REQUESTS, replace(DECODING, **change), spread)
    assert steps[1:] == [A_STEP] * (N_TOKENS - 2)


# Every mode is on one card under oracles and on two under the other rules, or the other way round.
MODES_AND_FORMS = [*((mode, STREAMS) for mode in MODES), ("mapped_residual", KEYS)]


@pytest.mark.parametrize(("at", "mode", "form"), [(at, *each) for at, each in enumerate(MODES_AND_FORMS)])
def test_a_step_takes_a_copy_in_every_mode_by_every_rule(llama: PreTrainedModel, at: int, mode: str, form: str) -> None:
    """With online rules, it also waits for their decisions."""
    of_keys = KVMaps.from_tensors(key_maps(decoder_of(llama)), range(N_LAYERS), N_LAYERS)
    decoding = replace(DECODING, kv_maps=of_keys) if form == KEYS else DECODING
    oracles = [EarlyExit(mode, rule, parameter) for rule in ORACLES for parameter in SOME[rule]]
    others = [EarlyExit(mode, rule, SOME[rule][0]) for rule in (*ONLINE, *BLIND)]
    _, steps = as_cpu(llama, grid(oracles, [PROMPT]), decoding, at % 2 == 1)
    _, of_others = as_cpu(llama, grid(others, [PROMPT]), decoding, at % 2 == 0)
    waits = A_STEP.waits if MODES[mode].modifies_kv else []
    assert steps[1:] == [replace(A_STEP, waits=waits)] * (N_TOKENS - 2)
    assert {step.blocking_to_card for step in of_others} == {0}


@CARDS
def test_drafts_are_those_of_the_cpu(llama: PreTrainedModel, spread: bool) -> None:
    requests = grid([Draft(layer, 2) for layer in DECODING.exitable_layers], [PROMPT])
    rows, _ = as_cpu(llama, requests, replace(DECODING, max_new_tokens=8), spread)
    assert any(trace.drafted_T.any() for trace in rows.values())


@CARDS
def test_gates_and_screens_as_on_a_cpu(llama: PreTrainedModel, spread: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "is_unquantized", lambda weight: True)  # a tensor there has no memory here
    decoder, size, moment = decoder_there(llama, spread), ScreenSize(8, 16), torch.eye(llama.config.hidden_size)
    exits = [EarlyExit("frozen_residual", rule, SOME[rule][0]) for rule in ONLINE]
    requests = [Request(PROMPT, replace(each, gate=gate), seed=3) for each in exits for gate in (None, "0.5")]
    gated = replace(DECODING, gate=random_gate([each.gated_rule for each in exits]))
    here = replace(gated, screen=Screen(decoder_of(llama), size, moment))
    expected = traces_of(Engine(decoder_of(llama), here).generate(requests))
    with Card():
        there = replace(decoding_there(decoder, gated), screen=Screen(decoder, size, There(moment)))
        for index, trace in Engine(decoder, there).generate(requests):
            assert_same(trace, expected[index])


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


def test_copies_between_cards_are_independent_of_the_number_of_rows(llama: PreTrainedModel) -> None:
    for mode in ("normal", "frozen_residual"):
        requests = [kl_request(PROMPT, mode, 1, seed) for seed in range(18)]
        some, all_ = (on_card(llama, requests[:n_rows], DECODING, spread=True)[1] for n_rows in (6, 18))
        assert len({step.between for step in (*some[1:], *all_[1:])}) == 1, mode


@pytest.mark.parametrize("family", ["llama", "falcon", "mixtral", "deepseek_v3"])
def test_unit_costs_are_those_of_the_cpu(family: str) -> None:
    decoder = decoder_there(shared_model(family), spread=family in OVER_TWO)
    with Card():
        ours = measure_unit_costs(decoder, decoding_there(decoder, DECODING))
    np.testing.assert_equal(vars(ours), vars(measure_unit_costs(decoder_of(shared_model(family)), DECODING)))


@CARDS
def test_no_step_waits_for_rows_that_come_and_go(llama: PreTrainedModel, spread: bool) -> None:
    decoding = replace(DECODING, eos_token_ids=frozenset(range(0, 97, 5)), max_rows=4, max_new_tokens=20)
    prompts = [(prompt, seed) for prompt in (PROMPT, (44, 2, 90, 61)) for seed in (0, 1)]
    requests = [Request(prompt, each.configuration, seed) for prompt, seed in prompts for each in REQUESTS[::2]]
    rows, steps = as_cpu(llama, requests, decoding, spread)
    assert len({len(trace.token_id_T) for trace in rows.values()}) > 3, "rows must end at different times"
    assert {step.blocking_to_card for step in steps} == {0}
    assert all(step.waits in ([], A_STEP.waits) for step in steps)


def test_allocated_columns_that_no_row_uses_yet_change_nothing() -> None:
    model = tiny_model("llama", max_position_embeddings=1024)
    prompts = [tuple(range(3, 40)), tuple(token % 97 for token in range(400)), (5, 7)]
    requests = [Request(prompt, each.configuration, 3) for prompt in prompts for each in REQUESTS[4:6]]
    as_cpu(model, requests, replace(DECODING, max_rows=2))


# On a GPU, a step of a few rows takes as long as its operators take to be launched.
MANY = [tuple((5 * row + token) % 64 for token in range(7)) for row in range(32)]  # prompts
MANY_TOKENS = 9
FIVE = (5, 10, 15, 20, 25)
HALF_EXIT = 1e-6, 1.0  # thresholds of confidence: half of the rows exit at the first exitable layer, none later
UNFROZEN, RESIDUAL = (
    [EarlyExit(mode, "confidence", threshold) for threshold in HALF_EXIT] for mode in ("unfrozen", "frozen_residual")
)


@cache
def flat_model(n_layers: int) -> PreTrainedModel:
    return tiny_model("llama", num_hidden_layers=n_layers, initializer_range=0.02)


def launches(steps: Sequence[Counts]) -> Launches:
    """Return medians of steps in which rows neither come nor go: operators, copies to the card, waits of the host."""
    numbers = [(step.operators, step.to_card, len(step.waits) + step.to_host) for step in steps[3:-1]]
    operators, to_card, waits = map(median, zip(*numbers, strict=True))
    return operators, to_card, waits


@cache
def of_generate(n_layers: int) -> Launches:
    steps, model = list[Counts](), cast(Any, decoder_there(flat_model(n_layers)).model)
    with Card() as card, torch.inference_mode():

        def note(_: torch.LongTensor, logits_BV: torch.FloatTensor) -> torch.FloatTensor:
            steps.append(card.pop_counts())
            return logits_BV

        prompt_BT = torch.tensor(MANY).to(DEVICE)
        model.generate(
            prompt_BT, attention_mask=torch.ones_like(prompt_BT), logits_processor=[note], do_sample=False,
            max_new_tokens=MANY_TOKENS, pad_token_id=0, eos_token_id=None,
        )  # fmt: skip
    return launches(steps)


def of_engine(n_layers: int, exitable_layers: tuple[int, ...], configurations: Sequence[Configuration]) -> Launches:
    """Return the launches with rows that have these configurations in turn."""
    decoding = DecodingConfig(exitable_layers, MANY_TOKENS, frozenset(), record_full_depth="none")
    requests = [Request(*each) for each in zip(MANY, cycle(configurations), strict=False)]
    return launches(on_card(flat_model(n_layers), requests, decoding)[1])


def test_a_step_launches_little_more_than_generate() -> None:
    """Beside `normal`, no step stops early."""
    most: list[tuple[tuple[int, ...], Sequence[Configuration], float, int]] = [  # times the operators; waits
        (FIVE, [NoExit()], 1.1, 1), ((25,), RESIDUAL, 1.2, 2), (FIVE, RESIDUAL, 1.35, 6),
        (FIVE, [*RESIDUAL, NoExit()], 1.35, 1),
    ]  # fmt: skip
    for exitable_layers, configurations, most_operators, most_waits in most:
        operators, to_card, waits = of_engine(30, exitable_layers, configurations)
        assert operators <= most_operators * of_generate(30)[0], configurations
        assert waits <= most_waits, configurations
        assert to_card <= 2


def test_a_layer_takes_what_it_takes_in_generate_and_a_selection_past_exits() -> None:
    of_layers = of_generate(12)[0] - of_generate(8)[0]
    for configurations, selecting in ((UNFROZEN, 0), (RESIDUAL, 4)):
        deep, shallow = (of_engine(n_layers, (3, 6), configurations)[0] for n_layers in (12, 8))
        assert 4 * 10 < deep - shallow <= of_layers + selecting


def test_the_card_refuses_to_mix_devices_and_counts_what_the_host_waits_for() -> None:
    with torch.inference_mode(), Card() as card:
        there, here = There(torch.arange(6.0).view(2, 3)), torch.ones(2, 3)
        mixes: list[Callable[[], Any]] = [lambda: there + here, lambda: there[torch.tensor([0])]]
        for mix in mixes:
            with pytest.raises(Mixed):
                mix()
        waiting: list[Callable[[], Any]] = [lambda: bool(there[0, 0] > 1), there.unique, lambda: there[there > 1]]
        for wait in waiting:
            card.pop_counts()
            wait()
            assert len(card.pop_counts().waits) == 1
        _ = (here.pin_memory().to(DEVICE, non_blocking=True) * 2 + torch.tensor(1))[:, 1:].to(DEVICE)
        assert replace(card.pop_counts(), operators=0) == Counts(to_card=1)
