"""`python jobs/sweep.py` as users run it: to completion, repeated, with invalid input, and ended on the way."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import ray
from commands import left, without_steps
from driving import assert_same_results, land_rows
from ray_head import ROOT
from scripted import rows_of, sweep_of
from sweeping import WORK_FOR_MINUTES, below, processes_of, sweep_here, wait_for, why_it_stops

from eexit.plan.runs import plan_runs
from eexit.results.layout import REPORT
from eexit.results.shard_tables import error_results
from eexit.results.store.commit import RunCounts, commit
from eexit.results.store.folder import open_store
from eexit.sweeps.summary.sweep_summary import SweepSummary
from jobs.sweep import finish, of_chains, publish_report
from reports.page.build import side_folder

Environment = dict[str, str]
Finished = tuple[Path, str]
Process = subprocess.Popen[str]


def refused(environment: Environment, *flags: str | Path, cwd: Path | None = None) -> str:
    """Return the one line with which a sweep refuses its input, beside those on what it does."""
    done = sweep_here(environment, *flags, cwd=cwd)
    assert done.returncode == 2, done.stderr
    [line] = without_steps(done.stderr).splitlines()
    return line


def test_what_a_large_report_leaves_beside_it_is_published_too(tmp_path: Path) -> None:
    page = tmp_path / "made" / "report.html"
    for file in (page, side_folder(page) / "prompt-0.js"):
        file.parent.mkdir(parents=True)
        file.write_text(file.name)
    publish_report(page, open_store(tmp_path / "out"))
    assert left(tmp_path / "out") == ["report.data", "report.data/prompt-0.js", "report.html"]


def test_a_sweep_leaves_its_runs_a_report_and_figures_and_prints_its_table(finished: Finished) -> None:
    folder, said = finished
    generations, tokens = (pd.read_parquet(folder / "out" / table) for table in ("generations", "tokens"))
    failed = generations.status == "error"
    assert (len(generations), failed.sum(), {*generations[failed].prompt_id}) == (5 * 3, 6, {"2", "3"})
    assert tokens.groupby("run_id").token.sum().to_dict() == generations[~failed].set_index("run_id").text.to_dict()
    assert json.loads((folder / "out" / "sweep.json").read_text())["exitable_layers"] == [2, 4]
    assert "<html" in (folder / "out" / "report.html").read_text()
    figures = json.loads((folder / "new" / "figures").read_text())
    assert (figures["runs"], figures["errors"], figures["model"]["n_layers"]) == (15, 6, 7)
    assert (figures["out"], figures["report"]) == (f"{folder}/out", f"{folder}/out/report.html")
    for row in figures["configurations"]:
        assert (row["runs"], row["errors"], row["by_kind"]) == (5, 2, {})
        assert {"exit_rate", "mean_depth", "perplexity", "lcs_share", "n_tokens"} <= row["estimates"].keys()
    rows = {line.split()[0]: line.split()[1:3] for line in said.splitlines() if "%" in line}
    assert rows == {key: ["5", "2"] for key in ("normal", "unfrozen/kl/1", "frozen_residual/kl/1")}, "runs, and failed"
    reading = f'import pandas as pd; pd.read_parquet("{folder}/out/generations")'
    assert said.splitlines()[-2:] == [reading, f"{folder}/out/report.html"]
    progress = (folder / "progress.txt").read_text()
    assert progress.startswith("importing Ray\ninspecting the model\nstarting Ray\n15 runs to do, ")
    assert "\nloading the model on 1 actor\n" in progress
    (last,) = [line for line in progress.splitlines() if line.startswith("72 tokens · 15/15 runs · ")]
    assert " · 6 errors · " in last


@pytest.mark.parametrize(
    ("thinking", "closed", "line"),
    [
        (("<t>", "</t>"), None, "no text has <t> or </t>, .* give --thinking the marks"),
        (("<t>", "</t>"), False, "2 of 2 chains of thought never closed, .*: raise --max-new-tokens"),
        (("<t>", "</t>"), True, "^$"),
        (None, None, "^$"),
    ],
)
def test_chains_that_never_closed_are_told_in_a_line(tmp_path: Path, thinking: Any, closed: Any, line: str) -> None:
    config = sweep_of("a-model", "one", "two", modes=["normal"], thinking=thinking)
    store = open_store(land_rows(tmp_path / "out", config, lambda run: {"thinking_closed": closed}))
    assert re.search(line, of_chains(store, config))


@pytest.mark.parametrize(("n_done", "code", "of_all"), [(2, 0, "1 of 3 runs"), (0, 1, "all 3 runs")])
def test_the_reason_of_failed_runs_is_told(tmp_path: Path, capsys: Any, n_done: int, code: int, of_all: str) -> None:
    config = sweep_of(tmp_path, "one", "two", "three", modes=["normal"], kl_factors=())
    store, runs = open_store(tmp_path / "out"), list(plan_runs(config))
    if n_done:
        commit(store, runs[:n_done], rows_of(runs[:n_done], config))
    commit(store, runs[n_done:], error_results(runs[n_done:], config, "no such luck"))
    store.publish(REPORT, b"is there")
    summary = SweepSummary(config, store.root, {"dtype": "float32"}, "float32", n_done, 3 - n_done, RunCounts())
    assert finish(summary, store.root, None) == code
    line = "are errors, such as: no such luck; report.html#/fail lists them, and the same command tries again"
    assert capsys.readouterr().err == f"{of_all} {line}\n"


@pytest.mark.usefixtures("no_ray_yet")
def test_a_cluster_that_is_not_there_costs_no_row(finished: Finished, environment: Environment) -> None:
    folder, _ = finished
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nobody listens
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        line = refused({**environment, "RAY_ADDRESS": address}, "--config", folder / "mine.toml", "--device", "cpu")
    assert line.startswith(f"error: the cluster at RAY_ADDRESS={address} can't be joined (")
    assert len(pd.read_parquet(folder / "out" / "generations")) == 15  # the errors that it would have tried again too


@pytest.mark.slow
def test_a_ray_that_is_too_slow_to_start_is_told(environment: Environment, tiny: Path, tmp_path: Path) -> None:
    raylet = tmp_path / "raylet"
    raylet.write_text("#!/bin/sh\nexec sleep 600\n")  # never registers, for which Ray waits half a minute
    raylet.chmod(0o755)
    code = (
        "import sys\nimport ray._private.services as services\nfrom jobs import sweep\n"
        f"services.RAYLET_EXECUTABLE = {str(raylet)!r}\nsys.exit(sweep.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "--model", str(tiny), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = without_steps(done.stderr).splitlines()
    assert line.startswith("error: Ray can't be started on this machine (The current node timed out during startup.")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("ray_here")
def test_run_again_it_has_nothing_left_to_do(environment: Environment, tiny: Path, tmp_path: Path) -> None:
    arguments = ["--model", str(tiny), "--modes", "normal", "--max-new-tokens", "4", "--out", "results/here"]
    page, seen = tmp_path / "results" / "here" / "report.html", []
    for flags in ((), (), ("--quiet",)):
        done = sweep_here(environment, *arguments, *flags, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        seen.append((page.stat().st_mtime_ns, done.stdout, done.stderr))
    assert without_steps(seen[1][2]) == "nothing is left to do: 3 runs committed in results/here\n"
    assert seen[2] == (seen[0][0], seen[1][1], "")
    page.unlink()
    repaired = sweep_here(environment, *arguments, cwd=tmp_path)
    assert (repaired.returncode, repaired.stdout, page.exists()) == (0, seen[1][1], True)


@pytest.mark.usefixtures("ray_here")
def test_what_was_damaged_or_lost_is_done_again(finished: Finished, environment: Environment, tmp_path: Path) -> None:
    out = shutil.copytree(finished[0] / "out", tmp_path / "out")
    tokens = max((out / "tokens").iterdir(), key=lambda path: path.stat().st_size)
    tokens.write_bytes(tokens.read_bytes()[:-1])
    (out / "sweep.json").unlink()
    done = sweep_here(environment, "--config", finished[0] / "mine.toml", "--device", "cpu", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "holds results but no sweep.json: it is written anew" in done.stderr
    assert f"{tokens} is damaged (its checksum does not match): its runs are done again" in done.stderr
    assert_same_results(out, finished[0] / "out")


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("empty.txt", ["--modes", "foo"], "error: unknown mode 'foo': choose from normal, unfrozen, frozen_residual"),
        ("empty.txt", ["--out", "empty.txt/out"], "can't be written to"),
        ("empty.txt", ["--json", "empty.txt/a"], "--json empty.txt/a can't be written: give the name of a file"),
        ("out/sweep.json", [], "its checksum does not match"),
        ("out/report.html", [], "report.html is not a report's file: choose another --out"),
        ("out/report.data/prompt-0.js", [], "prompt-0.js is not a report's file: choose another --out"),
        ("out/tokens/notes/mine.txt", [], "tokens/notes is not one of the sweep's files"),
        ("out/generations", [], "generations is a file where a folder of results should be"),
        ("job", [], "--out out is relative, and this job's working directory is a copy that Ray removes"),
    ],
)
def test_bad_input_ends_with_one_line_and_leaves_all_as_it_was(
    environment: Environment, tiny: Path, tmp_path: Path, name: str, flags: list[str], message: str
) -> None:
    job = {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {"working_dir": "gcs://_ray_pkg_1.zip"}})}
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text('{"mine": "<html>"}')
    before, in_job = left(tmp_path), environment | (job if name == "job" else {})
    assert message in refused(in_job, "--model", tiny, "--out", "out", *flags, cwd=tmp_path)
    assert (left(tmp_path), (tmp_path / name).read_text()) == (before, '{"mine": "<html>"}')


@pytest.mark.usefixtures("no_ray_yet")
def test_bad_input_that_is_found_late_ends_ray_too(environment: Environment, tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "model")  # of which nothing is known yet
    done = sweep_here(environment, "--model", folder, "--out", tmp_path / "out", "--exit-layers", "2", "6")
    assert done.returncode == 2, done.stderr
    *steps, error = done.stderr.splitlines()
    assert error.startswith("error: exit layer 6 is not below the final layer")
    assert steps == ["importing Ray", "inspecting the model", "starting Ray"]
    assert not ray.is_initialized()
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.usefixtures("ray_here")
@pytest.mark.skipif(sys.platform == "darwin", reason="the device may be there")
def test_where_nothing_ran_nothing_is_left(environment: Environment, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    done = sweep_here(environment, "--model", tiny, "--out", tmp_path / "out", "--device", "mps")
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: --device mps is not there, or this PyTorch was built")
    assert list((tmp_path / "out").iterdir()) == []


def test_it_says_what_it_does_before_it_imports_what_takes_seconds(tiny: Path, tmp_path: Path) -> None:
    """The process ends with its first line, and prints which of the large libraries it had imported by then."""
    script = """if True:
        import os, sys, types
        from jobs.sweep import main

        def write(text):
            print(text, sorted({"ray", "torch", "transformers", "pandas"} & set(sys.modules)), flush=True)
            os._exit(0)

        sys.stderr = types.SimpleNamespace(isatty=lambda: False, write=write)
        main(sys.argv[1:])
    """
    command = [sys.executable, "-c", script, "--model", str(tiny), "--out", str(tmp_path / "out")]
    assert subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout == "importing Ray []\n"


@WORK_FOR_MINUTES
@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_it_whatever_signals_follow(at_work: Process, command: list[str], tmp_path: Path) -> None:
    """Before, a second sweep is refused, and nothing listens beyond this machine."""

    def tell() -> None:  # not by SIGTERM, whose handler Ray removes for a moment when it ends
        at_work.send_signal(signal.SIGINT)
        while at_work.poll() is None:
            time.sleep(0.1)
            at_work.send_signal(signal.SIGINT)
            at_work.send_signal(signal.SIGHUP)

    ours = [psutil.Process(at_work.pid), *psutil.Process(at_work.pid).children(recursive=True)]
    found = [it for process in ours if process.is_running() for it in process.net_connections("inet")]
    listening = {connection.laddr.ip for connection in found if connection.status == psutil.CONN_LISTEN}
    assert listening
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 2
    assert f"is in use by process {at_work.pid} on " in second.stderr
    assert why_it_stops(at_work, tell) == "interrupted"
    assert 0 < len(pd.read_parquet(tmp_path / "out" / "generations")) < 1000
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["generations", "sweep.json", "tokens"]
    assert {path.suffix for path in (tmp_path / "out").glob("*/*")} == {".parquet"}


def has_landed(out: Path) -> bool:
    return len(list((out / "generations").glob("*.parquet"))) == 20  # shards


MOMENTS: dict[str, Callable[[Process, Path], bool]] = {
    "inspecting the model": lambda process, out: bool(below(process, "model_inspection import")),
    "starting Ray": lambda process, out: bool(below(process, "gcs_server")),
    "Ray and no actor": lambda process, _: any(below(process, "RuntimeEnvAgent")) and not below(process, "SweepActor"),
    "at work": lambda process, out: any(out.glob("generations/*.parquet")),
    "ending Ray": lambda process, out: has_landed(out) and not below(process, "raylet/raylet"),
    "building the report": lambda process, out: has_landed(out) and not below(process),
}


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("moment", "by"),  # each signal at two moments or more, with those of a sweep at work
    [
        ("inspecting the model", signal.SIGINT), ("inspecting the model", signal.SIGHUP),
        ("starting Ray", signal.SIGTERM),  # which Ray handles meanwhile
        ("starting Ray", signal.SIGINT), ("Ray and no actor", signal.SIGHUP), ("at work", signal.SIGTERM),
        ("ending Ray", signal.SIGTERM), ("building the report", signal.SIGTERM),
    ],
)  # fmt: skip
def test_it_ends_as_cleanly_at_any_moment(started: Process, tmp_path: Path, moment: str, by: signal.Signals) -> None:
    wait_for(started, lambda: MOMENTS[moment](started, tmp_path / "out"))
    assert why_it_stops(started, lambda: started.send_signal(by)) == "interrupted"
    whole = ["generations", "sweep.json", "tokens"] * (moment in ("at work", "ending Ray", "building the report"))
    assert sorted(path.name for path in (tmp_path / "out").glob("*")) == whole
    assert (tmp_path / "out").exists() == bool(whole)


@pytest.mark.slow
def test_a_driver_that_is_killed_while_it_looks_at_the_model_leaves_no_process(started: Process) -> None:
    temporary = psutil.Process(started.pid).environ()["RAY_TMPDIR"]
    wait_for(started, lambda: any(child.memory_info().rss > 150e6 for child in below(started)))
    started.kill()
    started.wait()
    while any(processes_of(temporary)):
        time.sleep(0.1)


@WORK_FOR_MINUTES  # an actor may go on for seconds after its raylet has died
@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ("raylet/raylet", "the part of Ray that runs on this machine (its raylet) has died: was memory short?"),
        ("gcs/gcs_server", "the head of Ray at "),
    ],
)
def test_a_killed_part_of_its_own_ray_is_named(at_work: Process, tmp_path: Path, part: str, reason: str) -> None:
    (victim,) = below(at_work, part)
    assert why_it_stops(at_work, victim.kill).startswith(reason)
    assert not (tmp_path / "out" / "lease.json").exists()
