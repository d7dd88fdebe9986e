"""Statistics of each configuration, averaged over prompts: one row each, and every row has its n.

Means are over sampling units, as `eexit.results.configuration_means` computes them. `n_seeds` is the number of seeds,
which is 1 where all seeds have the same run. Failed runs are left out of every mean and counted in `n_failed`. An
estimate has the columns `<name>`, `<name>_low`, `<name>_high` and `<name>_n`.
"""

from collections.abc import Collection
from typing import Any, Final

import numpy as np
import pandas as pd

from eexit.plan.configuration import NORMAL, Configuration, EarlyExit, mode_of, short_name
from eexit.quality.estimates import NOTHING, Estimate, ValueKind
from eexit.results.configuration_means import estimate_measures, estimate_ratio
from eexit.sweeps.summary.contradicted import OF_CONTRADICTED, Contradicted, on_normal
from reports.read.rule_parameters import ORACLE_MARK
from reports.read.sweep import Sweep
from reports.shared.measures import CONTRADICTED, CORRECT, CUT, PERPLEXITY, SKIPPED

# Columns of `generations` that are averaged over sampling units.
AVERAGED: Final = (
    "exit_rate", "mean_depth", "disagreement", PERPLEXITY, "tokens_until_difference", "equal_share", "lcs_share",
    "distinct_2", "distinct_3", "longest_loop", "loop_share", "n_tokens",
)  # fmt: skip
CONTRADICTED_EXITS: Final = "contradicted_of"  # the number of exits that `CONTRADICTED` is a share of
LOOPING: Final = 0.5  # share of a text; above it, the text is mostly one loop


def per_configuration(sweep: Sweep) -> pd.DataFrame:
    """Return one row per configuration, with every statistic averaged over sampling units.

    `layers_skipped` is 1 − mean depth, and `perplexity` a geometric mean. `contradicted` is the share of early exits on
    the text of `normal` that the final layer contradicts (`eexit.sweeps.summary.contradicted`), and `contradicted_of`
    their number. `<name>_control` is the mean of the configuration's control (random exits at the same depth), if the
    sweep has one. In a control's row, `beneath` is the configuration whose exit layers it copies, if the sweep has that
    configuration. `looping` is True if more than `LOOPING` of the text is one loop (`loop_share`), unless that is so
    for `normal` too.
    """
    averaged = [*AVERAGED, *([CORRECT, CUT] if sweep.has_answers else []), *sweep.extra]
    numbers = sweep.done.astype(dict.fromkeys([*averaged, *OF_CONTRADICTED], float))
    by_key = dict([*numbers.groupby("configuration")])
    n_failed, n_seeds = sweep.failed["configuration"].value_counts(), n_seeds_of(sweep.done)
    rows, of_normal = [], _contradicted_on_normal(sweep)
    for configuration in sweep.configurations:
        runs = by_key.get(configuration.key, numbers[:0])
        row = naming(configuration, sweep.marked) | {
            "n": runs["unit"].nunique(),
            "n_failed": int(n_failed.get(configuration.key, 0)),
            "n_seeds": n_seeds.get(configuration.key, 0),
        }
        found = estimates_of(configuration, runs[averaged], runs)
        for name in averaged:
            row |= found[name].columns(name)
        row |= found["mean_depth"].complement.columns(SKIPPED)
        wrong_R, exits_R, *ids = (runs[name].to_numpy() for name in (*OF_CONTRADICTED, "prompt_id", "unit"))
        found_here = of_normal.get(configuration.key) or Contradicted.of_runs(wrong_R, exits_R, *ids)
        row |= found_here.share.columns(CONTRADICTED) | {CONTRADICTED_EXITS: found_here.n_exits}
        rows.append(row)
    return with_controls(_with_looping(pd.DataFrame(rows)), [*averaged, SKIPPED])


def _contradicted_on_normal(sweep: Sweep) -> dict[str, Contradicted]:
    """Return key → contradicted early exits, where the recorded tokens of `normal` determine them."""
    predictions = sweep.predictions_of_normal
    if predictions is None or sweep.config.get("screen"):
        return {}
    prompt_of_run, tokens = predictions
    unit_of = dict(zip(sweep.done["prompt_id"], sweep.done["unit"], strict=True))
    return on_normal(tokens, prompt_of_run, unit_of, sweep.layers, sweep.configurations)


