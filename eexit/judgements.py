"""Reading judgements: which rows count, and what is already known of texts."""

from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa

from eexit.files import Place, read_further
from eexit.further_schema import JUDGEMENTS
from eexit.results import JUDGEMENTS_FOLDER
from eexit.rubric import ASPECTS
from eexit.schema import OK

Row = Mapping[str, Any]  # of `JUDGEMENTS`
_KEY: Final = ("run_id", "judge", "rubric")


def read_judgements(place: Place) -> pa.Table:
    """The rows that count, one for each judged run, judge and rubric: see `further_schema.JUDGEMENTS`.

    Raises `DamagedError`, and `OSError` if a file can't be read at all.
    """
    rows = read_further(place, JUDGEMENTS_FOLDER, JUDGEMENTS)
    counts: dict[tuple[str, ...], int] = {}
    status = rows["status"].to_pylist()
    for at, key in enumerate(zip(*(rows[name].to_pylist() for name in _KEY), strict=True)):
        before = counts.get(key)
        if before is None or status[at] == OK or status[before] != OK:  # rows are in the order of their calls
            counts[key] = at
    return rows.take(pa.array(sorted(counts.values()), pa.int64()))


def is_scored(row: Row) -> bool:
    return all(row[name] is not None for name in ASPECTS)


def is_compared(row: Row, orders: int) -> bool:
    """Whether texts were compared in at least so many orders."""
    return row["preferred"] is not None and row["orders"] >= orders
