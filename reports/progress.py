"""Progress of a build, as short lines each of which replaces the previous one."""

from collections.abc import Callable

Progress = Callable[[str], None]


def ignore(line: str) -> None:
    """Discard a line of progress."""
