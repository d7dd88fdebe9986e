"""Speed-ups by the rows of `timings`, with their tables: tokens per second, and savings in theory, as run and in time.

Times are seconds per timed token, since a draft's first round may give more tokens before the clock starts than a step
of full depth. They are compared within a round, in which all are timed within moments. Medians are over a call's
rounds, and intervals are over calls (`eexit.quality.estimates.estimate_over_calls`); a single call has none.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Final

import numpy as np

from eexit.output.result_table import ResultTable
from eexit.output.text import interval, percent, truncate_lines
from eexit.plan.configuration import NORMAL, short_name
from eexit.quality.estimates import Estimate, estimate_over_calls

SETUP: Final = ("machine", "device", "threads", "dtype")  # times of other ones are never taken together
Pair = tuple[Mapping[str, Any], Mapping[str, Any]]  # what was measured, and what it is compared with

# Broken so that the table fits in 80 columns.
TIMES = ("× time of\nnormal", "95 %\ninterval")
HEADINGS = ("tokens/s", *TIMES, "saved in\ntheory", "by what\nwas run", "in\ntime", "short\nof run")
CAPTION = (
    f"Medians over rounds. × time of {NORMAL}: time per token as a multiple of full depth's on the same path, in "
    "the same round; lower is better. It has an interval over calls, and one call can't separate times (–). "
    "Saved, of full depth: in theory, if deciding were free and deferral unbounded (macs_required); by what was "
    "run (macs_executed), as each row alone runs it, both in multiply-adds; in time, 1 − time / time of "
    f"{NORMAL}: below 0, it took longer. Short of run: what was run less, in points, but did not save time, as "
    "where rows wait for the deepest of a step; below 0, time saved more, as where many tokens' deferred layers "
    "are run together."
)
DRAFTS_CAPTION = "Accepted: drafted tokens that full depth agreed with, of all that were drafted."


@dataclass(frozen=True)
class Speedup:
    """Speed of a configuration or of `generate` at a batch size, as a multiple of `normal`'s or another baseline's.

    `theoretical` and `run` are saved shares of full-depth multiply-adds: if deciding were free, and of all that ran.
    They are None without known costs.
    """

    configuration: str
    batch: int
    tokens_per_second: float  # median
    ratio: Estimate  # seconds per token of what it is compared with / its own, over rounds and calls
    theoretical: float | None  # 1 - macs_required / macs_full
    run: float | None  # 1 - macs_executed / macs_full
    acceptance: float | None = None  # of drafts: accepted / drafted
    machine: str | None = None
    calls: int = 1  # of `eexit timings`

    @property
    def rounds(self) -> int:
        return self.ratio.n

    @property
    def speedup(self) -> float:
        """Speed as a multiple of the baseline's."""
        return self.ratio.mean

    @property
    def time(self) -> Estimate:
        """Time as a multiple of the baseline's."""
        return Estimate(1 / self.ratio.mean, 1 / self.ratio.high, 1 / self.ratio.low, self.rounds)

    @property
    def saved(self) -> Estimate:
        """1 − seconds / seconds of normal, at the median speed-up and at both ends of its interval."""
        return Estimate(1 - 1 / self.ratio.mean, 1 - 1 / self.ratio.low, 1 - 1 / self.ratio.high, self.rounds)

    @property
    def realised(self) -> float:
        return self.saved.mean

    @property
    def shortfall(self) -> float | None:
        """Saving as run less the saving of time; below 0 if time saves more."""
        return None if self.run is None else self.run - self.realised


def speedups(measurements: Iterable[Mapping[str, Any]], beside: str = NORMAL) -> list[Speedup]:
    """Return the speed-ups by batch size and configuration, in order of appearance within a batch size.

    `measurements` are rows of `eexit.results.study_tables.TIMINGS` from one or several calls. Rounds without `beside`,
    a key, are left out.
    """
    rows = sorted(measurements, key=lambda row: row["batch"])
    found = []
    for batch, same_batch in groupby(rows, key=lambda row: row["batch"]):
        by_configuration: dict[str, dict[tuple[str, int], Mapping[str, Any]]] = {}
        for row in same_batch:
            in_round = row.get("timing_id", ""), row["round"]
            by_configuration.setdefault(row["configuration"], {})[in_round] = row
        base = by_configuration.get(beside, {})
        for key, by_round in by_configuration.items():
            calls: dict[str, list[Pair]] = {}
            for in_round, row in by_round.items():
                if in_round in base:
                    calls.setdefault(in_round[0], []).append((row, base[in_round]))
            if calls:
                found.append(_speedup(key, batch, [*calls.values()], is_base=key == beside))
    return found


