"""A whole assessment of tiny models of which it is known whether exits pay, and if not, why.

The sweeps, studies and trainings are done in this process, without Ray.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from assessing import MARGIN, PROMPTS, Interrupted, Told, asked_of
from exiting_models import save_exiting_model
from landed_sweep import land_rows
from place_here import Here

from cluster.assessment import learned, sizes
from cluster.assessment.asked import Asked
from cluster.assessment.assess import assess
from cluster.assessment.outcome.tables import read_step, times
from cluster.assessment.outcome.verdict import DRAFT, Verdict
from cluster.assessment.outcome.words import sentences
from cluster.assessment.record import RECORD, Record
from cluster.assessment.workshop import LOOK, RUN, Workshop
from cluster.console.steps import Steps
from eexit.errors import UsageError
from eexit.method.screen_size import ScreenSize
from eexit.output.progress import Silence
from eexit.results.store.folder import open_store
from eexit.results.study_tables import CHOICES, REPLAYS, TIMINGS
from eexit.studies.timing.study import WhatToTime, make_plan
from eexit.studies.verdict_file import DECIDING, FILE, OVERHEAD, RESTRICTIONS

pytestmark = pytest.mark.usefixtures("small")


def assessed(tmp_path: Path, model: Mapping[str, Any], exit_every: int = 3, **others: Any) -> tuple[Verdict, Asked]:
    save_exiting_model(tmp_path / "model", **model)
    asked = asked_of(tmp_path / "model", exit_every, **others)
    return assess(asked, tmp_path / "out", lambda display: Here(), Silence()), asked


def test_a_step_that_is_killed_counts_up_to_the_work_that_it_was_at(tmp_path: Path) -> None:
    save_exiting_model(tmp_path / "model")
    asked = asked_of(tmp_path / "model")
    record = Record.open(tmp_path / "out", asked.as_dict())
    shop = Workshop(asked, tmp_path / "out", Here(), Steps(Silence(), sizes.SHARES), record)
    with shop.timed(sizes.LOOK):
        time.sleep(0.2)
        shop.work(0.5)
        killed = Record.open(tmp_path / "out", asked.as_dict())  # what is there if the process dies now
        time.sleep(0.2)
    assert 0.2 <= killed.seconds[sizes.LOOK] <= record.seconds[sizes.LOOK] - 0.2
    assert (killed.finished, record.finished) == ([], [sizes.LOOK])


def test_all_sweeps_are_in_the_dtype_that_the_first_one_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_exiting_model(tmp_path / "model")
    asked, given, place = asked_of(tmp_path / "model"), list[str](), Here()
    monkeypatch.setattr(place, "sweep", lambda config, out: given.append(config.dtype))
    record = Record.open(tmp_path / "out", asked.as_dict())
    shop = Workshop(asked, tmp_path / "out", place, Steps(Silence(), sizes.SHARES), record)
    auto = asked.config(PROMPTS[:1], dtype="auto")
    with shop.timed(sizes.LOOK):
        shop.sweep(auto, LOOK, 0.1)
        land_rows(tmp_path / "out" / LOOK, auto.model_copy(update={"dtype": "bfloat16"}))
        shop.sweep(auto, RUN, 0.1)
    assert given == ["auto", "bfloat16"]


def test_after_bad_input_the_command_goes_with_other_flags_and_the_same_folder(tmp_path: Path) -> None:
    asked = asked_of(tmp_path / "model", exit_every=1)
    refused = Record.open(tmp_path / "out", replace(asked, common={**asked.common, "model": "nope"}).as_dict())
    refused.spent(sizes.LOOK, 2.0, is_done=False)
    record = Record.open(tmp_path / "out", asked.as_dict())
    assert (record.asked["model"], record.seconds) == (str(tmp_path / "model"), {})
    record.plans.start = 1.0
    record.write()
    with pytest.raises(UsageError, match=r"holds another assessment \(exit_every: 1 -> 3\)"):
        Record.open(tmp_path / "out", asked_of(tmp_path / "model", exit_every=3).as_dict())


@pytest.mark.slow
def test_where_later_layers_hardly_change_the_stream_it_pays_however_often_it_is_interrupted(tmp_path: Path) -> None:
    save_exiting_model(tmp_path / "model", n_layers=12, sharp=60)
    asked, out, did, told = asked_of(tmp_path / "model"), tmp_path / "out", list[str](), Told()
    while True:
        place = Interrupted()
        try:
            verdict = assess(asked, out, lambda display, place=place: place, told)  # type: ignore[misc]
            break
        except KeyboardInterrupt:
            did += place.did
    assert did == [
        "look", "timings of look", "ceiling", "replays of ceiling", "tried", "run", "choices of run", "timings of run",
        "instead", "timings of instead", "timings of run", "timings of instead",
    ]  # fmt: skip
    assert verdict.pays, sentences(verdict)
    best = verdict.figures.best
    assert best is not None
    assert best.run > 0.4
    assert best.times[verdict.batch or 0].high < 1
    record = json.loads((out / RECORD).read_text())
    assert list(record["seconds"]) == record["finished"] == list(sizes.SHARES)
    content = json.loads((out / FILE).read_text())
    assert content == json.loads((out / RUN / FILE).read_text())
    assert (content["pays"], content["setting"]) == (True, best.key)
    assert any("Too few prompts bring an answer" in line for line in told.lines)

    # Nothing is shown that no table holds.
    swept, choice = read_step(str(out / RUN)), CHOICES.read(open_store(out / RUN)).to_pylist()[-1]
    assert (choice["configuration"], choice["at_most"], choice["pilot"]) == (best.key, MARGIN, str(out / "tried"))
    assert best.loss == (choice["mean_loss"], choice["n"])
    assert best.theory == swept.saved(best.key, "cost_needed")
    assert verdict.ledger.lines[3].left == pytest.approx(swept.saved(best.key, "cost_run")), "deciding"
    taken = [line["taken"] for line in content["ledger"]["lines"]]
    left = content["ledger"]["ceiling"]["saved"] - sum(taken)
    assert left == pytest.approx(1 - best.times[verdict.batch or 0].mean, abs=1e-9)
    assert [line["restriction"] for line in content["ledger"]["lines"]] == list(RESTRICTIONS)

    # Measured again, the saving in time is what the verdict says.
    what = WhatToTime([best.key], [verdict.batch or 0], verdict.batch or 0, 12, 6)
    Here().study(str(out / RUN), partial(make_plan, asked=what), what.columns)
    assert len({row["timing_id"] for row in TIMINGS.read(open_store(out / RUN)).to_pylist()}) == 3
    again = times(read_step(str(out / RUN)), best.key)[verdict.batch or 0]
    interval = best.times[verdict.batch or 0]
    assert again.low <= interval.high
    assert interval.low <= again.high

    with pytest.raises(UsageError, match=r"holds another assessment \(margin: 0.1 -> 0.2\): choose another --out"):
        assess(Asked(asked.common, PROMPTS, 240, 0.2, (1, 4)), out, lambda display: Here(), Silence())
    other = {**asked.common, "model": "another"}
    with pytest.raises(UsageError, match=r"holds another assessment \(model: .* -> .another.\)"):
        assess(Asked(other, PROMPTS, 240, MARGIN, (1, 4)), out, lambda display: Here(), Silence())
    with pytest.raises(UsageError, match=r"holds other results \(sweep.json\): choose another --out"):
        assess(asked, out / LOOK, lambda display: Here(), Silence())


@pytest.mark.slow
def test_where_the_last_layer_decides_everything_it_is_the_models(tmp_path: Path) -> None:
    verdict, _ = assessed(tmp_path, {"n_layers": 12, "last": 30.0})
    assert not verdict.pays, sentences(verdict)
    assert verdict.ledger.ceiling.mean < 0.1 < verdict.figures.possible / 3
    assert verdict.ledger.lines[-1].left <= verdict.ledger.ceiling.mean


class AsLongForAPass(Here):
    """A machine on which a pass takes as long for several tokens as for one."""

    def seconds(self, row: Mapping[str, Any]) -> float:
        return 1e-3 * max(1.0, float(row["tokens"] - (row["accepted"] or 0)))


@pytest.mark.slow
def test_where_a_pass_takes_as_long_for_several_tokens_drafts_pay(tmp_path: Path) -> None:
    save_exiting_model(tmp_path / "model", n_layers=12)
    place = AsLongForAPass(is_steady=True)
    verdict = assess(asked_of(tmp_path / "model"), tmp_path / "out", lambda display: place, Silence())
    assert not verdict.pays
    assert verdict.instead is not None
    assert verdict.instead.contender.role == DRAFT
    times = {each.key: each.times for each in verdict.figures.alternatives}
    assert {"generate", "generate/lookup"} < times.keys()
    assert times["generate"][1].high == 1


@pytest.mark.slow
def test_where_full_depth_gets_no_answer_right_the_risk_is_not_lost_answers(tmp_path: Path) -> None:
    """A random model: whatever a setting does to its texts, no right answer can be lost."""
    save_exiting_model(tmp_path / "model", n_layers=8)
    answered = tuple(replace(prompt, answer="Paris") for prompt in PROMPTS)
    asked = replace(asked_of(tmp_path / "model", 2), prompts=answered)
    assert asked.parts().risk == "answers"
    told = Told()
    verdict = assess(asked, tmp_path / "out", lambda display: Here(), told)
    assert verdict.figures.bound.risk == "disagreement"
    why = "full depth gets 0 of "
    assert any(why in line and "token by token" in line for line in told.lines)
    assert any(why in line for line in json.loads((tmp_path / "out" / FILE).read_text())["remarks"])
    choices = CHOICES.read(open_store(tmp_path / "out" / RUN)).to_pylist()
    assert [row["risk"] for row in choices] == ["disagreement"]
    assert choices[0]["tested"][0]["normal_accuracy"] == 0
    assert 0 <= choices[0]["tested"][0]["changed"] <= 1


@pytest.mark.slow
def test_where_the_vocabulary_is_large_deciding_eats_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "RULES", {"confidence": (0.9,)})  # at which one token in three never leaves
    model = {"n_layers": 8, "n_tokens": 6000, "width": 32, "sharp": 16}
    verdict, _ = assessed(tmp_path, model, exit_every=2)
    assert (verdict.pays, verdict.cause) == (False, DECIDING), sentences(verdict)
    assert verdict.figures.head_in_layers > 10
    assert "At the prices of llama-2-7b" in sentences(verdict)[2]


@pytest.mark.slow
def test_where_a_batch_waits_for_its_last_row_the_clock_gives_less_than_steps_allow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learned, "RULES", {"confidence": (0.9,)})  # at which three tokens in four leave at once
    verdict, _ = assessed(tmp_path, {"n_layers": 12, "sharp": 40, "width": 32}, batches=(32,))
    assert not verdict.pays, sentences(verdict)
    assert verdict.cause == OVERHEAD, sentences(verdict)
    overhead = verdict.ledger.line(OVERHEAD)
    assert overhead is not None
    assert overhead.taken.mean > 0.1
    assert "If all 32 rows left at the same steps" in sentences(verdict)[2]


@pytest.mark.slow
def test_what_is_learned_is_searched_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "STARTS", {"curve": 15, "": 7})
    monkeypatch.setattr(learned, "SCREEN", ScreenSize(33, 256))
    save_exiting_model(tmp_path / "model", n_layers=8, n_tokens=2000, width=32, sharp=30)
    place, told = Here(), Told()
    verdict = assess(asked_of(tmp_path / "model", 2), tmp_path / "out", lambda display: place, told)
    assert {"texts", "linear", "linear-few", "probe", "gate", "ceiling-learned"} <= {*place.did}
    assert any(line.startswith("as full depth at layer 6, learned: ") for line in told.lines)
    assert any("a screen, which this model can't have" in line for line in told.lines)
    replays = REPLAYS.read(open_store(tmp_path / "out" / "ceiling-learned")).to_pylist()
    assert {"confidence", "predicted_kl"} <= {row["rule"] for row in replays}
    assert verdict.figures.best is not None
