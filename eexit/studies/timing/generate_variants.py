"""Variants of transformers' `generate` to time beside configurations, and whether their texts are the same."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from eexit.errors import UsageError
from eexit.output.result_table import ResultTable
from eexit.output.text import percent
from eexit.plan.configuration import GENERATE, NORMAL, VARIANTS, HFGenerate, mode_of
from eexit.studies.study import Row
from eexit.studies.timing.speedups import TIMES, Speedup, speedups, times_of

TEXTS: Final = "texts"  # of a row of timings that is being made: the tokens of each of its rows
MISSING = "–"
BESIDE_CAPTION = (
    f"Identical texts: sequences with all the tokens of {NORMAL} in the same round, in the worst round. First other "
    "token: the earliest of any sequence that is not the same, from 0. Warming up is not timed. "
    f"{MISSING}: it decodes one sequence at a time only."
)


def variants_beside(keys: Sequence[str]) -> list[HFGenerate]:
    """Return the variants with these keys, always with plain `generate` first. Raise `UsageError` for another key."""
    known = {f"{GENERATE}/{variant}": HFGenerate(variant=variant) for variant in VARIANTS}
    for key in keys:
        if key not in (GENERATE, *known):
            raise UsageError(f"--baselines {key} is not known: choose from {', '.join((GENERATE, *known))}")
    return [HFGenerate(), *(known[key] for key in dict.fromkeys(keys) if key in known)]


def with_identity(rows: Sequence[Row]) -> list[Row]:
    """Return a round's rows with columns that compare each text with `normal`'s, in place of the texts."""
    normal = {row["batch"]: row[TEXTS] for row in rows if row["configuration"] == NORMAL}
    return [
        {name: value for name, value in row.items() if name != TEXTS} | _compared(row, normal.get(row["batch"]))
        for row in rows
    ]


def _compared(row: Row, normal: Sequence[Sequence[int]] | None) -> Row:
    if normal is None or row["configuration"] == NORMAL:
        return {"identical": None, "first_difference": None}
    firsts = [
        next((at for at, (mine, own) in enumerate(zip(*texts, strict=True)) if mine != own), None)
        for texts in zip(row[TEXTS], normal, strict=True)
    ]
    differing = [first for first in firsts if first is not None]
    return {"identical": 1 - len(differing) / len(firsts), "first_difference": min(differing, default=None)}


def beside_table(measurements: Iterable[Mapping[str, Any]]) -> ResultTable | None:
    """Return the table of `generate` and its variants: times, and shares of equal texts; None if none was timed."""
    rows = list(measurements)
    keys = {row["configuration"]: None for row in rows if mode_of(row["configuration"]) == GENERATE}
    variants = [f"{GENERATE}/{variant}" for variant in VARIANTS]
    if not any(key in variants for key in keys):
        return None
    table = ResultTable(BESIDE_CAPTION)
    table.add("number", "rows")
    table.add("key", "transformers' own")
    table.add("number", *TIMES, "identical\ntexts", "first other\ntoken", "warm-up,\nseconds")
    timed = {(speedup.batch, speedup.configuration): speedup for speedup in speedups(rows)}
    for batch in sorted({row["batch"] for row in rows}):
        for key in keys:
            of_key = [row for row in rows if (row["batch"], row["configuration"]) == (batch, key)]
            table.add_row(str(batch), key, *(_cells(timed[batch, key], of_key) if of_key else [MISSING] * 5))
    return table


def _cells(speedup: Speedup, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the cells of a variant, whose texts differ between rounds only by the order of sums."""
    firsts = [row["first_difference"] for row in rows if row["first_difference"] is not None]
    first = str(min(firsts)) if firsts else "none"
    return [*times_of(speedup), percent(min(row["identical"] for row in rows)), first, f"{rows[0]['warm_up'] or 0:.1f}"]
