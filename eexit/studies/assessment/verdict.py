"""What a verdict says: the content of `verdict.json`, which is written once and read by the report.

Shares of multiply-adds and shares of time are in two tables, and nothing is a sum or a difference of both. What was
not measured is null.
"""

import math
from collections.abc import Sequence
from typing import Final, Literal

import pyarrow.fs
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eexit.quality.estimates import Estimate
from eexit.results.files import Location

FILE: Final = "verdict.json"
FORMAT: Final = 4
STATE, KNOWING, DECIDING, PROOF = RESTRICTIONS = ("state", "knowing", "deciding", "proof")  # of multiply-adds
BATCHES, OVERHEAD = OF_TIME = ("batches", "overhead")
MEANINGS: Final = {
    STATE: "what exits leave behind misleads later tokens",
    KNOWING: "online rules do not know which tokens may leave",
    DECIDING: "reads, gates, keys and values",
    PROOF: "what so many prompts certify",
    BATCHES: "a step of more rows saves less by fewer layers than one of a single row",
    OVERHEAD: "the clock gives less than such steps would",
}
Why = Literal[
    "pays", "look", "missing", "not certified", "not kept", "saves nothing", "dear answers", "not timed", "slower",
    "time not sure",
]  # fmt: skip
REASONS: Final[dict[Why, str]] = {
    "pays": "A setting is certified, keeps the bound on other prompts, runs less than full depth and takes less time.",
    "look": "This is a look: it certifies nothing.",
    "missing": "Not all steps are done.",
    "not certified": "No setting is certified to keep the bound.",
    "not kept": "The certified setting does not keep the bound on the prompts for reporting.",
    "saves nothing": "The certified setting is not shown to run fewer multiply-adds than full depth.",
    "dear answers": "A right answer is not shown to take fewer multiply-adds than at full depth.",
    "not timed": "The certified setting was not timed, or in too few rounds for an interval.",
    "slower": "The certified setting takes at least as much time as full depth.",
    "time not sure": "The interval of the certified setting's time has full depth in it.",
}


class VerdictPart(BaseModel):
    """A part of a verdict."""

    model_config = ConfigDict(frozen=True)


class Interval(VerdictPart):
    """An estimate; no ends where there is no interval. `n` counts prompts, or rounds of a timing."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, estimate: Estimate) -> "Interval | None":
        """None where nothing is known."""
        if math.isnan(estimate.mean):
            return None
        has_ends = not math.isnan(estimate.low)
        low, high = (estimate.low, estimate.high) if has_ends else (None, None)
        return cls(mean=estimate.mean, low=low, high=high, n=estimate.n)


class Bound(VerdictPart):
    """What may be lost: a risk of `eexit.quality.risks`, at most this, with this confidence."""

    risk: str
    at_most: float
    confidence: float = 0.95


class Level(VerdictPart):
    """The best saving of multiply-adds under restrictions, a share of full depth, and by which setting mostly."""

    imposed: list[str]
    saved: Interval
    setting: str | None


class TakenAfter(VerdictPart):
    """What a restriction takes after these."""

    share: Interval
    after: list[str]


class Line(VerdictPart):
    """What a restriction takes of full depth's multiply-adds as the first and as the last to be imposed, and on the
    mean over all orders that were measured. Null: not tried.
    """

    restriction: str
    first: TakenAfter | None
    last: TakenAfter | None
    mean: Interval | None


class TimeLine(VerdictPart):
    """What a restriction takes of full depth's time; null: not tried."""

    restriction: str
    taken: Interval | None = None


class JudgedSetting(VerdictPart):
    """The chosen setting or, without one, that with the least loss of those that were tested."""

    key: str
    certified: bool
    ask: int  # of its prompts for choosing
    loss: float | None
    n: int
    loss_of_right: float | None = None  # of the prompts that full depth gets right
    n_of_right: int | None = None
    reporting_loss: float | None = None
    reporting_n: int | None = None
    saved: Interval | None = None  # of multiply-adds, by what was run
    per_right: Interval | None = None  # multiply-adds per right answer as a multiple of full depth's, with chains
    time: Interval | None = None  # as a multiple of full depth's


class Contender(VerdictPart):
    """What was timed with the others in the first call: the median over rounds, as a multiple of full depth's time."""

    setting: str
    time: float
    rounds: int


class Instead(VerdictPart):
    """What was fastest in the first rounds, and its time in calls of its own; null until it was timed in one."""

    setting: str
    time: Interval | None = None
    of_generate: Interval | None = None  # as a multiple of that of transformers' own

    @property
    def is_faster(self) -> bool:
        """Whether it certainly takes less time than full depth."""
        return self.time is not None and self.time.high is not None and self.time.high < 1


class Verdict(VerdictPart):
    """`pays` is null where that is not known, and `why` says what it turns on. `cause` is the restriction that takes
    most, both as the first and as the last, and certainly so; where none is, it may be any of `undecided`.
    """

    format: Literal[4] = FORMAT
    pays: bool | None
    why: Why
    cause: str | None = None
    undecided: list[str] = Field(default_factory=list)
    missing: list[str] = Field(default_factory=list)  # steps
    bound: Bound
    batch: int  # rows at a time, of all times
    where: str = ""  # what was measured, and where: model, dtype, weights, cores, threads
    setting: JudgedSetting | None = None
    levels: list[Level] = Field(default_factory=list)
    multiply_adds: list[Line] = Field(default_factory=list)
    time: list[TimeLine] = Field(default_factory=list)
    contenders: list[Contender] = Field(default_factory=list)
    instead: Instead | None = None

    def to_json(self) -> str:
        """The content of `verdict.json`."""
        return self.model_dump_json(indent=1) + "\n"


def read_verdict(location: Location) -> tuple[Verdict | None, Sequence[str]]:
    """The verdict, if there is one, and a line if it is left out because it can't be read."""
    path = location.path(FILE)
    if location.filesystem.get_file_info(path).type != pyarrow.fs.FileType.File:
        return None, ()
    with location.filesystem.open_input_stream(path) as stream:
        content = stream.read()
    try:
        return Verdict.model_validate_json(content), ()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        return None, (f"{path} is no verdict of format {FORMAT} ({where}: {first['msg']}): it is not shown",)
