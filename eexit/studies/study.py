"""A study: whatever is asked of a finished sweep. Who adds one says here what is done; `cluster.studies` does it.

A study is cut into units, and these into parts. Between parts, progress is shown and interruptions are heard. Once all
parts of a unit are done, its rows are published: what is finished stays, whatever happens next.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from eexit.output.result_table import ResultTable
from eexit.plan.config import SweepConfig
from eexit.results.study_table import Table

Row = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """What is done in one go; `what` tells `Study.do`, and `text` tells users."""

    text: str
    what: Any = None
    size: float = 1.0  # its part of all there is to do, in whatever the study counts


@dataclass(frozen=True)
class Unit:
    """What is published together.

    A unit with an id, a content hash, has a file of its own, and is not done again once that has landed. The rows of
    all others are in one file per call, which grows.
    """

    parts: Sequence[Part]
    unit_id: str = ""


@dataclass(frozen=True)
class Done:
    """What came of a part: what `Study.rows` makes rows of, and how many tokens it took."""

    result: Any = None
    tokens: int = 0


class Work:
    """What needs a loaded model, and so is sent to a process that has one. To be subclassed, as `Study` is."""

    doing: ClassVar[str] = ""  # as in: timing needs all CPUs of a node
    if_memory_is_short: ClassVar[str] = ""  # what to do then
    opening: str = ""  # what is told before it begins

    @property
    def exits(self) -> frozenset[str]:
        """The names of the rules and states that it needs."""
        return frozenset()

    def load(self, device: str) -> Sequence[str]:
        """Load what is needed; returns what users should know of it.

        Raises `UsageError` if that can't be done.
        """
        return ()


class Study(Work, ABC):
    """What is asked of a sweep, and how it is done. To be subclassed: what has a value here need not be said.

    A study that needs the model is sent to another process, and does its parts there, where `load` was called.
    """

    table: ClassVar[Table]  # that rows are added to; the id of a file and when it began are filled in
    noun: ClassVar[str] = "unit"  # what a unit is called
    again: ClassVar[str] = "done again"  # what happens with a unit whose file is damaged
    needs_model: bool = False
    times: bool = False  # whether it measures time, and so wants the results for itself
    config: SweepConfig  # whose model that is

    @property
    def exits(self) -> frozenset[str]:
        return self.config.exits

    @abstractmethod
    def units(self) -> Sequence[Unit]:
        """In order. Once the study is loaded, these are the units that can be done."""

    @abstractmethod
    def do(self, part: Part) -> Done:
        """Raises `UsageError` for what can't be done."""

    def rows(self, unit: Unit, results: Sequence[Any]) -> Sequence[Row]:
        """The rows of a unit, given the results of its parts; none: nothing is published."""
        return [row for result in results for row in result]

    @abstractmethod
    def closing(self, rows: Sequence[Row]) -> Sequence[ResultTable | str]:
        """The tables, and sentences on them, that end it; `rows` are all that were published."""
