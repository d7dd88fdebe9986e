"""Reading judgements: the table that ends a judging, with the mean scores of each configuration and how its texts stand
beside those of normal; the lines of Python that give the same; and what is known of a text already.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from eexit.output.locations import reading
from eexit.output.result_table import ResultTable
from eexit.output.text import counted, interval, is_known, written
from eexit.plan.configuration import NORMAL, short_name
from eexit.plan.runs import OK
from eexit.quality.estimates import MIN_SAMPLES, Estimate, ValueKind, estimate_columns, means_of_groups
from eexit.quality.intervals import LEVEL
from eexit.quality.rubric import ASPECTS, THIS, TIE
from eexit.results.study_table import Row
from eexit.results.study_tables import JUDGEMENTS

BETTER: Final = "better"
WIN_RATE: Final = "win_rate"
COMPARED: Final = (BETTER, TIE, WIN_RATE)
# Broken so that the table fits in 80 columns.
HEADINGS: Final = ("co-\nher-\nence", "com-\nplete-\nness", "clar-\nity", "no\nrepe-\ntition")
PAIRED_HEADINGS: Final = ("n", f"beats\n{NORMAL}", "tie", "win\nrate")
CAPTION: Final = (
    "Scores from 1 to 5, higher is better. Means over n prompts, {seeds}; beneath, a "
    f"{LEVEL:.0%} interval over prompts, from {MIN_SAMPLES} prompts on."
)
PAIRED_CAPTION: Final = f" Win rate: beats {NORMAL}, and half of the ties; 50 % if the judge sees no difference."

Estimates = Mapping[str, Estimate]  # of each of `ASPECTS` and `COMPARED`


def by_configuration(
    rows: Iterable[Mapping[str, Any]], keys: Sequence[str], groups: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Estimates]:
    """What a judge says of each configuration; `rows` are those of one judge and rubric that count.

    Prompts of a group (id → group) count once.
    """
    by_key: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["status"] == OK:
            by_key[row["configuration"]].append(row)
    return {key: _estimates(by_key[key], groups) for key in keys}


def judgements_table(found: Mapping[str, Estimates], n_seeds: int) -> ResultTable:
    """A line per configuration; `n_seeds` is how many seeds the judged runs have."""
    is_paired = any(estimates[WIN_RATE].n for estimates in found.values())
    seeds = counted(n_seeds, "seed") + (" averaged first" if n_seeds > 1 else "")
    caption = CAPTION.format(seeds=seeds) + (PAIRED_CAPTION if is_paired else "")
    table = ResultTable(caption)
    table.add("key", "configuration", shorten=short_name)
    table.add("number", "n", *HEADINGS, *(PAIRED_HEADINGS if is_paired else ()))
    for key, estimates in found.items():
        scores = [_said(estimates[name], ".2f") for name in ASPECTS]
        paired = (
            [f"{estimates[WIN_RATE].n:,}", *(_said(estimates[name], ".0%") for name in COMPARED)] if is_paired else []
        )
        table.add_row(key, f"{estimates[ASPECTS[0]].n:,}", *scores, *paired)
    return table


def _estimates(rows: Sequence[Mapping[str, Any]], groups: Mapping[str, str]) -> Estimates:
    """Means over prompts of the means over each prompt's seeds."""
    columns = (*ASPECTS, *COMPARED)
    values_RX = np.array([_values(row) for row in rows]).reshape(len(rows), len(columns))
    values_PX = means_of_groups(values_RX, [groups.get(row["prompt_id"], row["prompt_id"]) for row in rows])
    kinds = [ValueKind.NUMBER] * len(ASPECTS) + [ValueKind.SHARE] * len(COMPARED)
    return dict(zip(columns, estimate_columns(values_PX, kinds), strict=True))


def _values(row: Mapping[str, Any]) -> list[float]:
    """One run's scores, and whether it is better, the same, and both with a tie as half; NaN where it is not known."""
    scores = [math.nan if row[name] is None else float(row[name]) for name in ASPECTS]
    if row["preferred"] is None:
        return [*scores, math.nan, math.nan, math.nan]
    better, tie = float(row["preferred"] == THIS), float(row["preferred"] == TIE)
    return [*scores, better, tie, better + tie / 2]


def _said(estimate: Estimate, form: str) -> str:
    """A mean, and its interval beneath if there is one."""
    ends = f"\n{interval(estimate.low, estimate.high, form)}" if is_known(estimate.low) else ""
    return written(estimate.mean, form) + ends


_GROUP: Final = ("judge", "rubric", "configuration")


def in_pandas(location: str, is_paired: bool) -> list[str]:
    """The lines of Python that read the rows without an error that count, and what the table of a judging is made of.

    The second gives the mean scores, the third how often a text is preferred to that of normal, over prompts.
    """
    once = json.dumps(JUDGEMENTS.once)
    that_count = f""".query("status == '{OK}'").sort_values("started").drop_duplicates({once}, keep="last")"""
    of_prompt = f"judged.groupby({json.dumps((*_GROUP, 'prompt_id'))})"
    means = f".groupby({json.dumps(_GROUP)}).mean()"
    paired = f"{of_prompt}.preferred.value_counts(normalize=True).unstack(fill_value=0){means}"
    return [
        reading(location, JUDGEMENTS.name, "judged", that_count),
        f"{of_prompt}[{json.dumps(ASPECTS)}].mean(){means}",
        *([paired] if is_paired else []),
    ]


def is_scored(row: Row) -> bool:
    return all(row[name] is not None for name in ASPECTS)


def is_compared(row: Row, orders: int) -> bool:
    """Whether texts were compared in at least so many orders."""
    return row["preferred"] is not None and row["orders"] >= orders
