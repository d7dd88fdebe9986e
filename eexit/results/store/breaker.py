"""The circuit breaker, which stops a sweep that only fails.

A full disk or a broken machine must not turn all remaining runs into errors, but bad prompts must not stop a sweep.
Failures of the environment (results can't be written, the model can't be loaded) are counted. A run that fails by
itself is blamed on its prompt, unless the runs of many prompts fail in a row: then a run that has worked before is
repeated, as a rehearsal, and if it fails as well, the environment is broken. If no run has ever worked, many failed
prompts are enough.
"""

from eexit.messages.errors import SweepStopped
from eexit.plan.runs import Run

FAILURES_IN_A_ROW = 5
PROMPTS_IN_A_ROW = 10


class Breaker:
    """Counts failures, as long as nothing lands in between."""

    def __init__(self) -> None:
        self.known_good: Run | None = None
        self.reset()

    def reset(self) -> None:
        """Forget all failures: a run has worked."""
        self._kind = ""
        self._count = 0
        self._prompts: set[str] = set()
        self._reason = ""

    def landed(self, run: Run) -> None:
        """This run has landed without an error."""
        self.known_good = run
        self.reset()

    def environment_worked(self) -> None:
        """Something has landed, though with errors."""
        self._kind, self._count = "", 0

    def environment_failed(self, kind: str, reason: str) -> None:
        """The environment failed rather than a run. Raises `SweepStopped` after FAILURES_IN_A_ROW of one kind."""
        if kind != self._kind:
            self._kind, self._count = kind, 0
        self._count += 1
        if self._count >= FAILURES_IN_A_ROW:
            raise SweepStopped(f"{self._count} failures in a row, the last: {reason}")

    def run_failed(self, run: Run, reason: str, hope: bool) -> None:
        """This run failed by itself. Raises `SweepStopped` if no run ever worked, many failed, and there is no `hope`.

        There is hope while an actor works on a shard that has not failed before.
        """
        self._prompts.add(run.prompt.id)
        self._reason = reason
        if self.known_good is None and len(self._prompts) >= PROMPTS_IN_A_ROW and not hope:
            raise SweepStopped(f"{len(self._prompts)} prompts failed and none worked, the last: {reason}")

    def rehearsal_failed(self, reason: str) -> None:
        """A run that has worked before fails now. Raises `SweepStopped`."""
        raise SweepStopped(
            f"{len(self._prompts)} prompts in a row failed, the last: {self._reason}; "
            f"a run that had worked now fails too: {reason}"
        )

    @property
    def doubtful(self) -> bool:
        """Whether a rehearsal is due."""
        return len(self._prompts) >= PROMPTS_IN_A_ROW
