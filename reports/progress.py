"""How the steps of a build are told: one short line at a time, each in place of the one before."""

from collections.abc import Callable

Progress = Callable[[str], None]


def ignore(line: str) -> None:
    """For whoever doesn't want to know."""
