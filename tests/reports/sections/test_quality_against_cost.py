"""Quality against cost: answers, judges, replays, and the certified setting."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_fixtures import MakeSweep, Visit, Walk, all_drawn, ink_of, saved
from synthetic_quality import CHOSEN, JUDGE, choose, judge, quality_in, replay, with_answers
from synthetic_sweeps import CONFIGURATIONS

from eexit.plan.configuration import NORMAL
from eexit.results.study_tables import CHOICES
from reports.page.build import render
from reports.page.payload import payload
from reports.read.sweep import read_sweep
from reports.sections.findings import choice_findings, quality_findings
from reports.shared.quality import Quality, latest_choices

BOLD = "unfrozen/confidence/0.7"


def row_of(found: Quality, key: str) -> dict[Any, Any]:
    (row,) = found.rows[found.rows["configuration"] == key].to_dict("records")
    return row


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen prompts with two seeds, twelve of which bring an answer."""
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


def test_findings_name_what_saves_most_without_being_certainly_below_normal(answered: Path) -> None:
    found = quality_in(answered)
    its = {"correct_difference": 0.01, "correct_difference_low": -0.015, "correct_difference_high": 0.035}
    rows = found.rows.copy()
    rows.loc[rows["configuration"] == CHOSEN, list(its)] = list(its.values())
    rows.loc[rows["configuration"] == BOLD, list(its)] = [-0.2, -0.3, -0.1]
    kl = rows["rule"] == "kl"
    rows.loc[kl, list(its)] = [-0.5, -0.6, -0.4]
    rows.loc[rows["beneath"] == CHOSEN, list(its)] = [-0.4, -0.5, -0.3]
    normal, said, *rest = quality_findings(replace(found, rows=rows), n_failed=3)
    assert re.fullmatch(
        r"Answers: normal gets \d+\.\d% \[.*\] right \(n = 12 prompts, 2 seeds averaged first\)\.",
        normal,
    )
    assert said == (
        "unfrozen, at most 2 points below normal in accuracy, by the interval's end: 1 of the 2 settings tried that a "
        "deployed model can follow (paired over 12 prompts). Of these, unfrozen/confidence/0.9 costs least: it ran "
        "8.0% fewer multiply-adds, at +1.0 [−1.5, +3.5] pp. Its control, with random exits at the same depths, is at "
        "−40.0 [−50.0, −30.0] pp. unfrozen: at every setting of kl, accuracy is certainly below that of normal."
    )
    assert rest == ["3 runs failed, and count in no mean."]


def test_a_control_is_no_setting_not_even_without_what_it_follows(answered: Path) -> None:
    found = quality_in(answered)
    rows = found.rows.copy()
    rows.loc[rows["configuration"] != NORMAL, ["correct_difference_low", "correct_difference_high"]] = [0.0, 0.1]
    rows.loc[rows["control_of"].notna(), "run"] = 0.9  # which saves most
    alone = replace(found, rows=rows[rows["configuration"] != CHOSEN].assign(beneath=None))
    said = " ".join(quality_findings(alone, 0))
    assert "random/" not in said
    assert f"Of these, {BOLD} costs least" in said


def test_what_few_prompts_or_no_normal_runs_can_not_say_is_not_said(tmp_path: Path) -> None:
    found = quality_in(with_answers(tmp_path / "s", 6, modes=("unfrozen",)))  # four of which bring an answer
    assert found.rows["correct_low"].isna().all()
    assert (
        quality_findings(found, 0)[1]
        == "Fewer than 5 prompts are too few to say which settings are below normal in accuracy."
    )
    assert "(n = 4 prompts, 1 seed)" in quality_findings(found, 0)[0]
    alone = replace(found, rows=found.rows[found.rows["configuration"] != NORMAL])
    assert quality_findings(alone, 0) == ["Accuracy: there are no runs of normal to compare with."]


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
    said = quality_findings(found, 0)
    assert f"Judge {JUDGE} gave no usable answer for 2 of 54 runs, which are in no mean of its scores." in said
    assert any(
        sentence.startswith(f"Judge {JUDGE} gives normal a score of 4.75 [4.75, 4.75] of 5") for sentence in said
    )


