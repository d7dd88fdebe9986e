"""Each answer and each cause comes out where it is the truth, and how often; what is said of missing steps."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs
import pytest
from assessment_worlds import BATCH, BOUND, WORLDS, Drawn

from eexit.quality.estimates import NOTHING, Estimate
from eexit.results.parquet_files import StoreLocation
from eexit.studies.assessment.conclude import judge, verdict_of
from eexit.studies.assessment.verdict import FILE, REASONS, AlternativeTime, JudgedSetting, Verdict, read_verdict
from eexit.studies.assessment.verdict_text import ANSWERS, alternative, cause, explain, sentences, setting_line, tables

SCREEN = 24  # lines of a terminal


def ends(low: float, high: float, n: int = 24) -> Estimate:
    return Estimate(1.0 if math.isnan(low) else (low + high) / 2, low, high, n)


CERTIFIED = JudgedSetting(
    key="a", certified=True, use=1, losses={"prompts": (0.0, 975)}, test_loss=ends(0.0, 0.03, 400),
    saved=ends(0.19, 0.21), time=ends(0.7, 0.9),
)  # fmt: skip
TESTED = {"mean_loss": 0.015, "n": 975, "certified": False, "prompts_needed": 4000}
CHOICE: dict[str, Any] = {"tested": [TESTED]}


def test_each_answer_turns_on_an_interval() -> None:
    answers: list[tuple[dict[str, object], tuple[float, float], bool | None, str, int | None]] = [
        ({}, (0.1, 0.2), True, "pays", None),
        ({"certified": False}, (0.1, 0.2), None, "not certified", 4000),
        ({"certified": False}, (-0.2, -0.1), False, "costs more", None),
        ({"test_loss": ends(0.021, 0.03, 400)}, (0.1, 0.2), False, "not kept", None),
        ({"test_loss": ends(0.01, 0.05, 400)}, (0.1, 0.2), True, "pays", None),
        ({"saved": ends(-0.2, -0.1)}, (-0.2, -0.1), False, "costs more", None),
        ({"saved": ends(-0.2, -0.1)}, (-0.1, 0.2), None, "not certified", 4000),
        ({"saved": ends(-0.01, 0.03, 100)}, (0.1, 0.2), None, "costs open", 818),
        ({"saved": NOTHING}, (0.1, 0.2), None, "costs open", None),
        ({"per_right": ends(1.1, 1.2)}, (0.1, 0.2), False, "dear answers", None),
        ({"per_right": ends(0.9, 1.1)}, (0.1, 0.2), None, "answers open", None),
        ({"per_right": ends(0.8, 0.9)}, (0.1, 0.2), True, "pays", None),
        ({"time": NOTHING}, (0.1, 0.2), None, "not timed", None),
        ({"time": ends(math.nan, math.nan)}, (0.1, 0.2), None, "not timed", None),
        ({"time": ends(0.9, 1.06)}, (0.1, 0.2), None, "time open", 785),
        ({"time": ends(1.001, 1.1)}, (0.1, 0.2), False, "slower", None),
    ]
    for changed, as_run, pays, why, more in answers:
        setting, within = CERTIFIED.model_copy(update=changed), ends(*as_run)
        found, needed = judge(setting, within, CHOICE, BOUND, [], is_smoke_run=False)
        assert (REASONS[found].pays, found, needed) == (pays, why, more)
        assert judge(setting, within, CHOICE, BOUND, ["texts"], is_smoke_run=False)[0] == "missing"
        assert judge(setting, within, CHOICE, BOUND, [], is_smoke_run=True)[0] == "look"
    assert judge(None, NOTHING, None, BOUND, [], is_smoke_run=False)[0] == "missing"
    uncertified = CERTIFIED.model_copy(update={"certified": False})
    for mean, answer in ((0.024, "not certified"), (0.06, "loses too much")):  # beyond the bound with its interval
        choice = {"tested": [TESTED | {"mean_loss": mean}]}
        assert judge(uncertified, ends(0.1, 0.2), choice, BOUND, [], is_smoke_run=False)[0] == answer


@pytest.mark.parametrize(("root", "n_drawn"), [(3, 3), pytest.param(4, 200, marks=pytest.mark.slow)])  # minutes each
@pytest.mark.parametrize("name", WORLDS)
def test_each_answer_and_cause_comes_out_where_it_is_true(name: str, root: int, n_drawn: int) -> None:
    """Of three draws, one may be left open; of 200, a fifth, and a twentieth may be false."""
    world, pays, why = WORLDS[name]
    drawn = [Drawn(world, 1700, np.random.default_rng([root, seed])).verdict() for seed in range(n_drawn)]
    answers, causes = Counter(each.pays for each in drawn), Counter[str | None](each.cause for each in drawn)
    most, false = (2, 0) if n_drawn == 3 else (0.8 * n_drawn, 0.05 * n_drawn)
    if pays is not None:
        assert answers[pays] >= most, answers
        assert answers[not pays] <= max(false, 1), answers
    if why is not None:
        assert causes[why] >= most, causes
        assert causes.total() - causes[why] - causes[None] <= false, causes
    for each in drawn[:3]:
        said = [each.where, f"Does early exit pay? {ANSWERS[each.pays]} {explain(each)}", *sentences(each)]
        said += [table.printed() for table in tables(each)]
        lines = "\n".join(filter(None, [*said, setting_line(each)])).splitlines()
        assert sum(-(-len(line) // 110) for line in lines) + 2 <= SCREEN, "the report's and the verdict's paths too"


def test_with_anything_missing_nothing_is_concluded() -> None:
    drawn = Drawn(WORLDS["pays"][0], 200, np.random.default_rng(0))
    sweeps, timings = [drawn.run, drawn.oracles], drawn.timings()
    for choice, timed, failed, missing in (
        (None, timings, [], "choice"),
        (drawn.choice, [], [], "times"),
        (drawn.choice, timings, ["1 run of run, which failed"], "1 run of run, which failed"),
    ):
        verdict = verdict_of(sweeps, drawn.settings, choice, timed, drawn.bound, BATCH, failed)
        assert (verdict.pays, verdict.why, verdict.causes) == (None, "missing", [])
        assert explain(verdict).endswith(f"Missing: {missing}.")


def test_what_is_faster_is_said_beneath_a_yes_too() -> None:
    timed = {"a": AlternativeTime(time=ends(0.7, 0.9)), "generate": AlternativeTime(time=ends(0.6, 0.8))}
    yes = Verdict(why="pays", bound=BOUND, batch=1, setting=CERTIFIED, timed=timed)
    assert alternative(yes) == "generate"
    assert "Faster: generate, 0.70 (0.60 to 0.80) of full depth's time." in [*sentences(yes)]
    assert alternative(yes.model_copy(update={"timed": {"a": timed["a"]}})) is None
    slow = {"generate": AlternativeTime(time=ends(0.9, 1.1))}
    assert alternative(yes.model_copy(update={"why": "slower", "timed": slow})) is None


def test_what_is_written_is_read_and_shown(tmp_path: Path) -> None:
    location = StoreLocation(pyarrow.fs.LocalFileSystem(), str(tmp_path))
    assert read_verdict(location) == (None, ())
    for name in ("pays", "costs more"):
        verdict = Drawn(WORLDS[name][0], 1700, np.random.default_rng(0)).verdict()
        (tmp_path / FILE).write_text(verdict.to_json())
        read, left_out = read_verdict(location)
        assert (read and read.to_json(), left_out) == (verdict.to_json(), ())
        assert json.loads(verdict.to_json())["pays"] == verdict.pays
        assert explain(verdict).startswith(REASONS[verdict.why].sentence[:-1])
        assert (cause(verdict) is None) == (verdict.cause is None and not verdict.causes)
        assert [each.title for each in tables(verdict)] == ["Cells", "Gains", "Time"]
    (tmp_path / FILE).write_text(json.dumps({"format": 4}))
    found, (line,) = read_verdict(location)
    assert (found, f"{FILE} is no verdict of format 5" in line) == (None, True)
    assert [*sentences(Verdict(why="look", bound=BOUND, batch=1))] == []
    assert json.loads(AlternativeTime(time=NOTHING).model_dump_json())["time"]["mean"] is None
