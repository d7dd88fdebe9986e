"""Reading judgements: which rows count, and what is already known of texts."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from eexit.messages.locations import reading
from eexit.plan.runs import OK
from eexit.quality.rubric import ASPECTS
from eexit.results.files import Location, read_further
from eexit.results.layout import JUDGEMENTS_FOLDER
from eexit.results.study_tables import JUDGEMENTS

Row = Mapping[str, Any]  # of `JUDGEMENTS`
_KEY: Final = ("run_id", "judge", "rubric")
_GROUP: Final = ("judge", "rubric", "configuration")


def read_judgements(location: Location) -> pa.Table:
    """The rows that count, one for each judged run, judge and rubric: see `further_schema.JUDGEMENTS`.

    Raises `DamagedError`, and `OSError` if a file can't be read at all.
    """
    rows = read_further(location, JUDGEMENTS_FOLDER, JUDGEMENTS)
    counts: dict[tuple[str, ...], int] = {}
    status = rows["status"].to_pylist()
    for at, key in enumerate(zip(*(rows[name].to_pylist() for name in _KEY), strict=True)):
        before = counts.get(key)
        if before is None or status[at] == OK or status[before] != OK:  # rows are in the order of their calls
            counts[key] = at
    return rows.take(pa.array(sorted(counts.values()), pa.int64()))


def in_pandas(location: str, is_paired: bool) -> list[str]:
    """The lines of Python that read the rows without an error that count, and what the table of a judging is made of.

    The second gives the mean scores, the third how often a text is preferred to that of normal, over prompts.
    """
    that_count = f""".query("status == '{OK}'").sort_values("started").drop_duplicates({_listed(_KEY)}, keep="last")"""
    of_prompt = f"judged.groupby({_listed((*_GROUP, 'prompt_id'))})"
    means = f".groupby({_listed(_GROUP)}).mean()"
    paired = f"{of_prompt}.preferred.value_counts(normalize=True).unstack(fill_value=0){means}"
    return [
        reading(location, JUDGEMENTS_FOLDER, "judged", that_count),
        f"{of_prompt}[{_listed(ASPECTS)}].mean(){means}",
        *([paired] if is_paired else []),
    ]


def _listed(names: Sequence[str]) -> str:
    return json.dumps(names)


def is_scored(row: Row) -> bool:
    return all(row[name] is not None for name in ASPECTS)


def is_compared(row: Row, orders: int) -> bool:
    """Whether texts were compared in at least so many orders."""
    return row["preferred"] is not None and row["orders"] >= orders
