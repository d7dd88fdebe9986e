"""Paired differences, compared with loops over prompts and seeds."""

from itertools import product
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
RUNS = [*product(("normal", "unfrozen"), range(N_PROMPTS), SEEDS)]
Marks = dict[tuple[str, int, int], bool | None]  # (mode, prompt, seed) → right or wrong


def sweep_with(folder: Path, marks: Marks) -> Sweep:
    """Write `normal` and `unfrozen/kl/1`; runs without an entry failed."""

    def columns(its: Configuration, prompt: int, seed: int) -> dict[str, Any]:
        run = its.mode, prompt, seed
        return {"correct": marks[run]} if run in marks else {"status": "error"}

    return read_sweep(str(swept(folder / "results", n_prompts=N_PROMPTS, seeds=SEEDS, columns=columns)))


def test_differences_are_of_the_same_prompts_and_seeds(tmp_path: Path) -> None:
    """Two prompts have no answer, and some runs failed."""
    draw, chances = np.random.default_rng(0), {"normal": 0.7, "unfrozen": 0.4}
    right: Marks = {run: None if run[1] < 2 else bool(draw.random() < chances[run[0]]) for run in RUNS}
    marks = {run: mark for run, mark in right.items() if draw.random() > 0.2}
    sweep, means = sweep_with(tmp_path, marks), []
    assert per_configuration(sweep)["n_failed"].sum() == len(RUNS) - len(marks)
    for prompt in range(N_PROMPTS):
        pairs = [(marks.get(("unfrozen", prompt, seed)), marks.get(("normal", prompt, seed))) for seed in SEEDS]
        its = [int(early) - int(normal) for early, normal in pairs if early is not None and normal is not None]
        means += [sum(its) / len(its)] if its else []
    row = PairedRuns.from_sweep(sweep).differences().set_index("configuration").loc[KL_1.key]
    assert (row["correct"], row["correct_n"]) == (pytest.approx(np.mean(means)), len(means))
    assert row["disagreement_n"] > row["correct_n"], "each measure has its own n"
    assert row["correct_low"] < row["correct"] < row["correct_high"]
    gains = [mean for mean in means if mean > 0]
    assert row["correct_gained"] == pytest.approx(sum(gains))
    assert row["correct_lost"] == pytest.approx(sum(gains) - sum(means))
    assert np.isnan(row["correct_p"]), "three seeds are no pairs of right and wrong"
    assert "correct" not in per_configuration(sweep_with(tmp_path / "none", dict.fromkeys(marks)))
    sweep = sweep_with(tmp_path / "alone", {key: mark for key, mark in marks.items() if key[0] == "unfrozen"})
    assert per_configuration(sweep).set_index("configuration").loc[KL_1.key, "correct_n"] == N_PROMPTS - 2
    assert PairedRuns.from_sweep(sweep).differences().empty, "without the baseline, there is no number"


def test_frames_have_the_number_of_seeds_that_were_averaged(tmp_path: Path) -> None:
    sweep = sweep_with(tmp_path, {its: True for its in RUNS if (its[0], its[2]) != ("normal", 2)})
    for frame in (per_configuration(sweep), exit_mix(sweep), depth_by_position(sweep)):
        seeds = frame.groupby("configuration")["n_seeds"].unique()
        assert {key: list(its) for key, its in seeds.items()} == {"normal": [2], KL_1.key: [3]}
    assert PairedRuns.from_sweep(sweep).differences()["n_seeds"].tolist() == [2]
