"""The verdict of an assessment (`jobs/assess.py`), which its results folder may hold as `verdict.json`.

    {"sentences": ["…", "…", "…"], "pays": false, "cause": "deciding", "rows": [{"setting": "…", "saved": 0.1}, …]}

`sentences` are three: which setting may be used, what it costs, and how sure that is. `pays` says whether any setting
does. `cause` is the largest cause where none does: "certain too late", "deciding" or "batches"; else null. `rows` are
up to six records for a table, whose keys are its columns. Other keys are left for those who write the file.
"""

from typing import Any, Final, Literal

import pyarrow.fs
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eexit.results.files import Location

VERDICT: Final = "verdict.json"
Cause = Literal["certain too late", "deciding", "batches"]


class AssessedVerdict(BaseModel):
    """What `verdict.json` says."""

    model_config = ConfigDict(frozen=True)

    sentences: list[str] = Field(min_length=1, max_length=3)
    pays: bool
    cause: Cause | None = None
    rows: list[dict[str, Any]] = Field(default_factory=list, max_length=6)


def read_verdict(location: Location) -> tuple[AssessedVerdict | None, tuple[str, ...]]:
    """The verdict, if there is one, and a line if it is left out because it can't be read."""
    path = location.path(VERDICT)
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
