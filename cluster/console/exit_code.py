"""How a command ends: its exit code, and what it says of what stopped it."""

import sys
from collections.abc import Callable

from rich.console import Console

from eexit.messages.errors import SweepStopped, UsageError, first_line
from eexit.messages.locations import without_secrets


def exit_code(work: Callable[[], int], kept: str = "") -> int:
    """What `work` returns, or 2 if its input can't be used, or 1 if it stopped. The reason is told in a line.

    `kept` says what a command that stopped has left.
    """
    try:
        return work()
    except UsageError as error:
        print(without_secrets(f"error: {error}"), file=sys.stderr)
        return 2
    except (SweepStopped, KeyboardInterrupt, OSError) as error:  # OSError: such as a full disk
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else first_line(error)
        print(without_secrets(f"stopped: {reason}"), file=sys.stderr)
        if kept:
            print(kept, file=sys.stderr)
        return 1


def console_of(columns: int) -> Console:
    """For tables: at least so wide where it is no terminal, so that long keys need not be folded."""
    console = Console()
    console.width = console.width if console.is_terminal else max(console.width, columns)
    return console
