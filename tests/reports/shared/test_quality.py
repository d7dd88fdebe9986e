"""Quality of each configuration: answers, judges, replays, and the certified setting."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from chart_fields import quality_in
from synthetic_sweeps import CHOSEN, JUDGE, choose, judge, replay, with_answers

from eexit.plan.configuration import NORMAL

BOLD = "unfrozen/confidence/0.7"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a sweep of six prompts, two of them without an answer."""
    return with_answers(tmp_path / "s", 6, modes=("unfrozen",))


def test_the_best_come_first_and_a_control_beneath_its_configuration(one_mode: Path) -> None:
    rows = quality_in(one_mode).rows
    above, beneath = rows["configuration"].shift(), rows["beneath"].dropna()
    assert (rows["configuration"][0], len(beneath)) == (NORMAL, 4)
    assert above[beneath.index].tolist() == beneath.tolist()
    values = rows.loc[rows["beneath"].isna(), "correct"].tolist()[1:]
    assert values == sorted(values, reverse=True)


def test_a_judges_scores_are_averaged_without_its_errors_which_are_counted(folder: Path) -> None:
    judge(folder, fails=[f"1-{BOLD}-0", f"2-{NORMAL}-0"])
    judge(folder, call=2, judge="another", coherence=1)
    found = quality_in(folder)
    first, second = found.judges
    assert (first.name, second.name, first.errors) == (JUDGE, "another", {BOLD: 1, NORMAL: 1})
    row = found.rows.set_index("configuration").loc[BOLD]
    score = np.mean([5 - round(10 * 0.25 * 0.8)] * 2 + [5, 4])
    assert (row["score_0"], row["score_0_n"], row["judge_errors"]) == (pytest.approx(score), 5, 1)
    assert row["score_1"] == pytest.approx(score - (3 - 1) / 4)
    assert row["score_0_difference_n"] == 4, "a prompt without one of both is in no pair"


def test_the_latest_choice_and_replay_of_a_setting_count(folder: Path) -> None:
    choose(folder, 1, BOLD)
    choose(folder, 2)  # the same bound again
    replay(folder, factors=(0.5, 4.0))
    replay(folder, 2, factors=(4.0,), expected_disagreement=0.125)
    found = quality_in(folder)
    chosen, rows = found.rows.set_index("configuration")["chosen"], found.replayed.set_index("configuration")
    assert (chosen[CHOSEN], pd.isna(chosen[BOLD]), len(rows)) == ("disagreement ≤ 5%", True, 4)
    row, skipped = rows.loc["unfrozen/kl/4"], 0.4 / 5
    numbers = [row[name] for name in ("theoretical", "layers_skipped", "layers_skipped_low", "layers_skipped_high")]
    assert numbers == pytest.approx([skipped, skipped, skipped - 0.01, skipped + 0.02])
    assert (row["disagreement"], row["curve"]) == (0.125, "unfrozen/kl on texts of normal")


def test_replays_that_were_read_otherwise_are_curves_of_their_own(folder: Path) -> None:
    trained: dict[str, Any] = {"readout": "exits/linear", "screen": "8:16"}
    gated = {"configuration": "unfrozen/kl/4@1,2+gate0.1", "mode": "unfrozen", "exit_set": "1,2", "gate": "0.1"}
    for call, change in enumerate(({}, trained, trained | gated), 1):
        replay(folder, call, factors=(4.0,), **change)
    curves = {curve for curve in quality_in(folder).replayed["curve"] if curve.startswith("unfrozen/kl")}
    linear = "on texts of normal, read through exits/linear, decided by screen 8:16"
    lens = "unfrozen/kl on texts of normal, read through unknown, decided by the whole head"
    assert curves == {lens, f"unfrozen/kl {linear}", f"unfrozen/kl@1,2+gate0.1 {linear}"}
