"""The actor for work with a model: one process that has loaded it.

To measure times, or to train, it shares its node's CPUs, or its GPU, with nothing else of the cluster.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster import signals
from cluster.actor import device_here
from cluster.actor_client import SECONDS_BETWEEN_POLLS, wait_for_result
from cluster.actor_resources import Node
from cluster.custom_exits import CustomExits
from cluster.ray_errors import failure_of_actor, failure_of_call
from cluster.session import RayHealth, answers, ray_session
from eexit.errors import SweepStopped, UsageError
from eexit.output.progress import Display
from eexit.studies.study import ModelJob
from eexit.sweeps.retry import FailureKind

SECONDS_TO_GET_FREE = 20.0  # for work that has just ended to release its resources


class StudyActor:
    """Actor with a study or a training; it does one thing at a time."""

    def __init__(self, job: ModelJob) -> None:
        os.environ["TQDM_DISABLE"] = "1"  # progress bars would fill the log
        self._job: Any = job

    def load(self, device: str, threads: int, custom: CustomExits) -> Sequence[str]:
        """Load the job's model; return remarks for users. Raise `UsageError` if it can't be loaded."""
        custom.register()
        import torch  # not above, so that the driver need not import it

        torch.set_num_threads(threads)
        remarks: Sequence[str] = self._job.load(device_here(device))
        return remarks

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the actor's job; a dotted name calls a method of an attribute."""
        return attrgetter(method)(self._job)(*arguments)


def room_for(device: str, nodes: Sequence[Node]) -> dict[str, float]:
    """Return the resources of an exclusive actor: all CPUs of a node, or a whole GPU with a CPU to drive it.

    `device` is auto, cpu, cuda or mps. Raise `UsageError` if no node has them.
    """
    has_gpu = any(node.get("GPU", 0) >= 1 and node.get("CPU", 0) >= 1 for node in nodes)
    if device == "cuda" and not has_gpu:
        raise UsageError("--device cuda needs a node with a GPU, and Ray has none: leave --device out")
    if has_gpu and device in ("auto", "cuda"):
        return {"CPU": 1, "GPU": 1}
    # All CPUs of the largest nodes: fewer would not be all CPUs of such a node.
    most = int(max((node.get("CPU", 0) for node in nodes), default=0))
    if not most:
        raise UsageError("no node of this Ray has a CPU: start it with --num-cpus")
    return {"CPU": most}


def _describe(room: Node) -> str:
    return "a whole GPU and a CPU" if "GPU" in room else f"all {room['CPU']} CPUs of a node"


@dataclass(frozen=True)
class ExclusiveActor:
    """Handle of an exclusive actor; a call blocks until its result arrives, or the actor or Ray dies."""

    handle: Any
    liveness: RayHealth
    oom_hint: str

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the actor's job, and return the result. Raise the same errors as `wait`."""
        return self.wait(self.handle.call.remote(method, *arguments))

    def wait(self, ref: Any) -> Any:
        """Return a call's result. Raise its `UsageError`, or `SweepStopped` for any other failure."""
        try:
            return wait_for_result(ref, partial(self.liveness.check, at_work=True))
        except RayTaskError as error:
            if isinstance(error.cause, UsageError):
                raise error.cause from error
            failure = failure_of_call(error)
        except RayError as error:
            failure = failure_of_actor(error)
        way_out = f": {self.oom_hint}" if failure.kind is FailureKind.MEMORY else ""
        raise SweepStopped(f"{failure.reason}{way_out}")


@contextmanager
def exclusive_actor(job: ModelJob, device: str, display: Display) -> Iterator[ExclusiveActor]:
    """Yield an exclusive actor that has loaded the model for this job, after starting Ray if necessary.

    Raise `UsageError` if the resources are not free.
    """
    with ray_session() as session:
        room = room_for(device, session.nodes)
        display.say(f"{job.opening}; one actor has {_describe(room)}")
        with _exclusive(job, room, session.is_own) as handle:
            actor = ExclusiveActor(handle, RayHealth(session.is_own, [], display.say), job.oom_hint)
            for remark in actor.wait(handle.load.remote(device, room["CPU"], CustomExits.among(job.exits))):
                display.say(remark)
            yield actor


@contextmanager
def _exclusive(job: ModelJob, room: dict[str, float], is_own_ray: bool) -> Iterator[Any]:
    """Start an actor alone in a placement group, and stop the actor when the context ends.

    With `is_own_ray`, the placement group is not removed, since Ray ends soon after.
    """
    group = placement_group([room])
    handle: Any = None
    try:
        _wait_for(group, room, job.doing)
        handle = ray.remote(StudyActor).options(
            num_cpus=room["CPU"],
            num_gpus=room.get("GPU", 0),
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group),
        ).remote(job)  # fmt: skip
        yield handle
    finally:
        if handle is not None:
            ray.kill(handle)
        # Removing waits for the head of Ray, forever if a signal to all processes has ended the head too.
        if not is_own_ray and answers(ray.get_runtime_context().gcs_address):
            remove_placement_group(group)


def _wait_for(group: Any, room: Node, doing: str) -> None:
    end = time.monotonic() + SECONDS_TO_GET_FREE
    while not group.wait(SECONDS_BETWEEN_POLLS):
        signals.check()
        if time.monotonic() > end:
            free, all_ = ray.available_resources(), ray.cluster_resources()
            there = " and ".join(
                f"{free.get(name, 0):g} of {all_[name]:g} {name}s are free" for name in ("CPU", "GPU") if name in all_
            )
            raise UsageError(
                f"{doing} needs {_describe(room)} for itself, and {there} in this cluster: "
                "wait until what else runs here has ended"
            )
