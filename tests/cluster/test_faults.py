"""Faults to expect on preemptible machines, with real processes: no run is lost, and none lands twice."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import scripted
from byte_model import save_byte_model
from driving import (
    actor_pids,
    alone,
    assert_complete,
    assert_same,
    assert_undisturbed,
    drive,
    is_alive,
    look_here,
    read_both,
    wait_until,
)
from scripted import sweep_of

from cluster.actor import model_generator
from eexit.errors import SweepStopped
from eexit.generator import ModelGenerator
from eexit.plan.runs import count_runs, plan_runs
from eexit.results.store.folder import open_store
from eexit.results.store.landing import land, survey, tally_of

pytestmark = pytest.mark.slow
KILLS = 4
N_SHARDS = 30  # more than land while a loaded machine gets round to a kill
DRIVE = Path(__file__).parents[1] / "support" / "drive_script.py"


@contextmanager
def meanwhile(action: Callable[[], None]) -> Iterator[None]:
    """Do something in a thread, and see it through."""
    failures: list[BaseException] = []

    def act() -> None:
        try:
            action()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    yield
    thread.join()
    if failures:
        raise failures[0]


def kill_actors(folder: Path, out: Path, times: int) -> None:
    """Kill one living actor after another, each once something more has landed."""
    landed_before = 0
    for _ in range(times):
        generations = out / "generations"
        wait_until(lambda: len(list(generations.glob("*.parquet"))) > landed_before)  # noqa: B023
        landed_before = len(list(generations.glob("*.parquet")))
        wait_until(lambda: any(map(is_alive, actor_pids(folder))))
        os.kill(next(filter(is_alive, actor_pids(folder))), signal.SIGKILL)


@pytest.mark.usefixtures("local_ray")
def test_actors_killed_again_and_again_are_replaced_and_nothing_is_lost(tmp_path: Path) -> None:
    config = sweep_of(tmp_path, *["sleep 0.02"] * 40)
    out = tmp_path / "out"
    with meanwhile(lambda: kill_actors(tmp_path, out, KILLS)):
        tally = drive(config, out)
    assert len(actor_pids(tmp_path)) >= 2 + KILLS - 1
    assert tally.errors == 0
    assert_undisturbed(config, out)


@pytest.mark.usefixtures("local_ray")
def test_a_real_model_gives_the_same_rows_here_with_3_actors_and_with_2_one_of_them_killed(tmp_path: Path) -> None:
    model = tmp_path / "model"
    save_byte_model(model)
    config = sweep_of(model, *(f"prompt {n}" for n in range(16)), max_new_tokens=12, dtype="float32", exit_every=2)
    tallies = [drive(config, tmp_path / "3", model_generator, actors=3, cpus=0.5, look=look_here)]

    earlier = set(children_named("SweepActor"))

    def kill() -> None:  # at once when something has landed, since a fast machine may not be long about the rest
        wait_until(lambda: bool(set(children_named("SweepActor")) - earlier))
        victim = (set(children_named("SweepActor")) - earlier).pop()
        wait_until(lambda: any((tmp_path / "2" / "generations").glob("*.parquet")))
        os.kill(victim, signal.SIGKILL)

    with meanwhile(kill):
        tallies.append(drive(config, tmp_path / "2", model_generator, actors=2, look=look_here))
    runs = list(plan_runs(config))
    here = ModelGenerator(config, "cpu").generate(runs)
    land(open_store(tmp_path / "here"), runs, here)
    assert set(tallies) == {tally_of(here.generations)}
    assert tallies[0].errors == 0
    generations, tokens = read_both(tmp_path / "here")
    for other in ("2", "3"):
        other_generations, other_tokens = read_both(tmp_path / other)
        assert_same(generations, other_generations, ["run_id"])
        assert_same(tokens, other_tokens, ["run_id", "position"])


def children_named(name: str) -> list[int]:
    """Processes below this one that call themselves so, as Ray's actors do."""
    lines = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    parents = {int(line.split()[0]): (int(line.split()[1]), line) for line in lines.splitlines()}

    def is_ours(pid: int) -> bool:
        while pid in parents and pid != os.getpid():
            pid = parents[pid][0]
        return pid == os.getpid()

    return [pid for pid, (_, line) in parents.items() if f"ray::{name}" in line and is_ours(pid)]