def speedups_of(measurements: Sequence[Mapping[str, Any]], key: str, beside: str = NORMAL) -> list[Speedup]:
    """Return `key`'s speed-ups over `beside` by batch size, over calls on the last call's machine and in its dtype."""
    setup = next((_setup(row) for row in reversed(measurements) if row["configuration"] == key), None)
    there = [row for row in measurements if _setup(row) == setup]
    return [each for each in speedups(there, beside) if each.configuration == key]


def _setup(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in SETUP)


def _speedup(key: str, batch: int, calls: Sequence[Sequence[Pair]], is_base: bool) -> Speedup:
    """Return a speed-up by call: pairs of a measurement and its baseline's in the same round."""
    ratio = estimate_over_calls([
        np.array([base["seconds"] * row["tokens"] / (row["seconds"] * base["tokens"]) for row, base in pairs])
        for pairs in calls
    ])  # fmt: skip
    rows = [row for pairs in calls for row, _ in pairs]
    required, executed = (_ratio(rows, cost, "macs_full") for cost in ("macs_required", "macs_executed"))
    return Speedup(
        configuration=key,
        batch=batch,
        tokens_per_second=float(np.median([row["tokens"] / row["seconds"] for row in rows])),
        ratio=replace(ratio, low=math.nan, high=math.nan) if is_base else ratio,
        theoretical=None if required is None else 1 - required,
        run=None if executed is None else 1 - executed,
        acceptance=_ratio(rows, "accepted", "drafted"),
        machine=rows[0].get("machine"),
        calls=len(calls),
    )


def _ratio(rows: Sequence[Mapping[str, Any]], above: str, below: str) -> float | None:
    """Return the ratio of sums over rounds; None if a value is unknown."""
    numerator, denominator = np.array([[row.get(above), row.get(below)] for row in rows], dtype=float).sum(axis=0)
    return float(numerator / denominator) if denominator > 0 and not math.isnan(numerator) else None


def timings_table(measurements: Iterable[Mapping[str, Any]]) -> ResultTable:
    """Return the table of a call's measurements, with a section per batch size and a line per configuration."""
    rows = list(measurements)
    prompts = dict.fromkeys(prompt_id for row in rows for prompt_id in row["prompt_ids"])
    caption = f"{CAPTION} Prompts: {', '.join(truncate_lines([*prompts]))}." if rows else CAPTION
    table = ResultTable(caption)
    table.add("number", "rows")
    table.add("key", "configuration", shorten=short_name)
    table.add("number", *HEADINGS)
    for speedup in speedups(rows):
        table.add_in(speedup.batch, str(speedup.batch), *_line(speedup))
    return table


def drafts_table(measurements: Iterable[Mapping[str, Any]]) -> ResultTable | None:
    """Return the table of drafts; None without any."""
    found = [speedup for speedup in speedups(measurements) if speedup.acceptance is not None]
    table = ResultTable(DRAFTS_CAPTION)
    table.add("number", "rows")
    table.add("key", "draft")
    table.add("number", "accepted", f"× time of {NORMAL}", "95 %\ninterval")
    for speedup in found:
        table.add_row(str(speedup.batch), speedup.configuration, percent(speedup.acceptance), *times_of(speedup))
    return table if found else None


def times_of(speedup: Speedup) -> list[str]:
    """Return a time as a multiple of `normal`'s, with its interval; nothing for a single call."""
    of = speedup.time
    return ["–", "–"] if math.isnan(of.low) else [f"{of.mean:.2f}", interval(of.low, of.high, ".2f")]


def in_time(speedup: Speedup) -> str:
    """Return the saving of time; nothing for a single call."""
    return "–" if math.isnan(speedup.ratio.low) else percent(speedup.realised)


def _line(speedup: Speedup) -> list[str]:
    return [
        speedup.configuration,
        f"{speedup.tokens_per_second:,.1f}",
        *times_of(speedup),
        percent(speedup.theoretical),
        percent(speedup.run),
        in_time(speedup),
        "–" if math.isnan(speedup.ratio.low) else percent(speedup.shortfall),
    ]
