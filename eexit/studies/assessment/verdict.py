"""Content of `verdict.json`, which the assessment writes and the report reads.

Shares of multiply-adds and shares of time are in separate tables, and no sum or difference has both. An estimate's
numbers are null where nothing was measured.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple

import pyarrow.fs
from pydantic import BaseModel, BeforeValidator, Field, PlainSerializer, ValidationError, computed_field

from eexit.quality.estimates import NOTHING, Estimate
from eexit.results.parquet_files import StoreLocation

FILE: Final = "verdict.json"
FORMAT: Final = 5


# Causes of an answer other than yes; the last three are of time, where multiply-adds are saved.
CAUSES: Final[Mapping[str, str]] = {
    "ceiling": "even the oracle with the exact KV cache saves little",
    "mode": "the KV cache of skipped layers misleads later tokens",
    "knowledge": "the exit rule misses tokens that the oracle lets exit",
    "deciding": "exit scores, and KV entries of skipped layers",
    "proof": "more is within the bound than so few prompts certify",
    "time": "multiply-adds are saved, and time is not",
    "batches": "fewer layers save less of a step of several slots than of one",
    "overhead": "the clock gives less than such steps allow",
}
Cause = Annotated[str, Field(pattern=f"^({'|'.join(CAUSES)})$")]


class Reason(NamedTuple):
    """Answer with its sentence, the decisive field of `JudgedSetting`, and the data that an open answer needs."""

    pays: bool | None
    sentence: str
    field: str = ""
    needs: str = ""


REASONS: Final[Mapping[str, Reason]] = {
    "pays": Reason(True, "A setting is certified, runs fewer multiply-adds and takes less time.", "time"),
    "look": Reason(None, "A smoke run certifies nothing."),
    "missing": Reason(None, "Not all steps are done."),
    "loses too much": Reason(False, "Every setting that was tried loses more than the bound.", "losses"),
    "not kept": Reason(False, "The certified setting loses more than the bound on the test prompts.", "test_loss"),
    "costs more": Reason(False, "Deciding costs more than exits save.", "saved"),
    "dear answers": Reason(False, "A right answer takes more multiply-adds than at full depth.", "per_right"),
    "slower": Reason(False, "The certified setting takes at least as much time as full depth.", "time"),
    "not certified": Reason(None, "No setting that saves is certified.", "losses", "calibration prompts"),
    "costs open": Reason(None, "The certified setting may run fewer multiply-adds or more.", "saved", "prompts"),
    "answers open": Reason(None, "A right answer may take fewer multiply-adds or more.", "per_right", "prompts"),
    "not timed": Reason(None, "The certified setting was timed in too few calls for an interval."),
    "time open": Reason(None, "The certified setting may take less or more time than full depth.", "time", "calls"),
}  # fmt: skip


def _parse_estimate(value: Any) -> Any:
    is_read = isinstance(value, dict)
    return {name: math.nan if number is None else number for name, number in value.items()} if is_read else value


Measured = Annotated[
    Estimate, BeforeValidator(_parse_estimate), PlainSerializer(lambda found: found.as_dict, when_used="json")
]


class Bound(BaseModel, frozen=True):
    """Bound on a risk of `eexit.quality.risks`, and the certificate's confidence."""

    risk: str
    max_risk: float
    confidence: float = 0.95


class Cell(BaseModel, frozen=True):
    """Cell of the attribution: the share of multiply-adds saved, prompts lost, and settings with their shares."""

    mode: str
    saved: Measured
    lost: float
    safe: str | None
    safe_share: float
    bold: str
    bold_share: float


class JudgedSetting(BaseModel, frozen=True):
    """Certified setting or, without one, the tested setting with the least loss."""

    key: str
    certified: bool
    use: int  # of the calibration prompts' error budget
    losses: dict[str, tuple[float, int]]  # share lost and n by population: prompts or groups, and right answers
    test_loss: Measured = NOTHING
    saved: Measured = NOTHING  # of multiply-adds, as run
    per_right: Measured = NOTHING  # multiply-adds per right answer as a multiple of full depth's, with thinking
    time: Measured = NOTHING  # as a multiple of full depth's; `n` counts calls


class AlternativeTime(BaseModel, frozen=True):
    """Time over calls as a multiple of full depth's, and of transformers' `generate`."""

    time: Measured
    of_generate: Measured = NOTHING


class Verdict(BaseModel, frozen=True):
    """Answer, its reason and causes (one that is certain, or several to choose from), and the tables behind them."""

    format: Literal[5] = FORMAT
    why: str = Field(pattern=f"^({'|'.join(REASONS)})$")
    causes: list[Cause] = Field(default_factory=list)
    needed: int | None = None  # of what `Reason.needs` would decide an open answer with 80 % power; null: out of reach
    missing: list[str] = Field(default_factory=list)  # steps
    bound: Bound
    batch: int  # slots of all times
    where: str = ""  # model, dtype, weights, cores, threads
    setting: JudgedSetting | None = None
    cells: dict[str, Cell] = Field(default_factory=dict)
    gains: dict[str, Measured] = Field(default_factory=dict)  # of fixing one thing alone
    costs: dict[str, Measured] = Field(default_factory=dict)  # of a restriction alone, and on average over both orders
    gaps: dict[str, Measured] = Field(default_factory=dict)  # shares of full depth's time
    timed: dict[str, AlternativeTime] = Field(default_factory=dict)  # by configuration

    @computed_field  # type: ignore[prop-decorator]
    @property
    def pays(self) -> bool | None:
        """True if early exit pays, False if it doesn't; None if that is not known."""
        return REASONS[self.why].pays

    @property
    def cause(self) -> str | None:
        """Certain cause, if any."""
        return self.causes[0] if len(self.causes) == 1 else None

    def to_json(self) -> str:
        """Return the content of `verdict.json`."""
        return self.model_dump_json(indent=1) + "\n"


def read_verdict(location: StoreLocation) -> tuple[Verdict | None, Sequence[str]]:
    """Return the verdict, if any, and a line for a file that can't be read."""
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
