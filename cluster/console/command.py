"""The way out of every command: its signals, its exit code, and what it says of what stopped it."""

import functools
import sys
from collections.abc import Callable, Sequence

from cluster import interruption
from cluster.console.parser import as_called
from eexit.errors import SweepStopped, UsageError, first_line
from eexit.output.locations import without_secrets
from eexit.output.text import printable


def command(kept: str = "") -> Callable[[Callable[[Sequence[str]], int]], Callable[..., int]]:
    """Makes a command of what does its work: 2 if its input can't be used, 1 if it stopped, with the reason in a line.

    It is called with its arguments, and returns its exit code, whatever happens. Without them, it is the command of
    this process: it takes those of the command line, and its signals. `kept` says what one that stopped has left.
    """

    def of(work: Callable[[Sequence[str]], int]) -> Callable[..., int]:
        @functools.wraps(work)
        def main(arguments: Sequence[str] | None = None) -> int:
            if arguments is None:
                with interruption.listening():
                    return main(sys.argv[1:])
            try:
                return work(arguments)
            except UsageError as error:
                print(printable(as_called(without_secrets(f"error: {error}"))), file=sys.stderr)
                return 2
            except (SweepStopped, KeyboardInterrupt, OSError) as error:  # OSError: such as a full disk
                reason = "interrupted" if isinstance(error, KeyboardInterrupt) else first_line(error)
                said = printable(without_secrets(f"stopped: {reason}"))
                print("\n".join(filter(None, [said, kept])), file=sys.stderr)
                return 1

        return main

    return of
