"""Quality against cost: answers, judges, replays, and the certified setting."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_fixtures import MakeSweep, Visit, Walk, all_drawn, ink_of, saved
from synthetic_quality import CHOSEN, JUDGE, choose, graded, judge, quality_in, replay, with_answers
from synthetic_sweeps import CONFIGURATIONS

from eexit.plan.configuration import NORMAL, EarlyExit, NoExit
from reports.page.build import render
from reports.page.payload import payload
from reports.read.sweep import read_sweep
from reports.shared.quality import QualityTable

BOLD = "unfrozen/confidence/0.7"


def row_of(found: QualityTable, key: str) -> dict[Any, Any]:
    (row,) = found.rows[found.rows["configuration"] == key].to_dict("records")
    return row


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return fourteen prompts with two seeds; twelve prompts have an answer."""
    return with_answers(tmp_path_factory.mktemp("quality") / "s", 14, (0, 1), ("unfrozen",))


def test_the_best_come_first_and_a_control_beneath_its_configuration(answered: Path) -> None:
    rows = quality_in(answered).rows
    keys, controls = rows["configuration"].tolist(), rows[rows["beneath"].notna()]
    assert keys[0] == NORMAL
    assert len(controls) == 4
    for _, control in controls.iterrows():
        assert keys[keys.index(control["configuration"]) - 1] == control["beneath"]
    values = rows.loc[rows["beneath"].isna(), "correct"].tolist()[1:]
    assert values == sorted(values, reverse=True)


def test_a_judges_scores_are_averaged_without_its_errors_which_are_counted(tmp_path: Path) -> None:
    folder = with_answers(tmp_path / "s", 6, modes=("unfrozen",))
    judge(folder, fails=[f"1-{BOLD}-0", f"2-{NORMAL}-0"])
    judge(folder, call=2, judge="another", coherence=1)
    found = quality_in(folder)
    first, second = found.judges
    assert (first.name, second.name, first.errors) == (JUDGE, "another", {BOLD: 1, NORMAL: 1})
    row = row_of(found, BOLD)
    score = np.mean([5 - round(10 * 0.25 * 0.8)] * 2 + [5, 4])
    assert (row["score_0"], row["score_0_n"], row["judge_errors"]) == (pytest.approx(score), 5, 1)
    assert row["score_1"] == pytest.approx(score - (3 - 1) / 4)
    assert row["score_0_difference_n"] == 4, "a prompt without one of both is in no pair"


