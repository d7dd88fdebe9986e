"""An actor that shares its node's CPUs, or its GPU, with nothing else of the cluster: to measure times, or to train."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.console import interruption
from cluster.liveness import answers
from eexit.messages.errors import UsageError

SECONDS_TO_GET_FREE = 20.0  # for what has just ended on the node to be gone
SECONDS_BETWEEN_LOOKS = 1.0

Node = Mapping[str, float]  # the resources of a node, as Ray names them


@dataclass(frozen=True)
class Room:
    """The resources of an actor that is alone: all CPUs of a node, or a whole GPU with a CPU to drive it."""

    cpus: int
    gpus: int = 0

    def __str__(self) -> str:
        return "a whole GPU and a CPU" if self.gpus else f"all {self.cpus} CPUs of a node"


def room_for(device: str, nodes: Sequence[Node]) -> Room:
    """The room for a device (auto, cpu, cuda or mps). Raises `UsageError` if no node has it."""
    has_gpu = any(node.get("GPU", 0) >= 1 and node.get("CPU", 0) >= 1 for node in nodes)
    if device == "cuda" and not has_gpu:
        raise UsageError("--device cuda needs a node with a GPU, and Ray knows of none: leave --device out")
    if has_gpu and device in ("auto", "cuda"):
        return Room(1, 1)
    # All CPUs of the largest nodes: on a larger node, the same number would not be all.
    most = int(max((node.get("CPU", 0) for node in nodes), default=0))
    if not most:
        raise UsageError("no node of this Ray has a CPU: start it with --num-cpus")
    return Room(most)


@contextmanager
def alone(actor: type, room: Room, own_ray: bool, to_do: str = "timing") -> Iterator[Any]:
    """A context with an actor of this class that has the room for itself; raises `UsageError` if it is not free.

    `own_ray` says that Ray ends soon after, so that the room need not be given back.
    """
    group = placement_group([{"CPU": room.cpus, **({"GPU": room.gpus} if room.gpus else {})}])
    handle: Any = None
    try:
        _wait_for(group, room, to_do)
        handle = ray.remote(actor).options(
            num_cpus=room.cpus,
            num_gpus=room.gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group),
        ).remote()  # fmt: skip
        yield handle
    finally:
        if handle is not None:
            ray.kill(handle)
        # It waits for the head of Ray, for ever if a signal to all processes has ended that one too.
        if not own_ray and answers(ray.get_runtime_context().gcs_address):
            remove_placement_group(group)


def _wait_for(group: Any, room: Room, to_do: str) -> None:
    end = time.monotonic() + SECONDS_TO_GET_FREE
    while not group.wait(SECONDS_BETWEEN_LOOKS):
        interruption.check()
        if time.monotonic() > end:
            free, all_ = ray.available_resources(), ray.cluster_resources()
            there = " and ".join(
                f"{free.get(name, 0):g} of {all_[name]:g} {name}s are free" for name in ("CPU", "GPU") if name in all_
            )
            raise UsageError(
                f"{to_do} needs {room} for itself, and {there} in this cluster: "
                "wait until what else runs here has ended"
            )
