"""What to do with a shard that failed: try it again, cut it into parts, or give up on its only run."""

from dataclasses import dataclass, replace
from enum import StrEnum

from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

from cluster.shards import Shard, halve, split
from eexit.messages.errors import first_line

SHARD_TRIES = 2
CAUSES = ("The actor is dead because", "The actor died because")
RUN_TRIES = 3  # since an actor can die of something else than the run it was doing


class Kind(StrEnum):
    """How a shard failed."""

    RAISED = "raised"
    DIED = "died"
    HUNG = "hung"
    MEMORY = "memory"


@dataclass(frozen=True)
class ShardFailure:
    """How a shard failed, and the reason for its error row."""

    kind: Kind
    reason: str


def failure_of_call(error: RayTaskError) -> ShardFailure:
    """The failure of a call that raised; its actor is alive."""
    cause = error.cause if isinstance(error.cause, Exception) else error
    reason = f"{type(cause).__name__}: {cause}"
    # torch's error is recognised by its name, since the driver does not import torch.
    out_of_memory = isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError"
    return ShardFailure(Kind.MEMORY if out_of_memory else Kind.RAISED, reason)


def failure_of_actor(error: RayError) -> ShardFailure:
    """The failure of an actor whose process is gone or unreachable."""
    out_of_memory = isinstance(error, OutOfMemoryError) or "memory pressure" in str(error)
    kind = Kind.MEMORY if out_of_memory else Kind.DIED
    return ShardFailure(kind, f"the process that did it died: {_cause(error)}")


def _cause(error: RayError) -> str:
    """What Ray knows of an actor's end, which it says last, in one line without its advice."""
    said = [line.strip() for line in str(error).splitlines() if line.strip().startswith(CAUSES)]
    return said[-1].partition(" Some common causes")[0] if said else first_line(error)


def hung(seconds: float) -> ShardFailure:
    return ShardFailure(Kind.HUNG, f"timed out: not done after {seconds:g} seconds (--timeout)")


def was_preempted(error: RayError) -> bool:
    """Whether the actor's machine was preempted, for which no run is to blame."""
    return isinstance(error, RayActorError) and error.preempted


def next_tries(shard: Shard, kind: Kind, any_good: bool) -> list[Shard]:
    """The shards to try next; none if the only run of this one is given up.

    Halves keep most runs together. But as long as no run has ever worked, single runs of many prompts show sooner
    whether any run can.
    """
    failures = shard.failures + 1
    if len(shard.runs) == 1:
        return [replace(shard, failures=failures)] if failures < RUN_TRIES else []
    if failures < SHARD_TRIES and kind not in (Kind.HUNG, Kind.MEMORY):
        return [replace(shard, failures=failures)]
    return halve(shard) if any_good or kind is Kind.MEMORY else split(shard)
