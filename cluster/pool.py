"""How many actors, and what each of them takes, from what a job asks for and what the cluster's nodes have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cluster.job import SweepJob
from eexit.config import UsageError

CPUS_PER_ACTOR = 8
_ACCELERATOR = "accelerator_type:"


@dataclass(frozen=True)
class Pool:
    """Actors wanted, and the resources of each. More than fit are no fault: they come when there is room."""

    actors: int
    cpus: float
    gpus: float
    accelerator: str | None = None

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} {self.accelerator or 'GPUs'}" if self.gpus else ""
        return f"{self.actors} actor{'s' if self.actors > 1 else ''} of {self.cpus:g} CPUs{gpus}"


def plan_pools(job: SweepJob, nodes: Sequence[Mapping[str, float]]) -> list[Pool]:
    """A pool of each accelerator type that `job` names, or one pool. Raises as `plan_pool` does."""
    if not job.accelerator_type:
        return [plan_pool(job, nodes)]
    pools = []
    for accelerator in job.accelerator_type:
        fitting = [node for node in nodes if node.get(f"accelerator_type:{accelerator}")]
        if not fitting and job.actors is None:
            found = sorted({name.split(":")[1] for node in nodes for name in node if name.startswith(_ACCELERATOR)})
            raise UsageError(
                f"no node has an accelerator {accelerator!r} (there is {', '.join(found) or 'none'}): "
                "name one of those, or give --actors where an autoscaler will bring it"
            )
        pools.append(replace(plan_pool(job, fitting), accelerator=accelerator))
    return pools


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
    return Pool(job.actors or max(1, sum(int(node / each) for node in cpus)), each, 0)
