"""Cuts, the model without some of its layers, as a curve beside that of settings.

An assessment runs them on its pilot, and tests one on the prompts of its run (`cluster.assessment.instead`). The curve
of the pilot begins at full depth on the same prompts, so that it shows what a cut loses; the tested one is a point.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pandas as pd

from eexit.output.text import counted
from eexit.plan.configuration import NORMAL
from eexit.results.study_tables import CHOICES
from reports.read.sweep import Sweep
from reports.shared.measures import SKIPPED
from reports.shared.numbers import Row
from reports.shared.per_configuration import per_configuration
from reports.shared.quality import Quality, chosen_words
from reports.shared.savings import savings

CUT: Final = "cut"  # in the place of a mode
EXPLAINED: Final = (
    "Cut: the model without some of its layers; the line begins at full depth on the same prompts, the pilot's."
)


def with_cuts(quality: Quality, cuts: Sequence[Sweep]) -> Quality:
    """The quality of settings, with rows of cuts that have the same columns; times are left out."""
    rows = [row for sweep in cuts for row in _rows(sweep)]
    if not rows:
        return quality
    found = pd.DataFrame(rows).drop_duplicates("configuration")
    found = found[[name for name in found if name in quality.rows]]
    return replace(quality, rows=pd.concat([quality.rows, found], ignore_index=True))


def _rows(sweep: Sweep) -> Iterator[Row]:
    """The cut, and full depth on the pilot, with which the curve begins."""
    choices = sweep.rows_of(CHOICES)
    untimed = replace(sweep, studies={})  # another sweep's batch sizes are not those of the chart
    trade = per_configuration(untimed)
    saves = savings(untimed, trade)
    n_cut, n_layers = int(Path(sweep.config["adapter"]).name), (sweep.final_layer or 0) + 1
    for row in (saves.rows if saves else trade).to_dict("records"):
        key = row["configuration"]
        if key != NORMAL:
            name = f"cut of {counted(n_cut, 'layer')}, {'tested' if len(choices) else 'on the pilot'}"
            row |= {SKIPPED: n_cut / n_layers, f"{SKIPPED}_low": None, f"{SKIPPED}_high": None}
            row |= {"certified": chosen_words(choices, chosen=False).get(key)}
            yield row | _naming(name, n_cut, "tested cut" if len(choices) else CUT)
        elif not len(choices):
            yield row | _naming("full depth on the pilot", 0, CUT)


def _naming(name: str, n_cut: int, series: str) -> Row:
    names = dict.fromkeys(("configuration", "shown_as", "short"), name)
    same = {"mode": CUT, "family": CUT, "rule": None, "parameter": float(n_cut), "series": series}
    return {**names, **same}
