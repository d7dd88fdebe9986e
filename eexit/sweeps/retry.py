"""Policy for failed shards: retry the shard, split it, give up on its only run, or stop the sweep.

A full disk or a broken machine must not turn all remaining runs into errors, but bad prompts must not stop a sweep.
Failures of the environment (results can't be written, the model can't be loaded) are counted. A run that fails by
itself is attributed to its prompt, unless the runs of many prompts fail in a row. Then a run that has succeeded before
is repeated, as a rehearsal; if it fails too, the environment is broken. If no run has ever succeeded, many failed
prompts are enough.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from eexit.errors import SweepStopped, reason_of
from eexit.plan.runs import Run
from eexit.sweeps.shards import Shard, halve, single_run_shards

SHARD_TRIES = 2
RUN_TRIES = 3  # since an actor can die of another cause than its current run
FAILURES_IN_A_ROW = 5
PROMPTS_IN_A_ROW = 10


class FailureKind(StrEnum):
    """Kind of a shard's failure."""

    RAISED = "raised"
    DIED = "died"
    HUNG = "hung"
    MEMORY = "memory"


@dataclass(frozen=True)
class ShardFailure:
    """Kind of a shard's failure, and the reason for its error row."""

    kind: FailureKind
    reason: str


def failure_of(error: BaseException) -> ShardFailure:
    """Return the failure of a shard whose live process raised this error."""
    # torch's error is recognised by name, since a driver does not import torch.
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return ShardFailure(FailureKind.MEMORY if out_of_memory else FailureKind.RAISED, reason_of(error))


def next_tries(shard: Shard, kind: FailureKind, any_good: bool) -> list[Shard]:
    """Return the shards to try after a failure; none if the only run of this shard is given up.

    Halves keep most runs together. But until a run has succeeded, single runs of many prompts show sooner if any can.
    """
    failures = shard.failures + 1
    if len(shard.runs) == 1:
        return [replace(shard, failures=failures)] if failures < RUN_TRIES else []
    if failures < SHARD_TRIES and kind not in (FailureKind.HUNG, FailureKind.MEMORY):
        return [replace(shard, failures=failures)]
    return halve(shard) if any_good or kind is FailureKind.MEMORY else single_run_shards(shard)


class CircuitBreaker:
    """Circuit breaker that stops a sweep in which everything fails. It counts failures until a shard is committed."""

    def __init__(self) -> None:
        self.known_good: Run | None = None
        self.reset()

    def reset(self) -> None:
        """Clear all failures, since a run has succeeded."""
        self._kind = ""
        self._count = 0
        self._prompts: set[str] = set()
        self._reason = ""

    def record_success(self, run: Run) -> None:
        """Record that this run was committed without an error, and clear all failures."""
        self.known_good = run
        self.reset()

    def environment_worked(self) -> None:
        """Clear the environment's failures, since a shard was committed, though with errors."""
        self._kind, self._count = "", 0

    def environment_failed(self, kind: str, reason: str) -> None:
        """Count a failure of the environment. Raise `SweepStopped` after FAILURES_IN_A_ROW of one kind."""
        if kind != self._kind:
            self._kind, self._count = kind, 0
        self._count += 1
        if self._count >= FAILURES_IN_A_ROW:
            raise SweepStopped(f"{self._count} failures in a row, the last: {reason}")

    def run_failed(self, run: Run, reason: str, hope: bool) -> None:
        """Record a failed run. Raise `SweepStopped` if many prompts failed, no run ever succeeded, and `hope` is False.

        There is hope while an actor executes a shard that has not failed before.
        """
        self._prompts.add(run.prompt.id)
        self._reason = reason
        if self.known_good is None and len(self._prompts) >= PROMPTS_IN_A_ROW and not hope:
            raise SweepStopped(f"{len(self._prompts)} prompts failed and none worked, the last: {reason}")

    def rehearsal_failed(self, reason: str) -> None:
        """Raise `SweepStopped`, since a run that has succeeded before fails now."""
        raise SweepStopped(
            f"{len(self._prompts)} prompts in a row failed, the last: {self._reason}; "
            f"a run that had worked now fails too: {reason}"
        )

    @property
    def doubtful(self) -> bool:
        """True if a rehearsal is due."""
        return len(self._prompts) >= PROMPTS_IN_A_ROW