def test_a_driver_that_is_killed_goes_on_without_orphans_or_temporary_files(
    tmp_path: Path, ray_environment: dict[str, str]
) -> None:
    out = tmp_path / "out"
    config = sweep_of(tmp_path, *["sleep 0.05"] * N_SHARDS)
    command = [sys.executable, str(DRIVE), str(tmp_path), str(out), str(N_SHARDS)]
    environment = {**os.environ, **ray_environment}
    driver = subprocess.Popen(command, env=environment)
    wait_until(lambda: len(list((out / "generations").glob("*.parquet"))) >= 2)
    driver.kill()
    driver.wait()
    wait_until(lambda: not any(map(is_alive, actor_pids(tmp_path))))  # no orphans
    assert len(list((out / "generations").glob("*.parquet"))) < N_SHARDS
    n_landed = len(survey(open_store(out)).done)
    done_before = {path.name for path in tmp_path.glob("did-*")}
    subprocess.run(command, env=environment, check=True, timeout=60)
    assert_undisturbed(config, out)
    assert len({path.name for path in tmp_path.glob("did-*")} - done_before) <= count_runs(config) - n_landed


@pytest.mark.usefixtures("local_ray")
def test_a_run_that_hangs_becomes_the_one_error_row(tmp_path: Path) -> None:
    config = sweep_of(tmp_path, "one", "two", "hang", "four", "five", modes=["normal"])
    drive(config, tmp_path / "out", rows=3, timeout=8)  # in which the others move on a busy machine too
    errors = alone(assert_complete(config, tmp_path / "out"), "hang")
    assert errors.error.item() == "timed out: not done after 8 seconds (--timeout)"
    wait_until(lambda: sum(map(is_alive, actor_pids(tmp_path))) == 0)


@pytest.mark.usefixtures("local_ray")
def test_a_timeout_is_no_business_of_runs_that_move(tmp_path: Path) -> None:
    config = sweep_of(tmp_path, *["sleep 0.5"] * 8, modes=["normal"])
    drive(config, tmp_path / "out", rows=8, timeout=3, actors=1)  # 4 seconds in all
    assert len(actor_pids(tmp_path)) == 1
    assert_undisturbed(config, tmp_path / "out")


@pytest.mark.usefixtures("local_ray")
def test_an_actor_that_freezes_while_it_loads_is_replaced(tmp_path: Path) -> None:
    frozen: list[int] = []

    def freeze() -> None:
        wait_until(lambda: any(tmp_path.glob("slow/*")))
        frozen.append(int(next(tmp_path.glob("slow/*")).name))
        os.kill(frozen[0], signal.SIGSTOP)

    config = sweep_of(tmp_path, *"abcd")
    with meanwhile(freeze):
        drive(config, tmp_path / "out", scripted.slow_to_load_once, actors=1, timeout=10)
    assert_undisturbed(config, tmp_path / "out")
    wait_until(lambda: not is_alive(frozen[0]))


@pytest.mark.usefixtures("local_ray")
def test_actors_that_never_end_loading_stop_the_sweep(tmp_path: Path) -> None:
    reason = (
        r"5 failures in a row, the last: an actor could not load the model: timed out: .* 0.001 seconds \(--timeout\)"
    )
    with pytest.raises(SweepStopped, match=reason):
        drive(sweep_of(tmp_path, *"abcd"), tmp_path / "out", scripted.slow_to_load, actors=1, timeout=0.001)


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("prompt", ["hungry", "starved"])
def test_a_shard_that_is_out_of_memory_is_halved(tmp_path: Path, prompt: str) -> None:
    config = sweep_of(tmp_path, "one", "two", prompt, "four", "five", "six", modes=["normal"])
    assert drive(config, tmp_path / "out", rows=6, actors=1).errors == 0
    assert_undisturbed(config, tmp_path / "out")


