"""Accuracy and its paired difference, compared with loops over prompts and seeds."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_fixtures import Visit
from synthetic_sweeps import run_rows, write_runs

from reports import build_report
from reports.read.sweep import Sweep, read_sweep
from reports.sections.exits.depth_by_position import depth_by_position
from reports.sections.exits.exit_distribution import exit_mix
from reports.shared.paired import PairedRuns
from reports.shared.per_configuration import per_configuration
from reports.shared.savings import savings

N_PROMPTS, SEEDS = 12, (0, 1, 2)
Marks = dict[tuple[str, int, int], bool | None]  # (mode, prompt, seed) → right or wrong


def sweep_with(tmp_path: Path, marks: Marks, seeds: Sequence[int] = SEEDS, **change: Any) -> Sweep:
    """Write `normal` and `unfrozen/kl/1`; runs without an entry failed."""
    runs = []
    for prompt, (mode, k), seed in product(range(N_PROMPTS), (("normal", None), ("unfrozen", 1.0)), seeds):
        its: dict[str, Any] = {"status": "error"} if (mode, prompt, seed) not in marks else {}
        its |= {"correct": marks.get((mode, prompt, seed))} | change
        runs.append(run_rows(str(prompt), f"Question {prompt}?", mode, k, ["a", "b", "c"], seed, **its))
    return read_sweep(str(write_runs(tmp_path / "results", runs, temperature=1.0)))


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


def wider_than_resampled(values: list[float], low: Any, high: Any) -> bool:
    """Return True if an interval contains the percentile bootstrap over prompts, and is at most twice as wide."""
    draw = np.random.default_rng(5)
    means = [np.mean(draw.choice(values, size=len(values))) for _ in range(4000)]
    ends = np.quantile(means, (0.025, 0.975))
    return bool(low <= ends[0] + 0.02 and ends[1] - 0.02 <= high and high - low <= 2 * (ends[1] - ends[0]))


def test_accuracy_is_over_prompts_with_answers_whose_seeds_are_averaged_first(tmp_path: Path, marks: Marks) -> None:
    frame = per_configuration(sweep_with(tmp_path, marks)).set_index("configuration")
    for mode, key in (("normal", "normal"), ("unfrozen", "unfrozen/kl/1")):
        row, values = frame.loc[key], averaged(marks, mode)
        assert row["correct"] == pytest.approx(np.mean(values))
        assert (row["correct_n"], row["n_seeds"]) == (len(values), 3)
        assert wider_than_resampled(values, row["correct_low"], row["correct_high"])
        assert row["n_failed"] == N_PROMPTS * 3 - sum(1 for its, _, _ in marks if its == mode)


def test_each_measure_of_the_paired_differences_has_its_own_n(tmp_path: Path, visit: Visit) -> None:
    every = [(mode, prompt, seed) for mode in ("normal", "unfrozen") for prompt in range(N_PROMPTS) for seed in SEEDS]
    sweep_with(tmp_path, {key: None if key[1] < 2 else True for key in every})
    page = visit("#/", build_report(str(tmp_path / "results"), tmp_path / "report.html"))
    beside = page.locator("[data-chart=beside]")
    assert "(n = 10 prompts, up to 3 seeds each)" in beside.locator("output").inner_text()
    beside.get_by_role("combobox", name="Measure").select_option("Disagreement")
    assert f"(n = {N_PROMPTS} prompts, up to 3 seeds each)" in beside.locator("output").inner_text()


def test_differences_are_of_the_same_prompts_and_seeds(tmp_path: Path, marks: Marks) -> None:
    frame = PairedRuns.from_sweep(sweep_with(tmp_path, marks)).differences().set_index("configuration")
    means = []
    for prompt in range(N_PROMPTS):
        pairs = [(marks.get(("unfrozen", prompt, seed)), marks.get(("normal", prompt, seed))) for seed in SEEDS]
        its = [int(early) - int(normal) for early, normal in pairs if early is not None and normal is not None]
        means += [sum(its) / len(its)] if its else []
    row = frame.loc["unfrozen/kl/1"]
    assert row["correct"] == pytest.approx(np.mean(means))
    assert row["correct_n"] == len(means)
    assert wider_than_resampled(means, row["correct_low"], row["correct_high"])
    gains = [mean for mean in means if mean > 0]
    assert row["correct_gained"] == pytest.approx(sum(gains))
    assert row["correct_lost"] == pytest.approx(sum(gains) - sum(means))
    assert np.isnan(row["correct_p"]), "three seeds are no pairs of right and wrong"
    assert frame.index.tolist() == ["unfrozen/kl/1"]


def test_without_answers_or_without_the_baseline_there_is_no_number(tmp_path: Path, marks: Marks) -> None:
    none = sweep_with(tmp_path / "none", dict.fromkeys(marks))
    assert "correct" not in per_configuration(none)
    alone = {key: mark for key, mark in marks.items() if key[0] == "unfrozen"}
    sweep = sweep_with(tmp_path / "alone", alone)
    frame = per_configuration(sweep).set_index("configuration")
    assert frame.loc["unfrozen/kl/1", "correct"] == pytest.approx(np.mean(averaged(marks, "unfrozen")))
    assert PairedRuns.from_sweep(sweep).differences().empty


def test_frames_say_how_many_seeds_were_averaged(tmp_path: Path) -> None:
    marks: Marks = {
        (mode, p, seed): True for mode in ("normal", "unfrozen") for p in range(N_PROMPTS) for seed in SEEDS
    }
    for prompt in range(N_PROMPTS):
        del marks["normal", prompt, 2]  # so that two seeds can be compared
    sweep = sweep_with(tmp_path, marks)
    for frame in (per_configuration(sweep), exit_mix(sweep), depth_by_position(sweep)):
        seeds = frame.groupby("configuration")["n_seeds"].unique()
        assert {key: list(its) for key, its in seeds.items()} == {"normal": [2], "unfrozen/kl/1": [3]}
    assert PairedRuns.from_sweep(sweep).differences()["n_seeds"].tolist() == [2]


def test_a_prompt_counts_once_in_savings_too_however_many_seeds_failed(tmp_path: Path) -> None:
    """Prompt 0 has one seed, which saves everything; all others have three, which save nothing."""
    runs = []
    for prompt in range(4):
        costs: dict[str, Any] = {"macs_full": 8.0, "macs_required": 8.0 if prompt else 0.0, "macs_executed": 8.0}
        seeds = SEEDS if prompt else SEEDS[:1]
        runs += [run_rows(str(prompt), "?", "unfrozen", 1.0, ["a", "b"], seed, **costs) for seed in seeds]
    sweep = read_sweep(str(write_runs(tmp_path / "results", runs)))
    found = savings(sweep, per_configuration(sweep))
    assert found is not None
    assert found.rows["theoretical"].tolist() == pytest.approx([0.25])
    assert found.rows["n_seeds"].tolist() == [3]
