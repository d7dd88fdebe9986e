"""The driver's memory and speed, with a generator that does nothing, on one machine.

    python jobs/bench driver                   a million runs
    python jobs/bench driver --runs 50000      fewer
    python jobs/bench driver --overhead        Ray and landing beside the bare engine, on the demo

Megabytes are the driver process's own, at its peak, Ray and Arrow included. Resuming starts from a sweep of which every
second file is gone, in a process of its own: the seconds until its first shard is there, and until all that is left has
been found.
"""

import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from ray import cloudpickle

from cluster.actor import MakeGenerator, model_generator
from cluster.console.flags import Parser, whole
from cluster.console.sweep_flags import load_job
from cluster.shards import cut
from cluster.sweep import run_sweep
from eexit.errors import UsageError
from eexit.plan.config import Prompt, SweepConfig
from eexit.plan.model_facts import ModelFacts, aside, look_at_model
from eexit.plan.runs import Run, count_runs, plan_runs
from eexit.results.layout import GENERATIONS_FOLDER
from eexit.results.shard_tables import Generator, OnProgress, Results, run_columns
from eexit.results.store.folder import open_store
from eexit.results.store.landing import clear_debris, remove_errors, survey
from eexit.results.tables import GENERATIONS, TOKENS

DEMO = Path(__file__).parents[1] / "sweeps" / "demo.toml"
N_CONFIGURATIONS = 10
ROWS_PER_SHARD = 128
MIN_RUNS = 10 * ROWS_PER_SHARD


class Nothing:
    """A generator that does nothing: rows without tokens."""

    def __init__(self, config: SweepConfig, device: str) -> None:
        self._config = config

    def generate(self, runs: Sequence[Run], progress: OnProgress) -> Results:
        rows = [{**run_columns(run, self._config), "status": "ok", "n_tokens": 0} for run in runs]
        return Results(pa.Table.from_pylist(rows, GENERATIONS), TOKENS.empty_table())


class TimedGenerator:
    """The model's generator, which logs the seconds that each of its calls took."""

    def __init__(self, config: SweepConfig, device: str, log: Path) -> None:
        self._generator: Generator = model_generator(config, device)
        self._log = log

    def generate(self, runs: Sequence[Run], progress: OnProgress) -> Results:
        began = time.time()
        results = self._generator.generate(runs, progress)
        with self._log.open("a") as log:
            log.write(f"{began} {time.time() - began}\n")
        return results


@dataclass(frozen=True)
class Resumed:
    """Seconds until the first shard and until all of the `runs` to do were found, and what that held at its peak."""

    first: float
    whole: float
    runs: int
    megabytes: float


def main(arguments: Sequence[str]) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--actors", type=whole, default=1)
    parser.add_argument("--overhead", action="store_true")
    parser.add_argument("--max-new-tokens", default="100", help="of the demo, for --overhead")
    flags = parser.read(arguments)
    if flags.runs < MIN_RUNS:
        raise UsageError(f"--runs must be at least {MIN_RUNS}, got {flags.runs}: half of several files is found again")
    folder = Path(tempfile.mkdtemp(prefix="eexit-bench-"))
    try:
        if flags.overhead:
            print(measure_overhead(folder, flags.max_new_tokens))
        else:
            print(measure_driver(folder, flags.runs, flags.actors))
    finally:
        shutil.rmtree(folder)
    return 0


def measure_driver(folder: Path, n_runs: int, actors: int) -> str:
    config = grid(n_runs)
    n_runs = count_runs(config)
    began = time.time()
    seconds = drive(config, folder, Nothing, actors, no_model) - began
    files = sorted((folder / GENERATIONS_FOLDER).iterdir())
    for path in files[::2]:
        path.unlink()
    driving = peak_megabytes()
    resumed = aside(find_rest, n_runs, folder)
    assert 0 < resumed.runs < n_runs
    return (
        "| runs | files | runs/s | driving, MB | resuming, MB | first shard after, s | all found after, s |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
        f"| {n_runs:,} | {2 * len(files):,} | {n_runs / seconds:,.0f} | {driving:.0f} | {resumed.megabytes:.0f} | "
        f"{resumed.first:.1f} | {resumed.whole:.1f} |"
    )


def measure_overhead(folder: Path, max_new_tokens: str) -> str:
    job, _ = load_job(["--max-new-tokens", max_new_tokens], DEMO)
    log = folder / "seconds"
    ended = drive(job.config, folder / "out", lambda config, device: TimedGenerator(config, device, log), 1)
    calls = [tuple(map(float, line.split())) for line in log.read_text().splitlines()]
    engine = sum(seconds for _, seconds in calls)
    whole = ended - calls[0][0]
    return f"engine {engine:.1f} s; from its first token to the last landing {whole:.1f} s: +{whole / engine - 1:.1%}"


def drive(
    config: SweepConfig,
    out: Path,
    make_generator: MakeGenerator,
    actors: int,
    look: Callable[[SweepConfig, int], ModelFacts] = look_at_model,
) -> float:
    """Run the whole sweep; returns the time at which the last run landed, which is before Ray has ended."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # which Ray's workers don't look for in this folder
    summary = run_sweep(
        config,
        out,
        device="cpu",
        actors=actors,
        rows_per_shard=ROWS_PER_SHARD,
        make_generator=make_generator,
        look=look,
    )
    assert summary.done == summary.tally.runs == count_runs(config)
    return max(path.stat().st_mtime for path in (out / GENERATIONS_FOLDER).iterdir())


def no_model(config: SweepConfig, rows_per_shard: int) -> ModelFacts:
    return {"name": "none"}, (), None


def find_rest(n_runs: int, folder: Path) -> Resumed:
    """What a sweep does when it continues: find out what has landed, and the shards that are left."""
    config = grid(n_runs)
    began = time.monotonic()
    store = open_store(folder)
    clear_debris(store)
    found = survey(store)
    remove_errors(store, found.with_errors)
    shards = cut(plan_runs(config), found.done, ROWS_PER_SHARD)
    to_do = len(next(shards).runs)
    first = time.monotonic() - began
    to_do += sum(len(shard.runs) for shard in shards)
    return Resumed(first, time.monotonic() - began, to_do, peak_megabytes())


def grid(n_runs: int) -> SweepConfig:
    numbers = range(n_runs // N_CONFIGURATIONS)
    prompts = tuple(Prompt(id=f"{n}", prompt=f"Explain the number {n} in one sentence.") for n in numbers)
    return SweepConfig.model_validate(
        {"prompts": prompts, "modes": ["unfrozen", "frozen_residual"], "kl_factors": [0.25, 0.5, 1, 2, 4]}
    )


def peak_megabytes() -> float:
    if sys.platform == "linux":  # where the other number includes the process that started this one
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
