"""The sections of FINDINGS.md on what can be done instead of leaving early."""

from collections.abc import Sequence
from typing import Final

from eexit.plan.configuration import GENERATE
from eexit.results.study_tables import TIMINGS
from eexit.studies.timing.speedups import Speedup, speedups
from findings import words
from findings.parts import gained_and_lost, sweep
from findings.study import CUT, CUT_EXITS, CUTS, TIMES, StudySweep, card
from findings.words import AT_MOST, percent_of, rows_at, share_of, table_of, times_of

LOOKUP: Final = "draft/lookup:auto"
CONTENDERS: Final = (LOOKUP, GENERATE, f"{GENERATE}/lookup")
TEXTS: Final = {
    "instead/copy": "to copy, correct, repeat or summarise a passage",
    "instead/plain": "written by hand",
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
    times = [
        f"{times_of(_latest(sweep(name))[1][LOOKUP].ratio)} as fast as full depth on prompts {TEXTS[name]}"
        for name in TIMES
    ]
    slower = max(_latest(sweep(TIMES[0])).values(), key=lambda found: found[LOOKUP].batch)[LOOKUP]
    more = f"; with {rows_at(slower.batch)} they take longer" if slower.ratio.high < 1 else ""
    return f"""
- What could be taken instead: drafts that are looked up in the text so far (`--draft {LOOKUP.removeprefix("draft/")}`),
  which leave every token as it is. With {rows_at(1)} they are {", and ".join(times)}{more}
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


def cuts() -> str:
    """Cuts and exits on the same prompts, in the order of what they save."""
    measured = {row["n_layers"]: row for row in card(CUT)["cuts"]}
    rows = []
    for name in CUTS:
        [key] = sweep(name).settings
        found = measured[int(name.rpartition("-")[2])]
        rows.append((f"layers {found['first']} to {found['last']} cut out", sweep(name), key, found["agreement"]))
    rows += [(f"`{key}`", sweep(CUT_EXITS), key, None) for key in sweep(CUT_EXITS).settings]
    rows.sort(key=lambda row: row[1].saved(row[2]).mean)
    heads = [
        "setting", "saved", "as full depth, on its texts", "disagreement", "gained, lost", "lost",
        f"more than {percent_of(AT_MOST)} lost",
    ]  # fmt: skip
    return f"""
## Fewer layers for all tokens

The block of layers that changes the stream least is replaced by one linear map from what enters it to what leaves it,
fitted in closed form to {card(CUT)["data"]["n_tokens"]:,} tokens. Beside it exits on the same
{sweep(CUT_EXITS).n_prompts} prompts, a third of them by hand. Nothing of this was certified; the announced test did
that for the first of these exits, with more prompts.

{table_of(heads, [_cut_row(*row) for row in rows])}

{_at_equal_saving()}
"""


def _at_equal_saving() -> str:
    """Each cut beside the exits that save as much or more and lose the least of them."""
    exits = [(sweep(CUT_EXITS).saved(key).mean, sweep(CUT_EXITS).lost(key)) for key in sweep(CUT_EXITS).settings]
    found: dict[str, list[str]] = {}
    for name in CUTS:
        [key] = sweep(name).settings
        lost, layers = sweep(name).lost(key), name.rpartition("-")[2]
        if beside := [of_exits for saved, of_exits in exits if saved >= sweep(name).saved(key).mean]:
            best = min(beside, key=lambda of_exits: of_exits.mean)
            found.setdefault(words.beside(best, lost), []).append(layers)
    told = [f"{what} than the cut of {_any_of(cut)} layers" for what, cut in found.items()]
    return f"Exits that save as much lose {'; '.join(told)}." if told else "No exits here save as much as a cut."


def _any_of(names: Sequence[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def _times(each: Speedup | None) -> str:
    return f"{each.ratio.mean:.2f} ({each.ratio.low:.2f} to {each.ratio.high:.2f})" if each else "–"


def _cut_row(what: str, of: StudySweep, key: str, agreement: float | None) -> list[str]:
    lost, on_its_texts = of.lost(key), "" if agreement is None else percent_of(agreement)
    return [
        what, share_of(of.saved(key)), on_its_texts, share_of(of.disagreement(key)),
        gained_and_lost(of.beside_normal(key)), share_of(lost), "certainly" if lost.low > AT_MOST else "not shown",
    ]  # fmt: skip
