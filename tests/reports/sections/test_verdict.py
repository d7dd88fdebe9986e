"""The first card: the verdict of an assessment, or a sweep's own without one."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chart_fields import known, quality_in
from report_fixtures import MOST_PROSE, MakeSweep, Visit, prose_seen
from synthetic_sweeps import CHOSEN, choose

from eexit.quality.estimates import NOTHING, Estimate
from eexit.studies.assessment.verdict import FILE, AlternativeTime, Bound, Cell, JudgedSetting, Verdict
from reports.sections.selected_setting import settings_section
from reports.sections.verdict import VerdictCard, verdict
from reports.shared.quality import QualityTable


def interval(mean: float) -> Estimate:
    return Estimate(mean, mean - 0.01, mean + 0.01, 200)


def cell(saved: float, bold: str, lost: float = 0.02) -> Cell:
    numbers = {"saved": interval(saved), "lost": lost, "safe": None, "safe_share": 0.0, "bold_share": 0.5}
    return Cell.model_validate({"mode": bold.partition("/")[0], "bold": bold, **numbers})


GIVEN = Verdict(
    why="costs more",
    causes=["knowledge"],
    bound=Bound(risk="answers", max_risk=0.02),
    batch=1,
    where="tiny · float32 · a CPU (2 cores) · 2 threads · 1 row at a time",
    setting=JudgedSetting(
        key=CHOSEN, certified=True, use=2, losses={"prompts": (0.011, 140)}, saved=interval(-0.3), time=interval(0.9)
    ),
    cells={
        "A": cell(0.4, "unfrozen/agree", 0.0), "B": cell(0.3, "frozen_residual/agree"),
        "C": cell(0.15, "unfrozen/confidence/0.9"), "D": cell(0.1, "frozen_residual/confidence/0.9"),
    },
    gains={"mode": interval(0.05), "knowledge": interval(0.2), "both": interval(0.3), "deciding": NOTHING},
    costs={"mode alone": interval(0.1)},
    gaps={"overhead": interval(0.1)},
    timed={"generate/lookup": AlternativeTime(time=interval(0.83))},
)  # fmt: skip


def card(given: Verdict | None, quality: QualityTable | None = None, **changed: Any) -> VerdictCard:
    return known(verdict(given and given.model_copy(update=changed), quality))


def test_an_assessment_speaks_for_itself(one_mode: Path, tmp_path: Path, visit: Visit) -> None:
    folder = shutil.copytree(one_mode, tmp_path / "s")
    (folder / FILE).write_text(GIVEN.to_json())
    page = visit("#/", path=folder)
    its = page.locator(".verdict")
    first, answer, *_ = filter(None, its.inner_text().splitlines())
    assert first == GIVEN.where
    assert answer.startswith("No. Deciding costs more than exits save (saved as run: -30.0% (-31.0 to -29.0)): ")
    assert 100 < prose_seen(page) <= MOST_PROSE
    assert "The cause: knowledge" in its.inner_text()
    above, beneath = (row.split("\t") for row in page.locator(".cells tbody").inner_text().splitlines())
    assert above[:2] == ["exact KV cache", "A 40.0% (39.0 to 41.0), lost 0%"]
    assert beneath[::2] == ["frozen_residual", "D 10.0% (9.0 to 11.0), lost 2%"]
    gains = ["mode 5.0% (4.0 to 6.0)", "knowledge 20.0% (19.0 to 21.0)", "both 30.0% (29.0 to 31.0)"]
    why = [" ".join(text.split()) for text in page.locator(".why li").all_inner_texts()]
    assert why == [*gains, "deciding not measured"]
    mode, knowledge, _ = [bar.bounding_box() for bar in page.locator(".weight").all()]  # none of what was not measured
    assert knowledge["width"] == pytest.approx(4 * mode["width"], rel=0.05)
    assert page.locator(".weight.largest").count() == 1
    its.locator("summary").click()
    assert its.locator("details table caption").all_inner_texts() == ["Cells", "Gains", "Time"]
    its.get_by_role("link", name=CHOSEN).first.click()
    page.get_by_role("heading", name=f"{CHOSEN} on every prompt").wait_for()


@pytest.mark.parametrize(
    ("changed", "answer", "cause"),
    [
        ({"why": "pays", "causes": []}, "Yes.", None),
        ({"causes": ["mode", "knowledge"]}, "No.", "The cause is not decided between mode and knowledge."),
        ({"why": "missing", "causes": [], "missing": ["run"]}, "Not known.", None),
        ({"why": "look", "causes": []}, "Not known.", None),
    ],
)
def test_each_answer_is_told_with_what_it_turns_on(changed: dict[str, Any], answer: str, cause: str | None) -> None:
    said = card(GIVEN, **changed)
    assert (said.answer, said.cause) == (answer, cause)
    assert said.sentences == ["Faster: generate/lookup, 0.83 (0.82 to 0.84) of full depth's time."]
    assert ("Missing: run" in said.headline, said.setting is None) == ("missing" in changed, "missing" in changed)
    bare = card(GIVEN, cells={}, gains={}, timed={})
    assert (bare.cells, bare.weights, bare.tables, bare.about) == ([], [], [], None)


def test_without_one_the_settings_are_held_against_full_depth(one_mode: Path) -> None:
    found = quality_in(one_mode)
    said = card(None, found)
    keeps, level, careful, certified = said.sentences
    assert re.match(r"Of the 2 settings .* none .* at most 2 points worse", keeps)
    assert said.headline.startswith("No setting is shown to be as good as full depth; the nearest costs ")
    assert said.pays is False
    assert level.startswith("Beside full depth, it is at ")
    assert careful.startswith("Careful: max_new_tokens cut texts of normal (100.0%), ")
    assert certified == "Nothing is certified: eexit choose does that."
    weights = ["layers skipped", "saved if deciding were free", "added by deciding"]
    assert [weight["label"] for weight in said.weights] == weights
    rows = found.rows.assign(correct_difference=0.01, correct_difference_low=-0.01, correct_difference_high=0.03)
    normal = found.rows.set_index("configuration").to_dict("index")["normal"]
    n_right, bold = round(normal["correct"] * normal["correct_n"]), "unfrozen/confidence/0.7"
    for changed, expected in (
        (rows, ("Yes.", "The best safe setting costs 38.0% fewer multiply-adds", bold)),
        (rows.assign(run=-0.005, run_low=-0.006, run_high=-0.005),
         ("No.", "The best safe setting costs 0.5% more multiply-adds (0.5 to 0.6)", CHOSEN)),
        (found.rows.assign(correct_lost=float(n_right)),
         ("No.", f"No setting keeps any of the {n_right} right answers", None)),
    ):  # fmt: skip
        told = card(None, replace(found, rows=changed))
        assert (told.answer, told.headline, told.setting) == expected


def test_of_oracles_it_is_said_first_that_they_save_nothing_and_then_what_they_show(make_sweep: MakeSweep) -> None:
    said = card(None, quality_in(make_sweep(6)))
    assert (said.pays, said.answer) == (None, "Oracles save nothing.")
    assert re.search(r"a rule that knew as much would skip \d+\.\d% of the layers", said.headline)
    assert known(said.setting).startswith(("unfrozen/kl/", "frozen_residual/kl/"))
    assert "--rules" in said.sentences[-1]
    assert verdict(None, quality_in(make_sweep(6, [("normal", None)]))) is None


def said_of(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the section, and the sentences of the first card."""
    found = quality_in(folder)
    return known(settings_section(found)), card(None, found).sentences


