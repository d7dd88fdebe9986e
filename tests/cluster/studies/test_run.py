"""Whatever the study: what is finished stays, whatever happens on the way, and the same command goes on."""

import json
import os
import re
import signal
import sys
from collections import Counter
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
from commands import InterruptedWhen, flip_a_bit, full_disk, here, left, success
from scripted_study import TABLE, land_nothing, main, marked
from sweeping import running, wait_for

from cluster.signals import SIGNALS
from eexit.errors import SweepStopped, UsageError
from eexit.results.layout import is_shard_file, is_temporary_file
from eexit.results.store import lease
from eexit.results.store.folder import open_store
from eexit.results.store.lease import ASSESSING, hold

SCRIPT = Path(__file__).parents[2] / "support" / "scripted_study.py"
ROOT = Path(__file__).parents[3]
HOW = ("here", "lasting", "actor", "lasting+actor")
KEPT = "the units that were finished stay in marks"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return land_nothing(tmp_path / "out")


def landed(out: Path) -> list[int]:
    found: list[int] = TABLE.read(open_store(out))["unit"].to_pylist()
    return sorted(found)


def units(out: Path, was_killed: bool = False) -> list[int]:
    """Assert that all files are whole, but what a killed process left; return the units of their rows."""
    files = (out / TABLE.name).iterdir() if (out / TABLE.name).exists() else []
    whole = [path for path in files if not (was_killed and is_temporary_file(path.name))]
    assert all(is_shard_file(path.name) for path in whole)
    assert len(landed(out)) == sum(len(pd.read_parquet(path)) for path in whole)
    return landed(out)


def twice(n_units: int) -> list[int]:
    return sorted([*range(n_units)] * 2)


@pytest.mark.usefixtures("local_ray")
def test_units_land_where_the_actor_is_a_process(out: Path) -> None:
    done = marked(out, "lasting+actor", 3)
    assert [row["unit"] for row in done.rows] == twice(3) == units(out)


@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize("how", HOW)
def test_units_land_and_the_same_command_adds_a_file_or_has_nothing_left_to_do(out: Path, how: str) -> None:
    done = marked(out, how, 3)
    assert [row["unit"] for row in done.rows] == twice(3) == units(out)
    again = marked(out, how, 3)
    assert [row["unit"] for row in again.rows] == twice(3)
    assert units(out) == sorted(twice(3) * (1 if "lasting" in how else 2))
    assert len(list((out / TABLE.name).iterdir())) == (3 if "lasting" in how else 2)
    if "lasting" in how:
        assert again.rows == done.rows
        assert [row["unit"] for row in marked(out, how, 4).rows] == twice(4)


def test_a_study_that_times_refuses_what_is_in_use_and_others_do_not(out: Path) -> None:
    with hold(open_store(out)):
        with pytest.raises(UsageError, match=r"out is in use by process \d+ on .*: wait for it, or stop it"):
            marked(out, "timing", 2)
        marked(out, "here", 2)
    with hold(open_store(out.parent), use=ASSESSING):
        marked(out, "timing", 2)  # a step of the assessment
        held, other = out.parent / ASSESSING.file, os.getppid()
        of_other = {"pid": other, "process_started": lease._process_started(other)}
        held.write_text(json.dumps({**json.loads(held.read_text()), **of_other}))
        with pytest.raises(UsageError, match=rf"is being assessed by process {other} on .*: wait for it"):
            marked(out, "timing", 2)
    assert units(out) == sorted(2 * twice(2))


