"""The verdict of an assessment (`jobs/assess.py`), which its results folder may hold as `verdict.json`.

`cluster/assessment/outcome/words.py` says it. Of it, the report shows whether it `pays`, and where it does not, the
largest `cause`; `sentences`, up to three, but for the first where the clock decides (`by_time`), since the best row
then says the same; the `ledger` of what restrictions take, as shares of full depth; the sentence of `instead`, what
could be taken in place of exits; and `rows`, up to ten records for a table, whose keys are its columns. All but
`sentences` and `pays` may be missing, and other keys are not looked at.
"""

from typing import Any

import pyarrow.fs
from pydantic import BaseModel, Field, ValidationError

from eexit.results.files import Location
from eexit.studies.verdict_file import FILE, MOST_ROWS


class LedgerLine(BaseModel, frozen=True):
    """What a restriction takes, with its interval, and what is left then, as shares of full depth."""

    restriction: str
    taken: float
    low: float | None = None
    high: float | None = None
    left: float


class Ceiling(BaseModel, frozen=True):
    """What the ledger begins with."""

    saved: float
    low: float | None = None
    high: float | None = None


class AssessedLedger(BaseModel, frozen=True):
    """From what exits could save to what the clock says; `batch` is the size that times are of."""

    ceiling: Ceiling
    batch: int | None = None
    lines: list[LedgerLine] = Field(min_length=1)


class AssessedAlternative(BaseModel, frozen=True):
    """What takes least time of all that keeps the bound."""

    sentence: str


class AssessedVerdict(BaseModel, frozen=True):
    """What `verdict.json` says."""

    sentences: list[str] = Field(min_length=1, max_length=3)
    pays: bool | None
    by_time: bool = False
    cause: str | None = None
    ledger: AssessedLedger | None = None
    instead: AssessedAlternative | None = None
    setting: str | None = None
    rows: list[dict[str, Any]] = Field(default_factory=list, max_length=MOST_ROWS)


def read_verdict(location: Location) -> tuple[AssessedVerdict | None, tuple[str, ...]]:
    """The verdict, if there is one, and a line if it is left out because it can't be read."""
    path = location.path(FILE)
    if location.filesystem.get_file_info(path).type != pyarrow.fs.FileType.File:
        return None, ()
    with location.filesystem.open_input_stream(path) as stream:
        content = stream.read()
    try:
        return AssessedVerdict.model_validate_json(content), ()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        return None, (f"{path} is no verdict ({where}: {first['msg']}): it is not shown",)