def test_which_setting_is_a_table_from_the_strictest_bound_on(one_mode: Path, tmp_path: Path) -> None:
    section, _ = said_of(one_mode)
    assert section["about"].startswith("Nothing is certified")
    assert [row["kept"] for row in section["table"]["rows"]] == ["not shown"] * 2
    assert [column["key"] for column in section["table"]["columns"]][3:] == ["run", "layers_skipped"]
    folder = shutil.copytree(one_mode, tmp_path / "s")
    choose(folder)
    choose(folder, 2, None, max_risk=0.01)
    choose(folder, 3, max_risk=0.2, runs="of fewer prompts")
    section, sentences = said_of(folder)
    rows = [(row["promise"], row["configuration"]) for row in section["table"]["rows"]]
    assert rows == [
        ("disagreement ≤ 1%, with 95%", None), ("disagreement ≤ 5%, with 95%", CHOSEN),
        ("disagreement ≤ 20%, with 95%, before the sweep grew", CHOSEN),
    ]  # fmt: skip
    assert section["table"]["rows"][1]["held_out"] == "3%, at most 8% (n = 50)"
    assert sentences[3].startswith(f"Certified: {CHOSEN}, at 92% of full depth.")
    # A certificate of groups of unequal size says so, and both losses.
    folder = shutil.copytree(one_mode, tmp_path / "groups")
    choose(folder, of_prompts=0.054)
    section, sentences = said_of(folder)
    assert [row["loss_of_prompts"] for row in section["table"]["rows"]] == [0.054]
    assert "Of single prompts of groups" in [column["label"] for column in section["table"]["columns"]]
    assert "averaged over groups of prompts that count once each, is at most 5%" in sentences[3]
    assert sentences[3].endswith("over their 813 prompts the mean is 5.4%, for which nothing is certified.")
