"""A sweep from Python: `run_sweep` as its docstring shows it, the input that it refuses, and its return value."""

import inspect
import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import scripted
from byte_model import save_byte_model
from commands import asked_here
from driving import assert_same, assert_undisturbed, look_here
from scripted import TOKENS_PER_RUN, rows_of, sweep_of

import eexit
from cluster.console.flags_from_config import GROUPS
from cluster.sweep import run_job, run_sweep
from cluster.sweep_job import FIELDS, SweepJob
from eexit.errors import SweepStopped, UsageError
from eexit.output.progress import NullDisplay, Progress
from eexit.plan import model_inspection
from eexit.plan.model_inspection import ModelFacts
from eexit.plan.runs import configurations, count_different_runs, plan_runs, same_for_every_seed
from eexit.plan.sweep_config import SweepConfig
from eexit.results.configuration_means import figures
from eexit.results.finished_sweep import read_finished
from eexit.results.shard_tables import Generator, error_results
from eexit.results.store.commit import RunCounts, commit
from eexit.results.store.folder import open_store
from eexit.sweeps.arguments import SweepSpec
from eexit.sweeps.summary.summary_table import closing_table
from eexit.sweeps.summary.sweep_summary import SweepSummary

README = Path(__file__).parents[2] / "jobs" / "README.md"


def example() -> str:
    """The Python of the docstring."""
    block = re.search(r"\n\n((?: {4}.*\n|\n)+)", inspect.cleandoc(run_sweep.__doc__ or ""))
    assert block
    return textwrap.dedent(block[1]).strip()


def scripted_sweep(config: SweepConfig, out: Path, **others: Any) -> SweepSummary:
    display = others.pop("display", NullDisplay())
    return run_job(SweepJob(config=config, out=str(out), **others), display, scripted.scripted, scripted.look)


@pytest.mark.usefixtures("ray_here")
def test_the_example_runs_as_it_stands_but_for_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_byte_model(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model_inspection, "call_in_subprocess", asked_here())
    said: dict[str, Any] = {}
    small = f"model={str(tmp_path / 'model')!r}, exit_every=2, max_new_tokens=4, dtype='float32', "
    exec(example().replace("], kl_factors", f"], {small}kl_factors"), said)
    sweep = said["sweep"]
    assert (sweep.out, sweep.manifest.model["n_layers"]) == (str(tmp_path / "results" / "one"), 7)
    keys = ["normal", *(f"{mode}/kl/{factor}" for mode in ("unfrozen", "frozen_residual") for factor in ("0.5", "1"))]
    assert (sweep.runs["configuration"].tolist(), len(sweep.tokens)) == (keys, 20)
    depths = pd.read_parquet(f"{sweep.out}/generations").set_index("configuration").mean_depth
    told = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert told[1:-1] == [[key, f"{depths[key]:.6f}"] for key in keys]


def look_where(auto: str) -> Callable[[SweepConfig, int], ModelFacts]:
    """Of a machine on which `--dtype auto` is this dtype."""

    def look(config: SweepConfig, rows: int) -> ModelFacts:
        model, layers, memory = scripted.look(config, rows)
        return {**model, "dtype": auto if config.dtype == "auto" else config.dtype}, layers, memory

    return look


@pytest.mark.usefixtures("ray_here")
def test_what_auto_became_is_recorded_and_a_sweep_goes_on_in_that_alone(tmp_path: Path) -> None:
    def marked(config: SweepConfig, device: str) -> Generator:
        with (tmp_path / "dtypes").open("a") as file:
            file.write(f"{config.dtype}\n")
        return scripted.scripted(config, device)

    out, config = tmp_path / "out", sweep_of(tmp_path, "one", "two", dtype="auto")

    def run(config: SweepConfig, auto: str) -> SweepSummary:
        return run_job(SweepJob(config=config, out=str(out)), NullDisplay(), marked, look_where(auto))

    summary = run(config, "bfloat16")
    held = json.loads((out / "sweep.json").read_text())
    assert (held["dtype_asked"], held["model"]["dtype"], held["config"]["dtype"]) == ("auto", "bfloat16", "bfloat16")
    assert summary.precision == "bfloat16 (--dtype auto)"
    next((out / "generations").iterdir()).unlink()
    left = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    refusal = (
        f"--out {out} holds a sweep in bfloat16, and --dtype auto is float32 where it would go on: "
        "give --dtype bfloat16, or choose another --out"
    )
    with pytest.raises(UsageError, match=f"^{re.escape(refusal)}$"):
        run(config, "float32")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")} == left
    with pytest.raises(UsageError, match=r'holds another sweep \(dtype: "bfloat16" -> "float32"\)'):
        run(config.model_copy(update={"dtype": "float32"}), "float32")
    named = config.model_copy(update={"dtype": "bfloat16"})
    run(named, "float32")
    assert {*(tmp_path / "dtypes").read_text().split()} == {"bfloat16"}
    assert_undisturbed(named, out)


