"""The overview's section "Reasoning": cost per right answer, length of chains of thought by depth, and their necessity.

Each setting is compared with the control of the same depth. Chains' lengths are means over prompts, seeds averaged
first. Costs per right answer are as in `eexit.quality.cost_per_correct`, and necessity as in `eexit.studies.chains`.
"""

from collections.abc import Iterator
from typing import Any, Final

import altair as alt
import numpy as np
import pandas as pd

from eexit.plan.configuration import NORMAL
from eexit.quality.estimates import ENDS, Estimate, ValueKind, estimate_columns
from eexit.results.study_tables import CHAINS, NO_CHAIN
from reports.read.sweep import Sweep
from reports.shared.charts import OPACITY, PERCENT, Columns, interval_bars, layered, rows_where, with_tooltips
from reports.shared.figures import ChartVariant, Figure, basis, one, table
from reports.shared.measures import CORRECT, PER_RIGHT, SENSES
from reports.shared.per_configuration import estimates_of, naming
from reports.shared.savings import SavingsTable

LENGTH: Final = "n_thinking_tokens"
CLOSED: Final = "thinking_closed"
LONGER: Final = "longer"
NEED: Final = "necessity"
OVER_FILLER: Final = "over_filler"
ANSWERS_CLOSED: Final = "accuracy_beside_normal_closed"
OF_NEED: Final = (NEED, "necessity_closed", "beside_normal", "beside_normal_closed", ANSWERS_CLOSED, "beside_control")
ABOUT: Final = (
    "A chain of thought that is written down can stand in for layers. Necessity: right answers with the whole chain "
    "less those without it, in follow-ups to the same prompts whose chains all end in the same words. The control "
    "exits as often at each layer, whatever the token."
)
SIGNED: Final = alt.Axis(format=".0%", tickMinStep=0.01)  # of values that may be negative
NO_NECESSITY: Final = "Whether answers need their whole chains was not measured: eexit chains measures it."
COLUMNS: Final[Columns] = (
    ("configuration", "Configuration", "text"),
    ("n", "n prompts", "count"),
    ("mean_depth", "Mean depth", "share"),
    (CORRECT, "Accuracy", "share"),
    (LENGTH, "Tokens of thinking", "real"),
    (CLOSED, "Chains that close", "share"),
    (LONGER, "More than normal", "change"),
    *((column, f"Saved per right answer, {sense}", "share") for column, sense in SENSES.items()),
    (NEED, "Necessity", "points"),
    ("necessity_closed", "Necessity of closed chains", "points"),
    ("beside_normal", "Necessity beside normal", "points"),
    ("beside_normal_closed", "Necessity beside normal, chains closed in both", "points"),
    (ANSWERS_CLOSED, "Accuracy beside normal, chains closed in both", "points"),
    ("beside_control", "Necessity beside control", "points"),
    (OVER_FILLER, "Necessity over filler", "points"),
)
BY_STEPS: Final[Columns] = (
    ("configuration", "Configuration", "text"),
    ("steps", "Steps", "count"),
    (CORRECT, "Accuracy", "share"),
    (NEED, "Necessity", "points"),
)


def reasoning_section(sweep: Sweep, configurations: pd.DataFrame, saves: SavingsTable | None) -> dict[str, Any] | None:
    """Return charts and a table; None if no text has a chain. `configurations` is the frame of `per_configuration`."""
    if configurations.empty or sweep.done[LENGTH].isna().all():
        return None
    rows = reasoned(sweep, saves.rows if saves else configurations)
    return {
        "about": ABOUT if rows[NEED].notna().any() else f"{ABOUT} {NO_NECESSITY}",
        "charts": [figure.data for figure in [*_by_depth(rows), *_by_steps(sweep)]],
        "table": table(rows, COLUMNS),
    }


def reasoned(sweep: Sweep, configurations: pd.DataFrame) -> pd.DataFrame:
    """Return the configurations' rows with the estimates of thinking, and `kind`: "control" or "setting"."""
    keys = configurations["configuration"]
    lengths, closed = (_means(sweep, column).reindex(columns=keys) for column in (LENGTH, CLOSED))
    normal_P = lengths[NORMAL].to_numpy() if NORMAL in lengths else np.full(len(lengths), np.nan)
    found, closing = _each(lengths.to_numpy(), ValueKind.NUMBER), _each(closed.to_numpy(), ValueKind.SHARE)
    longer = _each(lengths.to_numpy() - normal_P[:, None], ValueKind.NUMBER)
    needs = latest_needs(sweep)
    needs = needs[needs["steps"].isna()]
    rows = []
    for at, row in enumerate(configurations.to_dict("records")):
        key = row["configuration"]
        own = needs[needs["configuration"] == key]
        without = own[own["chain"] == NO_CHAIN]
        rows.append(
            row
            | {"kind": "control" if isinstance(row["control_of"], str) else "setting"}
            | found[at].columns(LENGTH)
            | closing[at].columns(CLOSED)
            | (longer[at].columns(LONGER) if key != NORMAL else {})
            | {column: value for name in OF_NEED for column, value in _of_need(without, name, name).items()}
            | _of_need(own[own["chain"] == "filler"], NEED, OVER_FILLER)
        )
    return pd.DataFrame(rows)


def _means(sweep: Sweep, column: str) -> pd.DataFrame:
    """Return a column's mean over runs, then over prompts: a row per sampling unit, a column per configuration."""
    of_prompts = sweep.done.astype({column: float}).groupby(["unit", "prompt_id", "configuration"])[column].mean()
    return of_prompts.groupby(["unit", "configuration"]).mean().unstack()


