"""The sections of FINDINGS.md on what can be done instead of leaving early."""

from typing import Final

from eexit.plan.configuration import GENERATE
from eexit.results.study_tables import TIMINGS
from eexit.studies.timing.speedups import Speedup, speedups
from findings.parts import sweep
from findings.study import TIMES, StudySweep
from findings.words import percent_of, rows_at, table_of, times_of

LOOKUP: Final = "draft/lookup:auto"
CONTENDERS: Final = (LOOKUP, GENERATE, f"{GENERATE}/lookup")
TEXTS: Final = {
    "times-copy": "to copy, correct, repeat or summarise a passage",
    "times-plain": "of many kinds, by hand",
}


def lookups() -> str:
    rows, of_lookup = [], []
    for name in TIMES:
        for batch, found in _latest(sweep(name)).items():
            accepted = found[LOOKUP].acceptance
            cells = [_times(found.get(key)) for key in CONTENDERS]
            rows.append([TEXTS[name], str(batch), percent_of(accepted or 0.0), *cells])
            of_lookup.append((TEXTS[name], found[LOOKUP]))
    faster = [f"prompts {what} with {rows_at(each.batch)}" for what, each in of_lookup if each.ratio.low > 1]
    slower = [f"prompts {what} with {rows_at(each.batch)}" for what, each in of_lookup if each.ratio.high < 1]
    return f"""
## Drafts that are looked up

The next tokens are proposed by what followed the same tokens before in the prompt or the text, and one pass of all
layers verifies them, so that every token is full depth's own. How many times as fast as `normal` each is, over rounds
with other prompts each.

{table_of(["prompts", "rows", "accepted", *(f"`{key}`" for key in CONTENDERS)], rows)}

Certainly faster than full depth: {"; ".join(faster) or "nowhere"}. Certainly slower: {"; ".join(slower) or "nowhere"}.
"""


def summary() -> str:
    """What README says of them."""
    times = [f"{times_of(_latest(sweep(name))[1][LOOKUP].ratio)} as fast on prompts {TEXTS[name]}" for name in TIMES]
    slower = max(_latest(sweep(TIMES[0])).values(), key=lambda found: found[LOOKUP].batch)[LOOKUP]
    more = f"; with {rows_at(slower.batch)} they take longer" if slower.ratio.high < 1 else ""
    return f"""
- What could be taken instead: drafts that are looked up in the text so far (`--draft {LOOKUP.removeprefix("draft/")}`),
  which leave every token as it is. With {rows_at(1)} they are {", and ".join(times)}, by the clock{more}
  ([more](reports/sample/FINDINGS.md#drafts-that-are-looked-up)).
"""


def _latest(timed: StudySweep) -> dict[int, dict[str, Speedup]]:
    """What the latest call that timed so many rows says of each contender, by the number of rows."""
    rows = TIMINGS.rows(timed.finished.store)
    latest = {row["batch"]: row["timing_id"] for row in rows}
    found: dict[int, dict[str, Speedup]] = {}
    for each in speedups(row for row in rows if latest[row["batch"]] == row["timing_id"]):
        found.setdefault(each.batch, {})[each.configuration] = each
    return found


def _times(each: Speedup | None) -> str:
    return f"{each.ratio.mean:.2f} ({each.ratio.low:.2f} to {each.ratio.high:.2f})" if each else "–"
