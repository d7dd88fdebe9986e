"""Failures of Ray's calls and actors, as failures of the shard in progress."""

from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from eexit.errors import first_line
from eexit.sweeps.retry import FailureKind, ShardFailure, failure_of

CAUSES = ("The actor is dead because", "The actor died because")


def failure_of_call(error: RayTaskError) -> ShardFailure:
    """Return the failure of a shard whose call raised `error`; its actor is alive."""
    return failure_of(error.cause if isinstance(error.cause, Exception) else error)


def failure_of_actor(error: RayError) -> ShardFailure:
    """Return the failure of a shard whose actor's process is gone or unreachable, by the error that showed it."""
    out_of_memory = isinstance(error, OutOfMemoryError) or "memory pressure" in str(error)
    kind = FailureKind.MEMORY if out_of_memory else FailureKind.DIED
    return ShardFailure(kind, f"the process that did it died: {_cause(error)}")


def _cause(error: RayError) -> str:
    """Return Ray's cause of an actor's end, the last one in its message, in one line without advice."""
    said = [line.strip() for line in str(error).splitlines() if line.strip().startswith(CAUSES)]
    return said[-1].partition(" Some common causes")[0] if said else first_line(error)