def test_the_readme_shows_the_same_example() -> None:
    assert f"```python\n{example()}\n```" in README.read_text()


def test_runs_that_are_the_same_for_every_seed_count_once_in_table_and_figures(tmp_path: Path) -> None:
    """Three prompts and two seeds: one rule leaves exits to chance. A run of normal failed with the first seed only."""
    config = sweep_of(
        tmp_path, "one", "two", "three", modes=["normal", "unfrozen"], rules={"kl": [1], "fixed": [5]}, seeds=[0, 1]
    )
    store, runs = open_store(tmp_path / "out"), list(plan_runs(config))
    commit(store, runs[:1], error_results(runs[:1], config, "no"))
    depth = {"one": 0.9, "two": 0.6, "three": 0.6}
    done = rows_of(runs[1:], config, lambda run: {"mean_depth": depth[run.prompt.prompt], "correct": True})
    commit(store, runs[1:], done)
    found = figures(store, configurations(config), same_for_every_seed(config))
    counts = {row["configuration"]: (row["runs"], row["different_runs"], row["errors"]) for row in found}
    assert counts == {"normal": (6, 3, 1), "unfrozen/kl/1": (6, 6, 0), "unfrozen/fixed/5": (6, 3, 0)}
    assert [row["estimates"]["mean_depth"]["mean"] for row in found] == [pytest.approx(0.7)] * 3, "of each prompt once"
    assert sum(its[1] for its in counts.values()) == count_different_runs(config) == 12

    table = closing_table(store, configurations(config), same_for_every_seed(config))
    cells = {str(column.header): list(column.cells) for column in table.columns}
    assert (cells["runs"], cells["dif\u00adferent"], cells["failed"]) == (["6"] * 3, ["3", "6", "3"], ["1", "0", "0"])
    assert "all seeds have the same run" in str(table.caption)
    sampled = config.model_copy(update={"temperature": 1.0})
    found = figures(store, configurations(sampled), same_for_every_seed(sampled))
    assert [row["different_runs"] for row in found] == [6] * 3
    assert count_different_runs(sampled) == 18


@pytest.mark.usefixtures("ray_here")
def test_a_second_call_does_what_the_first_could_not(tmp_path: Path) -> None:
    config = sweep_of(tmp_path, "one", "raise", "three")
    first = scripted_sweep(config, tmp_path / "out")
    assert (first.done, first.errors, first.tally) == (18, 9, RunCounts(27, 9, 18 * TOKENS_PER_RUN))
    assert [(row["runs"], row["errors"]) for row in first.figures()] == [(3, 1)] * 9
    second = scripted_sweep(config, tmp_path / "out")
    assert (second.done, second.errors, second.tally) == (18, 9, RunCounts(9, 9, 0))


