"""Replays with the model, of what tiny models wrote, against runs at the same settings."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from axes import EXITABLE, SOME
from references import decoder_of, save_adapter
from rows import DECODING, PROMPTS
from traces import traces_of
from transformers import PreTrainedModel
from untrained import random_gate

from eexit.costs.operations import cost_columns
from eexit.decode.engine import Engine
from eexit.decode.predictors import measure_unit_costs
from eexit.decode.requests import DecodingConfig, Request, RequestOutput
from eexit.method.divergence import divergence_from_final
from eexit.method.modes import MODES
from eexit.method.rules import ONLINE, RULES
from eexit.method.screen import Screen
from eexit.method.screen_size import ScreenSize
from eexit.model.adapters import merged
from eexit.model.decoders import DecoderPair
from eexit.model.layers import Decoder
from eexit.plan.configuration import EarlyExit
from eexit.quality.text_metrics import disagreement
from eexit.studies.replay.from_records import ReplayResult, Transcript, together
from eexit.studies.replay.with_model import Replayer
from eexit.sweeps.head_moment import second_moment
from eexit.training.texts import TrainingText

N_LAYERS, SEED = 7, 3
GREEDY = replace(DECODING, max_new_tokens=20)


def replayer_of(llama: Any, decoding: DecodingConfig = DECODING, student: Decoder | None = None) -> Replayer:
    decoder = decoder_of(llama)
    return Replayer(DecoderPair(decoder, student or decoder), decoding, measure_unit_costs(decoder, decoding))


def decoding_with(llama: PreTrainedModel, gated: Sequence[EarlyExit], by: str) -> DecodingConfig:
    decoder, gate = decoder_of(llama), random_gate([each.gated_rule for each in gated])
    screen = Screen(decoder, ScreenSize(6, 9), second_moment(decoder)) if by == "screen" else None
    return replace(GREEDY, gate=gate, screen=screen)


def run(
    model: PreTrainedModel, settings: Sequence[EarlyExit], decoding: DecodingConfig = GREEDY, student: Any = None
) -> dict[int, RequestOutput]:
    requests = [Request(PROMPTS[0], each, SEED) for each in settings]
    return traces_of(Engine(decoder_of(model), decoding, student).generate(requests))


def transcript_of(trace: RequestOutput, recorded: bool = True) -> Transcript:
    logits_NXV = torch.full((len(trace.token_id_T) - 1, len(EXITABLE) + 1, 97), -50.0)
    logits_NXV.scatter_(-1, torch.tensor(trace.top_token_ids_TXK[1:, :, :1]).long(), 50.0)
    likeliest = divergence_from_final(logits_NXV, 3)
    full_depth = replace(likeliest, kl_BE=torch.tensor(trace.kl_TE[1:]))
    text = TrainingText("a", PROMPTS[0], tuple(trace.token_id_T.tolist()))
    return Transcript(text, SEED, full_depth if recorded else None)


def check_run(replayer: Replayer, setting: EarlyExit, trace: RequestOutput, replayed: ReplayResult) -> None:
    """A replay costs exactly what the run did; an oracle's, which runs beside full depth, is not known in either."""
    exit_N = np.searchsorted([*EXITABLE, N_LAYERS - 1], trace.exit_layer_T[1:])
    is_by_chance = not np.isin(trace.exit_prob_TX, (0, 1)).all()
    alters = setting.mode != "unfrozen"
    assert replayed.drawn == (alters and is_by_chance)
    frequencies_X = np.bincount(exit_N, minlength=len(EXITABLE) + 1) / len(exit_N)
    prob_NX = trace.exit_prob_TX[1:]
    if not np.isnan(prob_NX).any():
        np.testing.assert_allclose(replayed.share_X, prob_NX.mean(0), atol=1e-6)
    if not is_by_chance or (alters and setting.rule in ONLINE):
        assert replayed.share_X.tolist() == pytest.approx(frequencies_X.tolist(), abs=1e-12)
    if not is_by_chance or alters:
        own = disagreement(trace.token_id_T[1:], trace.final_token_id_T[1:])
        assert replayed.expected_disagreement == pytest.approx(own, abs=1e-12)
        assert replayed.changed == ((own or 0) > 0)
    if setting.rule == "fixed":  # at and below the layer that all tokens exit at, no mode alters anything
        assert replayed.expected_kl == pytest.approx(trace.kl_TE[1:, exit_N[0]].mean(), rel=1e-4)
    unit_costs, exit_T = replayer.pricing.unit_costs, trace.exit_layer_T[1:]
    ran = cost_columns(unit_costs, trace.counts, exit_T, EXITABLE, setting.mode, len(PROMPTS[0]))
    assert replayed.costs[:3] == (ran["macs_full"], ran["macs_to_exit"], ran["macs_required"])
    executed = replayed.costs.macs_executed
    assert np.isnan(executed) if setting.is_oracle else executed == ran["macs_executed"]


