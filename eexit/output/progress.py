"""Progress of long work, and the interface of its displays."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Progress:
    """Progress of a sweep or study: its current step, tokens processed so far, and share done.

    `has_begun` is True once the work itself has begun, so that the remaining time can be estimated.
    """

    doing: str
    tokens: int
    share: float
    has_begun: bool = True
    with_rate: bool = False  # True if the token rate is meaningful
    ending: str = ""  # end of the line
    open_ended: bool = False  # True if the share does not predict the remaining time


class Display(Protocol):
    """Interface of displays of progress and messages; rates are measured from entry into its context."""

    def __enter__(self) -> "Display": ...
    def __exit__(self, *error: object) -> None: ...
    def show(self, progress: Progress, last: bool = False) -> None: ...
    def say(self, line: str) -> None: ...


class NullDisplay:
    """Display that shows nothing."""

    def __enter__(self) -> "NullDisplay":
        return self

    def __exit__(self, *error: object) -> None: ...
    def show(self, progress: Progress, last: bool = False) -> None: ...
    def say(self, line: str) -> None: ...