@pytest.mark.usefixtures("ray_here")
def test_a_sweep_that_grew_is_the_one_made_at_once(tmp_path: Path) -> None:
    """By a prompt, by parameters and a rule, by a mode, by a seed and by an exit set; what has landed stays."""
    save_byte_model(tmp_path / "model")
    asked: dict[str, Any] = {
        "modes": ["normal", "unfrozen"], "rules": {"confidence": [0.1]}, "max_new_tokens": 6, "exit_every": 2,
    }  # fmt: skip
    prompts, landed = ["one", "two"], dict[Path, bytes]()

    def swept(name: str) -> SweepSummary:
        config = sweep_of(tmp_path / "model", *prompts, **asked)
        job = SweepJob(config=config, out=str(tmp_path / name), rows_per_shard=8)
        return run_job(job, NullDisplay(), inspect=look_here)

    steps: list[dict[str, Any]] = [
        {}, {"rules": {"confidence": [0.1, 0.2]}, "kl_factors": [1]},
        {"modes": ["normal", "unfrozen", "frozen_residual"]}, {"seeds": [0, 1]}, {"exit_sets": ["all", "4"]},
    ]  # fmt: skip
    swept("grown")
    for step in steps:
        prompts, asked = ["one", "two", "three"], asked | step
        landed = {path: path.read_bytes() for path in (tmp_path / "grown").glob("*/*.parquet")}
        grown = swept("grown")
        assert {path: path.read_bytes() for path in landed} == landed
    at_once = swept("at_once")
    assert (grown.config, grown.done) == (at_once.config, at_once.done) == (at_once.config, 3 * 2 * 13)
    for table, key in (("generations", ["run_id"]), ("tokens", ["run_id", "position"])):
        grew, whole = (pd.read_parquet(tmp_path / name / table) for name in ("grown", "at_once"))
        assert_same(grew, whole, key)
    held, other = (json.loads((tmp_path / name / "sweep.json").read_text()) for name in ("grown", "at_once"))
    assert {name for name in held if held[name] != other[name]} <= {"started", "checksum"}
    assert whole.exit_layer.nunique() > 2


@pytest.mark.usefixtures("ray_here")
def test_a_sweep_that_was_interrupted_while_it_grew_goes_on_by_either_command(tmp_path: Path) -> None:
    small, large = (sweep_of(tmp_path, *prompts) for prompts in ("ab", "abcdef"))
    scripted_sweep(small, tmp_path / "out")

    class Interrupts(NullDisplay):
        def show(self, progress: Progress, last: bool = False) -> None:
            if progress.share > 0:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scripted_sweep(large, tmp_path / "out", rows_per_shard=9, display=Interrupts())
    with pytest.raises(UsageError, match="of 54 runs: finish that sweep first"):
        read_finished(str(tmp_path / "out"), ["status"])
    summary = scripted_sweep(small, tmp_path / "out")
    assert (summary.config, summary.done) == (large, 54)
    assert_undisturbed(large, tmp_path / "out")


@pytest.mark.usefixtures("ray_here")
def test_runs_that_are_lost_after_they_have_landed_stop_the_sweep(tmp_path: Path) -> None:
    config = sweep_of(tmp_path, "one", "two")

    class Thief(NullDisplay):
        def show(self, progress: Progress, last: bool = False) -> None:
            if last:
                next((tmp_path / "out" / "generations").iterdir()).unlink()

    with pytest.raises(SweepStopped, match="9 committed runs are damaged or gone"):
        scripted_sweep(config, tmp_path / "out", rows_per_shard=9, display=Thief())
    assert scripted_sweep(config, tmp_path / "out").tally.runs == 9
    assert_undisturbed(config, tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"actors": 0}, "actors must be ≥ 1, got 0 (actors in run_sweep)"),
        ({"device": "gpu"}, "unknown device 'gpu': choose from auto, cpu, cuda, mps (device in run_sweep)"),
        ({"out": "s3:/bucket/x"}, "out s3:/… is neither a path nor a URI: write s3://… (out in run_sweep)"),
    ],
)
def test_arguments_that_cannot_be_used_are_told_in_one_line(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as raised:
        run_sweep(["one"], **{"out": tmp_path / "out", **arguments})
    assert str(raised.value) == message
    assert list(tmp_path.iterdir()) == []


def test_its_arguments_are_the_flags_with_the_same_defaults_and_eexits_are_those_without_ray() -> None:
    given = {name: parameter.default for name, parameter in inspect.signature(run_sweep).parameters.items()}
    flags = {name for names in GROUPS.values() for name in names} - {"controls"} | {
        "controls_of",
        "control_modes",
        "use",
    }
    assert given.keys() - {"quiet"} == flags
    fields = {name: FIELDS[name].default for name in flags & FIELDS.keys() - {"prompts"}}
    assert {name: given[name] for name in fields} == fields
    here = inspect.signature(eexit.sweep).parameters
    on_ray_alone = SweepJob.model_fields.keys() - SweepSpec.model_fields.keys()
    assert here.keys() == given.keys() - on_ray_alone | {"tokenizer"}
    assert {name for name in here if here[name].default != given.get(name)} == {"out"}, "a folder for a while"
