"""How far long work is: what a study or a sweep tells, and what shows it."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Progress:
    """What is being done, how many tokens it took or made, and how much of it is done.

    `has_begun` says whether the work itself has, so that the time left can be told.
    """

    doing: str
    tokens: int
    share: float
    has_begun: bool = True
    with_rate: bool = False  # whether tokens per second say anything
    ending: str = ""  # what is told last
    open_ended: bool = False  # whether the time left is not known, although the share is


class Display(Protocol):
    """Shows progress and messages; rates are measured from when it is entered."""

    def __enter__(self) -> "Display": ...
    def __exit__(self, *error: object) -> None: ...
    def show(self, progress: Progress, last: bool = False) -> None: ...
    def say(self, line: str) -> None: ...


class Silence:
    """Shows nothing."""

    def __enter__(self) -> "Silence":
        return self

    def __exit__(self, *error: object) -> None: ...
    def show(self, progress: Progress, last: bool = False) -> None: ...
    def say(self, line: str) -> None: ...
