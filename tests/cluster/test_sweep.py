"""A sweep from Python: it goes on, grows and is refused as a command's; its arguments and docstring."""

import inspect
import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import scripted
from byte_model import save_byte_model
from commands import InterruptedWhen
from driving import assert_same_results, assert_undisturbed, look_here
from scripted import sweep_of

import eexit
from cluster.console.flags_from_config import GROUPS
from cluster.sweep import run_job, run_sweep
from cluster.sweep_job import FIELDS, SweepJob
from eexit.errors import SweepStopped, UsageError
from eexit.output.progress import NullDisplay, Progress
from eexit.plan.model_inspection import ModelFacts
from eexit.plan.sweep_config import SweepConfig
from eexit.results.finished_sweep import read_finished
from eexit.results.shard_tables import Generator
from eexit.sweeps.arguments import SweepSpec
from eexit.sweeps.summary.sweep_summary import SweepSummary

README = Path(__file__).parents[2] / "jobs" / "README.md"
pytestmark = pytest.mark.usefixtures("ray_here")


def scripted_sweep(config: SweepConfig, out: Path, **others: Any) -> SweepSummary:
    display = others.pop("display", NullDisplay())
    return run_job(SweepJob(config=config, out=str(out), **others), display, scripted.scripted, scripted.look)


def test_what_auto_became_is_recorded_and_a_sweep_goes_on_in_that_alone(tmp_path: Path) -> None:
    def marked(config: SweepConfig, device: str) -> Generator:
        (tmp_path / f"as-{config.dtype}").touch()
        return scripted.scripted(config, device)

    out, config = tmp_path / "out", sweep_of(tmp_path, "one", "two", dtype="auto")

    def run(config: SweepConfig, auto: str) -> SweepSummary:
        """On a machine where `--dtype auto` is this dtype."""

        def look(config: SweepConfig, rows: int) -> ModelFacts:
            model, layers, memory = scripted.look(config, rows)
            return {**model, "dtype": auto if config.dtype == "auto" else config.dtype}, layers, memory

        return run_job(SweepJob(config=config, out=str(out)), NullDisplay(), marked, look)

    summary = run(config, "bfloat16")
    held = json.loads((out / "sweep.json").read_text())
    assert (held["dtype_asked"], held["model"]["dtype"], held["config"]["dtype"]) == ("auto", "bfloat16", "bfloat16")
    assert summary.precision == "bfloat16 (--dtype auto)"
    next((out / "generations").iterdir()).unlink()
    left = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    message = "holds a sweep in bfloat16, and --dtype auto is float32 where it would go on: give --dtype bfloat16, or"
    with pytest.raises(UsageError, match=message):
        run(config, "float32")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")} == left
    named = config.model_copy(update={"dtype": "bfloat16"})
    run(named, "float32")
    assert [path.name for path in tmp_path.glob("as-*")] == ["as-bfloat16"]
    assert_undisturbed(named, out)


def test_a_sweep_that_grew_is_the_one_made_at_once(tmp_path: Path) -> None:
    save_byte_model(tmp_path / "model")
    asked: dict[str, Any] = {
        "modes": ["normal", "unfrozen"], "rules": {"confidence": [0.1]}, "max_new_tokens": 6, "exit_every": 2,
    }  # fmt: skip
    prompts = ["one", "two"]

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
    assert_same_results(tmp_path / "grown", tmp_path / "at_once")
    held, other = (json.loads((tmp_path / name / "sweep.json").read_text()) for name in ("grown", "at_once"))
    assert {name for name in held if held[name] != other[name]} <= {"started", "checksum"}
    assert pd.read_parquet(tmp_path / "grown" / "tokens").exit_layer.nunique() > 2


def test_a_sweep_that_was_interrupted_while_it_grew_goes_on_by_either_command(tmp_path: Path) -> None:
    small, large = (sweep_of(tmp_path, *prompts) for prompts in ("ab", "abcdef"))
    scripted_sweep(small, tmp_path / "out")

    begun = InterruptedWhen(lambda progress: progress.share > 0)
    with pytest.raises(KeyboardInterrupt):
        scripted_sweep(large, tmp_path / "out", rows_per_shard=9, display=begun)
    with pytest.raises(UsageError, match="of 54 runs: finish that sweep first"):
        read_finished(str(tmp_path / "out"), ["status"])
    summary = scripted_sweep(small, tmp_path / "out")
    assert (summary.config, summary.done) == (large, 54)
    assert_undisturbed(large, tmp_path / "out")


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


def test_its_arguments_are_the_flags_with_the_same_defaults_and_eexits_are_those_without_ray() -> None:
    given = {name: parameter.default for name, parameter in inspect.signature(run_sweep).parameters.items()}
    flags = {name for names in GROUPS.values() for name in names} - {"controls"}
    flags |= {"controls_of", "control_modes", "use"}
    assert given.keys() - {"quiet"} == flags
    fields = {name: FIELDS[name].default for name in flags & FIELDS.keys() - {"prompts"}}
    assert {name: given[name] for name in fields} == fields
    example = re.search(r"\n\n((?: {4}.*\n|\n)+)", inspect.cleandoc(run_sweep.__doc__ or ""))
    assert example
    assert f"```python\n{textwrap.dedent(example[1]).strip()}\n```" in README.read_text(), "which is run as it stands"
    here = inspect.signature(eexit.sweep).parameters
    on_ray_alone = SweepJob.model_fields.keys() - SweepSpec.model_fields.keys()
    assert here.keys() == given.keys() - on_ray_alone | {"tokenizer"}
    assert {name for name in here if here[name].default != given.get(name)} == {"out"}, "a folder for a while"
    with pytest.raises(UsageError, match=r"^actors must be ≥ 1, got 0 \(actors in run_sweep\)$"):
        run_sweep(["one"], out="out", actors=0)
