"""The table that ends a timing: what was saved in theory, by what was run, and in time."""

from collections.abc import Iterable, Mapping
from typing import Any

from eexit.output.result_table import ResultTable
from eexit.output.text import interval, percent
from eexit.plan.configuration import NORMAL
from eexit.quality.estimates import MIN_ROUNDS
from eexit.studies.timing.speedups import Speedup, speedups

# Broken so that the table fits in 80 columns.
HEADINGS = (
    "tokens/s",
    "×\nnormal",
    "95 %\ninterval",
    "saved in\ntheory",
    "by what\nwas run",
    "in\ntime",
    "short\nof run",
)
CAPTION = (
    f"Medians over rounds. × {NORMAL}: how many times as fast as full depth on the same path, in the same round; "
    f"exact interval of the median, from {MIN_ROUNDS} rounds on. Saved, of full depth: in theory, if deciding were "
    "free and deferral unbounded (cost_needed); by what was run (cost_run), both in multiply-adds; in time, 1 − time / "
    f"time of {NORMAL}: below 0, it took longer. Short of run: what was run less, in points, but did not save time; "
    "below 0, time saved more, as where many tokens' deferred layers are run together."
)

DRAFTS_CAPTION = (
    "Accepted: drafted tokens that full depth agreed with, of all that were drafted. Expected: if a call of a layer or "
    "of the head takes the same time for several tokens of a row as for one, as where fetching weights takes the time; "
    "by the multiply-adds of each call for one token, attention apart."
)


def timings_table(measurements: Iterable[Mapping[str, Any]]) -> ResultTable:
    """A section per batch size, and a line per configuration; `measurements` are those of one timing."""
    rows = list(measurements)
    caption = f"{CAPTION} Prompts: {', '.join(rows[0]['prompt_ids'])}." if rows else CAPTION
    table = ResultTable(caption)
    table.add("number", "rows")
    table.add("key", "configuration")
    table.add("number", *HEADINGS)
    for speedup in speedups(rows):
        table.add_in(speedup.batch, str(speedup.batch), *_line(speedup))
    return table


def drafts_table(measurements: Iterable[Mapping[str, Any]]) -> ResultTable | None:
    """What drafts gained, expected and measured; None if there are none."""
    found = [speedup for speedup in speedups(measurements) if speedup.expected is not None]
    table = ResultTable(DRAFTS_CAPTION)
    table.add("number", "rows")
    table.add("key", "draft")
    table.add("number", "accepted", f"× {NORMAL},\nexpected", "measured", "95 %\ninterval")
    for speedup in found:
        numbers = [percent(speedup.acceptance), f"{speedup.expected:.2f}"]
        table.add_row(str(speedup.batch), speedup.configuration, *numbers, *_times(speedup))
    return table if found else None


def _times(speedup: Speedup) -> list[str]:
    ratio = speedup.ratio
    return [f"{ratio.mean:.2f}", interval(ratio.low, ratio.high, ".2f")]


def _line(speedup: Speedup) -> list[str]:
    return [
        speedup.configuration,
        f"{speedup.tokens_per_second:,.1f}",
        *_times(speedup),
        percent(speedup.theoretical),
        percent(speedup.run),
        percent(speedup.realised),
        percent(speedup.shortfall),
    ]