@pytest.mark.parametrize(
    ("rule", "by"), [("confidence", "head"), ("confidence", "screen"), ("patience", "head"), ("similarity", "screen")]
)
def test_one_pass_serves_all_sets_and_gates_of_a_rule(llama: Any, monkeypatch: Any, rule: str, by: str) -> None:
    """But for patience, which counts the layers of its set."""
    parameter = SOME[rule][0]
    decoding = decoding_with(llama, [EarlyExit("unfrozen", "confidence", SOME["confidence"][0])], by)
    replayer = replayer_of(llama, decoding)
    sets: list[tuple[int, ...]] = [(), (3, 4), (1, 4)]
    thresholds = [None, "0.4", "0.6"] if rule == "confidence" else [None]
    settings = [EarlyExit("unfrozen", rule, parameter, layers, chance) for layers in sets for chance in thresholds]
    traces = run(llama, settings, decoding)
    assert len({tuple(trace.exit_layer_T.tolist()) for trace in traces.values()}) >= 3, "they exit elsewhere"
    passes, transcript = Mock(side_effect=replayer._score), transcript_of(traces[0])
    monkeypatch.setattr(replayer, "_score", passes)
    for setting in settings:
        replayer.replay([setting], transcript)
    assert passes.call_count == (len(sets) if rule == "patience" else 1)
    for index, setting in enumerate(settings):
        check_run(replayer, setting, traces[index], *replayer.replay([setting], transcript_of(traces[index])))


@pytest.mark.parametrize("looks_through", ["head", "screen"])
@pytest.mark.parametrize("mode", MODES)
def test_a_run_replayed_on_its_own_text_is_that_run(llama: PreTrainedModel, mode: str, looks_through: str) -> None:
    plain = [EarlyExit(mode, rule, parameter) for rule in RULES for parameter in SOME[rule]]
    # Those that a gate can keep out.
    looking = {name for name, rule in ONLINE.items() if rule.needs_distribution and not rule.needs_history}
    gated = [each for each in plain if each.rule in looking]
    decoding = decoding_with(llama, gated, looks_through)
    replayer = replayer_of(llama, decoding)
    settings = [*plain, *(replace(each, gate="0.5") for each in gated)]
    traces = run(llama, settings, decoding)
    online = set[float]()
    for index, setting in enumerate(settings):
        [group] = [group for group in together(settings, is_adapted=False) if setting in group]
        for is_recorded in {mode == "unfrozen", False}:  # else the model finds it
            transcript = transcript_of(traces[index], is_recorded)
            replayed = replayer.replay(group, transcript)[group.index(setting)]
            check_run(replayer, setting, traces[index], replayed)
        if not setting.is_oracle:
            online.add(replayed.costs.macs_executed)
    assert len(online) > len(gated), "they don't cost the same"


def test_an_adapters_final_layer_is_not_full_depth(llama: PreTrainedModel, tmp_path: Path) -> None:
    student = decoder_of(merged(llama, save_adapter(llama, tmp_path)))
    adapted, setting = replayer_of(llama, student=student), EarlyExit("unfrozen", "confidence", 0.3)
    trace = run(llama, [setting], student=student)[0]
    [replayed] = adapted.replay([setting], transcript_of(trace))
    check_run(adapted, setting, trace, replayed)
    [never] = adapted.replay([replace(setting, parameter=1.0)], transcript_of(trace))
    assert never.share_X.tolist() == [0, 0, 0, 1]
    assert never.expected_kl > 0
