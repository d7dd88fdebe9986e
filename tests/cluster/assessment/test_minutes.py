"""Minutes are kept: each step has a deadline, and what it does not reach is left out and named, or refused at once."""

import shutil
import time
from pathlib import Path

import pytest
from assessing import Told, asked_of, assess_here, settled
from exiting_models import save_exiting_model
from finished_assessments import forget, quick
from place_here import Here

from cluster.assessment import sizes
from cluster.assessment.record import Record
from cluster.assessment.workshop import RUN, TEXTS
from eexit.errors import UsageError

pytestmark = pytest.mark.usefixtures("two_rules")


class Slow(Here):
    """From the first landing in a folder on, hours go by."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(rows_per_shard=20, is_steady=True)
        self._name, self._now, self._patch = name, time.monotonic, monkeypatch

    def landed(self, name: str) -> None:
        if name == self._name:
            self._patch.setattr(time, "monotonic", lambda: self._now() + 1e6)
        super().landed(name)


def test_minutes_that_do_not_suffice_for_the_first_step_are_refused_there_and_more_go_on(tmp_path: Path) -> None:
    save_exiting_model(tmp_path / "model", n_layers=4)
    out, place = tmp_path / "out", Here(is_steady=True)
    with pytest.raises(UsageError, match=r"--minutes 0.001 are too few on this machine as it is now: .* about 2 would"):
        assess_here(asked_of(tmp_path / "model", 1, minutes=0.001), out, place)
    assert place.did == []
    asked = asked_of(tmp_path / "model", 1, minutes=100)
    record = Record.open(out, asked.as_dict())
    assert (record.finished, list(record.seconds), record.asked["minutes"]) == ([], [sizes.LOOK], 100)


@pytest.mark.slow
def test_a_run_that_takes_too_long_is_left_out_and_named_and_more_minutes_go_on_with_it(
    paying: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, undisturbed = paying
    out, told = tmp_path / "out", Told()
    shutil.copytree(undisturbed, out)
    forget(out, sizes.RUN, sizes.CHOOSE, sizes.TIME)
    shutil.rmtree(out / RUN)
    with monkeypatch.context() as slow:
        verdict = assess_here(quick(model), out, Slow(RUN, slow), told)
    assert (verdict.pays, verdict.cause) == (None, None)
    said = "Left out: the rest of the run, and the choice, for want of minutes: with --minutes "
    assert [line.startswith(said) for line in settled(out)["remarks"]].count(True) == 1
    assert any(line.startswith(said) for line in told.lines)
    place = Here(is_steady=True)
    assess_here(quick(model, minutes=1e6), out, place)
    assert place.did == ["run", "choices of run", "timings of run"]
    assert settled(out) == settled(undisturbed)


@pytest.mark.slow
def test_what_is_not_learned_in_time_is_left_out_for_good(
    paying: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, undisturbed = paying
    out, told = tmp_path / "out", Told()
    shutil.copytree(undisturbed, out)
    record = forget(out, sizes.LEARN)
    assert record.plans.search
    record.plans.search = sizes.SearchSizes(("linear",), 37, 1, record.plans.search.pilot, ())
    record.remarks = []
    record.write()
    with monkeypatch.context() as slow:
        assess_here(quick(model), out, Slow(TEXTS, slow), told)
    assert "Left out: a linear readout, for want of minutes." in told.lines
    assert settled(out)["pays"]
    place = Here(is_steady=True)
    assess_here(quick(model), out, place)
    assert place.did == []
