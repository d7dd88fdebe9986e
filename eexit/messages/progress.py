"""How far long work is: what a study or a sweep tells, and what shows it."""

from typing import Protocol


class Advance(Protocol):
    """How far something is that makes tokens, such as a sweep: what a display shows."""

    @property
    def tokens(self) -> int:
        """Tokens so far."""

    @property
    def share(self) -> float:
        """The fraction of the work that is done."""

    @property
    def has_begun(self) -> bool:
        """Whether the work itself has begun, so that the time left can be told."""

    def describe(self, rate: float, left: str) -> str:
        """It as text, given tokens per second and the time left."""


class Display(Protocol):
    """Shows progress and messages; rates are measured from when it is entered."""

    def __enter__(self) -> "Display": ...
    def __exit__(self, *error: object) -> None: ...
    def show(self, progress: Advance, last: bool = False) -> None: ...
    def say(self, line: str) -> None: ...


class Silence:
    """Shows nothing."""

    def __enter__(self) -> "Silence":
        return self

    def __exit__(self, *error: object) -> None: ...
    def show(self, progress: Advance, last: bool = False) -> None: ...
    def say(self, line: str) -> None: ...
