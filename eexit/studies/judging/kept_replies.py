"""What an endpoint replied where it gave no verdict, kept for the user alone.

A reply may echo the key that it was sent, in any form. So none of it is printed, logged or stored among results: it is
written to a file that only the user can read, and messages say where that is.
"""

import os
import tempfile
from pathlib import Path
from typing import Final

from eexit.errors import first_line

MOST_BYTES_OF_ONE: Final = 64 * 2**10  # of one reply
MOST_BYTES: Final = 2**20  # of all of them; the first ones are kept


class KeptReplies:
    """A file of replies, made in the folder for temporary files with the first of them."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self._trouble = ""
        self._n_bytes = 0

    def keep(self, reason: str, reply: bytes) -> None:
        """Add a reply below what it was taken for. One that can't be written is given up, and `told` says why."""
        if self._n_bytes >= MOST_BYTES:
            return
        entry = f"{reason}:\n".encode() + reply[:MOST_BYTES_OF_ONE] + b"\n\n"
        try:
            if self.path is None:
                descriptor, name = tempfile.mkstemp(prefix="eexit-judge-", suffix=".txt")  # readable by its owner alone
                os.close(descriptor)
                self.path = Path(name)
            with self.path.open("ab") as file:
                file.write(entry)
        except OSError as error:
            self._trouble = first_line(error)
        self._n_bytes += len(entry)

    @property
    def told(self) -> str:
        """Where the replies are, in a sentence, or nothing if there are none."""
        if self._trouble:
            return f"what the endpoint replied could not be kept ({self._trouble})"
        if self.path is None:
            return ""
        return f"what the endpoint replied is in {self.path}, which only you can read: it may hold your key"
