"""The tables about a sweep that its results may hold beside its runs, such as timings and judgements."""

from collections.abc import Mapping

import pandas as pd

from eexit.results.files import DamagedError, Location
from eexit.results.study_table import Table
from eexit.results.study_tables import STUDY_TABLES


def rows_of(table: Table, found: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The rows of one of those that were found; none if it was not."""
    return found[table.name] if table.name in found else table.schema.empty_table().to_pandas()


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