@pytest.mark.parametrize(("how", "by"), [*product(HOW, [signal.SIGKILL]), *product(HOW[::3], SIGNALS)])
@pytest.mark.slow
def test_a_signal_leaves_whole_units_and_ends_it_in_one_line(out: Path, how: str, by: signal.Signals) -> None:
    is_killed, path = by is signal.SIGKILL, os.pathsep.join([str(ROOT), str(SCRIPT.parent)])
    command = [sys.executable, str(SCRIPT), str(out), how, "400", "0.05"]
    with running(command, RAY_AUTH_MODE="disabled", PYTHONPATH=path) as process:
        wait_for(process, lambda: len(landed(out)) >= 4)
        before = landed(out)
        process.send_signal(by)
        _, said = process.communicate()
    assert is_killed or (process.returncode, said.splitlines()[-2:]) == (1, ["stopped: interrupted", KEPT])
    assert "Traceback" not in said
    found = units(out, was_killed=is_killed)
    assert (len(found) >= len(before), set(Counter(found).values())) == (True, {2})
    done = marked(out, how.removesuffix("actor").removesuffix("+"), 6)
    assert [row["unit"] for row in done.rows] == twice(6)


@pytest.mark.usefixtures("no_ray_yet")  # which writes logs
@pytest.mark.parametrize("how", ["here", "lasting"])
def test_a_full_disk_is_told_in_a_line_and_the_same_command_goes_on(out: Path, how: str) -> None:
    """One file per call outgrows the disk after some units; files of their own do not fit at all."""
    with full_disk(12_000 if how == "here" else 2048):
        done = here(main, out, how, "9", "0")
    *_, stopped, kept = done.stderr.splitlines()
    assert (done.returncode, kept) == (1, KEPT)
    assert re.match(r"stopped: .*File too large", stopped)
    assert "Traceback" not in done.stderr
    found = units(out)
    assert found == twice(len(found) // 2)
    assert (0 < len(found) < 18) == (how == "here")
    success(main, out, how, "9", "0")
    assert units(out) == sorted([*found, *twice(9)])
    assert not [name for name in left(out) if "tmp" in name]


def test_a_damaged_file_is_set_aside_and_only_what_it_held_is_done_again(out: Path) -> None:
    marked(out, "lasting", 3)
    first, *others = sorted((out / TABLE.name).iterdir())
    flip_a_bit(first)
    before = {path: path.read_bytes() for path in others}
    done = success(main, out, "lasting", "3", "0")
    assert f"{TABLE.name}/{first.name} is damaged: it is now in damaged/" in done.stderr
    assert {path: path.read_bytes() for path in others} == before
    assert units(out) == twice(3)
    assert "6 rows of 3 units" in done.stdout
    again = here(main, out, "lasting", "3", "0")
    assert (again.stdout, again.stderr) == (done.stdout, "nothing is left to do: marks has all of it\n")


@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize("how", HOW)
def test_what_is_finished_stays_when_a_unit_can_not_be_done_or_its_process_dies(out: Path, how: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        marked(out, how, 3, display=InterruptedWhen(lambda progress: "unit 2" in progress.doing))
    assert units(out) == twice(2)
    (out / "refuse-3").touch()
    with pytest.raises(UsageError, match="unit 3 can't be done: leave it out"):
        marked(out, how, 4)
    n_rows = len(units(out))
    if "actor" in how:
        (out / "die-4").touch()
        (out / "refuse-3").unlink()
        with pytest.raises(SweepStopped, match="the process that did it died: "):
            marked(out, how, 5)
        assert len(units(out)) == (8 if "lasting" in how else n_rows + 8)


@pytest.mark.usefixtures("ray_here")
def test_a_changed_model_is_refused_and_no_sweep_is_none(out: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no sweep.json: give the folder of a finished sweep"):
        marked(tmp_path, "here", 1)
    with pytest.raises(UsageError, match=r"is not the one that the sweep had \(model.n_layers: 30 -> 31\)"):
        marked(out, "actor", 1, n_layers=31)
    done = success(main, out, "actor", "2", "0")
    opening, remark, *_, last = done.stderr.splitlines()
    assert opening == "marking 2 units; one actor has all 2 CPUs of a node"
    assert (remark, last) == ("one thing to know", "4 tokens · done · 0:00 left")
    assert f'pd.read_parquet("{out}/marks")' in done.stdout