def n_seeds_of(runs: pd.DataFrame) -> dict[str, int]:
    """Return the number of seeds of each configuration."""
    seeds = runs["seed"].where(~runs["every_seed"], -1)
    return {str(key): int(n) for key, n in seeds.groupby(runs["configuration"]).nunique().items()}


def _with_looping(trade: pd.DataFrame) -> pd.DataFrame:
    if trade.empty:
        return trade
    looping = trade["loop_share"] > LOOPING
    in_normal = bool(looping[trade["configuration"] == NORMAL].any())
    return trade.assign(looping=looping & (not in_normal))


def with_controls(trade: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Return the rows with a column `beneath` and, for each of `names`, a column with the control's value.

    `beneath` is the key of the configuration that a control copies, if both have the same mode.
    """
    if trade.empty:
        return trade
    is_own = trade["control_of"].map(mode_of, na_action="ignore") == trade["mode"]
    trade = trade.assign(beneath=trade["control_of"].where(is_own & trade["control_of"].isin(trade["configuration"])))
    controls = trade[trade["beneath"].notna()].drop_duplicates("beneath").set_index("beneath")
    if controls.empty:
        return trade
    return trade.assign(**{f"{name}_control": trade["configuration"].map(controls[name]) for name in names})


def layer_labels(sweep: Sweep) -> dict[int | None, str]:
    """Return exit layer → label, in rank order. The key None is a final layer whose number isn't known."""
    final = "final" if sweep.final_layer is None else f"{sweep.final_layer} (final)"
    return {**{layer: str(layer) for layer in sweep.exitable_layers}, sweep.final_layer: final}


def naming(configuration: Configuration, marked: Collection[str] = ()) -> dict[str, object]:
    """Return the columns that identify the configuration of a row.

    `series` is the same for configurations that differ only in the parameter, not in exit set or gate; a control is a
    series by itself. `family` is the rule, or the mode if there is no rule. `shown_as` is the key and `short` its short
    name, both marked if the rule is in `marked`.
    """
    columns, key, mode = configuration.columns, configuration.key, configuration.mode
    named = {name: columns[name] for name in ("mode", "rule", "parameter", "control_of")}
    if not isinstance(configuration, EarlyExit):
        same = {"family": mode, "series": key, "setting": None}
        return {"configuration": key, "shown_as": key, "short": short_name(key), "oracle": False, **named, **same}
    rule, mark = configuration.rule, ORACLE_MARK if configuration.rule in marked else ""
    return {
        "configuration": key,
        "shown_as": key + mark,
        "short": short_name(key) + mark,
        "oracle": configuration.is_oracle,
        **named,
        "family": rule,
        "series": key if columns["control_of"] else f"{mode}/{rule}{configuration.within}",
        "setting": configuration.rule_key,
    }


def ratios(
    runs: pd.DataFrame, above: str, below: str, keys: list[str], kind: ValueKind = ValueKind.NUMBER
) -> list[Estimate]:
    """Return Σ above / Σ below over sampling units, for each configuration."""
    by_key = dict([*runs.groupby("configuration")])
    found = []
    for of_key in (by_key.get(key) for key in keys):
        if of_key is None:
            found.append(NOTHING)
            continue
        above_R, below_R, prompt_R, unit_R = (of_key[name].to_numpy() for name in (above, below, "prompt_id", "unit"))
        found.append(estimate_ratio(above_R, below_R, prompt_R, unit_R, kind))
    return found


def estimates_of(configuration: Configuration, values: pd.DataFrame, runs: pd.DataFrame) -> dict[Any, Estimate]:
    """Return an estimate per column of `values`, which has the rows of `runs`, one configuration's without an error."""
    columns = {name: values[name].to_numpy(dtype=float, na_value=np.nan) for name in values}
    return estimate_measures(configuration, columns, *(runs[name].to_numpy() for name in ("prompt_id", "unit")))
