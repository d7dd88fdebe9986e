"""The overview's section "Side by side": any two configurations, or series, on the same prompts and seeds.

Two configurations are compared, or a setting of one series with a mix of another's settings. A mix draws one of two
settings for each prompt, so its cost and quality are between theirs. The mix is the best one, full depth included, that
costs as much as the setting or is as good. All differences are paired over prompts, seeds averaged first, with
intervals over prompts. Differences from a mix take share and mix as estimated, not known
(`eexit.results.paired_runs`).

Shapes: P prompts, C configurations, M measures.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any, Final

import altair as alt
import numpy as np
import pandas as pd

from eexit.method.rules import RULES
from eexit.plan.configuration import NORMAL
from eexit.quality.estimates import ENDS
from eexit.results.paired_runs import MATCHED
from reports.shared.charts import (
    OPACITY,
    ROOM_PIXELS,
    ROWS,
    interval_bars,
    layered,
    rows_of,
    scale_of,
    specification,
    with_tooltips,
)
from reports.shared.figures import clean
from reports.shared.measures import CORRECT, DISAGREEMENT, LAYERS_SKIPPED, RUN, SKIPPED
from reports.shared.paired import GAINED, LOST, P_VALUE, PairedRuns
from reports.shared.styles import ChartStyle


@dataclass(frozen=True)
class PairedContrast:
    """Column of a paired frame. `none` is the value that stands for no difference, which is 1 for a ratio."""

    column: str
    label: str
    title: str  # of its axis
    form: str = "points"  # of its column in a table
    none: float = 0.0


PAIRED: Final = (
    "The other minus the base, run by run of the same prompt and seed; bars: intervals over prompts. Dashed: no "
    "difference."
)
CONTROL: Final = "its control"  # the baseline of settings on average
SAME_SETTING: Final = "the same setting"
SAME_EXITS: Final = "the same exits, drawn at random"
_SIGNIFICANT: Final = 5  # digits of the numbers in the page


def beside_section(runs: PairedRuns, configurations: pd.DataFrame) -> dict[str, Any] | None:
    """Return all pairs of configurations, averages over pairs, and settings against mixes; None without a pair."""
    found = pairs(runs)
    if found.empty:
        return None
    sweep = runs.sweep
    looks = ChartStyle.for_configurations(sweep.configurations)
    judged = [column for judge in sweep.judges for column in judge.columns]
    scored = {**sweep.scores, **{name: name.replace("_", " ").capitalize() for name in judged}}
    scores = [PairedContrast(key, label, f"{label}, difference", "change") for key, label in scored.items()]
    measures = [each for each in (*DIFFERENCES, *scores) if each.column in found and found[each.column].notna().any()]
    if not measures:
        return None
    numbers = sweep.numbers
    mixes = beside_mixes(runs, configurations)
    return {
        "caption": PAIRED,
        "seeds": int(found["n_seeds"].max()),
        "measures": [_measure(each, found, looks) for each in measures],
        "base": found["baseline"].map(numbers).tolist(),
        "other": found["configuration"].map(numbers).tolist(),
        "values": {each.column: {end: _digits(found[f"{each.column}{end}"]) for end in ENDS} for each in measures},
        "gains": {end: _digits(found[name]) for end in (GAINED, LOST, P_VALUE) if (name := f"{CORRECT}{end}") in found},
        "averages": clean(averages(runs, configurations).to_dict("records")),
        "mixes": _compact(mixes),
        "matchings": [] if mixes.empty else mixes.drop_duplicates("at")[["at", "equal", "best_by"]].to_dict("records"),
    }


def _measure(difference: PairedContrast, found: pd.DataFrame, looks: ChartStyle) -> dict[str, Any]:
    chart = paired_chart(found, difference, f"{difference.label}, paired differences. {PAIRED}", looks)
    return {
        "key": difference.column, "label": difference.label, "form": difference.form, "none": difference.none,
        "is_matched": difference.column in MATCHED, "spec": specification(chart),
    }  # fmt: skip


def _compact(mixes: pd.DataFrame) -> dict[str, list[Any]]:
    """Return the columns of mixes as lists, with rounded numbers."""
    if mixes.empty:
        return {}
    ends = [f"{name}{end}" for name in MATCHED for end in ENDS]
    words = {name: mixes[name].tolist() for name in ("configuration", "series", "base", "at", "mix")}
    return words | {name: _digits(mixes[name]) for name in ends if mixes[name].notna().any()}


def _digits(values: pd.Series | Sequence[float]) -> list[float | int | None]:
    """Return numbers with few digits; None for NaN."""
    return [
        None if np.isnan(value) else int(value) if value == int(value) else float(f"{value:.{_SIGNIFICANT}g}")
        for value in np.asarray(values, dtype=float)
    ]


DIFFERENCES: Final = (
    PairedContrast(CORRECT, "Right answers", "Right answers, difference in points"),
    PairedContrast(DISAGREEMENT, "Disagreement", "Disagreement, difference in points"),
    PairedContrast(SKIPPED, LAYERS_SKIPPED, "Layers skipped, difference in points"),
    PairedContrast(RUN, "Multiply-adds saved, run", "Multiply-adds saved, difference in points"),
    PairedContrast("perplexity", "Perplexity", "Perplexity, ratio (log scale)", "real", none=1.0),
    PairedContrast("exit_rate", "Early exits", "Early exits, difference in points"),
    PairedContrast("distinct_2", "Distinct 2-grams", "Distinct 2-grams, difference in points"),
    PairedContrast("longest_loop", "Longest loop", "Longest loop, difference in tokens", "change"),
    PairedContrast("n_tokens", "Tokens", "Tokens, difference", "change"),
)


def paired_chart(
    frame: pd.DataFrame, difference: PairedContrast, description: str, looks: ChartStyle
) -> alt.LayerChart:
    """Return a difference with its interval, one row per configuration, from top to bottom by the rows' `order`.

    The dashed line marks no difference. A ratio's axis is logarithmic, so that half and double are equally far from it.
    """
    x, x_title, none = difference.column, difference.title, difference.none
    scale = scale_of(logarithmic=bool(none), zero=False, padding=ROOM_PIXELS)
    shape = looks.shape(frame, has_legend=False)  # the rows have names
    points = "datum.value == 0 ? '0' : format(100 * datum.value, '+~g')"  # percentage points, as in the title
    axis = alt.Axis(labelExpr=points) if difference.form == "points" else alt.Axis(format="~g")
    channel = alt.X(f"{x}:Q", title=x_title, scale=scale, axis=axis)
    y = rows_of("short", alt.SortField("order"))
    base = alt.Chart(ROWS).encode(y=y, color=looks.colour(frame, has_legend=False), opacity=OPACITY)
    tells = ("configuration", "Configuration", "text"), (x, difference.label, difference.form)
    base, tooltip = with_tooltips(base, (*tells, (f"{x}_n", "n prompts", "count")), frame)
    return layered(
        alt.Chart(ROWS).mark_rule(aria=False, strokeDash=[5, 4]).encode(x=alt.XDatum(none)),
        *interval_bars(base.mark_rule(aria=False, strokeWidth=2), frame, x, x_title, along="x"),
        base.mark_point(filled=True, size=80, cursor="pointer").encode(x=channel, shape=shape, tooltip=tooltip),
        description=description,
        height=alt.Step(22),
    )


MOST_CONFIGURATIONS: Final = 40  # with more, some pairs are left out
MOST_SERIES: Final = 12  # likewise


def pairs(runs: PairedRuns) -> pd.DataFrame:
    """Return the paired differences of each configuration from each earlier one of the sweep (`baseline`).

    The difference in the other direction has the opposite sign. Of many configurations, only those are compared that
    differ in one thing: from `normal`, or in the mode, the parameter, the rule or the exit set alone.
    """
    configurations = runs.sweep.configurations
    few = len(configurations) <= MOST_CONFIGURATIONS
    frames = []
    for number, base in enumerate(configurations[:-1]):
        later = [c.key for c in configurations[number + 1 :] if few or _are_near(base.columns, c.columns)]
        frame = runs.differences(base.key, later) if later else pd.DataFrame()
        if len(frame):
            frames.append(frame)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _are_near(one: dict[str, Any], other: dict[str, Any]) -> bool:
    is_control = other["configuration"] == one["control_of"] or one["configuration"] == other["control_of"]
    differing = [name for name in ("mode", "rule", "parameter") if one[name] != other[name]]
    return NORMAL in (one["mode"], other["mode"]) or is_control or len(differing) <= 1


def averages(runs: PairedRuns, trade: pd.DataFrame) -> pd.DataFrame:
    """Return the mean difference of every measure of `MATCHED`, over pairs of configurations.

    Columns: `base` and `other`; `at`, what the pairs have in common; `settings`, the number of pairs; and the
    estimates. A prompt counts if all pairs have it. `trade` has a row per configuration.
    """
    known = runs.numbers.metrics(runs.committed)
    rows = []
    for base, other, at, keys in _together(trade):
        if keys:
            base_PCM, other_PCM = (known.of_keys([pair[side] for pair in keys]) for side in (0, 1))
            estimates = known.estimated((other_PCM - base_PCM).mean(axis=1))
            rows.append({"base": base, "other": other, "at": at, "settings": len(keys), **estimates})
    return pd.DataFrame(rows)


def _together(trade: pd.DataFrame) -> Iterator[tuple[str, str, str | None, list[tuple[str, str]]]]:
    """Yield comparisons that average over several pairs of configurations.

    Each has a base, another, what the pairs have in common, and the pairs of keys: two modes under the same setting or
    the same random exits, or settings and their controls. Rule `fixed` is left out: it exits at one layer, so no later
    token attends to skipped layers.
    """
    if trade.empty:
        return
    exits = trade[trade["rule"].notna() & trade["control_of"].isna()]
    deciding = exits[~exits["rule"].isin([name for name, rule in RULES.items() if not rule.score_name])]
    controls = trade[trade["control_of"].notna()]
    for one, other in combinations(exits["mode"].unique(), 2):
        for at, frame, alike in ((SAME_SETTING, deciding, "setting"), (SAME_EXITS, controls, "control_of")):
            of_one, of_other = (frame[frame["mode"] == mode].set_index(alike)["configuration"] for mode in (one, other))
            yield one, other, at, [(of_one[each], of_other[each]) for each in of_one.index if each in of_other.index]
    beneath = trade[trade["beneath"].notna()]
    yield CONTROL, "settings", None, list(zip(beneath["configuration"], beneath["beneath"], strict=True))


def beside_mixes(runs: PairedRuns, trade: pd.DataFrame) -> pd.DataFrame:
    """Return the differences of settings from the best mixes of other series.

    There is one row per setting, other series and `MatchCriterion`, if they can be matched. Columns:

    - `configuration` and `series` of the setting
    - `base`, the series of the mix, and `mix`, in words
    - `at`, `equal` and `best_by` of the criterion
    - the estimated differences

    With many series, only pairs with the same mode or rule are compared.
    """
    if trade.empty:
        return pd.DataFrame()
    known = runs.numbers.metrics(runs.committed)
    exits = trade[trade["rule"].notna() & trade["control_of"].isna()]
    series = {str(name): rows for name, rows in exits.groupby("series", sort=False)}
    rows = []
    for base, other in permutations(series, 2):
        first, second = (series[name].iloc[0] for name in (base, other))
        if len(series) > MOST_SERIES and first["mode"] != second["mode"] and first["rule"] != second["rule"]:
            continue
        full_depth = [NORMAL] if NORMAL in known.keys else []
        points = [key for key in [*full_depth, *series[base]["configuration"]] if key in known.keys]
        for key in series[other]["configuration"]:
            if key in known.keys:
                named = {"configuration": key, "series": other, "base": base}
                rows += [named | found.columns for found in known.matched(key, points)]
    return pd.DataFrame(rows)
