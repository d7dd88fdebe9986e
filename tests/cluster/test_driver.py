"""Every planned run lands exactly once, whatever happens to the processes that compute it."""

import io
from collections.abc import Sequence
from pathlib import Path

import pytest
import scripted
from driving import alone, assert_complete, assert_undisturbed, drive
from scripted import TOKENS_PER_RUN, ScriptedGenerator, sweep_of

from eexit.errors import SweepStopped, UsageError
from eexit.plan.runs import Run, count_runs
from eexit.results.shard_tables import ProgressCallback, ShardTables
from eexit.results.store.commit import RunCounts, survey
from eexit.results.store.folder import open_store


@pytest.mark.usefixtures("ray_here")
def test_invariant_6_every_run_is_there_once(tmp_path: Path) -> None:
    config = sweep_of(tmp_path, *(f"prompt {index}" for index in range(12)), seeds=(0, 1))
    log = io.StringIO()
    assert drive(config, tmp_path / "out", log=log) == RunCounts(runs=216, errors=0, tokens=216 * TOKENS_PER_RUN)
    assert_undisturbed(config, tmp_path / "out")
    assert "216/216 runs" in log.getvalue().splitlines()[-1]


@pytest.mark.usefixtures("ray_here")
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


@pytest.mark.usefixtures("ray_here")
def test_actors_that_find_no_room_hold_nothing_up(tmp_path: Path) -> None:
    config = sweep_of(tmp_path, *(f"prompt {index}" for index in range(5)))
    drive(config, tmp_path / "out", actors=4)
    assert_complete(config, tmp_path / "out")


@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize(
    ("prompts", "rows"),
    [(["one", "raise", "three", "four"], 18), ([*"0123", *["raise"] * 25, "last"], 4), (["die"] * 4 + [*"0123"], 2)],
)
def test_runs_that_fail_become_error_rows_and_their_neighbours_are_done(
    tmp_path: Path, prompts: list[str], rows: int
) -> None:
    """Also many bad prompts in a row, and prompts that kill their process."""
    config = sweep_of(tmp_path, *prompts, modes=["normal"])
    tally = drive(config, tmp_path / "out", rows=rows)
    bad = next(prompt for prompt in prompts if prompt in ("raise", "die"))
    errors = alone(assert_complete(config, tmp_path / "out"), bad)
    assert (tally.runs, tally.errors) == (len(prompts), prompts.count(bad))
    assert bad == "die" or set(errors.error) == {"RuntimeError: no such luck"}


@pytest.mark.usefixtures("local_ray")
def test_a_model_that_cannot_load_stops_the_sweep_with_its_message(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="model 'nowhere' can't be found"):
        drive(sweep_of(tmp_path, *"abcd"), tmp_path / "out", scripted.unloadable, actors=1)
    assert any(tmp_path.glob("tried-*"))


@pytest.mark.usefixtures("ray_here")
def test_a_place_that_can_no_longer_be_written_to_stops_the_sweep(tmp_path: Path) -> None:
    with pytest.raises(SweepStopped, match=r"5 failures in a row, the last: .*can't be written to"):
        drive(sweep_of(tmp_path, "block", *"bcdefg"), tmp_path / "out", actors=1)
    assert not (tmp_path / "out" / "generations").exists()


@pytest.mark.usefixtures("ray_here")
def test_a_sweep_that_only_fails_stops(tmp_path: Path) -> None:
    with pytest.raises(SweepStopped, match="10 prompts failed and none worked, the last: RuntimeError: no such luck"):
        drive(sweep_of(tmp_path, *["raise"] * 20), tmp_path / "out")


@pytest.mark.usefixtures("ray_here")
def test_what_does_not_fit_is_asked_for_once(tmp_path: Path) -> None:
    config = sweep_of(tmp_path, *["hungry"] * 24, modes=["normal"])
    drive(config, tmp_path / "out", rows=8, actors=1)
    assert_undisturbed(config, tmp_path / "out")
    assert len(list((tmp_path / "out" / "generations").iterdir())) == 12  # two at a time


@pytest.mark.usefixtures("ray_here")
def test_a_machine_that_breaks_stops_the_sweep_and_leaves_the_grid(tmp_path: Path) -> None:
    config = sweep_of(tmp_path, *(f"good {n}" for n in range(4)), "broken later", *map(str, range(100)))
    out = tmp_path / "out"
    with pytest.raises(SweepStopped, match="a run that had worked now fails too: RuntimeError: the machine is broken"):
        drive(config, out, rows=9, actors=1)
    assert len(survey(open_store(out)).done) < 0.5 * count_runs(config)
