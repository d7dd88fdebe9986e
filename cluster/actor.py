"""What runs in a process of its own, perhaps on another machine: one loaded generator and the landing of its results.

A plain class; the driver makes it a Ray actor. No results leave it but as Parquet; it answers with counts.
"""

import sys
from collections.abc import Callable, Sequence

import ray

from cluster import manifest
from cluster.landing import Tally, land
from cluster.store import open_store
from eexit.config import SweepConfig, UsageError
from eexit.generator import Generator
from eexit.plan import Run

# Loads a generator; the second argument is the device: auto, cpu, cuda or mps.
MakeGenerator = Callable[[SweepConfig, str], Generator]


def model_generator(config: SweepConfig, device: str) -> Generator:
    """The real one: the model of `config`, loaded, with as many threads as its actor has CPUs."""
    import torch  # the driver and actors with another generator do without

    from eexit.model_generator import ModelGenerator

    cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
    torch.set_num_threads(max(1, int(cpus)))
    return ModelGenerator(config, device)


class SweepActor:
    """Holds one generator. `do` is called with one shard at a time, `progress` meanwhile from a thread of its own."""

    def __init__(self, make_generator: MakeGenerator, config: SweepConfig, out: str, device: str) -> None:
        self._make_generator = make_generator
        self._config = config
        self._device = device
        self._store = open_store(out)
        self._in_flight = 0

    def load(self) -> None:
        """Load the generator. Not in the constructor, whose exceptions Ray passes on as text alone."""
        if not self._store.has(manifest.NAME):
            node = ray.util.get_node_ip_address()
            raise UsageError(
                f"node {node} does not see {self._store.root}: give --out a folder that all nodes share, or a URI"
            )
        self._generator = self._make_generator(self._config, self._device_here())

    def do(self, runs: Sequence[Run]) -> Tally:
        """Do a shard and land it. Raises `LandingError` if its results can't be written."""
        self._in_flight = 0
        try:
            return land(self._store, runs, self._generator.generate(runs, self._count))
        finally:
            self._in_flight = 0

    def progress(self) -> int:
        """Tokens made in the shard at hand, which has not landed yet."""
        return self._in_flight

    def _count(self, tokens: int) -> None:
        self._in_flight += tokens

    def _device_here(self) -> str:
        if self._device != "auto":
            return self._device
        if ray.get_gpu_ids():
            return "cuda"
        # An actor that was given no GPU still sees all of them, and must not take one. Ray doesn't count Apple's.
        return "auto" if sys.platform == "darwin" else "cpu"
