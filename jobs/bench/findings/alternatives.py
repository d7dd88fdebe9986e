"""The sections of FINDINGS.md on what can be done instead of leaving early."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Final

import pandas as pd

from eexit.output.text import counted
from eexit.plan.configuration import GENERATE
from eexit.quality.estimates import Estimate, ValueKind
from eexit.studies.timing.speedups import Speedup
from findings import words
from findings.parts import figures, gained_and_lost, sweep
from findings.study import CUT, CUT_EXITS, CUTS, HOME, TIMES, StudySweep, card, mean_of
from findings.words import AT_MOST, percent_of, rows_at, share_of, table_of, times_of

LOOKUP: Final = "draft/lookup:auto"
CONTENDERS: Final = (LOOKUP, GENERATE, f"{GENERATE}/lookup")
BY_HAND: Final = HOME.parents[1] / "jobs" / "sweeps" / "prompts" / "study.jsonl"
TEXTS: Final = {
    "instead/copy": "to copy, correct, repeat or summarise a passage",
    "instead/plain": "written by hand",
}


def lookups() -> str:
    rows, of_lookup = [], []
    for name in TIMES:
        for batch, lookup in figures(name).speedups(LOOKUP).items():
            cells = [_times(figures(name).speedups(key).get(batch)) for key in CONTENDERS]
            rows.append([TEXTS[name], str(batch), percent_of(lookup.acceptance or 0.0), *cells])
            of_lookup.append((TEXTS[name], lookup))
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
        f"{times_of(figures(name).speedups(LOOKUP)[1].ratio)} as fast as full depth on prompts {TEXTS[name]}"
        for name in TIMES
    ]
    slower = max(figures(TIMES[0]).speedups(LOOKUP).values(), key=lambda each: each.batch)
    more = f"; with {rows_at(slower.batch)} they take longer" if slower.ratio.high < 1 else ""
    return f"""
- What could be taken instead: drafts that are looked up in the text so far (`--draft {LOOKUP.removeprefix("draft/")}`),
  which leave every token as it is. With {rows_at(1)} they are {", and ".join(times)}{more}
  ([more](reports/sample/FINDINGS.md#drafts-that-are-looked-up)).
"""


def cuts() -> str:
    """Cuts and exits on the same prompts, in the order of what they save."""
    measured = {row["n_layers"]: row for row in card(CUT)["cuts"]}
    exits = sweep(CUT_EXITS)
    tested = {each["configuration"]: each["p_value"] for each in exits.choice["tested"]}
    rows = []
    for cut in _cuts():
        [key] = cut.settings
        found = measured[_n_layers(cut)]
        what = f"{_layers(found['first'], found['last'])} cut out"
        certificate = "loses more than that" if cut.lost(key).low > AT_MOST else "not asked"
        row = _cut_row(what, cut, key, percent_of(found["agreement"]), certificate)
        rows.append((cut.saved(key).mean, row))
    for key in exits.settings:
        certificate = words.certificate(tested.get(key, 1.0), exits.choice["error_of_each"], exits.lost(key))
        rows.append((exits.saved(key).mean, _cut_row(f"`{key}`", exits, key, "", certificate)))
    heads = [
        "setting", "prompts", "saved", "as full depth, on its texts", "disagreement", "gained, lost", "lost",
        "lost by hand", f"at most {percent_of(AT_MOST)} lost",
    ]  # fmt: skip
    return f"""
## Fewer layers for all tokens

The block of layers that changes the stream least is replaced by one linear map from what enters it to what leaves it,
fitted in closed form to {card(CUT)["data"]["n_tokens"]:,} tokens. Beside it exits on the same prompts, of which
{len(_by_hand())} were written by hand; the largest blocks had fewer of the drawn ones. Certificates are those of one
choice among the exits; the drawn prompts were asked nothing before.

{table_of(heads, [row for _, row in sorted(rows)])}

{_at_equal_saving()}
"""


@cache
def _cuts() -> tuple[StudySweep, ...]:
    return tuple(StudySweep(name, sweep(CUT_EXITS)) for name in CUTS)


def _n_layers(cut: StudySweep) -> int:
    return int(cut.name.rpartition("-")[2])


def _layers(first: int, last: int) -> str:
    return f"layer {first}" if first == last else f"layers {first} to {last}"


@cache
def _by_hand() -> pd.Series:
    """What counts as one, of the prompts that were written by hand."""
    ids = {json.loads(line)["id"] for line in BY_HAND.read_text("utf-8").splitlines()}
    runs = sweep(CUT_EXITS).runs
    return runs.unit[runs.prompt_id.isin(ids)].drop_duplicates()


def _at_equal_saving() -> str:
    """Each setting that something of the other sort saves as much as, and whether the best of that loses fewer."""
    exits = {
        f"`{key}`": (sweep(CUT_EXITS).saved(key).mean, sweep(CUT_EXITS).lost(key)) for key in sweep(CUT_EXITS).settings
    }
    cuts = {
        f"the cut of {counted(_n_layers(cut), 'layer')}": (cut.saved(key).mean, cut.lost(key))
        for cut in _cuts()
        for key in cut.settings
    }
    told = [*_compared("exits", exits, cuts), *_compared("a cut", cuts, exits)]
    return f"At the same saving or a larger one: {'; '.join(told) or 'nothing can be compared'}."


def _compared(
    sort: str, these: Mapping[str, tuple[float, Estimate]], others: Mapping[str, tuple[float, Estimate]]
) -> Iterator[str]:
    """What those of one sort lose, beside each of the other sort that one of them saves as much as."""
    found: dict[str, list[str]] = {}
    for name, (saved, lost) in others.items():
        if as_much := [each for saves, each in these.values() if saves >= saved]:
            best = min(as_much, key=lambda each: each.mean)
            found.setdefault(words.beside(best, lost), []).append(name)
    yield from (f"{sort} lost {what} than {_any_of(names)}" for what, names in found.items())


def _any_of(names: Sequence[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def _times(each: Speedup | None) -> str:
    return f"{each.ratio.mean:.2f} ({each.ratio.low:.2f} to {each.ratio.high:.2f})" if each else "–"


def _cut_row(what: str, of: StudySweep, key: str, agreement: str, certificate: str) -> list[str]:
    difference = of.beside_normal(key)
    by_hand = mean_of(difference[difference.index.isin(_by_hand())] < 0, ValueKind.SHARE)
    return [
        what, f"{of.n_prompts:,}", share_of(of.saved(key)), agreement, share_of(of.disagreement(key)),
        gained_and_lost(difference), share_of(of.lost(key)), share_of(by_hand), certificate,
    ]  # fmt: skip
