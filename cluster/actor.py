"""The sweep's actor: a process, perhaps on another machine, that holds a loaded generator and commits its results.

It is a plain class, which the driver turns into a Ray actor. It writes Parquet files and returns only counts.
"""

import gc
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

import ray
from ray.util.metrics import Counter, Gauge, Histogram

from cluster.custom_exits import CustomExits
from eexit.errors import UsageError
from eexit.output.events import log, log_to_stderr
from eexit.plan.runs import Run
from eexit.plan.sweep_config import SweepConfig
from eexit.results.layout import MANIFEST
from eexit.results.shard_tables import Generator, ShardTables
from eexit.results.store.commit import CommitError, RunCounts, shard_name
from eexit.results.store.folder import open_store
from eexit.results.store.lease import is_fenced
from eexit.sweeps.shard_runner import ShardProgress, ShardRunner

# Makes a generator for a sweep on a device: auto, cpu, cuda, mps or balanced, which is all GPUs of the process.
MakeGenerator = Callable[[SweepConfig, str], Generator]
BUCKET_SECONDS = [0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000]


class ActorMetrics:
    """Prometheus metrics of an actor since its start; Ray serves them at the node's endpoint, prefixed with `ray_`."""

    def __init__(self) -> None:
        self.runs = Counter("eexit_runs", "committed runs, errors included")
        self.errors = Counter("eexit_errors", "runs committed as errors")
        self.tokens = Counter("eexit_tokens", "generated tokens, committed or not")
        self.shard_seconds = Histogram(
            "eexit_shard_seconds", "seconds from a shard's start to its commit", BUCKET_SECONDS
        )
        self.runs_in_flight = Gauge("eexit_runs_in_flight", "runs of the current shard")


def model_generator(config: SweepConfig, device: str) -> Generator:
    """Load the model of `config`, with one thread per CPU of the actor and the actor's share of the GPU's memory.

    Log the seconds, and the bytes of a layer's weights and of the lm_head's. Set torch's number of threads.
    """
    began = time.monotonic()
    gc.disable()  # these imports create 400,000 lasting objects, whose garbage collection takes a second
    import torch  # neither the driver nor actors with another generator need it

    from eexit.sweeps.generator import ModelGenerator

    gc.freeze()
    gc.enable()
    assigned = ray.get_runtime_context().get_assigned_resources()
    torch.set_num_threads(max(1, int(assigned.get("CPU", 1))))
    generator = ModelGenerator(config, device, memory_share=min(1.0, assigned.get("GPU", 1.0)))
    layer, head = int(generator.unit_costs.weight_bytes_L.max()), generator.unit_costs.head_weight_bytes
    log("loaded", seconds=round(time.monotonic() - began, 3), layer_weight_bytes=layer, head_weight_bytes=head)
    return generator


class SweepActor:
    """Actor that holds a loaded model: `do` executes one shard, while another thread answers calls of `progress`."""

    def __init__(
        self, make_generator: MakeGenerator, config: SweepConfig, out: str, device: str, lease: str, token: str
    ) -> None:
        """Set up an actor; the model is loaded later.

        Args:
            lease: Token of the driver's lease.
            token: Token of this actor. The driver bars an actor from committing by fencing its token.
        """
        self._make_generator, self._config, self._device = make_generator, config, device
        self._store, self._lease, self._token = open_store(out), lease, token
        self._metrics, self._rows = ActorMetrics(), 0
        self._runner: ShardRunner | None = None
        log_to_stderr()

    def load(self, custom: CustomExits) -> None:
        """Load the generator. An exception in the constructor would reach the driver as text only."""
        custom.register()
        if not self._store.has(MANIFEST):
            node = ray.util.get_node_ip_address()
            raise UsageError(
                f"node {node} has no {self._store.root}: give --out a folder that all nodes share, or a URI"
            )
        generator = self._make_generator(self._config, device_here(self._device))
        self._runner = ShardRunner(generator, self._store, self._refuse_if_fenced, self._end_if_broken, self._count)

    def do(self, runs: Sequence[Run]) -> RunCounts:
        """Execute a shard and commit its results. Raise `CommitError` if the results can't be written."""
        began = time.monotonic()
        with self._at_work(runs) as runner:
            tally = runner.do(runs)
        seconds, ids = time.monotonic() - began, [run.run_id for run in runs]
        self._metrics.runs.inc(tally.runs)
        if tally.errors:
            self._metrics.errors.inc(tally.errors)
        self._metrics.shard_seconds.observe(seconds)
        log("committed", shard=shard_name(runs), seconds=round(seconds, 3), **asdict(tally), run_ids=ids)
        return tally

    def rehearse(self, runs: Sequence[Run]) -> RunCounts:
        """Run committed runs again without committing their results, to test if they still succeed."""
        with self._at_work(runs) as runner:
            return runner.rehearse(runs)

    def progress(self) -> ShardProgress:
        self._metrics.runs_in_flight.set(self._rows)  # Ray shows a gauge for a few seconds only
        return self._runner.in_flight if self._runner else ShardProgress()

    @contextmanager
    def _at_work(self, runs: Sequence[Run]) -> Iterator[ShardRunner]:
        assert self._runner, "it is loaded first"
        self._rows = len(runs)
        self._metrics.runs_in_flight.set(self._rows)
        try:
            yield self._runner
        finally:
            self._rows = 0
            self._metrics.runs_in_flight.set(0)

    def _count(self, tokens: int) -> None:
        if tokens:
            self._metrics.tokens.inc(tokens)

    def _end_if_broken(self, results: ShardTables) -> None:
        """End this process if a broken device caused errors and would cause more; the driver replaces the actor."""
        if results.generations["error"].null_count < len(results.generations) and _device_is_broken():
            log("the device is broken", logging.ERROR, run_ids=results.generations["run_id"].to_pylist())
            os._exit(1)

    def _refuse_if_fenced(self) -> None:
        try:
            fenced = is_fenced(self._store, self._lease, self._token)
        except OSError as error:
            raise CommitError(f"{self._store.root} can't be read: {error}") from error
        if fenced:
            raise CommitError(f"{self._store.root} has another driver now, or none, or this actor was given up")


def device_here(device: str) -> str:
    """Return `device` or, for auto and cuda, the device that the actor's resources allow."""
    if device not in ("auto", "cuda"):
        return device
    if n_gpus := len(ray.get_gpu_ids()):
        return "cuda" if n_gpus == 1 else "balanced"
    if device == "cuda":
        return device
    # An actor without GPUs still has access to all, and must not use one. Ray does not count Apple GPUs.
    return "auto" if sys.platform == "darwin" else "cpu"


def auto_dtype(config: SweepConfig, device: str) -> str:
    """Return the name of the dtype to which `--dtype auto` resolves on the actor's device."""
    from eexit.model.loading import choose_device, choose_dtype  # the driver needs no torch
    from eexit.model.quantization import dtype_name

    return dtype_name(choose_dtype(config.dtype, choose_device(device_here(device)), config.quantize))


def _device_is_broken() -> bool:
    """Return True if this process's CUDA context is permanently unusable, as after some errors."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
        torch.zeros(1, device="cuda").item()
    except torch.OutOfMemoryError:
        return False
    except RuntimeError:
        return True
    return False
