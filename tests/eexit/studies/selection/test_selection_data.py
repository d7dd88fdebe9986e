"""Losses that settings are chosen by: failed runs, seeds that are the same, and judgements."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from selecting import ALONE, CHOOSING, CONFIG, PROMPTS, land, select
from synthetic_sweeps import blank

from eexit.plan.runs import Run, plan_runs
from eexit.quality.rubric import ASPECTS
from eexit.results.store.folder import open_store
from eexit.results.study_tables import JUDGEMENTS

KEY = "skip/confidence/0.9"


def test_a_failed_run_is_a_loss_of_1_and_a_failed_run_of_normal_excuses_nothing(tmp_path: Path) -> None:
    """Of the prompts for choosing, 4 fail under the setting, and 3 others under normal, where the setting is wrong."""
    prompts = tuple(replace(each, answer="4" if int(each.id) % 2 else None) for each in ALONE.prompts)
    marked = [prompt for prompt in CHOOSING if PROMPTS.index(prompt) % 2]
    fails = {**dict.fromkeys([*marked[:4], *CHOOSING[:9:2]], KEY), **dict.fromkeys(marked[4:7], "normal")}

    def numbers(run: Run) -> dict[str, Any]:
        failing = fails.get(run.prompt.prompt)
        if failing == run.configuration.key:
            return {"status": "error", "error": "no such luck", "correct": None}
        return {"correct": None if run.prompt.answer is None else failing != "normal"}

    rules = {"confidence": (0.9,), "predicted_kl": (1.0,)}  # the first is the same for both seeds, and counts once
    out = land(tmp_path / "out", CONFIG.model_copy(update={"prompts": prompts, "rules": rules}), numbers)
    row, said = select(out, risk="answers", max_risk=0.2)
    assert "settings whose run is the same for all seeds 1 " in said
    tested = next(each for each in row["tested"] if each["configuration"] == KEY)
    n_lost = len([prompt for prompt in marked if prompt in fails])
    assert (tested["n"], tested["mean_loss"]) == (len(marked), pytest.approx(n_lost / len(marked)))
    assert f"failed runs, each a loss of 1 {len(fails)} " in said
    assert "failed runs of normal, scored as if they were best 3 " in said


def judged(call: int, run: Run, judge: str, **scores: Any) -> dict[str, Any]:
    named = {"run_id": run.run_id, "seed": run.seed, "judge": judge, "started": datetime.fromtimestamp(call, UTC)}
    return {**blank(JUDGEMENTS), **named, "status": "ok", **scores}


def test_a_text_without_a_usable_judgement_has_the_worst_score_and_that_of_normal_the_best(tmp_path: Path) -> None:
    out = land(tmp_path / "out")
    unusable = {(CHOOSING[0], "skip"), (CHOOSING[1], "normal"), (CHOOSING[2], "skip"), (CHOOSING[2], "normal")}
    rows = [
        judged(0, run, "mild", **dict.fromkeys(ASPECTS, 4))
        | ({"status": "error"} if (run.prompt.prompt, run.configuration.mode) in unusable else {})
        for run in plan_runs(ALONE)
        if run.prompt.prompt != CHOOSING[3]  # which the judge was not asked about
    ]
    JUDGEMENTS.publish(open_store(out), "0" * 32, rows)
    row, said = select(out, risk="judge", max_risk=0.2)
    n = len(CHOOSING) - 1
    assert (row["n"], row["mean_loss"]) == (n, pytest.approx((3 / 4 + 1 / 4 + 1) / n))
    assert "texts without a usable judgement, which get the worst score, or the best as normal's 4 " in said


def test_the_drop_of_the_judges_scores_is_that_of_the_same_seed_and_judge(tmp_path: Path) -> None:
    """One judge is stricter with all texts, and gives the setting's half a point less: a quarter, over both judges."""
    out = land(tmp_path / "out")
    for call in range(3):  # of the calls, the second counts: the third is an error
        rows = [
            judged(call, run, judge, **dict.fromkeys(ASPECTS[:3], base), **{"status": "error" if call == 2 else "ok"})
            | {ASPECTS[3]: [1, base - drop * (run.configuration.mode != "normal"), None][call]}
            for run in plan_runs(ALONE)
            for judge, base, drop in (("mild", 5, 0), ("strict", 3, 2))
        ]
        JUDGEMENTS.publish(open_store(out), f"{call}" * 32, rows)
    row, said = select(out, risk="judge", max_risk=0.3)
    assert row["mean_loss"] == pytest.approx(0.5 / 4 / 2)
    assert "judges, whose losses are averaged mild, strict " in said
