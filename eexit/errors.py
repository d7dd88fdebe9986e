"""What stops a command, and how any error becomes one line."""


class UsageError(ValueError):
    """Input that can't be used; the message is one line that names the value and the way out."""


def first_line(error: BaseException | str) -> str:
    """The first line of an error's message, and the second too if the first ends in a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def reason_of(error: BaseException) -> str:
    """Return an error's message, behind its type unless the message alone says what is wrong."""
    return str(error) if isinstance(error, UsageError) else f"{type(error).__name__}: {error}"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C at a prompt or in a notebook, before a sweep had any results. IPython prints it as one line."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class SweepStopped(Exception):
    """The sweep can't go on. What has landed stays, and the same command continues from there."""
