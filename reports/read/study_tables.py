"""The tables about a sweep that its results may hold beside its runs, such as timings and judgements."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import pandas as pd
import pyarrow as pa

from eexit.results.files import DamagedError, Location, read_further
from eexit.results.layout import CHOICES_FOLDER, JUDGEMENTS_FOLDER, REPLAYS_FOLDER, SCORES_FOLDER, TIMINGS_FOLDER
from eexit.results.study_tables import CHOICES, JUDGEMENTS, REPLAYS, SCORES, TIMINGS
from eexit.studies.judging.judgements import read_judgements


def _empty(schema: pa.Schema) -> Callable[[], pd.DataFrame]:
    return lambda: schema.empty_table().to_pandas()


@dataclass(frozen=True)
class Further:
    """Each with the columns of its schema in `eexit.results.tables`, in the order in which the rows' calls began."""

    timings: pd.DataFrame = field(default_factory=_empty(TIMINGS))
    judgements: pd.DataFrame = field(
        default_factory=_empty(JUDGEMENTS)
    )  # those that count (eexit.studies.judging.judgements)
    replays: pd.DataFrame = field(default_factory=_empty(REPLAYS))
    scores: pd.DataFrame = field(default_factory=_empty(SCORES))
    choices: pd.DataFrame = field(default_factory=_empty(CHOICES))


_READERS: Final[dict[str, Callable[[Location], pa.Table]]] = {
    TIMINGS_FOLDER: lambda location: read_further(location, TIMINGS_FOLDER, TIMINGS),
    JUDGEMENTS_FOLDER: read_judgements,
    REPLAYS_FOLDER: lambda location: read_further(location, REPLAYS_FOLDER, REPLAYS),
    SCORES_FOLDER: lambda location: read_further(location, SCORES_FOLDER, SCORES),
    CHOICES_FOLDER: lambda location: read_further(location, CHOICES_FOLDER, CHOICES),
}


def read_all_further(location: Location) -> tuple[Further, tuple[str, ...]]:
    """All of them, and a line for each that is left out because a file of it is damaged."""
    found: dict[str, pd.DataFrame] = {}
    left_out: list[str] = []
    for folder, read in _READERS.items():
        try:
            found[folder] = read(location).to_pandas()
        except DamagedError as error:
            left_out.append(f"{error}: no {folder} are shown")
    return Further(**found), tuple(left_out)
