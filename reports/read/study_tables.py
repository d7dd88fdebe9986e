"""The tables about a sweep that its results may hold beside its runs, such as timings and judgements."""

from collections.abc import Mapping

import pandas as pd

from eexit.results.files import DamagedError, Location
from eexit.results.study_tables import STUDY_TABLES


def read_study_tables(location: Location) -> tuple[Mapping[str, pd.DataFrame], tuple[str, ...]]:
    """All of them by their names, and a line for each that is left out because a file of it is damaged."""
    found: dict[str, pd.DataFrame] = {}
    left_out: list[str] = []
    for table in STUDY_TABLES:
        try:
            found[table.name] = table.read(location).to_pandas()
        except DamagedError as error:
            left_out.append(f"{error}: no {table.name} are shown")
    return found, tuple(left_out)
