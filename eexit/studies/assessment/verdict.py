"""The content of `verdict.json`, which is written once and read by the report.

Shares of multiply-adds and shares of time are in two tables, and nothing is a sum or a difference of both. What was not
measured is null.
"""

import math
from collections.abc import Sequence
from typing import Final, Literal

import pyarrow.fs
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eexit.quality.estimates import Estimate
from eexit.results.parquet_files import StoreLocation

FILE: Final = "verdict.json"
FORMAT: Final = 5
CEILING, MODE, KNOWLEDGE, DECIDING, PROOF = OF_MULTIPLY_ADDS = ("ceiling", "mode", "knowledge", "deciding", "proof")
TIME, BATCHES, OVERHEAD = OF_TIME = ("time", "batches", "overhead")
BOTH: Final = "both"  # the mode and the knowledge
MEANINGS: Final = {
    CEILING: "even an oracle in the exact KV cache saves little",
    MODE: "what exits leave in the KV cache misleads later tokens",
    KNOWLEDGE: "the rule does not find the tokens that an oracle would let exit",
    DECIDING: "reading layers to decide, and skipped layers' keys and values",
    PROOF: "more is within the bound than so few prompts certify",
    TIME: "multiply-adds are saved, and time is not",
    BATCHES: "a step of several rows saves less by fewer layers than a step of one",
    OVERHEAD: "the clock gives less than such steps would",
}
Why = Literal[
    "pays", "look", "missing", "loses too much", "not kept", "costs more", "dear answers", "slower", "not certified",
    "costs open", "answers open", "not timed", "time open",
]  # fmt: skip
REASONS: Final[dict[Why, str]] = {
    "pays": "A setting is certified, keeps the bound on test prompts, runs less than full depth and takes less time.",
    "look": "A smoke run certifies nothing.",
    "missing": "Not all steps are done.",
    "loses too much": "Every setting that was tried loses more than the bound.",
    "not kept": "The certified setting loses more than the bound on the test prompts.",
    "costs more": "Deciding costs more than exits save.",
    "dear answers": "A right answer takes more multiply-adds than at full depth.",
    "slower": "The certified setting takes at least as much time as full depth.",
    "not certified": "No setting that saves is certified to keep the bound.",
    "costs open": "The certified setting's multiply-adds may be fewer or more than full depth's.",
    "answers open": "A right answer may take fewer or more multiply-adds than at full depth.",
    "not timed": "The certified setting was timed in too few calls for an interval.",
    "time open": "The certified setting may take less or more time than full depth.",
}


class VerdictPart(BaseModel):
    """A part of a verdict."""

    model_config = ConfigDict(frozen=True)


class Interval(VerdictPart):
    """An estimate; no ends where there is no interval. `n` counts prompts or, of a time, calls."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @classmethod
    def from_estimate(cls, estimate: Estimate) -> "Interval | None":
        """Return None where nothing is known."""
        if math.isnan(estimate.mean):
            return None
        ends = (estimate.low, estimate.high) if not math.isnan(estimate.low) else (None, None)
        return cls(mean=estimate.mean, low=ends[0], high=ends[1], n=estimate.n)

    def is_above(self, value: float) -> bool:
        """True if the whole interval is."""
        return self.low is not None and self.low > value

    def is_below(self, value: float) -> bool:
        """True if the whole interval is."""
        return self.high is not None and self.high < value


class Bound(VerdictPart):
    """What may be lost: a risk of `eexit.quality.risks`, at most this, with this confidence."""

    risk: str
    max_risk: float
    confidence: float = 0.95


class Cell(VerdictPart):
    """What one cell saves and loses: shares of full depth's multiply-adds, and of all prompts. `safe_share` of the
    prompts have its safer setting, `bold_share` the bolder one, and the others full depth.
    """

    name: str
    mode: str
    saved: Interval
    lost: float
    safe: str | None
    safe_share: float
    bold: str
    bold_share: float


class Line(VerdictPart):
    """A share of full depth's multiply-adds or time, by what it is of; null: not measured."""

    name: str
    share: Interval | None


class JudgedSetting(VerdictPart):
    """The certified setting or, without one, that with the least loss of those that were tested."""

    key: str
    certified: bool
    use: int  # of the error budget of its calibration prompts
    loss: float | None
    n: int
    loss_of_right: float | None = None  # of the prompts that full depth gets right
    n_of_right: int | None = None
    loss_of_prompts: float | None = None  # where groups of prompts, which `n` counts, differ in size
    n_of_prompts: int | None = None
    test_loss: Interval | None = None
    saved: Interval | None = None  # of multiply-adds, as run
    per_right: Interval | None = None  # multiply-adds per right answer as a multiple of full depth's, with chains
    time: Interval | None = None  # as a multiple of full depth's


class TimedContender(VerdictPart):
    """A time over calls, as a multiple of full depth's, and of that of transformers' `generate`."""

    setting: str
    time: Interval | None
    of_generate: Interval | None = None

    @property
    def is_faster(self) -> bool:
        """True if it certainly takes less time than full depth."""
        return self.time is not None and self.time.is_below(1)


class Needed(VerdictPart):
    """What would decide an open answer with a chance of 80 %, if all stays as it is; null: more than can be had."""

    what: Literal["calibration prompts", "prompts", "calls"]
    n: int | None


class Verdict(VerdictPart):
    """`pays` is null where that is not known, and `why` names what it turns on. `cause` is what fixing alone certainly
    gains most; where nothing is, it may be any of `undecided`.
    """

    format: Literal[5] = FORMAT
    pays: bool | None
    why: Why
    cause: str | None = None
    undecided: list[str] = Field(default_factory=list)
    needed: Needed | None = None
    missing: list[str] = Field(default_factory=list)  # steps
    bound: Bound
    batch: int  # rows at a time, of all times
    where: str = ""  # what was measured, and where: model, dtype, weights, cores, threads
    setting: JudgedSetting | None = None
    cells: list[Cell] = Field(default_factory=list)
    gains: list[Line] = Field(default_factory=list)  # of fixing one thing alone
    costs: list[Line] = Field(default_factory=list)  # of each restriction alone, and on average over both orders
    gaps: list[Line] = Field(default_factory=list)  # of time
    timed: list[TimedContender] = Field(default_factory=list)

    def to_json(self) -> str:
        """Return the content of `verdict.json`."""
        return self.model_dump_json(indent=1) + "\n"


def read_verdict(location: StoreLocation) -> tuple[Verdict | None, Sequence[str]]:
    """Return the verdict, if there is one, and a line if it is left out because it can't be read."""
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
