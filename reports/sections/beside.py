"""The overview's section "Side by side": anything beside anything, on the same prompts."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from eexit.quality.estimates import ENDS
from reports.charts import base as charts
from reports.charts.styles import Looks
from reports.frames.axes import CORRECT, DISAGREEMENT, LAYERS_SKIPPED, RUN, SKIPPED
from reports.frames.pairs import MATCHED, averages, beside_mixes, pairs
from reports.frames.runs import GAINED, LOST, P_VALUE
from reports.read.sweep import Sweep
from reports.sections.figures import clean

DIFFERENCES: Final = (
    charts.Difference(CORRECT, "Right answers", "Right answers, difference in points"),
    charts.Difference(DISAGREEMENT, "Disagreement", "Disagreement, difference in points"),
    charts.Difference(SKIPPED, LAYERS_SKIPPED, "Layers skipped, difference in points"),
    charts.Difference(RUN, "Multiply-adds saved, run", "Multiply-adds saved, difference in points"),
    charts.Difference("perplexity", "Perplexity", "Perplexity, ratio (log scale)", "real", none=1.0),
    charts.Difference("exit_rate", "Early exits", "Early exits, difference in points"),
    charts.Difference("distinct_2", "Distinct 2-grams", "Distinct 2-grams, difference in points"),
    charts.Difference("longest_loop", "Longest loop", "Longest loop, difference in tokens", "change"),
    charts.Difference("n_tokens", "Tokens", "Tokens, difference", "change"),
)
PAIRED: Final = (
    "The other minus the base, run by run of the same prompt and seed; bars: intervals over prompts. Dashed: no "
    "difference."
)
_SIGNIFICANT: Final = 5  # digits of the numbers in the page


def beside_section(sweep: Sweep, trade: pd.DataFrame) -> dict[str, Any] | None:
    """All pairs of configurations, averages over pairs, and settings beside mixes; None where there is no pair."""
    found = pairs(sweep)
    if found.empty:
        return None
    looks = Looks.of(sweep.configurations)
    judged = [column for judge in sweep.judges for column in judge.columns]
    scored = {**sweep.scores, **{name: name.replace("_", " ").capitalize() for name in judged}}
    scores = [charts.Difference(key, label, f"{label}, difference", "change") for key, label in scored.items()]
    measures = [each for each in (*DIFFERENCES, *scores) if each.column in found and found[each.column].notna().any()]
    if not measures:
        return None
    numbers = sweep.numbers
    mixes = beside_mixes(sweep, trade)
    return {
        "caption": PAIRED,
        "seeds": int(found["n_seeds"].max()),
        "measures": [_measure(each, found, looks) for each in measures],
        "base": found["baseline"].map(numbers).tolist(),
        "other": found["configuration"].map(numbers).tolist(),
        "values": {each.column: {end: _digits(found[f"{each.column}{end}"]) for end in ENDS} for each in measures},
        "gains": {
            end: _digits(found[f"{CORRECT}{end}"]) for end in (GAINED, LOST, P_VALUE) if f"{CORRECT}{end}" in found
        },
        "averages": clean(averages(sweep, trade).to_dict("records")),
        "mixes": _compact(mixes),
        "matchings": [] if mixes.empty else mixes.drop_duplicates("at")[["at", "equal", "best_by"]].to_dict("records"),
    }


def _measure(difference: charts.Difference, found: pd.DataFrame, looks: Looks) -> dict[str, Any]:
    chart = charts.paired_chart(found, difference, f"{difference.label}, paired differences. {PAIRED}", looks)
    return {
        "key": difference.column,
        "label": difference.label,
        "form": difference.form,
        "none": difference.none,
        "is_matched": difference.column in MATCHED,
        "spec": charts.specification(chart),
    }


def _compact(mixes: pd.DataFrame) -> dict[str, list[Any]]:
    """The columns by their names."""
    if mixes.empty:
        return {}
    ends = [f"{name}{end}" for name in MATCHED for end in ENDS]
    words = {name: mixes[name].tolist() for name in ("configuration", "series", "base", "label", "at", "mix")}
    return words | {name: _digits(mixes[name]) for name in ends if mixes[name].notna().any()}


def _digits(values: pd.Series | Sequence[float]) -> list[float | int | None]:
    """Numbers with few digits; None for NaN."""
    return [
        None if np.isnan(value) else int(value) if value == int(value) else float(f"{value:.{_SIGNIFICANT}g}")
        for value in np.asarray(values, dtype=float)
    ]
