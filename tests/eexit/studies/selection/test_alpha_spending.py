"""Asks of the same prompts: which one it is, wherever they were asked, and what it may err with."""

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from synthetic_sweeps import blank

from eexit.plan.splits import unit_digest
from eexit.results.layout import ASSESSMENT
from eexit.results.store.folder import open_store
from eexit.results.study_tables import CHOICES
from eexit.studies.selection.alpha_spending import ask_of

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
UNITS = [f"prompt {n}" for n in range(8)]


def question(max_risk: float = 0.02, units: Sequence[str] = UNITS, runs: str = "a", model: str = "m") -> dict[str, Any]:
    asked = {"risk": "answers", "max_risk": max_risk, "confidence": 0.95, "cost_by": "run", "test": "exact"}
    return {
        **asked, "order": "pareto", "asked": ["a/b/1", "a/b/2"], "model": model, "runs": runs,
        "units": sorted(map(unit_digest, units)),
    }  # fmt: skip


def ask(out: Path, asked: dict[str, Any], minute: int) -> int:
    found = ask_of(asked, None, open_store(out))
    row = {
        **blank(CHOICES), **asked, "status": "asked", "started": BEGAN + timedelta(minutes=minute),
        "question": found.number, "planned": found.planned, "error": found.error,
    }  # fmt: skip
    CHOICES.publish(open_store(out), f"{minute:032x}", [row])
    return found.number


def test_another_question_of_a_shared_prompt_is_a_further_ask_and_the_same_one_is_not(tmp_path: Path) -> None:
    bounds = (0.02, 0.03, 0.02, 0.04, 0.03)
    assert [ask(tmp_path / "a" / "out", question(bound), at) for at, bound in enumerate(bounds)] == [1, 2, 1, 3, 2]
    changes: list[dict[str, Any]] = [{name: "other"} for name in ("risk", "cost_by", "test", "order")]
    for at, change in enumerate([*changes, {"max_risk": 0.01}, {"confidence": 0.9}, {"asked": ["a/b/1"]}], start=5):
        assert ask(tmp_path / "b" / "out", question() | change, at) == at - 4, "each of these is another question"
    out = tmp_path / "c" / "out"
    assert ask(out, question(), 0) == 1
    assert ask(out, question(units=["fresh", "fresh, too"]), 1) == 1
    assert ask(out, question(units=[UNITS[0], "fresh"]), 2) == 3
    assert ask(out, question(units=[*UNITS, "added"]), 3) == 4, "a sweep that was extended"
    assert ask(out, question(runs="again"), 4) == 5, "the same question about other runs, such as of another dtype"


def test_asks_are_counted_over_folders_that_lie_side_by_side_and_steps_of_assessments(tmp_path: Path) -> None:
    assess, again, mine = (tmp_path / name for name in ("assess", "again", "mine"))
    for folder in (assess, again):
        (folder / "run").mkdir(parents=True)
        (folder / ASSESSMENT).write_text("{}")
    assert ask(assess / "run", question(), 0) == 1
    assert ask(again / "run", question(runs="b"), 1) == 2, "a search that was done again"
    assert ask(mine, question(runs="c"), 2) == 3
    assert ask(assess / "further", question(runs="d"), 3) == 4
    assert ask(tmp_path / "elsewhere" / "deep" / "er", question(runs="d"), 4) == 1
    assert ask(mine, question(runs="e", model="another"), 5) == 1, "its certificates are claims of their own"
    shutil.copytree(mine, tmp_path / "copy")
    assert ask(tmp_path / "copy", question(runs="c"), 6) == 3, "a copy counts nothing twice"
    shutil.rmtree(again)
    assert ask(mine, question(runs="c"), 7) == 3, "a number stays when a folder is removed"
    assert ask(mine, question(runs="f"), 8) == 5
