"""Errors that stop a command, and functions that turn any error into one line."""


class UsageError(ValueError):
    """Unusable input; the message is one line with the value and the way out."""


def first_line(error: BaseException | str) -> str:
    """Return the first line of an error's message, and the second one too if the first ends in a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def reason_of(error: BaseException) -> str:
    """Return an error's message, preceded by its type unless it is a `UsageError`."""
    return str(error) if isinstance(error, UsageError) else f"{type(error).__name__}: {error}"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C at a prompt or in a notebook before a sweep has results; IPython prints it as one line."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class SweepStopped(Exception):
    """Failure of a sweep; committed shards stay, and the same command resumes from there."""
