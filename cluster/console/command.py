"""The frame of every command: its signals, its exit code, and the message on an error."""

import functools
import sys
from collections.abc import Callable, Sequence

from cluster import signals
from eexit.errors import SweepStopped, UsageError, first_line
from eexit.output.locations import without_secrets
from eexit.output.text import printable


def command(kept: str = "") -> Callable[[Callable[[Sequence[str]], int]], Callable[..., int]]:
    """Decorate a command to handle errors: exit code 2 for bad input, 1 if it stopped, and one line with the reason.

    The decorated command takes its arguments and returns its exit code. Without arguments, it takes the process's own
    and handles its signals. `kept` is a line on the results that a stopped command keeps.
    """

    def decorate(work: Callable[[Sequence[str]], int]) -> Callable[..., int]:
        @functools.wraps(work)
        def main(arguments: Sequence[str] | None = None) -> int:
            if arguments is None:
                with signals.listening():
                    return main(sys.argv[1:])
            try:
                return work(arguments)
            except UsageError as error:
                print(printable(without_secrets(f"error: {error}")), file=sys.stderr)
                return 2
            except (SweepStopped, KeyboardInterrupt, OSError) as error:  # OSError: such as a full disk
                reason = "interrupted" if isinstance(error, KeyboardInterrupt) else first_line(error)
                said = printable(without_secrets(f"stopped: {reason}"))
                print("\n".join(filter(None, [said, kept])), file=sys.stderr)
                return 1

        return main

    return decorate
