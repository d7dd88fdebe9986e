"""A sweep in this process: one loaded model executes all shards, one after the other."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from transformers import PreTrainedModel

from eexit.errors import SweepStopped
from eexit.model.chat import Tokenizer
from eexit.model.loading import choose_device, choose_dtype
from eexit.model.quantization import dtype_name
from eexit.output.progress import Display
from eexit.output.text import pluralize
from eexit.plan.artefact_check import refuse_misfit
from eexit.plan.exit_layers import resolve_exitable_layers
from eexit.plan.model_description import describe_loaded
from eexit.plan.model_inspection import MemoryEstimate, facts_here
from eexit.plan.runs import count_runs, plan_runs
from eexit.plan.sweep_config import AUTO_DTYPE, SweepConfig
from eexit.results.layout import MANIFEST
from eexit.results.shard_tables import Generator
from eexit.results.store.commit import CommitError, RunCounts
from eexit.results.store.extend import stored_config
from eexit.results.store.folder import open_store
from eexit.results.store.manifest import put_manifest_back, refuse_other_dtype
from eexit.sweeps.arguments import SweepSpec
from eexit.sweeps.forecast import forecast_lines
from eexit.sweeps.generator import ModelGenerator
from eexit.sweeps.prepare import PendingSweep, manifest_for, prepare_store, read_held, run_pending
from eexit.sweeps.retry import failure_of
from eexit.sweeps.shard_queue import ShardQueue
from eexit.sweeps.shard_runner import ShardRunner, sweep_progress
from eexit.sweeps.shards import cut
from eexit.sweeps.summary.sweep_summary import SweepSummary

SECONDS_BETWEEN_UPDATES: Final = 1.0
Loaded = tuple[PreTrainedModel, Tokenizer]


def sweep_here(asked: SweepSpec, location: str, display: Display, loaded: Loaded | None = None) -> SweepSummary:
    """Execute all runs of a sweep that are not committed in `location`, a path or URI.

    Without `loaded`, a model and its tokenizer, the sweep's model is loaded if any run remains. Raise `UsageError` for
    invalid input, and `SweepStopped` when continuing would only fail.
    """
    store = open_store(location)
    held = read_held(store, asked.config, asked.out, display.say)
    config = stored_config(store, held).model_copy(update={"dtype": asked.config.dtype}) if held else asked.config
    if loaded is None:
        display.say("inspecting the model")
    model, exitable_layers, memory = _facts(config, asked.rows_per_shard, loaded)
    dtype: str = config.dtype
    if dtype == AUTO_DTYPE:
        dtype = dtype_name(choose_dtype(dtype, choose_device(asked.device), config.quantize))
        if held:
            refuse_other_dtype(store, held.config["dtype"], dtype)
    manifest = manifest_for(store, held, asked.config, model, exitable_layers, dtype)

    def do(left: PendingSweep) -> RunCounts:
        for name, text in forecast_lines(left.config, asked.rows_per_shard, model, memory, location).items():
            display.say(f"{name}: {text}")
        if loaded is None:
            display.say("loading the model")
        return _do(left, ModelGenerator(left.config, asked.device, loaded=loaded), asked, display)

    return run_pending(manifest, location, asked.out, display, do)


def _facts(
    config: SweepConfig, rows: int, loaded: Loaded | None
) -> tuple[Mapping[str, Any], Sequence[int], MemoryEstimate | None]:
    """Return the model's description, its exitable layers, and the memory of a model that is yet to be loaded."""
    if loaded is None:
        return facts_here(config, rows)
    model = asdict(describe_loaded(*loaded))
    layers = resolve_exitable_layers(config, model["n_layers"])
    refuse_misfit(config, model, layers)
    return model, layers, None


def _do(left: PendingSweep, generator: Generator, asked: SweepSpec, display: Display) -> RunCounts:
    n_planned, n_done = count_runs(left.config), prepare_store(left, asked.out, display)
    shards = cut(plan_runs(left.config), left.found.done, asked.rows_per_shard)
    queue = ShardQueue(left.store, left.config, left.lease, shards, n_planned - n_done, display.say)
    manifest, updated = left.store.read(MANIFEST), time.monotonic()

    def show(last: bool = False) -> None:
        most = left.config.max_new_tokens
        display.show(sweep_progress(n_planned, n_done, queue.tally, runner.in_flight, most), last)

    def update_display(tokens: int) -> None:
        """Update the display about once a second while a shard is executed."""
        nonlocal updated
        if time.monotonic() - updated > SECONDS_BETWEEN_UPDATES:
            updated = time.monotonic()
            show()

    def refuse() -> None:
        left.lease.check()
        put_manifest_back(left.store, manifest, display.say)

    runner = ShardRunner(generator, left.store, refuse, tell=update_display)
    with display:
        display.say(f"{pluralize(n_planned - n_done, 'run')} to do")
        while shard := queue.next():
            try:
                tally = runner.rehearse(shard.runs) if shard.rehearsal else runner.do(shard.runs)
            except CommitError as error:
                queue.not_committed(shard, error)
            except SweepStopped:
                raise
            except Exception as error:  # a model may raise anything: the fault of these runs or of the environment
                queue.failed(shard, failure_of(error))
            else:
                queue.record_commit(shard, tally)
        show(last=True)
    return queue.tally
