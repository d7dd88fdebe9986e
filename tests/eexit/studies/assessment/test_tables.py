"""What runs and replays save and lose, prompt by prompt: failed runs, groups, and replays that know a loss in part."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_assessment import FULL, REPLAYED, SETTING
from synthetic_quality import add
from synthetic_sweeps import run_rows, write_runs

from eexit.plan.configuration import NORMAL, Configuration, Exit, Normal
from eexit.plan.splits import digest
from eexit.results.finished_sweep import FinishedSweep, read_finished
from eexit.results.study_tables import REPLAYS
from eexit.studies.assessment.tables import PromptTables, columns_of, of_pilot
from eexit.studies.assessment.verdict import DECIDING, KNOWING, Bound

ANSWERS, DISAGREEMENT = Bound(risk="answers", at_most=0.02), Bound(risk="disagreement", at_most=0.02)
N = 40


def swept(folder: Path, *settings: Exit, right: int = 30, failed: int = 0) -> FinishedSweep:
    """Prompt i costs i + 1 at full depth. Settings save half of it, and a tenth less with what they look at; the first
    so many of their runs failed. Full depth gets so many right."""
    runs, configurations = [], list[Configuration]([Normal(), *settings])
    for prompt in range(N):
        full = float(prompt + 1)
        for each in configurations:
            cost = full if each.mode == NORMAL else full / 2
            found: dict[str, Any] = {
                "cost_full": full, "cost_exits": cost, "cost_needed": cost + full / 5,
                "cost_run": full if each.mode == NORMAL else cost + full / 5 + full / 10,
                "correct": prompt < right, "disagreement": 0.01,
            }  # fmt: skip
            row, tokens = run_rows(f"{prompt}", f"Question {prompt}?", each.mode, 1.0, ["a", "b"], of=each, **found)
            if each.mode != NORMAL and prompt < failed:
                row = row | dict.fromkeys(found) | {"status": "error", "error": "out of memory"}
                tokens = []
            runs.append((row, tokens))
    return read_finished(str(write_runs(folder, runs)), [*columns_of(ANSWERS), "disagreement"])


def replay(sweep: FinishedSweep, folder: Path, changed: float, looks: float = 0.1) -> None:
    numbers = [FULL * (prompt + 1) for prompt in range(N)]
    row = {
        "text_of": NORMAL, "prompts": N, "texts": N, "tokens": N, "drawn": False, "mean_depth": 1.0, "expected_kl": 0.0,
        "expected_disagreement": 0.0, "exit_distribution": [], "cost_full": FULL, "cost_needed": FULL, "cost_run": FULL,
        "decide_on": "head", "model": "tiny", "units": [digest(f"{prompt}") for prompt in range(N)],
        "unit_cost_full": numbers, "unit_cost_exits": [0.8 * each for each in numbers],
        "unit_cost_looks": [looks * each for each in numbers], "unit_disagreement": [0.01] * N,
        "unit_changed": [changed] * N,
    }  # fmt: skip
    add(folder, REPLAYS, [REPLAYED.columns | row])


def test_a_saving_is_that_of_the_sums_and_a_failed_run_saves_nothing_and_loses(tmp_path: Path) -> None:
    whole = PromptTables(swept(tmp_path / "whole", SETTING), "", ANSWERS)
    shares = [getattr(whole, name)(SETTING.key).saved_P.mean() for name in ("exits_alone", "with_looks", "as_run")]
    assert shares == pytest.approx([0.5, 0.4, 0.2])
    assert whole.saved_as_run(SETTING.key).mean == pytest.approx(0.2)
    option = PromptTables(swept(tmp_path / "cut", SETTING, failed=4), "", ANSWERS).exits_alone(SETTING.key)
    full = sum(range(1, N + 1))
    assert option.saved_P.mean() == pytest.approx((full - 10) / 2 / full)
    assert option.most_loss_P.sum() == 4


def test_a_replay_says_at_most_what_answers_are_lost_and_just_what_disagrees(tmp_path: Path) -> None:
    sweep = swept(tmp_path / "s")
    replay(sweep, tmp_path / "s", changed=0.4)
    [row] = REPLAYS.rows(sweep.store)
    option = PromptTables(sweep, "", ANSWERS).replayed(row, looks=True)
    assert option.saved_P.mean() == pytest.approx(0.1)
    assert option.least_loss_P.max() == 0
    assert sorted(set(option.most_loss_P.tolist())) == [0, pytest.approx(0.4)], "what is wrong can't be lost"
    assert option.most_loss_P.mean() == pytest.approx(0.4 * 30 / N)
    option = PromptTables(sweep, "", DISAGREEMENT).replayed(row, looks=False)
    assert option.saved_P.mean() == pytest.approx(0.2)
    np.testing.assert_allclose(option.most_loss_P, 0.01, rtol=1e-6)
    np.testing.assert_allclose(option.least_loss_P, 0.01, rtol=1e-6)


def test_rules_that_were_run_in_exact_state_stand_for_all_replays_where_answers_are_lost(tmp_path: Path) -> None:
    sweep = swept(tmp_path / "s", Exit("unfrozen", "confidence", 0.8), right=N)
    replay(sweep, tmp_path / "s", changed=1.0)
    found = of_pilot(sweep, ANSWERS)
    assert found[frozenset([KNOWING])].found.mean == pytest.approx(0.5)
    assert found[frozenset([KNOWING, DECIDING])].found.mean == pytest.approx(0.4)
    alone = swept(tmp_path / "alone", right=N)
    replay(alone, tmp_path / "alone", changed=1.0)
    knowing = of_pilot(alone, ANSWERS)[frozenset([KNOWING])]
    assert knowing.least.mean == pytest.approx(0.2 * ANSWERS.at_most)
    assert knowing.most.mean == pytest.approx(0.2)


def test_prompts_of_a_group_are_one_and_those_without_a_loss_none(tmp_path: Path) -> None:
    sweep = swept(tmp_path / "s", SETTING)
    for prompt in sweep.manifest.config["prompts"][:4]:
        prompt["group"] = "one"
    tables = PromptTables(sweep, "", ANSWERS)
    assert len(tables.exits_alone(SETTING.key).saved_P) == N - 3
    assert tables.nothing.found.mean == 0
