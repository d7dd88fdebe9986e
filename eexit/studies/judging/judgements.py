"""Reading judgements: the lines of Python that do, and what is already known of texts."""

import json
from collections.abc import Sequence
from typing import Final

from eexit.output.locations import reading
from eexit.plan.runs import OK
from eexit.quality.rubric import ASPECTS
from eexit.results.study_table import Row
from eexit.results.study_tables import JUDGEMENTS

_GROUP: Final = ("judge", "rubric", "configuration")


def in_pandas(location: str, is_paired: bool) -> list[str]:
    """The lines of Python that read the rows without an error that count, and what the table of a judging is made of.

    The second gives the mean scores, the third how often a text is preferred to that of normal, over prompts.
    """
    once = _listed(JUDGEMENTS.once)
    that_count = f""".query("status == '{OK}'").sort_values("started").drop_duplicates({once}, keep="last")"""
    of_prompt = f"judged.groupby({_listed((*_GROUP, 'prompt_id'))})"
    means = f".groupby({_listed(_GROUP)}).mean()"
    paired = f"{of_prompt}.preferred.value_counts(normalize=True).unstack(fill_value=0){means}"
    return [
        reading(location, JUDGEMENTS.name, "judged", that_count),
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
