"""A loaded generator: runs in, Parquet-ready tables out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from eexit.plan import Run


@dataclass(frozen=True)
class Results:
    """What some runs left: `schema.GENERATIONS` and `schema.TOKENS` tables."""

    generations: pa.Table
    tokens: pa.Table


class Generator(Protocol):
    """Anything that can do runs. A run that can't be done is an error row in the results, never an exception."""

    def generate(self, runs: Sequence[Run], progress: Callable[[int], None]) -> Results:
        """Do the runs together; calls `progress` now and then with the number of tokens made since the last call."""
        ...
