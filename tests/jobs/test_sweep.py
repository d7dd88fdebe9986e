"""`python jobs/sweep.py` as users run it: to completion, and then repeated."""

import io
import json
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import without_steps
from full_disk import left
from ray_head import ROOT
from rich.console import Console
from scripted import rows_of, sweep_of
from sweeping import sweep_here

from eexit.plan.config import Prompt, SweepConfig
from eexit.plan.runs import configurations, plan_runs
from eexit.results.layout import REPORT
from eexit.results.shard_tables import error_results
from eexit.results.store.commit import RunCounts, commit
from eexit.results.store.folder import open_store
from eexit.sweeps.lifecycle import SweepSummary
from eexit.sweeps.summary.summary_table import kinds_table
from jobs.sweep import finish, publish_report
from reports.page.build import side_folder


def test_what_a_large_report_leaves_beside_it_is_published_too(tmp_path: Path) -> None:
    page = tmp_path / "made" / "report.html"
    beside = side_folder(page)
    beside.mkdir(parents=True)
    for file in (page, beside / "prompt-0.js"):
        file.write_text(file.name)
    publish_report(page, open_store(tmp_path / "out"))
    assert left(tmp_path / "out") == ["report.data", "report.data/prompt-0.js", "report.html"]


def test_a_sweep_leaves_all_its_runs_and_a_report(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    generations = pd.read_parquet(folder / "out" / "generations")
    assert len(generations) == 5 * 3
    errors = generations[generations.status == "error"]
    assert set(errors.prompt_id) == {"2", "3"}
    assert len(errors) == 6
    assert errors.error.str.len().gt(10).all()
    ok = generations[generations.status == "ok"]
    assert ok.n_tokens.eq(8).all()
    assert ok.prompt_token_ids.map(len).gt(0).all()
    assert ok[ok["mode"] == "normal"].lcs_share.eq(1).all()
    tokens = pd.read_parquet(folder / "out" / "tokens")
    assert tokens.groupby("run_id").token.sum().to_dict() == ok.set_index("run_id").text.to_dict()
    assert json.loads((folder / "out" / "sweep.json").read_text())["exitable_layers"] == [2, 4]
    assert "<html" in (folder / "out" / "report.html").read_text()


def test_a_sweep_ends_with_its_table_and_where_to_look(finished: tuple[Path, str]) -> None:
    folder, said = finished
    lines = said.splitlines()
    generations = pd.read_parquet(folder / "out" / "generations").query("status == 'ok'")
    for mode, key in (("normal", "normal"), ("frozen_residual", "frozen_residual/kl/1")):
        runs = generations[generations["mode"] == mode]
        assert next(line.split() for line in lines if line.split()[:1] == [key]) == [
            key,
            "5",
            "2",
            f"{1 - runs.mean_depth.mean():.1%}",
            f"{runs.disagreement.mean():.1%}",
            f"{(runs.longest_loop / runs.n_tokens).mean():.1%}",
            f"{np.exp(np.log(runs.perplexity).mean()):.4g}",
            f"{runs.tokens_until_difference.mean():.1f}",
        ]
    headings = said[: said.index("\n normal ")].split()
    for heading in (
        "layers skipped",
        "disagreement",
        "one loop",
        "perplexity",
        "same as normal until",
    ):
        assert all(word in headings for word in heading.split()), heading
    assert "runs ·" not in said
    progress = (folder / "progress.txt").read_text()
    assert progress.startswith("importing Ray\nlooking at the model\nstarting Ray\n15 runs to do, ")
    assert "\nloading the model on 1 actor\n" in progress
    assert re.search(r"^72 tokens · 15/15 runs · .* · 6 errors · ", progress, re.MULTILINE)
    assert lines[-2:] == [
        f'import pandas as pd; pd.read_parquet("{folder}/out/generations")',
        f"{folder}/out/report.html",
    ]
    reason = pd.read_parquet(folder / "out" / "generations").query("status == 'error'").error.iloc[0]
    assert progress.splitlines()[-1] == (
        f"6 of 15 runs are errors, such as: {reason}; report.html#/fail lists them, and the same command tries again"
    )


@pytest.mark.parametrize(("n_done", "code", "of_all"), [(2, 0, "1 of 3 runs"), (0, 1, "all 3 runs")])
def test_of_runs_that_failed_the_first_reason_and_the_page_that_lists_them_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], n_done: int, code: int, of_all: str
) -> None:
    config = sweep_of(tmp_path, "one", "two", "three", modes=["normal"], kl_factors=())
    store, runs = open_store(tmp_path / "out"), list(plan_runs(config))
    if n_done:
        commit(store, runs[:n_done], rows_of(runs[:n_done], config))
    commit(store, runs[n_done:], error_results(runs[n_done:], config, "no such luck"))
    store.publish(REPORT, b"is there")
    summary = SweepSummary(config, store.root, {"dtype": "float32"}, "float32", n_done, 3 - n_done, RunCounts())
    assert finish(summary, store.root, None) == code
    assert capsys.readouterr().err == (
        f"{of_all} are errors, such as: no such luck; report.html#/fail lists them, and the same command tries again\n"
    )


