"""How many actors, and what each of them takes, from what a job asks for and what the cluster's nodes have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.job import SweepJob
from eexit.config import UsageError

CPUS_PER_ACTOR = 8


@dataclass(frozen=True)
class Pool:
    """Actors wanted, and the resources of each. More than fit are no fault: they come when there is room."""

    actors: int
    cpus: int
    gpus: float


def plan_pool(job: SweepJob, nodes: Sequence[Mapping[str, float]]) -> Pool:
    """`nodes`: the resources of each node, as Ray names them. Raises `UsageError` for a device that isn't there."""
    gpus = sum(node.get("GPU", 0) for node in nodes)
    wants_gpu = job.device == "cuda" or (job.device == "auto" and gpus > 0)
    per_actor = job.gpus_per_actor if job.gpus_per_actor is not None else float(wants_gpu)
    if job.device == "cuda" and not per_actor:
        raise UsageError("--device cuda needs GPUs: leave out --gpus-per-actor 0")
    if job.device == "cuda" and not gpus and job.gpus_per_actor is None:
        raise UsageError("--device cuda, but the cluster has no GPU: use --device cpu, or add a node with one")
    if per_actor:
        return Pool(job.actors or max(1, int(gpus / per_actor)), job.cpus_per_actor or 1, per_actor)
    return _cpu_pool(job, [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1] or [1])


def _cpu_pool(job: SweepJob, cpus: Sequence[int]) -> Pool:
    if job.cpus_per_actor:
        each = job.cpus_per_actor
    elif job.actors:
        each = max(1, min(sum(cpus) // job.actors, *cpus))
    else:
        # The smallest node's share, so that every node can hold a whole number of actors.
        each = min(node // max(1, node // CPUS_PER_ACTOR) for node in cpus)
    return Pool(job.actors or max(1, sum(node // each for node in cpus)), each, 0)
