"""The verdict of the tables of an assessment: each answer and what it turns on, and what is said of missing steps."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from math import nan
from pathlib import Path

import pyarrow.fs
import pytest
from synthetic_assessment import BOUND, CEILING, LOOKUP, REPLAYED, SETTING, Assessed
from synthetic_sweeps import write_manifest

from eexit.errors import UsageError
from eexit.quality.estimates import Estimate
from eexit.results.files import Location
from eexit.studies.assessment.conclude import AssessmentSteps, conclude, judge
from eexit.studies.assessment.screen import ANSWERS, cause, reason, tables
from eexit.studies.assessment.verdict import (
    BATCHES,
    DECIDING,
    FILE,
    KNOWING,
    MEANINGS,
    OF_TIME,
    OVERHEAD,
    PROOF,
    REASONS,
    RESTRICTIONS,
    STATE,
    Bound,
    Interval,
    JudgedSetting,
    Verdict,
    read_verdict,
)

CERTIFIED = JudgedSetting(
    key=SETTING.key, certified=True, ask=1, loss=0.0, n=975, reporting_loss=0.01, reporting_n=400,
    saved=Interval(mean=0.2, low=0.19, high=0.21, n=400), time=Interval(mean=0.8, low=0.7, high=0.9, n=8),
)  # fmt: skip


def ends(low: float | None, high: float | None) -> Interval:
    return Interval(mean=1.0, low=low, high=high, n=8)


@pytest.mark.parametrize(
    ("changed", "pays", "why"),
    [
        ({}, True, "pays"),
        ({"certified": False}, False, "not certified"),
        ({"reporting_loss": 0.021}, False, "not kept"),
        ({"saved": ends(-0.01, 0.2)}, False, "saves nothing"),
        ({"saved": None}, False, "saves nothing"),
        ({"per_right": ends(0.9, 1.1)}, False, "dear answers"),
        ({"per_right": ends(0.8, 0.9)}, True, "pays"),
        ({"time": None}, None, "not timed"),
        ({"time": ends(None, None)}, None, "not timed"),
        ({"time": ends(0.9, 1.1)}, None, "time not sure"),
        ({"time": ends(1.0, 1.1)}, False, "slower"),
    ],
)
def test_each_condition_is_needed(changed: dict[str, object], pays: bool | None, why: str) -> None:
    setting = CERTIFIED.model_copy(update=changed)
    assert judge(setting, BOUND, [], is_look=False) == (pays, why)
    assert judge(setting, BOUND, ["exits"], is_look=False) == (None, "missing")
    assert judge(setting, BOUND, [], is_look=True) == (None, "look")
    assert judge(None, BOUND, [], is_look=False) == (None, "missing")


SLOWER = {SETTING.key: 1.2}
OUTCOMES: dict[str, tuple[Assessed, bool | None, str | None]] = {
    "pays": (Assessed(), True, None),
    "state": (Assessed(state=0.1, knowing=0.38, deployed=0.08, certified=False), False, STATE),
    "knowing": (Assessed(state=0.38, knowing=0.1, deployed=0.08, certified=False), False, KNOWING),
    "proof": (Assessed(knowing=0.39, state=0.38, deployed=0.37, certified=False), False, PROOF),
    "deciding": (Assessed(state=0.38, knowing=0.37, deployed=0.35, looks=0.4), False, DECIDING),
    "not decided": (Assessed(state=0.2, knowing=0.2, deployed=0.1, looks=0.12), False, None),
    "batches": (Assessed(batch=8, times=SLOWER, steps={1: 0.2, 8: 0.99}), False, BATCHES),
    "overhead": (Assessed(times=SLOWER, steps={1: 0.5}), False, OVERHEAD),
    "time open": (Assessed(times={SETTING.key: 0.97}), None, None),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_each_answer_and_each_cause_comes_out_of_tables(name: str, tmp_path: Path) -> None:
    assessed, pays, why = OUTCOMES[name]
    verdict = conclude(assessed.write(tmp_path), BOUND, assessed.batch)
    assert (verdict.pays, verdict.cause, verdict.missing) == (pays, why, [])
    assert (verdict.undecided == []) == (name != "not decided")


def without(steps: AssessmentSteps, folder: str | None, table: str) -> AssessmentSteps:
    assert folder
    shutil.rmtree(Path(folder) / table)
    return steps


CUTS: dict[str, tuple[Callable[[AssessmentSteps], AssessmentSteps], str]] = {
    "pilot": (lambda steps: replace(steps, pilot=None), "pilot"),
    "replays": (lambda steps: without(steps, steps.pilot, "replays"), "replays"),
    "run": (lambda steps: replace(steps, run=None), "run"),
    "choice": (lambda steps: without(steps, steps.run, "choices"), "choice"),
    "times": (lambda steps: without(steps, steps.run, "timings"), "times"),
    "told": (lambda steps: replace(steps, missing=["texts"]), "texts"),
    "all": (lambda steps: AssessmentSteps(), "pilot"),
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", ["pays", "state", "overhead"])
def test_with_any_step_missing_nothing_is_concluded(cut: str, name: str, tmp_path: Path) -> None:
    assessed = OUTCOMES[name][0]
    steps, missing = CUTS[cut]
    verdict = conclude(steps(assessed.write(tmp_path)), BOUND, assessed.batch)
    assert (verdict.pays, verdict.why, verdict.cause, verdict.undecided) == (None, "missing", None, [])
    assert missing in verdict.missing
    assert missing in reason(verdict)
    lines = {line.restriction: line for line in verdict.multiply_adds}
    if cut == "replays":
        assert (lines[STATE].last, lines[KNOWING].first) == (None, None), "one order alone was measured"
        assert "not tried" in str([table.rows for table in tables(verdict)])
    if cut == "run":
        assert (lines[PROOF].first, lines[PROOF].last, lines[STATE].mean) == (None, None, None)


def test_the_fastest_that_was_not_timed_again_is_a_missing_step(tmp_path: Path) -> None:
    verdict = conclude(Assessed(timed_again=()).write(tmp_path), BOUND)
    assert (verdict.pays, verdict.missing) == (None, ["times"])
    assert verdict.instead
    assert (verdict.instead.setting, verdict.instead.time) == (SETTING.key, None)


def test_what_the_ledger_says_is_what_the_tables_do(tmp_path: Path) -> None:
    verdict = conclude(Assessed().write(tmp_path), BOUND)
    saved = {tuple(each.imposed): each for each in verdict.levels}
    for imposed, share, key in (
        ((), 0.4, CEILING.key),
        ((KNOWING,), 0.3, REPLAYED.key),
        ((KNOWING, DECIDING), 0.28, REPLAYED.key),
        ((STATE, KNOWING, PROOF), 0.25, SETTING.key),
        (RESTRICTIONS, 0.23, SETTING.key),
    ):
        assert saved[imposed].saved.mean == pytest.approx(share, abs=0.005)
        assert saved[imposed].setting == key
    state = verdict.multiply_adds[0]
    assert state.first
    assert state.last
    assert (state.first.after, state.last.after) == ([], [KNOWING, DECIDING])
    assert [each.share.mean for each in (state.first, state.last)] == pytest.approx([0.05, 0.05], abs=0.005)
    assert verdict.where == "tiny · float32 · 0 · a CPU (2 cores) · 2 threads · 1 row at a time"
    assert verdict.setting
    assert verdict.setting.time
    assert verdict.setting.time.mean == pytest.approx(0.7, abs=0.002)
    assert [each.setting for each in verdict.contenders][-1] == SETTING.key


def test_a_setting_that_was_timed_has_its_time_even_if_it_may_not_be_taken(tmp_path: Path) -> None:
    timed = Assessed(reporting=0.03, times=SLOWER, steps={1: 0.5}, timed_again=("generate",))
    verdict = conclude(timed.write(tmp_path), BOUND)
    assert (verdict.pays, verdict.why) == (False, "not kept")
    assert verdict.setting
    assert verdict.setting.time
    assert verdict.setting.time.mean == pytest.approx(1.2, abs=0.002)
    assert all(line.taken for line in verdict.time)
    assert SETTING.key not in {each.setting for each in verdict.contenders}


def test_what_is_announced_instead_may_be_another(tmp_path: Path) -> None:
    faster = Assessed(times={SETTING.key: 0.7, LOOKUP.key: 0.6}, timed_again=(LOOKUP.key, "generate"))
    verdict = conclude(faster.write(tmp_path), BOUND)
    assert (verdict.pays, verdict.instead and verdict.instead.setting) == (True, LOOKUP.key)
    assert verdict.instead
    assert verdict.instead.is_faster
    assert verdict.instead.of_generate
    assert verdict.instead.of_generate.mean == pytest.approx(0.6 / 1.1)


def test_another_bound_is_another_choice_and_a_look_concludes_nothing(tmp_path: Path) -> None:
    steps = Assessed().write(tmp_path)
    assert "choice" in conclude(steps, Bound(risk="answers", at_most=0.03)).missing
    assert conclude(steps, BOUND, is_look=True).pays is None


def test_steps_of_two_models_are_refused(tmp_path: Path) -> None:
    steps = Assessed().write(tmp_path)
    manifest = json.loads((tmp_path / "run" / "sweep.json").read_text())
    write_manifest(tmp_path / "run", manifest | {"model": manifest["model"] | {"digest": "sha256:1"}})
    with pytest.raises(UsageError, match="digest"):
        conclude(steps, BOUND)


def test_what_is_written_is_read_and_shown(tmp_path: Path) -> None:
    location = Location(pyarrow.fs.LocalFileSystem(), str(tmp_path))
    assert read_verdict(location) == (None, ())
    for assessed, pays, _ in (OUTCOMES[name] for name in ("pays", "not decided", "time open")):
        verdict = conclude(assessed.write(tmp_path / str(len([*tmp_path.iterdir()]))), BOUND, assessed.batch)
        (tmp_path / FILE).write_text(verdict.to_json())
        assert read_verdict(location) == (verdict, ())
        assert reason(verdict) in REASONS.values()
        assert ANSWERS[verdict.pays] == ("Yes." if pays else "Not known." if pays is None else "No.")
        assert (cause(verdict) is None) == (verdict.cause is None and not verdict.undecided)
        shown = list(tables(verdict))
        assert [table.title for table in shown] == ["Multiply-adds", "Best savings", "Time", "Setting", "Instead"]
        assert all(table.printed().row_count == len(table.rows) for table in shown)
    (tmp_path / FILE).write_text(json.dumps({"format": 2}))
    found, (line,) = read_verdict(location)
    assert found is None
    assert f"{FILE} is no verdict of format" in line


def test_what_is_not_known_is_null() -> None:
    assert Interval.of(Estimate(nan, nan, nan, 0)) is None
    assert Interval.of(Estimate(0.1, nan, nan, 4)) == Interval(mean=0.1, low=None, high=None, n=4)
    assert {*MEANINGS} == {*RESTRICTIONS, *OF_TIME}
    assert Verdict.model_fields["format"].default == 4