def latest_needs(sweep: Sweep) -> pd.DataFrame:
    """Return the latest row per configuration, edit of the chains, and number of steps.

    Rows for chains that the configuration itself wrote take precedence. Rows of older versions, which compare with the
    sweep's own texts, are left out.
    """
    rows = sweep.rows_of(CHAINS).dropna(subset=["accuracy_with"])
    own_last = (rows["chain_of"] == rows["configuration"]).to_numpy().argsort(kind="stable")
    return rows.iloc[own_last].drop_duplicates(["configuration", "chain", "steps"], keep="last")


def _of_need(rows: pd.DataFrame, name: str, as_: str) -> dict[str, Any]:
    row = rows.iloc[-1] if len(rows) else {f"{name}_n": 0}
    return {f"{as_}{end}": row.get(f"{name}{end}", np.nan) for end in ENDS}


def _each(values_PC: np.ndarray, kind: ValueKind) -> list[Estimate]:
    return estimate_columns(values_PC, [kind] * values_PC.shape[1])


def _by_depth(rows: pd.DataFrame) -> Iterator[Figure]:
    """Yield accuracy by cost per right answer, then length and necessity by depth."""
    saved = [column for column in PER_RIGHT if column in rows and rows[column].notna().any()]
    if CORRECT in rows and saved:
        x = {column: (column, f"Saved per right answer, {SENSES[column]}") for column in saved}
        variants = [ChartVariant(SENSES[of], _points(rows, x[of], (CORRECT, "Accuracy"), COLUMNS)) for of in saved]
        caption = f"Right answers, and multiply-adds saved per right answer beside normal. {basis(rows, CORRECT)}"
        title = "Accuracy against cost per right answer"
        yield Figure("reasoning-cost", title, caption, variants, rows, COLUMNS, choice="Multiply-adds")
    depth = ("mean_depth", "Mean depth (fraction of layers)")
    for key, y, title in (("length", LENGTH, "Tokens of thinking"), ("need", NEED, "Necessity")):
        if rows[y].notna().any():
            chart, caption = one(_points(rows, depth, (y, title), COLUMNS)), basis(rows, y, "Error bars")
            yield Figure(f"reasoning-{key}", f"{title} by depth", caption, chart, rows, COLUMNS)


def _by_steps(sweep: Sweep) -> Iterator[Figure]:
    rows = by_steps(sweep)
    if len(rows):
        x = ("steps", "Steps that lead to the answer")
        variants = [
            ChartVariant(title, _points(rows, x, (y, title), BY_STEPS, lines=True))
            for y, title in ((CORRECT, "Accuracy"), (NEED, "Necessity"))
            if rows[y].notna().any()
        ]
        caption = basis(rows, CORRECT, "Error bars")
        yield Figure("reasoning-steps", "By steps", caption, variants, rows, BY_STEPS, choice="Measure")


def by_steps(sweep: Sweep) -> pd.DataFrame:
    """Return a row per configuration and number of steps: accuracy, and necessity where it was measured."""
    steps = {each["id"]: each.get("steps") for each in sweep.config.get("prompts", [])}
    done = sweep.done.assign(steps=sweep.done["prompt_id"].map(steps).astype(float)).dropna(subset=["steps", CORRECT])
    needs = latest_needs(sweep)
    needs = needs[needs["chain"] == NO_CHAIN].set_index(["configuration", "steps"])
    rows = []
    for configuration in sweep.configurations:
        own = done[done["configuration"] == configuration.key]
        for n, runs in own.groupby("steps"):
            named = naming(configuration, sweep.marked) | {"steps": n, "n_seeds": runs["seed"].nunique()}
            need = needs.loc[[(configuration.key, n)]] if (configuration.key, n) in needs.index else needs.iloc[:0]
            rows.append(
                named
                | estimates_of(configuration, runs[[CORRECT]], runs)[CORRECT].columns(CORRECT)
                | _of_need(need, NEED, NEED)
            )
    return pd.DataFrame(rows)


def _points(
    frame: pd.DataFrame, x: tuple[str, str], y: tuple[str, str], columns: Columns, lines: bool = False
) -> alt.LayerChart:
    """Return points of two columns, each with its title, and intervals of the second; controls have another shape."""
    (along, x_title), (up, y_title) = x, y

    def axis(name: str) -> alt.Axis:
        if name in (CORRECT, "mean_depth"):
            return PERCENT
        return SIGNED if name in (NEED, *PER_RIGHT) else alt.Axis(tickMinStep=1)

    base = rows_where(f"isValid(datum['{along}']) && isValid(datum['{up}'])")
    colour = alt.Color("configuration:N" if lines else "mode:N", title=None)
    base, tooltip = with_tooltips(
        base.encode(x=alt.X(f"{along}:Q", title=x_title, axis=axis(along), scale=alt.Scale(zero=False)), color=colour),
        columns,
        frame,
    )
    y_channel = alt.Y(f"{up}:Q", title=y_title, axis=axis(up), scale=alt.Scale(zero=up == NEED))
    marks = base.mark_point(size=80, cursor="pointer").encode(y=y_channel, opacity=OPACITY, tooltip=tooltip)
    if not lines:
        marks = marks.encode(shape=alt.Shape("kind:N", title=None, scale={"domain": ["setting", "control"]}))
    return layered(
        *([base.mark_line(aria=False, opacity=0.6).encode(y=y_channel)] if lines else []),
        *interval_bars(base.mark_rule(aria=False).encode(opacity=OPACITY), frame, up, y_title),
        marks,
        description=f"{y_title} against {x_title}.",
    )
