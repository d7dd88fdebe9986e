"""assessment.json: what it holds, whose it is, and which minutes go on with it."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from cluster.assessment.learned import Way
from cluster.assessment.record import RECORD, Front, Record
from cluster.assessment.sizes import LOOK, RUN, STEPS, RunSizes, SearchSizes
from eexit.errors import UsageError

ASKED = {"model": "m", "minutes": 30.0, "margin": 0.02}


def planned(folder: Path) -> Record:
    record = Record.open(folder, ASKED)
    record.plans.start, record.plans.timed = 1.5, {1: 6, 8: 3}
    record.plans.search = SearchSizes(("linear",), 37, 2, 24, ("a gate",))
    record.plans.front = Front(Way(gate_threshold="0.2"), "25", {"confidence": (0.9, 0.99)}, {}, ("a", "b"), "a")
    record.plans.run = RunSizes(10, 5, 1, True, 6, ())
    record.spent(LOOK, 2.0, is_done=True)
    record.spent(RUN, 3.0, is_done=True)
    return record


def test_what_was_planned_is_read_as_it_was_written(tmp_path: Path) -> None:
    record, found = planned(tmp_path), Record.open(tmp_path, ASKED)
    assert json.dumps(asdict(found.plans)) == json.dumps(asdict(record.plans))
    assert isinstance(found.plans.run, RunSizes)
    assert found.plans.front
    assert isinstance(found.plans.front.way, Way)
    assert (found.seconds, found.finished) == ({LOOK: 2.0, RUN: 3.0}, [LOOK, RUN])


def test_a_step_that_is_done_again_gives_back_its_time(tmp_path: Path) -> None:
    record = planned(tmp_path)
    assert record.begins(RUN) == 3.0
    assert (record.finished, record.seconds) == ([LOOK], {LOOK: 2.0})
    assert record.begins(RUN) == 0.0


def test_what_is_left_out_for_want_of_time_is_said_until_the_step_comes_to_an_end(tmp_path: Path) -> None:
    record = planned(tmp_path)
    record.remark("for good")
    record.cuts(RUN, "the run")
    assert Record.open(tmp_path, ASKED).remarks == ["for good", "the run"]
    record.begins(RUN)
    assert (record.remarks, record.cut) == (["for good"], {})


def test_other_minutes_go_on_with_what_had_too_few_and_with_nothing_else(tmp_path: Path) -> None:
    record, more = planned(tmp_path), {**ASKED, "minutes": 60.0}
    with pytest.raises(UsageError, match=r"holds another assessment \(minutes: 30.0 -> 60.0\): choose another --out"):
        Record.open(tmp_path, more)
    record.cuts(RUN, "the run")
    assert Record.open(tmp_path, more).asked["minutes"] == 60.0
    with pytest.raises(UsageError, match="margin"):
        Record.open(tmp_path, {**more, "margin": 0.1})
    record.cut, record.plans.search = {}, None  # as after a first step that said how many minutes would do
    record.write()
    assert Record.open(tmp_path, more).plans.start == 1.5


DAMAGE = {
    "nothing of it": "{}",
    "no JSON": "{",
    "a list": "[]",
    "finished": '{"asked": {}, "plans": {}, "seconds": {}, "finished": null, "remarks": []}',
    "seconds": '{"asked": {}, "plans": {}, "seconds": {"look": "long"}, "finished": [], "remarks": []}',
    "plans": '{"asked": {}, "plans": null, "seconds": {}, "finished": [], "remarks": []}',
    "start": '{"asked": {}, "plans": {"start": "soon"}, "seconds": {}, "finished": [], "remarks": []}',
    "search": '{"asked": {}, "plans": {"search": {"pilot": 3}}, "seconds": {}, "finished": [], "remarks": []}',
    "front": '{"asked": {}, "plans": {"front": {"rules": 3}}, "seconds": {}, "finished": [], "remarks": []}',
    "not text": "\udcff",
}


@pytest.mark.parametrize("which", DAMAGE)
def test_what_is_damaged_is_refused_in_a_line(tmp_path: Path, which: str) -> None:
    (tmp_path / RECORD).write_bytes(DAMAGE[which].encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match=r"assessment.json is damaged: remove it") as refused:
        Record.open(tmp_path, ASKED)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("step", STEPS)
def test_a_step_is_missing_until_it_has_come_to_an_end_and_where_it_was_cut(step: str, tmp_path: Path) -> None:
    record = Record.open(tmp_path / "out", {})
    assert record.missing == list(STEPS)
    for each in STEPS:
        record.spent(each, 1.0, is_done=each != step)
    assert record.missing == [step]
    record.cuts(step, "Left out: some.")
    assert record.missing == [step]
    record.begins(step)
    record.spent(step, 1.0, is_done=True)
    assert record.missing == []
