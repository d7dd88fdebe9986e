"""Replays of what tiny models wrote: against draws, against runs at the same settings, and at the ends of each rule."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from axes import EXITABLE, SOME, control
from reference.generation import draw
from reference.rules import RuleInputs, stop_by_kl

from eexit.method.divergence import divergence_from_final
from eexit.method.rules import RULES, Parameter
from eexit.method.stick_breaking import exit_draws
from eexit.plan.configuration import EarlyExit
from eexit.plan.splits import unit_digest
from eexit.results.study_tables import OF_UNITS
from eexit.studies.replay.from_records import ReplayResult, TextCosts, Transcript, replay_recorded, summary, together
from eexit.training.texts import TrainingText


def random_transcript(n_tokens: int) -> Transcript:
    generator = torch.Generator().manual_seed(0)
    divergence = divergence_from_final(torch.randn(n_tokens, len(EXITABLE) + 1, 20, generator=generator), 1)
    kl_NE = 3 * torch.rand(n_tokens, len(EXITABLE), generator=generator)
    return Transcript(TrainingText("a", (1, 2), (0,) * (n_tokens + 1)), 0, replace(divergence, kl_BE=kl_NE))


def kl(*factors: float) -> list[EarlyExit]:
    return [EarlyExit("unfrozen", "kl", factor) for factor in factors]


def test_the_expected_distribution_is_that_of_draws_as_the_engine_draws_them() -> None:
    """8,000 draws: within 3 standard errors, at each layer; so are KL and disagreement at the exits drawn."""
    transcript, n_seeds = random_transcript(100), 80
    assert transcript.full_depth is not None
    full_depth, factor = transcript.full_depth, 0.7
    [replayed] = replay_recorded(kl(factor), transcript, EXITABLE)
    inputs = [RuleInputs(kl_E, [], torch.empty(0), [], [], (), None) for kl_E in full_depth.kl_BE.tolist()]
    stops_N = [stop_by_kl(each, factor)[0] for each in inputs]
    draws_SN = [exit_draws(seed, [1, 2], 101)[1:].tolist() for seed in range(n_seeds)]
    exit_SN = np.array([[draw(stops, u) for stops, u in zip(stops_N, u_N, strict=True)] for u_N in draws_SN])
    kl_NX = np.pad(full_depth.kl_BE.numpy(), ((0, 0), (0, 1)))
    unlike_NX = (full_depth.top_token_BX != full_depth.top_token_BX[:, -1:]).numpy().astype(float)
    token_N = np.arange(100)
    for expected, sampled_SN in [
        *((replayed.share_X[rank], (exit_SN == rank).astype(float)) for rank in range(len(EXITABLE) + 1)),
        (replayed.expected_kl, kl_NX[token_N, exit_SN]),
        (replayed.expected_disagreement, unlike_NX[token_N, exit_SN]),
    ]:
        standard_error = np.sqrt(sampled_SN.var(0, ddof=1).sum() / n_seeds) / 100
        assert abs(sampled_SN.mean() - expected) < 3 * standard_error


def test_the_ends_of_the_kl_rule_have_closed_forms() -> None:
    transcript = random_transcript(50)
    assert transcript.full_depth is not None
    first, never = replay_recorded(kl(0.0, 1e9), transcript, EXITABLE)
    assert first.share_X.tolist() == [1, 0, 0, 0]
    assert first.expected_kl == pytest.approx(transcript.full_depth.kl_BE[:, 0].double().mean().item())
    unlike_N = transcript.full_depth.top_token_BX[:, 0] != transcript.full_depth.top_token_BX[:, -1]
    assert first.expected_disagreement == pytest.approx(unlike_N.double().mean().item())
    assert never.share_X == pytest.approx([0, 0, 0, 1])
    assert (never.expected_kl, never.expected_disagreement) == pytest.approx((0, 0))


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

    replayed = [at(0, 1, 10), at(3, 0, 30), at(3, 2, 100)]
    row = summary(EarlyExit("unfrozen", "kl", 1.0), replayed, ["a", "a", "b"], ["a", "a", "b"], EXITABLE, 7)
    assert (row["prompts"], row["texts"], row["drawn"]) == (2, 3, False)
    assert row["exit_distribution"] == [(1, 0.25), (3, 0.0), (4, 0.0), (6, 0.75)]
    assert row["mean_depth"] == pytest.approx(0.25 * 2 / 7 + 0.75)
    assert row["expected_kl"] == pytest.approx((0.5 + 2) / 2)
    assert (row["macs_full"], row["macs_to_exit"], row["macs_required"], row["macs_executed"]) == (120, 30, 60, 240)
    assert row["units"] == [unit_digest("a"), unit_digest("b")]
    assert [row[name] for name in OF_UNITS] == [[20, 100], [5, 25], [30, 150], [0.05, 0.2], [0.1, 0.4]]
    assert row["expected_kl_low"] is row["expected_kl_high"] is None
    of_six = list("abcdef")
    six = summary(
        EarlyExit("unfrozen", "fixed", 4.0), [at(3, kl, np.nan) for kl in range(6)], of_six, of_six, EXITABLE, 7
    )
    assert six["expected_kl_low"] < six["expected_kl"] == 2.5 < six["expected_kl_high"]
    assert (six["mean_depth_low"], six["mean_depth_high"]) == pytest.approx((1, 1)), "which is given"
    six = summary(EarlyExit("unfrozen", "kl", 1.0), [at(3, 0, np.nan)] * 6, of_six, of_six, EXITABLE, 7)
    assert six["mean_depth_low"] == pytest.approx(0.025 ** (1 / 6)), "that none of six exits is no certainty"
    assert six["macs_full"] is None
    row = summary(EarlyExit("unfrozen", "kl", 1.0), replayed, ["a", "a", "b"], ["group"] * 3, EXITABLE, 7)
    assert (row["prompts"], row["expected_kl"]) == (1, (0.5 + 2) / 2), (
        "a group's prompts count alike, whatever their seeds"
    )
