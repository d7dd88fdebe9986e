"""Stops a sweep that only fails. A full disk or a broken machine must not burn the grid; bad prompts must not stop it.

What fails is either the place (it can't be written to, the model can't be loaded: counted) or a run. Runs that fail by
themselves are the fault of their prompts, unless many prompts in a row do: then a run that has been done before is done
again, as a rehearsal, and its failure proves the place to be broken. Where none has ever been done, many are proof.
"""

from eexit.plan import Run

FAILURES_IN_A_ROW = 5
PROMPTS_IN_A_ROW = 10


class SweepStopped(Exception):
    """The sweep could not go on; what has landed stays, and the same command goes on from there."""


class Breaker:
    """Judges failures with nothing landed in between."""

    def __init__(self) -> None:
        self.known_good: Run | None = None
        self.reset()

    def reset(self) -> None:
        """The place works."""
        self._kind = ""
        self._count = 0
        self._prompts: set[str] = set()
        self._reason = ""

    def landed(self, run: Run) -> None:
        """This run is done, and no error."""
        self.known_good = run
        self.reset()

    def place_worked(self) -> None:
        """Something landed, though not without errors."""
        self._kind, self._count = "", 0

    def place_failed(self, kind: str, reason: str) -> None:
        """The place failed, not a run. Raises `SweepStopped`."""
        if kind != self._kind:
            self._kind, self._count = kind, 0
        self._count += 1
        if self._count >= FAILURES_IN_A_ROW:
            raise SweepStopped(f"{self._count} failures in a row, the last: {reason}")

    def run_failed(self, run: Run, reason: str, hope: bool) -> None:
        """This run failed by itself. Raises `SweepStopped` if that is all that ever happened, and there is no `hope`.

        Hope is a shard at work that hasn't failed yet.
        """
        self._prompts.add(run.prompt.id)
        self._reason = reason
        if self.known_good is None and len(self._prompts) >= PROMPTS_IN_A_ROW and not hope:
            raise SweepStopped(f"{len(self._prompts)} prompts failed and none worked, the last: {reason}")

    def rehearsal_failed(self, reason: str) -> None:
        """The known good run no longer works. Raises `SweepStopped`."""
        raise SweepStopped(
            f"{len(self._prompts)} prompts in a row failed, the last: {self._reason}; "
            f"a run that had worked now fails too: {reason}"
        )

    @property
    def doubtful(self) -> bool:
        """Whether a rehearsal is due."""
        return len(self._prompts) >= PROMPTS_IN_A_ROW
