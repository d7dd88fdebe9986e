"""The table that ends a replay: what each setting would be worth, on texts that another one wrote."""

from collections.abc import Mapping, Sequence
from typing import Any

from eexit.output.result_table import ResultTable
from eexit.output.text import interval, percent, written
from eexit.quality.estimates import MIN_SAMPLES
from eexit.quality.intervals import LEVEL

# Broken so that the table fits in 80 columns.
HEADINGS = (
    "layers\nskipped",
    f"{LEVEL:.0%}\ninterval",
    "dis-\nagree-\nment",
    f"{LEVEL:.0%}\ninterval",
    "KL,\nnats",
    "saved\nin\ntheory",
    "saved\nas\nrun",
)
CAPTION = (
    "Teacher-forced: each token is decided given a text of {text_of}, so that nothing is said of where a setting's own "
    "text would have gone. Means over {prompts} prompts ({texts} texts, seeds averaged first); intervals "
    f"over prompts, from {MIN_SAMPLES} prompts on. Layers skipped: 1 − expected mean depth. Disagreement: tokens whose "
    "likeliest token at the exit is not that of full depth, given the same text. KL: of what is read at the exit from "
    "full depth. Saved in multiply-adds: in theory, if deciding were free (cost_needed), and as run (cost_run), "
    "which oracles are not; – where no model was loaded.{drawn}"
)
DRAWN = " *: exits left to chance alter the state, so that KL and disagreement are those of exits as drawn."


def replays_table(rows: Sequence[Mapping[str, Any]]) -> ResultTable:
    """A line per setting; `rows` are those of one replay."""
    drawn = DRAWN if any(row["drawn"] for row in rows) else ""
    caption = CAPTION.format(
        text_of=rows[0]["text_of"], drawn=drawn, **{name: f"{rows[0][name]:,}" for name in ("prompts", "texts")}
    )
    table = ResultTable(caption)
    table.add("key", "setting")
    table.add("number", *HEADINGS)
    for row in rows:
        table.add_in((row["mode"], row["rule"]), *_line(row))
    return table


def _line(row: Mapping[str, Any]) -> list[str]:
    saved = [None if row[name] is None else 1 - row[name] / row["cost_full"] for name in ("cost_needed", "cost_run")]
    return [
        f"{row['configuration']}{'*' if row['drawn'] else ''}",
        percent(1 - row["mean_depth"]),
        _interval(*(None if row[end] is None else 1 - row[end] for end in ("mean_depth_high", "mean_depth_low"))),
        percent(row["expected_disagreement"]),
        _interval(row["expected_disagreement_low"], row["expected_disagreement_high"]),
        written(row["expected_kl"], ".4g"),
        *map(percent, saved),
    ]


def _interval(low: float | None, high: float | None) -> str:
    """In percent, which the column's other cells say."""
    low, high = (None if end is None else 100 * end for end in (low, high))
    return interval(low, high, ".1f")
