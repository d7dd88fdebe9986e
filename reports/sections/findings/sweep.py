"""The main results of a sweep, as sentences."""

import math
from collections.abc import Iterator
from typing import Final

import pandas as pd

from eexit.messages import findings
from eexit.messages.wording import counted
from eexit.messages.written import is_known, percent
from reports.frames.axes import DISAGREEMENT, SKIPPED
from reports.read.parameters import representatives
from reports.read.sweep import Sweep
from reports.sections.findings.numbers import Row, with_interval

SEVERAL: Final = 6  # pairs of mode and rule; with more than that, there are sentences for each mode only


def sweep_findings(trade: pd.DataFrame, sampled: bool = False) -> list[str]:
    """What each pair of mode and rule does at its representative parameter, or the best pairs of each mode.

    Each number has its interval, and each sentence its n. `sampled` means that tokens were sampled rather than decoded
    greedily.
    """
    rows = representatives(trade[trade["exit_rate"].notna()]) if len(trade) else []
    said = [" ".join(_of_pair(row)) for row in rows]
    if len(rows) > SEVERAL:
        modes = dict.fromkeys(row["mode"] for row in rows)
        said = [" ".join(_of_mode(mode, [row for row in rows if row["mode"] == mode])) for mode in modes]
    return [*said, *([findings.SAMPLED] if said and sampled else [])]


def _of_pair(row: Row) -> Iterator[str]:
    has_depth, has_disagreement = is_known(row[SKIPPED]), is_known(row[DISAGREEMENT])
    template = {
        (True, True): findings.SKIPS_AND_DIFFERS,
        (True, False): findings.SKIPS,
        (False, True): findings.DIFFERS,
        (False, False): findings.EXITS,
    }[has_depth, has_disagreement]
    yield template.format(
        setting=row["shown_as"],
        skipped=with_interval(row, SKIPPED),
        differs=with_interval(row, DISAGREEMENT),
        exits=with_interval(row, "exit_rate", ".0%"),
        n=counted(row["n"], "prompt"),
    )
    # What a low disagreement hides: full depth, given a loop, goes on with it.
    control = row.get(f"{DISAGREEMENT}_control")
    if is_known(control):
        yield findings.CONTROL_DIFFERS.format(differs=percent(control))
    if row["looping"]:
        yield findings.IS_A_LOOP.format(loop=percent(row["loop_share"]))


def _of_mode(mode: str, rows: list[Row]) -> Iterator[str]:
    """The pair of the lowest disagreement and the one that skips most, apart from those that write loops."""
    sound = [row for row in rows if not row["looping"]] or rows
    least = min(sound, key=lambda row: row[DISAGREEMENT] if is_known(row[DISAGREEMENT]) else math.inf)
    yield f"{mode}: of {_rules(rows)}, {least['shown_as']} differs least from full depth."
    yield from _of_pair(least)
    most = max(sound, key=lambda row: row[SKIPPED] if is_known(row[SKIPPED]) else -math.inf)
    if most is not least:
        yield findings.SKIPS_MOST.format(
            setting=most["shown_as"], skipped=with_interval(most, SKIPPED), differs=with_interval(most, DISAGREEMENT)
        )
    if len(sound) < len(rows):
        loops = [row for row in rows if row["looping"]]
        yield f"Not counted, since more than half of the text is one loop: {_rules(loops)}."


def _rules(rows: list[Row]) -> str:
    """How many rules there are; and how many pairs of rule and exit set, if there are more of them."""
    rules = {row["rule"] for row in rows}
    said = counted(len(rules), "rule")
    return said if len(rules) == len(rows) else f"{said}, {len(rows)} with their exit sets"


def unobserved(sweep: Sweep) -> list[str]:
    """What is not known since full depth was not asked."""
    said = {"none": findings.UNOBSERVED, "final": findings.UNOBSERVED_LAYERS}
    observe = sweep.config.get("observe")
    return [said[observe]] if observe in said else []


def is_sampled(sweep: Sweep) -> bool:
    """Whether tokens were sampled, rather than decoded greedily."""
    return bool(sweep.config.get("temperature"))
