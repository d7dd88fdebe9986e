"""What to do with a shard that failed: try it again, cut it up, or give up on its one run."""

from dataclasses import dataclass, replace
from enum import StrEnum

from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

from cluster.shards import Shard, halve, split
from eexit.config import first_line

SHARD_TRIES = 2
RUN_TRIES = 3  # an actor can die of something else than the run it was doing


class Kind(StrEnum):
    """How a shard failed."""

    RAISED = "raised"
    DIED = "died"
    HUNG = "hung"
    MEMORY = "memory"


@dataclass(frozen=True)
class ShardFailure:
    """How, and the reason that its error row gives."""

    kind: Kind
    reason: str


def failure_of_call(error: RayTaskError) -> ShardFailure:
    """The actor lives, and its call ended in an exception."""
    cause = error.cause if isinstance(error.cause, Exception) else error
    reason = f"{type(cause).__name__}: {cause}"
    # torch's error is known by its name: the driver does without torch.
    out_of_memory = isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError"
    return ShardFailure(Kind.MEMORY if out_of_memory else Kind.RAISED, reason)


def failure_of_actor(error: RayError) -> ShardFailure:
    """The actor's process is gone, or out of reach."""
    out_of_memory = isinstance(error, OutOfMemoryError) or "memory pressure" in str(error)
    kind = Kind.MEMORY if out_of_memory else Kind.DIED
    return ShardFailure(kind, f"the process that did it died: {first_line(error)}")


def hung(seconds: float) -> ShardFailure:
    return ShardFailure(Kind.HUNG, f"timed out: not done after {seconds:g} seconds (--timeout)")


def was_preempted(error: RayError) -> bool:
    """Whether the machine was taken away, which is nobody's fault."""
    return isinstance(error, RayActorError) and error.preempted


def next_tries(shard: Shard, kind: Kind, any_good: bool) -> list[Shard]:
    """What to try next; nothing where its one run can't be done.

    Halves keep most runs together. But as long as no run has ever been done, single runs of many prompts tell sooner
    whether any can be.
    """
    failures = shard.failures + 1
    if len(shard.runs) == 1:
        return [replace(shard, failures=failures)] if failures < RUN_TRIES else []
    if failures < SHARD_TRIES and kind not in (Kind.HUNG, Kind.MEMORY):
        return [replace(shard, failures=failures)]
    return halve(shard) if any_good or kind is Kind.MEMORY else split(shard)
