"""Every planned run lands exactly once, whatever happens to the processes that compute it."""

import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import scripted
from driving import alone, assert_complete, assert_undisturbed, drive
from scripted import TOKENS_PER_RUN, ScriptedGenerator, sweep_of

from eexit.errors import SweepStopped, UsageError
from eexit.output.events import _JSONLinesFormatter
from eexit.plan.runs import Run, count_runs
from eexit.results.shard_tables import ProgressCallback, ShardTables
from eexit.results.store.commit import RunCounts, survey
from eexit.results.store.folder import open_store

pytestmark = pytest.mark.usefixtures("ray_here")


def test_invariant_6_every_run_is_there_once(tmp_path: Path) -> None:
    """Two of the actors find no room, and hold nothing up."""
    config = sweep_of(tmp_path, *(f"prompt {index}" for index in range(12)), seeds=(0, 1))
    log = io.StringIO()
    tally = drive(config, tmp_path / "out", actors=4, log=log)
    assert tally == RunCounts(runs=216, errors=0, tokens=216 * TOKENS_PER_RUN)
    assert_undisturbed(config, tmp_path / "out")
    assert "216/216 runs" in log.getvalue().splitlines()[-1]


def test_a_manifest_that_is_lost_meanwhile_is_put_back(tmp_path: Path) -> None:
    config = sweep_of(tmp_path, *"abcdef", modes=["normal"])
    manifest, lost, log = tmp_path / "out" / "sweep.json", tmp_path / "lost.json", io.StringIO()

    class Loses(ScriptedGenerator):
        def generate(self, runs: Sequence[Run], progress: ProgressCallback) -> ShardTables:
            if runs[0].prompt.prompt == "c":
                manifest.rename(lost)
            return super().generate(runs, progress)

    drive(config, tmp_path / "out", Loses, rows=1, actors=1, log=log)
    assert manifest.read_bytes() == lost.read_bytes()
    assert "sweep.json was gone and is put back" in log.getvalue()
    assert_complete(config, tmp_path / "out")


@pytest.mark.parametrize(
    ("prompts", "rows"),
    [(["one", "raise", "three", "four"], 18), ([*"0123", *["raise"] * 25, "last"], 4), (["die"] * 4 + [*"0123"], 2)],
)
def test_failed_runs_are_error_rows_and_events(tmp_path: Path, caplog: Any, prompts: list[str], rows: int) -> None:
    config = sweep_of(tmp_path, *prompts, modes=["normal"])
    with caplog.at_level(logging.INFO, logger="eexit"):
        tally = drive(config, tmp_path / "out", rows=rows)
    bad = next(prompt for prompt in prompts if prompt in ("raise", "die"))
    errors = alone(assert_complete(config, tmp_path / "out"), bad)
    assert (tally.runs, tally.errors) == (len(prompts), prompts.count(bad))
    assert bad == "die" or set(errors.error) == {"RuntimeError: no such luck"}
    events = [json.loads(_JSONLinesFormatter().format(record)) for record in caplog.records if record.name == "eexit"]
    failed = [each for each in events if each["event"] == "failed" and len(each["run_ids"]) == 1]
    assert {*errors.run_id} == {run_id for each in failed for run_id in each["run_ids"]}
    assert {each["reason"] for each in failed} == {*errors.error}
    assert {each["level"] for each in failed} == {"WARNING"}


def test_a_model_that_cannot_load_stops_the_sweep_with_its_message(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="model 'nowhere' can't be found"):
        drive(sweep_of(tmp_path, *"abcd"), tmp_path / "out", scripted.unloadable, actors=1)
    assert any(tmp_path.glob("tried-*"))


def test_an_actor_that_cannot_load_later_stops_nothing(tmp_path: Path) -> None:
    config = sweep_of(tmp_path, *map(str, range(8)), "die once", *map(str, range(20)))
    log = io.StringIO()
    assert drive(config, tmp_path / "out", scripted.loadable_twice, log=log).errors == 0
    assert any(tmp_path.glob("tried-*"))
    assert "an actor could not load the model: model 'nowhere' can't be found" in log.getvalue()
    assert_undisturbed(config, tmp_path / "out")


@pytest.mark.parametrize(
    ("prompts", "most", "message"),
    [
        (["block", *"bcdefg"], 0, r"5 failures in a row, the last: .*can't be written to"),
        (["raise"] * 20, 1, "10 prompts failed and none worked, the last: RuntimeError: no such luck"),
        ([*"good", "broken later", *map(str, range(100))], 0.5, "had worked now fails too: .*the machine is broken"),
    ],
)
def test_what_only_fails_stops_the_sweep(tmp_path: Path, prompts: list[str], most: float, message: str) -> None:
    config = sweep_of(tmp_path, *prompts)
    with pytest.raises(SweepStopped, match=message):
        drive(config, tmp_path / "out", actors=1)
    assert (tmp_path / "out" / "generations").exists() == (most > 0)
    assert most in (0, 1) or len(survey(open_store(tmp_path / "out")).done) < most * count_runs(config)


def test_what_does_not_fit_is_asked_for_once(tmp_path: Path) -> None:
    config = sweep_of(tmp_path, *["hungry"] * 24, modes=["normal"])
    drive(config, tmp_path / "out", rows=8, actors=1)
    assert_undisturbed(config, tmp_path / "out")
    assert len(list((tmp_path / "out" / "generations").iterdir())) == 12  # two at a time
