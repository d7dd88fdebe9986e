"""The number of actors and the resources of each, from the job's settings and the cluster's nodes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cluster.sweep_job import SweepJob
from eexit.errors import UsageError
from eexit.output.text import format_bytes
from eexit.plan.model_inspection import MemoryEstimate
from eexit.plan.runs import count_runs

# An actor with one CPU waits for no threads, but is slow with few slots. On two CPUs, one actor against two:
# 27 slots 164 and 118 tokens/s, 108 slots 371 and 389, 216 slots 430 and 507 (means of two sweeps). With
# four times as many parameters, 440 runs of Qwen2.5-Coder-0.5B took 7:54 with one and 7:04 with two (one sweep).
CPUS_PER_ACTOR, RUNS_PER_ACTOR = 8, 100  # at most; at least
ACCELERATOR = "accelerator_type:"

Node = Mapping[str, float]  # a node's resources, by Ray's names


@dataclass(frozen=True)
class PoolSpec:
    """Actors of one kind and their resources; memory in bytes. Actors that don't fit now start when there is room."""

    actors: int
    cpus: float
    gpus: float
    accelerator: str | None = None
    memory: int = 0

    @property
    def each(self) -> str:
        gpus = f" and {self.gpus:g} {self.accelerator or 'GPUs'}" if self.gpus else ""
        memory = f" with {format_bytes(self.memory)} of memory" if self.memory else ""
        return f"{self.cpus:g} CPUs{gpus}{memory}"

    def __str__(self) -> str:
        return f"{self.actors} actor{'s' if self.actors > 1 else ''} of {self.each}"

    def fits(self, node: Node) -> bool:
        """Return True if the empty node would have the CPUs and GPUs of one actor; memory is not checked."""
        has_type = self.accelerator is None or f"{ACCELERATOR}{self.accelerator}" in node
        return has_type and node.get("CPU", 0) >= self.cpus and node.get("GPU", 0) >= self.gpus


def plan_pools(
    job: SweepJob, nodes: Sequence[Node], memory: MemoryEstimate | None = None, nodes_may_come: bool = True
) -> list[PoolSpec]:
    """Return a pool for each accelerator type of `job`, or one pool.

    Raise `UsageError` if a run needs more memory than any node has. Raise it if an actor fits no node, unless nodes may
    join and `job` fixes the number of actors.
    """
    most = max((node.get("memory", math.inf) for node in nodes), default=math.inf)
    if memory and memory.row > most:
        raise UsageError(
            f"a run of up to {job.config.most_new_tokens:,} new tokens may need {format_bytes(memory.row)} for keys "
            f"and values, more than any node has ({format_bytes(int(most))}): lower --max-new-tokens"
        )
    pools = [_plan_pool(job, nodes, accelerator, memory) for accelerator in job.accelerator_type or [None]]
    for pool in pools:
        if not any(map(pool.fits, nodes)) and not (job.actors and nodes_may_come):
            wanted = pool.each + (f" on {pool.accelerator}" if pool.accelerator and not pool.gpus else "")
            there = ", ".join(sorted({_describe(node) for node in nodes}))
            way_out = ", or give --actors where an autoscaler will bring it" if nodes_may_come else ""
            raise UsageError(f"no node can hold an actor of {wanted} (there is {there}): lower the request{way_out}")
    return [_with_memory(pool, nodes, memory) for pool in pools] if memory else pools


def shortages(pools: Sequence[PoolSpec], nodes: Sequence[Node], memory: MemoryEstimate | None) -> Iterator[str]:
    """Yield messages on pools that have to wait for a node, or may run out of memory."""
    for pool in pools:
        if not any(map(pool.fits, nodes)):
            yield f"no node can hold an actor of {pool.each} as yet: waiting for one to join"
        elif memory and pool.memory < memory.of_node(pool.gpus):
            yield (
                f"an actor may need {format_bytes(memory.of_node(pool.gpus))} of memory, more than any node has free: "
                "lower --rows-per-shard if it runs out"
            )


def _plan_pool(
    job: SweepJob, nodes: Sequence[Node], accelerator: str | None, memory: MemoryEstimate | None
) -> PoolSpec:
    fitting = [node for node in nodes if accelerator is None or f"{ACCELERATOR}{accelerator}" in node]
    gpus = sum(node.get("GPU", 0) for node in fitting)
    wants_gpu = job.device == "cuda" or (job.device == "auto" and (gpus > 0 or accelerator is not None))
    per_actor = job.gpus_per_actor if job.gpus_per_actor is not None else float(wants_gpu)
    if job.device == "cuda" and not per_actor:
        raise UsageError("--device cuda needs GPUs: leave out --gpus-per-actor 0")
    if per_actor:
        room = sum(int(node.get("GPU", 0) / per_actor) for node in fitting)  # an actor's GPUs are on one node
        return PoolSpec(job.actors or max(1, room), job.cpus_per_actor or 1, per_actor, accelerator)
    nodes = [node for node in fitting if node.get("CPU", 0) >= 1] or [{"CPU": 1}]
    return replace(_cpu_pool(job, nodes, memory.of_node(0) if memory else 0), accelerator=accelerator)


def _cpu_pool(job: SweepJob, nodes: Sequence[Node], memory: int) -> PoolSpec:
    cpus = [int(node["CPU"]) for node in nodes]
    if job.cpus_per_actor:
        each = job.cpus_per_actor
    elif job.actors:
        each = max(1, min(sum(cpus) // job.actors, *cpus))
    else:
        fewest_by_runs = sum(cpus) // max(1, count_runs(job.config) // RUNS_PER_ACTOR)
        fewest_by_memory = max(math.ceil(memory * node["CPU"] / (node.get("memory") or math.inf)) for node in nodes)
        wanted = min(CPUS_PER_ACTOR, max(1, fewest_by_runs, fewest_by_memory))
        # The smallest node's share, so that every node can hold a whole number of actors.
        each = min(node // max(1, node // wanted) for node in cpus)
    return PoolSpec(job.actors or max(1, sum(int(node / each) for node in cpus)), each, 0)


def _with_memory(pool: PoolSpec, nodes: Sequence[Node], memory: MemoryEstimate) -> PoolSpec:
    """Return the pool with a request for memory, so that Ray does not put too many actors on a node.

    An estimate must not prevent a sweep: an actor that needs more than any node has requests all memory of the largest
    node. If no node fits yet, none is requested: the memory of an autoscaler's new nodes may be unknown to it.
    """
    largest = max((int(node.get("memory", 0)) for node in nodes if pool.fits(node)), default=0)
    return replace(pool, memory=min(memory.of_node(pool.gpus), largest))


def _describe(node: Node) -> str:
    kinds = [name.removeprefix(ACCELERATOR) for name in node if name.startswith(ACCELERATOR)]
    gpus = f" and {node['GPU']:g} {kinds[0] if kinds else 'GPUs'}" if node.get("GPU") else ""
    return f"a node of {node.get('CPU', 0):g} CPUs{gpus}"
