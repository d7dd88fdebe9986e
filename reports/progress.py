"""Reporting the steps of a build: one short line at a time, which replaces the line before."""

from collections.abc import Callable

Progress = Callable[[str], None]


def ignore(line: str) -> None:
    """Report nothing."""
