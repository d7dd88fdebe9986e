"""Counts and lists in messages."""

from collections.abc import Sequence


def some(lines: Sequence[str], most: int = 20) -> list[str]:
    """The first `most` lines, and then how many more there are."""
    more = len(lines) - most
    return [*lines[:most], *([f"and {more:,} more"] if more > 0 else [])]


def counted(n: int, noun: str) -> str:
    """A number with its noun, such as `1 seed` or `2 seeds`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
