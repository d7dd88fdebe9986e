"""Stops a sweep that only fails: a full disk or a broken machine must not burn the grid."""

IN_A_ROW = 5
SUSPECTS = 3


class SweepStopped(Exception):
    """The sweep could not go on; what has landed stays, and the same command goes on from there."""


class Breaker:
    """Counts failures of one kind with nothing landed in between."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._kind = ""
        self._count = 0
        self._suspects: set[str] = set()

    def count(self, kind: str, reason: str, suspect: str | None = None) -> None:
        """One more failure, perhaps the fault of a prompt, `suspect`. Raises `SweepStopped`.

        Few prompts that fail one after the other may just be bad prompts; without a suspect, it's the place.
        """
        if kind != self._kind:
            self.reset()
            self._kind = kind
        self._count += 1
        if suspect is not None:
            self._suspects.add(suspect)
        if self._count >= IN_A_ROW and (suspect is None or len(self._suspects) >= SUSPECTS):
            raise SweepStopped(f"{self._count} failures in a row, the last: {reason}")
