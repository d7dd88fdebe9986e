"""The first card: the verdict of an assessment, or what a sweep says without one."""

import json
import re
import shutil
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import pytest
from report_fixtures import MOST_PROSE, MakeSweep, Page, Visit, prose_seen
from synthetic_quality import CHOSEN, choose, quality_in, with_answers

from cluster.assessment.outcome.verdict import Contender, Loss
from eexit.quality.estimates import Estimate
from eexit.studies.verdict_file import FILE
from reports import build_report
from reports.read.sweep import read_sweep
from reports.read.verdict import AssessedVerdict
from reports.sections.verdict import verdict
from reports.sections.which_setting import settings_section

GIVEN: dict[str, Any] = {
    "sentences": ["No setting pays.", "The nearest takes 1.3 times as long.", "With 95% confidence."],
    "pays": False,
    "cause": "deciding",
    "rows": [
        Contender(
            CHOSEN,
            "tried",
            0.05,
            -0.3,
            {1: 0.02},
            {1: Estimate(1.3, 1.25, 1.35, 6), 8: Estimate(1.1, nan, nan, 2)},
            Loss(0.031, 140),
        ).row((1, 8))
    ],
}


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_answers(tmp_path_factory.mktemp("verdict") / "s", 12, modes=("unfrozen",))


def test_an_assessment_speaks_for_itself(answered: Path, tmp_path: Path, visit: Visit) -> None:
    folder = tmp_path / "s"
    shutil.copytree(answered, folder)
    (folder / FILE).write_text(json.dumps(GIVEN | {"more": 1}))
    page = visit("#/", path=build_report(str(folder), folder / "r.html"))
    card = page.locator(".verdict")
    assert card.inner_text().startswith("No. No setting pays.")
    assert 100 < prose_seen(page) <= MOST_PROSE
    assert "Why: deciding costs too much" in card.inner_text()
    card.locator("summary").click()
    assert CHOSEN in card.locator("tbody").inner_text()
    cells = card.locator("tbody td, tbody th").all_inner_texts()
    assert cells == [
        CHOSEN, "tried", "5.0%", "-30.0%", "1.30 [1.25, 1.35]", "–", "2.0%", "1.10", "–", "–", "3.1%", "–",
    ]  # fmt: skip
    heads = card.locator("thead th").all_inner_texts()
    assert heads[3:7] == ["saved by what was run", "time at 1", "time at 1 of generate", "allowed at 1"]
    assert weights(page)[0].startswith("layers skipped"), "without a ledger, what the sweep says"


def weights(page: Page) -> list[str]:
    return [" ".join(text.split()) for text in page.locator(".why li").all_inner_texts()]


LEDGER: dict[str, Any] = {
    "ceiling": {"saved": 0.3, "low": 0.28, "high": 0.32, "setting": "unfrozen/agree"},
    "batch": 8,
    "lines": [
        {"restriction": "state", "taken": 0.2, "low": 0.18, "high": 0.22, "left": 0.1, "setting": "a"},
        {"restriction": "overhead", "taken": 0.15, "low": None, "high": None, "left": -0.05, "setting": "b"},
    ],
}


def test_the_ledger_is_a_waterfall_that_begins_where_the_line_before_ended(
    make_sweep: MakeSweep, tmp_path: Path, visit: Visit
) -> None:
    folder = shutil.copytree(make_sweep(1), tmp_path / "s")
    (folder / FILE).write_text(json.dumps(GIVEN | {"cause": "state", "ledger": LEDGER}))
    page = visit("#/", path=build_report(str(folder), folder / "r.html"))
    card = page.locator(".why")
    assert "Why: what exits leave behind misleads later tokens" in card.inner_text()
    assert weights(page) == [
        "ceiling 30.0% (28.0 to 32.0)", "state left behind -20.0% (-22.0 to -18.0)", "overhead -15.0%",
        "left, 8 rows at a time -5.0%",
    ]  # fmt: skip
    boxes = [bar.bounding_box() for bar in card.locator(".weight").all()]
    ends = [(round(box["x"]), round(box["x"] + box["width"])) for box in boxes if box]
    (zero, top), (after, end), (left, begin), (least, last) = ends
    assert (end, begin, left, last) == pytest.approx((top, after, least, zero), abs=1)
    assert (top - after) / (top - zero) == pytest.approx(2 / 3, abs=0.02)
    assert card.locator(".weight.largest").count() == 1


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "the file"),
        (json.dumps(GIVEN | {"ledger": LEDGER | {"lines": []}}), "ledger.lines"),
        ("{}", "sentences"),
    ],
)
def test_a_verdict_that_can_not_be_read_is_named_and_left_out(
    make_sweep: MakeSweep, tmp_path: Path, content: str, why: str
) -> None:
    folder = shutil.copytree(make_sweep(1), tmp_path / "s")
    (folder / FILE).write_text(content)
    sweep = read_sweep(str(folder))
    assert sweep.verdict is None
    (line,) = sweep.left_out
    assert f"{FILE} is no verdict ({why}" in line


def test_where_no_setting_keeps_any_right_answer_none_is_the_nearest(answered: Path) -> None:
    found = quality_in(answered)
    normal = found.rows[found.rows["configuration"] == "normal"].to_dict("records")[0]
    n_right = round(normal["correct"] * normal["correct_n"])
    all_lost = replace(found, rows=found.rows.assign(correct_lost=float(n_right)))
    said = verdict(None, all_lost)
    assert said
    assert (said.answer, said.headline) == ("No.", f"No setting keeps any of the {n_right} right answers")
    assert said.setting is None


