"""The table that ends a timing: what was saved in theory, by what was run, and in time."""

from collections.abc import Iterable, Mapping
from typing import Any

from eexit.messages.result_table import ResultTable
from eexit.messages.written import percent
from eexit.plan.configuration import NORMAL
from eexit.studies.timing.speedups import MIN_ROUNDS, Speedup, speedups

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
    f"bootstrap interval over rounds, from {MIN_ROUNDS} rounds on. Saved, of full depth: in theory, if deciding were "
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
    batch = None
    for speedup in speedups(rows):
        if batch not in (None, speedup.batch):
            table.add_section()
        table.add_row(str(speedup.batch), *_line(speedup))
        batch = speedup.batch
    return table


def drafts_table(measurements: Iterable[Mapping[str, Any]]) -> ResultTable | None:
    """What drafts gained, expected and measured; None if there are none."""
    found = [its for its in speedups(measurements) if its.expected is not None]
    table = ResultTable(DRAFTS_CAPTION)
    table.add("number", "rows")
    table.add("key", "draft")
    table.add("number", "accepted", f"× {NORMAL},\nexpected", "measured", "95 %\ninterval")
    for its in found:
        numbers = [percent(its.acceptance), f"{its.expected:.2f}", f"{its.speedup:.2f}", _interval(its)]
        table.add_row(str(its.batch), its.configuration, *numbers)
    return table if found else None


def _interval(its: Speedup) -> str:
    return "–" if its.low is None or its.high is None else f"{its.low:.2f}–{its.high:.2f}"


def _line(its: Speedup) -> list[str]:
    return [
        its.configuration,
        f"{its.tokens_per_second:,.1f}",
        f"{its.speedup:.2f}",
        _interval(its),
        percent(its.theoretical),
        percent(its.run),
        percent(its.realised),
        percent(its.shortfall),
    ]