def test_the_summary_is_there_for_programs_too(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    figures = json.loads((folder / "new" / "figures").read_text())
    assert (figures["runs"], figures["errors"], figures["model"]["n_layers"]) == (15, 6, 7)
    assert (figures["out"], figures["report"]) == (f"{folder}/out", f"{folder}/out/report.html")
    generations = pd.read_parquet(folder / "out" / "generations").query("status == 'ok'")
    assert [(row["mode"], row["kl_factor"]) for row in figures["configurations"]] == [
        ("normal", None),
        ("unfrozen", 1.0),
        ("frozen_residual", 1.0),
    ]
    for row in figures["configurations"]:
        assert (row["runs"], row["errors"]) == (5, 2)
        expected = generations[generations["mode"] == row["mode"]]
        for name in expected.columns.intersection([*row["estimates"]]):
            # Costs of what an oracle's run would have run are null.
            its = np.exp(np.log(expected[name]).mean()) if name == "perplexity" else expected[name].mean()
            assert row["estimates"][name]["mean"] == (None if pd.isna(its) else pytest.approx(its)), name
        assert {"exit_rate", "mean_depth", "perplexity", "lcs_share", "n_tokens"} <= row["estimates"].keys()
        assert row["by_kind"] == {}  # these prompts are of none


def test_the_summary_says_what_a_setting_does_to_each_kind_of_prompt(tmp_path: Path) -> None:
    prompts = [Prompt(f"sum-{n}", f"{n}?", answer="1") for n in range(6)] + [Prompt("x", "y", answer="1", kind="odd")]
    config = SweepConfig(model="tiny", prompts=tuple(prompts), modes=("normal", "skip"), rules={"agree": ()})
    store, runs = open_store(tmp_path / "out"), list(plan_runs(config))
    right = {run.run_id: run.configuration.mode == "normal" or run.prompt.id in ("sum-1", "x") for run in runs}
    commit(store, runs, rows_of(runs, config, lambda run: {"correct": right[run.run_id]}))
    [normal, skip] = SweepSummary(config, store.root, {}, "float32", len(runs), 0, RunCounts()).figures()
    assert list(normal["by_kind"]) == list(skip["by_kind"]) == ["odd", "sum"]
    lost = skip["by_kind"]["sum"]["lost"]
    assert (lost["mean"], lost["n"]) == (pytest.approx(5 / 6), 6)
    assert 0 < lost["low"] < lost["mean"] < lost["high"] <= 1
    assert skip["by_kind"]["odd"]["lost"] == {"mean": 0.0, "low": None, "high": None, "n": 1}
    assert normal["by_kind"]["sum"]["accuracy"]["mean"] == 1.0
    assert 0 < skip["by_kind"]["sum"]["mean_depth"]["mean"] < 1
    printed = io.StringIO()
    prompts_of = [asdict(prompt) for prompt in prompts]
    Console(file=printed, width=80).print(kinds_table(store, configurations(config), prompts_of))
    rows = [line.split() for line in printed.getvalue().splitlines()]
    assert ["configuration", "odd", "sum"] in rows
    assert ["normal", "100.0%", "100.0%"] in rows
    assert ["skip/agree", "100.0%", "16.7%"] in rows
    assert kinds_table(store, configurations(config), prompts_of[:6]) is None, "of one kind"


def test_results_of_another_sweep_are_refused(finished: tuple[Path, str], environment: dict[str, str]) -> None:
    folder, _ = finished
    before = sorted(folder.rglob("*"))
    done = sweep_here(environment, "--config", folder / "mine.toml", "--temperature", "0.5")
    assert done.returncode == 2
    assert "holds another sweep (temperature: 0.0 -> 0.5)" in done.stderr
    assert sorted(folder.rglob("*")) == before


def test_the_plan_says_by_what_the_results_would_grow(finished: tuple[Path, str], environment: dict[str, str]) -> None:
    folder, _ = finished
    done = sweep_here(environment, "--dry-run", "--config", folder / "mine.toml", "--seeds", "1", "--kl-factors", "2")
    said = done.stdout.splitlines()
    assert "configurations  normal, unfrozen/kl/1, unfrozen/kl/2, frozen_residual/kl/1, frozen_residual/kl/2" in said
    assert f"out             {folder}/out, which grows by 2 configurations and 1 seed: 35 runs more" in said


def test_a_model_folder_that_changed_since_is_refused(
    finished: tuple[Path, str], environment: dict[str, str], tiny: Path
) -> None:
    folder, _ = finished
    (tiny / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    try:
        done = sweep_here(environment, "--config", folder / "mine.toml", "--device", "cpu")
    finally:
        (tiny / "chat_template.jinja").unlink()
    assert done.returncode == 2
    assert done.stderr == (
        "importing Ray\nlooking at the model\n"
        f"error: --out {folder}/out holds results of this model before its chat template changed: "
        "put that back as it was, or choose another --out\n"
    )


@pytest.mark.usefixtures("no_ray_yet")
def test_a_cluster_that_is_not_there_is_told_and_costs_no_row(
    finished: tuple[Path, str], environment: dict[str, str]
) -> None:
    folder, _ = finished
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nobody listens
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        done = sweep_here({**environment, "RAY_ADDRESS": address}, "--config", folder / "mine.toml", "--device", "cpu")
    assert done.returncode == 2
    said = without_steps(done.stderr)
    assert said.startswith(f"error: the cluster at RAY_ADDRESS={address} can't be joined (")
    assert len(said.splitlines()) == 1
    assert len(pd.read_parquet(folder / "out" / "generations")) == 15  # the errors that it would have tried again too


@pytest.mark.slow
def test_a_ray_that_is_too_slow_to_start_is_told_in_a_line(
    environment: dict[str, str], tiny: Path, tmp_path: Path
) -> None:
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
    said = without_steps(done.stderr)
    assert said.startswith("error: Ray can't be started on this machine (The current node timed out during startup.")
    assert said.endswith("): try again when the machine is less busy\n")
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("ray_here")
def test_run_again_it_has_nothing_left_to_do(
    finished: tuple[Path, str], environment: dict[str, str], tiny: Path, tmp_path: Path
) -> None:
    arguments = ["--model", str(tiny), "--modes", "normal", "--max-new-tokens", "4", "--out", "results/here"]
    first = sweep_here(environment, *arguments, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    report = (tmp_path / "results" / "here" / "report.html").stat().st_mtime_ns
    again = sweep_here(environment, *arguments, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stderr == (
        "importing Ray\nlooking at the model\nnothing is left to do: 3 runs landed in results/here\n"
    )
    quiet = sweep_here(environment, *arguments, "--quiet", cwd=tmp_path)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, again.stdout, "")
    assert (tmp_path / "results" / "here" / "report.html").stat().st_mtime_ns == report
    (tmp_path / "results" / "here" / "report.html").unlink()
    repaired = sweep_here(environment, *arguments, cwd=tmp_path)
    assert (repaired.returncode, repaired.stdout) == (0, again.stdout)
    assert "<html" in (tmp_path / "results" / "here" / "report.html").read_text()


@pytest.mark.usefixtures("ray_here")
def test_what_was_damaged_or_lost_meanwhile_is_named_and_done_again(
    finished: tuple[Path, str], environment: dict[str, str], tmp_path: Path
) -> None:
    out = shutil.copytree(finished[0] / "out", tmp_path / "out")
    before = pd.read_parquet(out / "generations").sort_values("run_id", ignore_index=True)
    tokens = max((out / "tokens").iterdir(), key=lambda path: path.stat().st_size)
    tokens.write_bytes(tokens.read_bytes()[:-1])
    (out / "sweep.json").unlink()
    done = sweep_here(environment, "--config", finished[0] / "mine.toml", "--device", "cpu", "--out", out)
    assert done.returncode == 0, done.stderr
    assert f"--out {out} holds results but no sweep.json: it is written anew, since all " in done.stderr
    assert f"{tokens} is damaged (its checksum does not match): its runs are done again" in done.stderr
    assert "Traceback" not in done.stderr
    after = pd.read_parquet(out / "generations").sort_values("run_id", ignore_index=True)
    pd.testing.assert_frame_equal(after, before)
    assert json.loads((out / "sweep.json").read_text())["exitable_layers"] == [2, 4]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sweep.json", "sweep.json is no sweep's of this version (its checksum does not match"),
        ("report.html", "report.html is not a report's file: choose another --out, or move it elsewhere"),
        ("report.data/prompt-0.js", "prompt-0.js is not a report's file: choose another --out, or move it elsewhere"),
        (
            "generations/photo.parquet",
            "photo.parquet is not one of the sweep's files, and tables can't be read with it",
        ),
        ("tokens/notes/mine.txt", "tokens/notes is not one of the sweep's files, and tables can't be read with it"),
    ],
)
def test_files_of_others_in_the_way_are_refused_before_anything_is_written(
    environment: dict[str, str], tiny: Path, tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text('{"mine": "<html>"}')
    done = sweep_here(environment, "--model", tiny, "--out", tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(without_steps(done.stderr).splitlines()) == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]
    assert (tmp_path / name).read_text() == '{"mine": "<html>"}'


@pytest.mark.usefixtures("ray_here")
def test_controls_say_what_they_follow(finished: tuple[Path, str], environment: dict[str, str], tmp_path: Path) -> None:
    folder, _ = finished
    out = tmp_path / "controlled"
    given = (
        "--config",
        folder / "mine.toml",
        "--modes",
        "unfrozen",
        "--controls-of",
        folder / "out",
        "--device",
        "cpu",
    )
    done = sweep_here(environment, *given, "--out", out)
    assert done.returncode == 0, done.stderr
    assert f"2 configurations of {folder / 'out'} have controls here, which exit as often" in done.stderr
    rows = pd.read_parquet(out / "generations").query("status == 'ok'")
    follows = rows["control_of"].fillna("nobody")
    assert dict(zip(rows["configuration"], follows, strict=True)) == {
        "unfrozen/kl/1": "nobody",
        "unfrozen/random/kl/1": "unfrozen/kl/1",
        "frozen_residual/random/kl/1": "frozen_residual/kl/1",
    }
    drawn = pd.read_parquet(out / "tokens").query("rule == 'random' and decided")
    assert (drawn["exit_prob"].map(tuple).groupby(drawn["configuration"]).nunique() == 1).all()
    assert drawn["exit_score"].isna().all()
