"""Replays from recorded data, against plain loops over tokens and layers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from axes import EXITABLE, SOME, control
from reference.generation import stick_breaking
from reference.rules import RuleInputs, stop_by_kl

from eexit.method.divergence import divergence_from_final
from eexit.method.rules import RULES, Parameter
from eexit.plan.configuration import EarlyExit
from eexit.plan.splits import unit_digest
from eexit.results.study_tables import OF_UNITS
from eexit.studies.replay.from_records import ReplayResult, TextCosts, Transcript, replay_recorded, summary, together
from eexit.training.texts import TrainingText


def test_expectations_are_those_of_the_plain_loops_at_the_ends_of_the_kl_rule_and_between() -> None:
    generator = torch.Generator().manual_seed(0)
    divergence = divergence_from_final(torch.randn(50, len(EXITABLE) + 1, 20, generator=generator), 1)
    divergence = replace(divergence, kl_BE=3 * torch.rand(50, len(EXITABLE), generator=generator))
    transcript = Transcript(TrainingText("a", (1, 2), (0,) * 51), 0, divergence)
    kl_NX, top_NX = np.pad(divergence.kl_BE, ((0, 0), (0, 1))), divergence.top_token_BX.numpy()
    inputs = [RuleInputs(kl_E, [], torch.empty(0), [], [], (), None) for kl_E in divergence.kl_BE.tolist()]
    for factor in (0.0, 0.7, 1e9):
        [replayed] = replay_recorded([EarlyExit("unfrozen", "kl", factor)], transcript, EXITABLE)
        prob_NX = np.array([stick_breaking(stop_by_kl(each, factor)[0]) for each in inputs])
        unlike_N = (prob_NX * (top_NX != top_NX[:, -1:])).sum(1)
        assert replayed.share_X == pytest.approx(prob_NX.mean(0), abs=1e-6)
        assert replayed.expected_kl == pytest.approx((prob_NX * kl_NX).sum(1).mean(), abs=1e-5)
        assert replayed.expected_disagreement == pytest.approx(unlike_N.mean(), abs=1e-6)
        assert replayed.changed == pytest.approx(1 - (1 - unlike_N).prod(), abs=1e-5)


def test_settings_are_replayed_together_where_they_see_the_same() -> None:
    parameters: dict[str, list[Parameter]] = {**SOME, "random": [control(1, 1, 1, 1)]}
    given = [(rule, parameter) for rule in RULES for parameter in parameters[rule]]
    settings = [EarlyExit(mode, *each) for mode in ("unfrozen", "skip") for each in given]
    groups = together(settings, is_adapted=False)
    assert [its for group in groups for its in group] == settings
    assert [len(group) for group in groups if group[0].mode == "unfrozen"] == [len(parameters[rule]) for rule in RULES]
    assert all(len(group) == 1 for group in groups if group[0].mode == "skip")
    assert all(len(group) == 1 for group in together(settings, is_adapted=True))


def test_a_summary_is_a_mean_over_prompts_with_seeds_averaged_first() -> None:
    def at(rank: int, kl: float, full: float) -> ReplayResult:
        return ReplayResult(np.eye(4)[rank], kl, kl / 10, kl / 5, TextCosts(full, full / 4, full / 2, 2 * full))

    kl, replayed = EarlyExit("unfrozen", "kl", 1.0), [at(0, 1, 10), at(3, 0, 30), at(3, 2, 100)]
    row = summary(kl, replayed, ["a", "a", "b"], ["a", "a", "b"], EXITABLE, 7)
    assert (row["prompts"], row["texts"], row["drawn"]) == (2, 3, False)
    assert row["exit_distribution"] == [(1, 0.25), (3, 0.0), (4, 0.0), (6, 0.75)]
    assert row["mean_depth"] == pytest.approx(0.25 * 2 / 7 + 0.75)
    assert row["expected_kl"] == pytest.approx((0.5 + 2) / 2)
    assert (row["macs_full"], row["macs_to_exit"], row["macs_required"], row["macs_executed"]) == (120, 30, 60, 240)
    assert row["units"] == [unit_digest("a"), unit_digest("b")]
    assert [row[name] for name in OF_UNITS] == [[20, 100], [5, 25], [30, 150], [0.05, 0.2], [0.1, 0.4]]
    assert row["expected_kl_low"] is row["expected_kl_high"] is None
    of_six, fixed = [*"abcdef"], EarlyExit("unfrozen", "fixed", 4.0)
    six = summary(fixed, [at(3, n, np.nan) for n in range(6)], of_six, of_six, EXITABLE, 7)
    assert six["expected_kl_low"] < six["expected_kl"] == 2.5 < six["expected_kl_high"]
    assert (six["mean_depth_low"], six["mean_depth_high"]) == pytest.approx((1, 1)), "which is given"
    six = summary(kl, [at(3, 0, np.nan)] * 6, of_six, of_six, EXITABLE, 7)
    assert six["mean_depth_low"] == pytest.approx(0.025 ** (1 / 6)), "that none of six exits is no certainty"
    assert six["macs_full"] is None
    row = summary(kl, replayed, ["a", "a", "b"], ["group"] * 3, EXITABLE, 7)
    assert (row["prompts"], row["expected_kl"]) == (1, (0.5 + 2) / 2), "a group's prompts count alike"
