"""The interface of a study of a finished sweep; `cluster.studies` executes it.

A study is cut into units of work, and a unit into parts. Between parts, progress is shown and interruptions are
handled. When all parts of a unit are done, its rows are published and stay.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from eexit.output.result_table import ResultTable
from eexit.plan.sweep_config import SweepConfig
from eexit.results.study_table import StudyTable

Row = dict[str, Any]


@dataclass(frozen=True)
class StudyPart:
    """A step of a unit: `what` is the input of `Study.run_part`, and `text` describes it to users."""

    text: str
    what: Any = None
    size: float = 1.0  # for progress, in the study's own measure


@dataclass(frozen=True)
class StudyUnit:
    """Work whose rows are published together.

    A unit with an id, a content hash, has a file of its own, and is not repeated once the file is committed. The rows
    of all other units are in one growing file per call.
    """

    parts: Sequence[StudyPart]
    unit_id: str = ""


@dataclass(frozen=True)
class PartResult:
    """Output of a part: the input of `Study.rows`, and the number of tokens."""

    result: Any = None
    tokens: int = 0


class ModelJob:
    """Base class of work that needs a loaded model, and is sent to a process that has one."""

    doing: ClassVar[str] = ""  # a participle for messages, such as timing
    oom_hint: ClassVar[str] = ""  # advice on running out of memory
    opening: str = ""  # a message before the work begins

    @property
    def exits(self) -> frozenset[str]:
        """Names of the rules and modes that the work needs."""
        return frozenset()

    def load(self, device: str) -> Sequence[str]:
        """Load the model and artefacts; return remarks for users. Raise `UsageError` if they can't be loaded."""
        return ()


class Study(ModelJob, ABC):
    """Base class of a study; members with a value here are optional.

    A study that needs the model is sent to another process, which calls `load` and does its parts.
    """

    table: ClassVar[StudyTable]  # of the rows; its columns for the file's id and the start are filled in
    noun: ClassVar[str] = "unit"  # for a unit, in messages
    redo_note: ClassVar[str] = "done again"  # for units whose file is damaged, in messages
    needs_model: bool = False
    times: bool = False  # True if it measures time, and so locks the results
    config: SweepConfig  # of the model

    @property
    def exits(self) -> frozenset[str]:
        return self.config.exits

    @abstractmethod
    def units(self) -> Sequence[StudyUnit]:
        """Return the units in order. Once `load` has run, units that can't be done are left out."""

    @abstractmethod
    def run_part(self, part: StudyPart) -> PartResult:
        """Do a part. Raise `UsageError` if it can't be done."""

    def rows(self, unit: StudyUnit, results: Sequence[Any]) -> Sequence[Row]:
        """Return the rows of a unit from the results of its parts; if empty, nothing is published."""
        return [row for result in results for row in result]

    @abstractmethod
    def summary(self, rows: Sequence[Row]) -> Sequence[ResultTable | str]:
        """Return the closing tables and sentences; `rows` are all rows that were published."""