@pytest.mark.usefixtures("local_ray")
def test_what_does_not_fit_is_asked_for_once(tmp_path: Path) -> None:
    config = sweep_of(tmp_path, *["hungry"] * 24, modes=["normal"])
    drive(config, tmp_path / "out", rows=8, actors=1)
    assert_undisturbed(config, tmp_path / "out")
    assert len(list((tmp_path / "out" / "generations").iterdir())) == 12  # two at a time


@pytest.mark.usefixtures("local_ray")
def test_many_bad_prompts_next_to_each_other_stop_nothing(tmp_path: Path) -> None:
    prompts = [f"good {n}" for n in range(4)] + ["raise"] * 25 + ["last"]
    config = sweep_of(tmp_path, *prompts, modes=["normal"])
    drive(config, tmp_path / "out", rows=4)
    assert len(alone(assert_complete(config, tmp_path / "out"), "raise")) == 25


@pytest.mark.usefixtures("local_ray")
def test_prompts_that_kill_their_process_next_to_each_other_stop_nothing(tmp_path: Path) -> None:
    config = sweep_of(tmp_path, *["die"] * 4, *map(str, range(4)), modes=["normal"])
    drive(config, tmp_path / "out", rows=2)
    assert len(alone(assert_complete(config, tmp_path / "out"), "die")) == 4


@pytest.mark.usefixtures("local_ray")
def test_a_machine_that_breaks_stops_the_sweep_and_leaves_the_grid(tmp_path: Path) -> None:
    config = sweep_of(tmp_path, *(f"good {n}" for n in range(4)), "broken later", *map(str, range(100)))
    out = tmp_path / "out"
    with pytest.raises(SweepStopped, match="a run that had worked now fails too: RuntimeError: the machine is broken"):
        drive(config, out, rows=9, actors=1)
    (tmp_path / "broken").unlink()
    repaired = sweep_of(tmp_path, *(p.prompt for p in config.prompts))
    assert len(survey(open_store(out)).done) < 0.5 * count_runs(repaired)


@pytest.mark.usefixtures("local_ray")
def test_writes_cut_in_half_stop_the_sweep_and_show_nothing_partial(tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = sweep_of(tmp_path, *(f"good {n}" for n in range(4)), "quota once", *map(str, range(30)))
    with pytest.raises(SweepStopped, match=r"5 failures in a row, the last: .*can't be written to: .*File too large"):
        drive(config, out, actors=1)
    files = [path for folder in ("generations", "tokens") for path in (out / folder).iterdir()]
    assert all(pq.ParquetFile(path).read().num_rows for path in files)  # whole, each of them
    assert 0 < len(survey(open_store(out)).done) < count_runs(config)
    drive(config, out)  # other processes, without the quota
    assert_undisturbed(config, out)


@pytest.mark.usefixtures("local_ray")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_stops_the_sweep_which_goes_on_once_there_is_room(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(out)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this place mounts nothing")
    try:
        config = sweep_of(tmp_path, *(f"prompt {n}" for n in range(40)))
        with pytest.raises(SweepStopped, match=r"5 failures in a row, .*No space left"):
            drive(config, out)
        assert not [path.name for path in (out / "generations").iterdir() if path.suffix != ".parquet"]
        assert 0 < len(survey(open_store(out)).done) < count_runs(config)
        subprocess.run(["mount", "-o", "remount,size=20m", str(out)], check=True)
        drive(config, out)
        assert_undisturbed(config, out)
    finally:
        subprocess.run(["umount", "-l", str(out)], check=True)