def test_a_chosen_setting_is_marked_by_what_it_was_chosen_for_the_latest_time(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    with_answers(folder, 2, modes=("unfrozen",))
    choose(folder, 1, BOLD)
    choose(folder, 2)  # the same bound again
    assert row_of(quality_in(folder), CHOSEN)["chosen"] == "disagreement ≤ 5%"
    assert pd.isna(row_of(quality_in(folder), BOLD)["chosen"])


def test_of_a_setting_that_was_replayed_again_the_latest_counts(tmp_path: Path) -> None:
    folder = with_answers(tmp_path / "s", 2, modes=("unfrozen",))
    replay(folder, factors=(0.5, 4.0))
    replay(folder, 2, factors=(4.0,), expected_disagreement=0.125)
    rows = quality_in(folder).replayed.set_index("configuration")
    assert len(rows) == 4
    row = rows.loc["unfrozen/kl/4"]
    skipped = 0.4 / 5
    assert [row[f"layers_skipped{end}"] for end in ("", "_low", "_high")] == pytest.approx(
        [skipped, skipped - 0.01, skipped + 0.02]
    )
    assert (row["disagreement"], row["curve"]) == (0.125, "unfrozen/kl on texts of normal")
    assert row["theoretical"] == pytest.approx(skipped)


def test_replays_that_were_read_otherwise_are_curves_of_their_own(tmp_path: Path) -> None:
    folder = with_answers(tmp_path / "s", 2, modes=("unfrozen",))
    replay(folder, factors=(4.0,))
    replay(folder, 2, factors=(4.0,), readout="exits/linear", screen="8:16")
    gated = {"configuration": "unfrozen/kl/4@1,2+gate0.1", "mode": "unfrozen", "exit_set": "1,2", "gate": "0.1"}
    replay(folder, 3, factors=(4.0,), readout="exits/linear", screen="8:16", **gated)
    assert {curve for curve in quality_in(folder).replayed["curve"] if curve.startswith("unfrozen/kl")} == {
        "unfrozen/kl on texts of normal, read through unknown, decided on unknown",
        "unfrozen/kl on texts of normal, read through exits/linear, decided on 8:16",
        "unfrozen/kl@1,2+gate0.1 on texts of normal, read through exits/linear, decided on 8:16",
    }


@pytest.mark.parametrize(("contradicted", "is_named"), [(4, True), (2, False)])
def test_a_rule_that_the_final_layer_mostly_contradicts_is_named_first(
    tmp_path: Path, contradicted: int, is_named: bool
) -> None:
    setting = EarlyExit("skip", "confidence", 0.7)
    folder = graded(
        tmp_path / "s", {NoExit(): "✓" * 6, setting: "✓✗" * 3}, exits_on_normal=5, contradicted_on_normal=contradicted
    )
    trade = payload(read_sweep(str(folder)), "A sweep")[0]["trade"]
    said = "Careful: while the text is normal's, the final layer contradicts most early exits of"
    assert (
        trade["caption"].startswith(f"{said} skip/confidence/0.7 (80.0% [80.0, 80.0] of 30 exits).")
        == ("Careful" in trade["caption"])
        == is_named
    )
    assert ("contradicted", "Early exits contradicted") in [
        (column["key"], column["label"]) for column in trade["table"]["columns"]
    ]


def test_a_sweep_without_any_of_it_has_no_such_section(make_sweep: MakeSweep) -> None:
    data, _ = payload(read_sweep(str(make_sweep(2, CONFIGURATIONS[:2]))), "")
    assert data["numbers"] is None, "the chart has them"
    assert "correct" not in [metric["key"] for metric in data["metrics"]]
    assert all(prompt["answer"] is None for prompt in data["prompts"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report of a sweep with answers, judgements, replays and a choice."""
    folder = with_answers(tmp_path_factory.mktemp("quality") / "s", 8, modes=("unfrozen",))
    judge(folder, fails=["3-unfrozen/kl/2-0"])
    replay(folder)
    choose(folder)
    page = folder / "report.html"
    page.write_text(render(read_sweep(str(folder)), ""), encoding="utf-8")
    return page


def test_the_chart_is_drawn_with_the_chosen_setting_ringed(whole: Path, visit: Visit) -> None:
    page = visit("#/?open=numbers", whole)
    figure = page.locator('[data-chart="quality"]')
    quality, cost = figure.locator("select").all()
    assert quality.locator("option").all_inner_texts()[:2] == [
        "Accuracy",
        "Score by the judge",
    ]
    assert ink_of(all_drawn(figure).locator(".chart")) > 50
    cost.select_option(label="multiply-adds, run")
    quality.select_option(label="Disagreement")
    assert "Thin lines" not in figure.inner_text()
    cost.select_option(label="layers skipped")
    figure.get_by_role("button", name="replayed").click()
    assert "Thin lines: settings that were replayed" in figure.inner_text()
    page.wait_for_timeout(300)
    svg = saved(page, "Save Quality against cost as SVG").path().read_text()
    assert len(re.findall(r'<path [^>]*stroke="#16191d"[^>]*stroke-width="2.5"', svg)) == 1, "the ring"
    assert len(re.findall(r'<path [^>]*stroke-width="1"[^>]*class="mark-line|<g class="mark-line', svg)) >= 2
    figure.locator("summary").click()
    cells = figure.locator("tbody tr").filter(has_text=CHOSEN).first.inner_text()
    assert "disagreement ≤ 5%" in cells, "not by the ring alone"


def test_a_run_says_whether_its_answer_is_right_and_what_the_judge_says(whole: Path, walk: Walk) -> None:
    page = walk("#/p/3/unfrozen/random/confidence/0.7", whole)
    page.locator(".outcome summary").click()
    said = page.locator("main").inner_text()
    assert "Answer: ✗ wrong; found: 41; expected: 42." in said
    assert f"Judge {JUDGE}: coherence 1, completeness 1, clarity 5, no repetition 4 (1 to 5)." in said
    page = walk("#/p/3/unfrozen/kl/2?run.numbers=true", whole)
    assert f"Judge {JUDGE} gave no usable answer: it answered with nonsense" in page.locator("main").inner_text()
    page = walk("#/p/3?prompt.numbers=true", whole)
    assert "Expected answer: 42" in page.locator("main").inner_text()
    assert "✗ wrong" in page.locator("tbody").inner_text()
    assert "Answer: " not in walk("#/p/0/normal", whole).locator("main").inner_text()
