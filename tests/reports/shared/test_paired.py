"""Means and paired differences of right answers, compared with loops over prompts and seeds."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_sweeps import KL_1, swept

from eexit.plan.configuration import Configuration
from reports.read.sweep import Sweep, read_sweep
from reports.sections.exits.depth_by_position import depth_by_position
from reports.sections.exits.exit_distribution import exit_mix
from reports.shared.paired import PairedRuns
from reports.shared.per_configuration import per_configuration

N_PROMPTS, SEEDS = 12, (0, 1, 2)
Marks = dict[tuple[str, int, int], bool | None]  # (mode, prompt, seed) → right or wrong


def sweep_with(folder: Path, marks: Marks) -> Sweep:
    """Write `normal` and `unfrozen/kl/1`; runs without an entry failed."""

    def columns(configuration: Configuration, prompt: int, seed: int) -> dict[str, Any]:
        run = configuration.mode, prompt, seed
        return {"correct": marks.get(run)} | ({} if run in marks else {"status": "error"})

    return read_sweep(str(swept(folder / "results", n_prompts=N_PROMPTS, seeds=SEEDS, columns=columns)))


@pytest.fixture
def marks() -> Marks:
    """Return marks in which two prompts have no answer, and some runs failed."""
    draw = np.random.default_rng(0)
    found: Marks = {}
    for mode, chance in (("normal", 0.7), ("unfrozen", 0.4)):
        for prompt in range(N_PROMPTS):
            for seed in SEEDS:
                if draw.random() > 0.2:
                    found[mode, prompt, seed] = None if prompt < 2 else bool(draw.random() < chance)
    return found


def averaged(marks: Marks, mode: str) -> list[float]:
    """Return the mean over seeds of each prompt that has any."""
    by_prompt = [[marks.get((mode, prompt, seed)) for seed in SEEDS] for prompt in range(N_PROMPTS)]
    known = [[mark for mark in its if mark is not None] for its in by_prompt]
    return [sum(its) / len(its) for its in known if its]


def wider_than_resampled(values: Sequence[float], low: Any, high: Any) -> bool:
    """Return True if an interval contains the percentile bootstrap over prompts, and is at most twice as wide."""
    draw = np.random.default_rng(5)
    means = [np.mean(draw.choice(values, size=len(values))) for _ in range(4000)]
    ends = np.quantile(means, (0.025, 0.975))
    return bool(low <= ends[0] + 0.02 and ends[1] - 0.02 <= high and high - low <= 2 * (ends[1] - ends[0]))


def test_accuracy_is_over_prompts_with_answers_whose_seeds_are_averaged_first(tmp_path: Path, marks: Marks) -> None:
    frame = per_configuration(sweep_with(tmp_path, marks)).set_index("configuration")
    for mode, key in (("normal", "normal"), ("unfrozen", KL_1.key)):
        row, values = frame.loc[key], averaged(marks, mode)
        assert row["correct"] == pytest.approx(np.mean(values))
        assert (row["correct_n"], row["n_seeds"]) == (len(values), 3)
        assert wider_than_resampled(values, row["correct_low"], row["correct_high"])
        assert row["n_failed"] == N_PROMPTS * 3 - sum(1 for its, _, _ in marks if its == mode)


def test_differences_are_of_the_same_prompts_and_seeds(tmp_path: Path, marks: Marks) -> None:
    frame = PairedRuns.from_sweep(sweep_with(tmp_path, marks)).differences().set_index("configuration")
    means = []
    for prompt in range(N_PROMPTS):
        pairs = [(marks.get(("unfrozen", prompt, seed)), marks.get(("normal", prompt, seed))) for seed in SEEDS]
        its = [int(early) - int(normal) for early, normal in pairs if early is not None and normal is not None]
        means += [sum(its) / len(its)] if its else []
    row = frame.loc[KL_1.key]
    assert (row["correct"], row["correct_n"]) == (pytest.approx(np.mean(means)), len(means))
    assert row["disagreement_n"] > row["correct_n"], "each measure has its own n"
    assert wider_than_resampled(means, row["correct_low"], row["correct_high"])
    gains = [mean for mean in means if mean > 0]
    assert row["correct_gained"] == pytest.approx(sum(gains))
    assert row["correct_lost"] == pytest.approx(sum(gains) - sum(means))
    assert np.isnan(row["correct_p"]), "three seeds are no pairs of right and wrong"
    assert frame.index.tolist() == [KL_1.key]


def test_without_answers_or_without_the_baseline_there_is_no_number(tmp_path: Path, marks: Marks) -> None:
    assert "correct" not in per_configuration(sweep_with(tmp_path / "none", dict.fromkeys(marks)))
    sweep = sweep_with(tmp_path / "alone", {key: mark for key, mark in marks.items() if key[0] == "unfrozen"})
    frame = per_configuration(sweep).set_index("configuration")
    assert frame.loc[KL_1.key, "correct"] == pytest.approx(np.mean(averaged(marks, "unfrozen")))
    assert PairedRuns.from_sweep(sweep).differences().empty


def test_frames_say_how_many_seeds_were_averaged(tmp_path: Path) -> None:
    every = [(mode, prompt, seed) for mode in ("normal", "unfrozen") for prompt in range(N_PROMPTS) for seed in SEEDS]
    sweep = sweep_with(tmp_path, {its: True for its in every if (its[0], its[2]) != ("normal", 2)})
    for frame in (per_configuration(sweep), exit_mix(sweep), depth_by_position(sweep)):
        seeds = frame.groupby("configuration")["n_seeds"].unique()
        assert {key: list(its) for key, its in seeds.items()} == {"normal": [2], KL_1.key: [3]}
    assert PairedRuns.from_sweep(sweep).differences()["n_seeds"].tolist() == [2]


def test_paired_differences_beside_either_configuration(tmp_path: Path) -> None:
    numbers: dict[tuple[str, int], dict[str, Any]] = {
        ("normal", 0): {"perplexity": 2.0, "n_tokens": 10},
        ("normal", 1): {"perplexity": 10.0, "n_tokens": 10},
        ("unfrozen", 0): {"perplexity": 4.0, "n_tokens": 7, "exit_rate": 0.4, "mean_depth": 0.9},
        ("unfrozen", 1): {"perplexity": 80.0, "n_tokens": 11, "exit_rate": 0.2, "mean_depth": 0.8},
        ("normal", 2): {"status": "error"},
    }
    folder = swept(tmp_path / "s", n_prompts=3, columns=lambda its, prompt, _: numbers.get((its.mode, prompt), {}))
    paired = PairedRuns.from_sweep(read_sweep(str(folder)))
    row = paired.differences().set_index("configuration").loc[KL_1.key]
    assert (row["perplexity"], row["n_tokens"]) == (pytest.approx(math.sqrt(2 * 8)), pytest.approx(-1.0))
    assert (row["exit_rate"], row["mean_depth"], row["n"]) == (pytest.approx(0.3), pytest.approx(-0.15), 2)
    other = paired.differences(KL_1.key).set_index("configuration")
    assert other.loc["normal", "perplexity"] == pytest.approx(1 / math.sqrt(2 * 8))
    assert (other.loc["normal", "n"], other.loc["normal", "baseline"]) == (2, KL_1.key)