def test_a_choice_is_told_with_its_guarantee_its_check_and_the_naive_one(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    with_answers(folder, 2, modes=("unfrozen",))
    choose(folder, 1, BOLD)
    choose(folder, 2)  # the same question again
    choices = latest_choices(read_sweep(str(folder)).rows_of(CHOICES))
    (said,) = choice_findings(choices)
    assert said == (
        "Certified: unfrozen/confidence/0.9, the cheapest that is, at 92% of full depth: multiply-adds of what was "
        "run, as a share of those of full depth. With 95% confidence, over prompts like these, the mean share of "
        "tokens unlike full depth's is at most 5%. n = 150 prompts, mean 2.1%, p = 0.004. On 50 prompts for reporting, "
        "which had no part in the choice, its mean is 3%. By these alone, the risk is at most 8% with the same "
        "confidence. It is within the bound, but they are too few to confirm it by themselves. The naive choice, the "
        "cheapest whose mean is within the bound, is unfrozen/confidence/0.7: mean 4.9%, cost 62%. It has no "
        "guarantee. On 50 prompts for reporting, which had no part in the choice, its mean is 6%. By these alone, the "
        "risk is at most 12% with the same confidence. That mean is above the bound."
    )
    assert row_of(quality_in(folder), CHOSEN)["chosen"] == "disagreement ≤ 5%"
    assert pd.isna(row_of(quality_in(folder), BOLD)["chosen"])
    choose(folder, 3, None, at_most=0.01)
    _, none, several = choice_findings(latest_choices(read_sweep(str(folder)).rows_of(CHOICES)))
    assert none.startswith(
        "No setting is certified with 95% confidence that the mean share of tokens unlike full depth's is at most 1%. "
        "The nearest, unfrozen/confidence/0.9, has a mean of 2.1% (n = 150 prompts, p = 0.004). If it stays so, "
        "no number of prompts that can be asked for would do. normal is what can be defended."
    )
    choose(folder, 4, None, at_most=0.025, needed=1200)
    near = choice_findings(latest_choices(read_sweep(str(folder)).rows_of(CHOICES)))[2]
    assert "p = 0.004). If it stays so, 1,200 prompts for choosing would do with a chance of 80%, which is a" in near
    assert several.startswith("2 questions were asked of jobs/choose.py: each guarantee holds for its own")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"configuration": "unfrozen/kl/1"}, "It is an oracle, which looks at the final layer: at run time it saves"),
        ({"cost": 1.07}, "Certified: 1 setting, but none costs less than full depth. normal is what can be defended."),
        (
            {"question": 3, "error": 0.00011875, "planned": 1},
            "It is the third ask of these prompts: it may err with 0.0119%, so that all of them err with 5% at most.",
        ),
        ({"reporting_mean_loss": None}, "No prompt for reporting has a loss, so that nothing checks it."),
        ({"reporting_p_value": 0.01}, " with the same confidence. They confirm the bound."),
        ({"naive_configuration": CHOSEN}, "whose mean is within the bound, is the same."),
        (
            {"naive_configuration": None},
            "There is no naive choice either: no setting that costs less than full depth has",
        ),
        ({"families": ["unfrozen/kl", "unfrozen/margin"]}, "2 families of settings share the error of 5%: "),
    ],
)
def test_what_a_choice_is_worth_is_said_plainly(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    choose(tmp_path, **change)
    (said,) = choice_findings(pd.read_parquet(tmp_path / "choices"))
    assert words in said


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
    replay(folder, 2, factors=(4.0,), readout="exits/linear", decide_on="screen:8:16")
    gated = {"configuration": "unfrozen/kl/4@1,2+gate0.1", "mode": "unfrozen", "exit_set": "1,2", "gate": "0.1"}
    replay(folder, 3, factors=(4.0,), readout="exits/linear", decide_on="screen:8:16", **gated)
    assert {curve for curve in quality_in(folder).replayed["curve"] if curve.startswith("unfrozen/kl")} == {
        "unfrozen/kl on texts of normal, read through unknown, decided on unknown",
        "unfrozen/kl on texts of normal, read through exits/linear, decided on screen:8:16",
        "unfrozen/kl@1,2+gate0.1 on texts of normal, read through exits/linear, decided on screen:8:16",
    }


def test_a_sweep_without_any_of_it_has_no_such_section(make_sweep: MakeSweep) -> None:
    data, _ = payload(read_sweep(str(make_sweep(2, CONFIGURATIONS[:2]))), "")
    assert data["quality"] is None
    assert "correct" not in [metric["key"] for metric in data["metrics"]]
    assert all(prompt["answer"] is None for prompt in data["prompts"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a sweep with all of it."""
    folder = with_answers(tmp_path_factory.mktemp("quality") / "s", 8, modes=("unfrozen",))
    judge(folder, fails=["3-unfrozen/kl/2-0"])
    replay(folder)
    choose(folder)
    page = folder / "report.html"
    page.write_text(render(read_sweep(str(folder)), ""), encoding="utf-8")
    return page


def test_the_chart_is_drawn_with_the_chosen_setting_ringed(whole: Path, visit: Visit) -> None:
    assert "<h2>Quality</h2>" in whole.read_text(), "for readers without JavaScript"
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
