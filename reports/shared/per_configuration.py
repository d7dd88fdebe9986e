"""Statistics of each configuration, averaged over prompts: one row each, and every row has its n.

Seeds of a prompt are averaged first, so that a prompt counts once. `n_seeds` is their number, which is 1 where all
seeds have the same run. Prompts of a group are averaged too, and count as one sampling unit (`unit`). Failed runs are
left out of every mean and counted in `n_failed`. An estimate has the columns `<name>`, `<name>_low`, `<name>_high` and
`<name>_n`.
"""

from collections.abc import Collection
from typing import Any, Final

import pandas as pd
import pyarrow.compute as pc

from eexit.plan.config import HEAD
from eexit.plan.configuration import NORMAL, Configuration, Exit, Normal, gives_its_exits, mode_of, short_name
from eexit.quality.estimates import Estimate, ValueKind, estimate_columns, estimate_ratios
from eexit.quality.text_measures import mean_perplexity
from eexit.results.tables import GENERATIONS
from eexit.sweeps.summary.contradicted import OF_TOKENS, Contradicted, on_normal
from reports.read.parameters import ORACLE_MARK
from reports.read.sweep import Sweep
from reports.shared.measures import CONTRADICTED, CORRECT, CUT, PERPLEXITY, SKIPPED

# Columns of `generations` that are averaged over prompts. Of perplexity, the logarithm is averaged.
AVERAGED: Final = (
    "exit_rate",
    "mean_depth",
    "disagreement",
    "tokens_until_difference",
    "equal_share",
    "lcs_share",
    "distinct_2",
    "distinct_3",
    "longest_loop",
    "loop_share",
    "n_tokens",
)
CONTRADICTED_EXITS: Final = "contradicted_of"  # the number of exits that `CONTRADICTED` is a share of
OF_CONTRADICTED: Final = ("contradicted_on_normal", "exits_on_normal")  # their ratio of sums is `CONTRADICTED`
LOOPING: Final = 0.5  # share of a text; above it, the text is mostly one loop


def per_configuration(sweep: Sweep) -> pd.DataFrame:
    """Return one row per configuration, with every statistic averaged over prompts.

    `layers_skipped` is 1 − mean depth, and `perplexity` the geometric mean over prompts. `contradicted` is the share of
    early exits on the text of `normal` that the final layer contradicts (`eexit.sweeps.summary.contradicted`), and
    `contradicted_of` their number. `<name>_control` is the mean of the configuration's control, if the sweep has one.
    In a control's row, `beneath` is the configuration that it controls, if the sweep has that. `looping` is True if
    more than `LOOPING` of the text is one loop (`loop_share`), unless that is so for `normal` too.
    """
    averaged = [*AVERAGED, *([CORRECT, CUT] if sweep.has_answers else []), *sweep.extra]
    columns = [*averaged, "log_perplexity"]
    numbers = sweep.done.astype(dict.fromkeys([*columns, *OF_CONTRADICTED], float))
    by_prompt = numbers.groupby(["configuration", "unit"])[[*columns, *OF_CONTRADICTED]].mean().reset_index()
    n_failed, n_seeds = sweep.failed["configuration"].value_counts(), n_seeds_of(sweep.done)
    rows, of_normal = [], _contradicted_on_normal(sweep)
    for configuration in sweep.configurations:
        runs = by_prompt[by_prompt["configuration"] == configuration.key]
        row = naming(configuration, sweep.marked) | {
            "n": len(runs),
            "n_failed": int(n_failed.get(configuration.key, 0)),
            "n_seeds": n_seeds.get(configuration.key, 0),
        }
        found = estimates_of(sweep, configuration, runs[columns])
        for name in averaged:
            row |= found[name].columns(name)
        row |= perplexity_columns(found["log_perplexity"])
        row |= found["mean_depth"].complement.columns(SKIPPED)
        wrong_P, exits_P = (runs[name].to_numpy(float) for name in OF_CONTRADICTED)
        found_here = of_normal.get(configuration.key) or Contradicted.of_runs(wrong_P, exits_P, runs["unit"].tolist())
        row |= found_here.share.columns(CONTRADICTED) | {CONTRADICTED_EXITS: found_here.n_exits}
        rows.append(row)
    return with_controls(_with_looping(pd.DataFrame(rows)), [*averaged, PERPLEXITY, SKIPPED])


def _contradicted_on_normal(sweep: Sweep) -> dict[str, Contradicted]:
    """Return key → contradicted early exits, where the recorded tokens of `normal` determine them."""
    known = {*sweep.tokens.schema.names} >= {*OF_TOKENS}
    if sweep.final_layer is None or not known or sweep.config.get("decide_on", HEAD) != HEAD:
        return {}
    normal = sweep.done[sweep.done["configuration"] == NORMAL]
    return on_normal(
        sweep.tokens.to_batches(columns=["run_id", *OF_TOKENS], filter=pc.field("configuration") == NORMAL),
        dict(zip(normal["run_id"], normal["unit"], strict=True)),
        [*sweep.exitable_layers, sweep.final_layer],
        sweep.configurations,
    )


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
    """Return the rows with `beneath`, and with the control's value of these columns."""
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
    if not isinstance(configuration, Exit):
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
    """Return Σ above / Σ below over prompts for each configuration. Seeds of a prompt are averaged first."""
    means = runs.groupby(["unit", "configuration"])[[above, below]].mean()  # P prompts, C configurations
    above_PC, below_PC = (means[name].unstack().reindex(columns=keys).to_numpy() for name in (above, below))
    return estimate_ratios(above_PC, below_PC, kind)


def perplexity_columns(log: Estimate) -> dict[str, float]:
    mean, low, high = map(mean_perplexity, (log.mean, log.low, log.high))
    return Estimate(mean, low, high, log.n).columns(PERPLEXITY)


_SHARES: Final = {
    "loop_share",
    CUT,
    *(f.name for f in GENERATIONS if (f.metadata or {}).get(b"unit", b"").startswith((b"fraction", b"flag"))),
}
_GIVEN: Final = ("exit_rate", "mean_depth")  # known without error where a configuration prescribes its exits
_GIVEN_BY_NORMAL: Final = (*_GIVEN, "disagreement", "equal_share", "lcs_share")


def is_share(sweep: Sweep, name: Any) -> bool:
    """Return True if a column of runs holds shares, by its unit or because its name is a number.

    Numbers name a layer's share of the exits, or the depth in a position bin.
    """
    return name in (*_SHARES, SKIPPED) or isinstance(name, int)


def estimates_of(sweep: Sweep, configuration: Configuration, values: pd.DataFrame) -> dict[Any, Estimate]:
    """Return one estimate per column over the prompts (rows). Exits that a configuration prescribes are exact."""
    is_normal, is_given = isinstance(configuration, Normal), gives_its_exits(configuration)
    certain = _GIVEN_BY_NORMAL if is_normal else _GIVEN if is_given else ()
    kinds = [
        ValueKind.SHARE
        if is_share(sweep, name) and name not in certain and not (is_given and isinstance(name, int))
        else ValueKind.NUMBER
        for name in values.columns
    ]
    return dict(zip(values.columns, estimate_columns(values.to_numpy(dtype=float), kinds), strict=True))