def test_an_assessment_that_was_cut_has_no_headline_and_no_cause(answered: Path) -> None:
    best = {"setting": CHOSEN, "role": "best", "saved_by_what_was_run": 0.1, "certified": False}
    cut = {"sentences": ["It is not known whether it pays here: step run is not done."], "pays": None, "rows": [best]}
    said = verdict(AssessedVerdict.model_validate(cut), quality_in(answered))
    assert said
    assert (said.answer, said.headline, said.cause) == ("Not known.", "", None)


def test_without_one_the_settings_are_held_against_full_depth(answered: Path) -> None:
    found = quality_in(answered)
    said = verdict(None, found)
    assert said
    assert said.pays is False
    assert said.sentences[0] == (
        "Of the 2 settings tried that a deployed model can follow, none is shown to be at most 2 points worse."
    )
    assert said.headline.startswith("No setting is shown to be as good as full depth; the nearest costs ")
    assert said.sentences[1].startswith("Beside full depth, it is at ")
    assert said.sentences[2] == "Nothing is certified: python jobs/choose.py RESULTS does that."
    assert [weight["label"] for weight in said.weights] == [
        "layers skipped", "saved if deciding were free", "added by deciding",
    ]  # fmt: skip
    rows = found.rows.assign(correct_difference=0.01, correct_difference_low=-0.01, correct_difference_high=0.03)
    kept = verdict(None, replace(found, rows=rows))
    assert kept
    assert (kept.answer, kept.setting) == ("Yes.", "unfrozen/confidence/0.7")
    assert kept.headline == "The best safe setting costs 38.0% fewer multiply-adds"
    dear = verdict(None, replace(found, rows=rows.assign(run=-0.005, run_low=-0.006, run_high=-0.005)))
    assert dear
    assert dear.answer == "No."
    assert dear.headline == "The best safe setting costs 0.5% more multiply-adds (0.5 to 0.6)"


def test_which_setting_is_a_table_from_the_strictest_bound_on(answered: Path, tmp_path: Path) -> None:
    section = settings_section(quality_in(answered))
    assert section
    assert section["about"].startswith("Nothing is certified; from the best on")
    assert [row["kept"] for row in section["table"]["rows"]] == ["not shown"] * 2
    assert [column["key"] for column in section["table"]["columns"]][3:] == ["run", "layers_skipped"]
    folder = tmp_path / "s"
    shutil.copytree(answered, folder)
    choose(folder)
    choose(folder, 2, None, at_most=0.01)
    choose(folder, 3, at_most=0.2, runs="of fewer prompts")
    section = settings_section(quality_in(folder))
    assert section
    none, one, before = section["table"]["rows"]
    assert before["promise"] == "disagreement ≤ 20%, with 95%, before the sweep grew"
    assert (none["promise"], none["configuration"]) == ("disagreement ≤ 1%, with 95%", None)
    assert (one["promise"], one["configuration"]) == ("disagreement ≤ 5%, with 95%", CHOSEN)
    assert one["held_out"] == "3%, at most 8% (n = 50)"
    said = verdict(None, quality_in(folder))
    assert said
    assert said.sentences[2].startswith(
        "With 95% confidence, the mean share of tokens unlike full depth's is at most 5%"
    )


def test_of_oracles_it_is_said_first_that_they_save_nothing_and_then_what_they_show(make_sweep: MakeSweep) -> None:
    said = verdict(None, quality_in(make_sweep(6)))
    assert said
    assert (said.pays, said.answer) == (None, "Oracles save nothing.")
    assert re.fullmatch(r"What they show: a rule that knew as much would skip \d+\.\d% of the layers.*", said.headline)
    assert said.setting
    assert said.setting.startswith(("unfrozen/kl/", "frozen_residual/kl/"))
    assert "--rules" in said.sentences[-1]
    assert verdict(None, quality_in(make_sweep(6, [("normal", None)]))) is None


def test_a_verdict_has_its_number_and_the_way_to_its_setting_and_failures_have_their_reason(
    make_sweep: MakeSweep, tmp_path: Path, visit: Visit
) -> None:
    folder = shutil.copytree(make_sweep(3, fail=lambda prompt, mode, k: (prompt, k) == (1, 2.0)), tmp_path / "s")
    key, times = "unfrozen/kl/2", {1: Estimate(1.005, 1.005, 1.006, 8)}
    best = Contender(key, "best", 0.05, -0.3, {}, times, Loss(0.0, 140), certified=True).row((1,))
    instead = {"sentence": "What pays most is generate/lookup, which takes 83% of full depth's time."}
    (folder / FILE).write_text(
        json.dumps(GIVEN | {"by_time": True, "rows": [best], "ledger": LEDGER | {"batch": 1}, "instead": instead})
    )
    page = visit("#/", path=build_report(str(folder), folder / "r.html"))
    answer, card = page.locator(".verdict .answer"), page.locator(".verdict")
    assert answer.inner_text() == (
        f"No. The best certified setting takes 0.5% more time (0.5 to 0.6), 1 row at a time: {key}\u00a0→"
    )
    assert "Instead: What pays most is generate/lookup" in card.inner_text()
    assert GIVEN["sentences"][0] not in card.inner_text(), "the number says so"
    assert GIVEN["sentences"][1] in card.inner_text()
    failed = page.locator(".origin .bad")
    assert failed.inner_text().startswith("2 failed: CUDA out of memory")
    answer.get_by_role("link").click()
    page.get_by_role("heading", name=f"{key} on every prompt").wait_for()
    page.go_back()
    failed.click()
    page.get_by_role("heading", name="Failed runs").wait_for()
