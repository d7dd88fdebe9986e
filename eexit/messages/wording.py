"""Counts and lists in messages."""

from collections.abc import Collection, Mapping, Sequence


def some(lines: Sequence[str], most: int = 20) -> list[str]:
    """The first `most` lines, and then how many more there are."""
    more = len(lines) - most
    return [*lines[:most], *([f"and {more:,} more"] if more > 0 else [])]


def ordinal(n: int) -> str:
    """Such as `first`, or `11th` for those beyond the tenth."""
    names = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
    if n <= len(names):
        return names[n - 1]
    ending = {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th") if n % 100 not in (11, 12, 13) else "th"
    return f"{n:,}{ending}"


def counted(n: int, noun: str) -> str:
    """A number with its noun, such as `1 seed` or `2 seeds`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def counted_between(counts: Collection[int], noun: str) -> str:
    """The least and the greatest of several numbers with their noun, such as `5 to 6 prompts`, or the one there is."""
    low, high = min(counts), max(counts)
    return counted(high, noun) if low == high else f"{low:,} to {counted(high, noun)}"


def with_versions(versions: Mapping[str, str | None]) -> str:
    """Packages with their versions, without those that are not installed."""
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version)


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
