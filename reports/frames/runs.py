"""One tidy pandas frame per chart of the overview, aggregated over prompts. Every row has its n.

Several seeds of a prompt are averaged first, so that a prompt counts once; `n_seeds` is how many there are, which is 1
where all seeds have the same run. Prompts of a group are averaged too, and count as one (`unit`). Failed runs are left
out of every mean and counted in `n_failed`. An estimate has the columns `<name>`, `<name>_low`, `<name>_high`
and `<name>_n`.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from eexit.method.rules import shown
from eexit.plan.configuration import NORMAL, Configuration, Exit, Normal, gives_its_exits
from eexit.plan.runs import OK
from eexit.quality.estimates import Estimate, ValueKind, estimate_columns, estimate_ratios
from eexit.quality.intervals import mcnemar
from eexit.quality.text_measures import mean_perplexity
from eexit.results.tables import GENERATIONS
from reports.frames.axes import CORRECT, PERPLEXITY, RUN, SKIPPED
from reports.progress import Progress, ignore
from reports.read.judgements import PREFERRED
from reports.read.parameters import ORACLE_MARK, is_doubling
from reports.read.sweep import Sweep, index_of_runs

# Columns of `generations` that are averaged over prompts. Perplexity is not among them: its logarithm is averaged.
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
DIFFERENCES: Final = (
    "perplexity",
    "exit_rate",
    "mean_depth",
    "disagreement",
    "distinct_2",
    "longest_loop",
    "n_tokens",
)
GAINED, LOST, P_VALUE = "_gained", "_lost", "_p"  # end the names of columns beside an accuracy's difference
MAX_BINS: Final = 25
LOOPING: Final = 0.5  # of a text; above it, the text is mostly one loop
CONTROL: Final = "its control"  # the baseline that compares each configuration with its own control


def trade_off(sweep: Sweep) -> pd.DataFrame:
    """One row per configuration: every statistic averaged over prompts.

    `layers_skipped` is 1 − mean depth. `perplexity` is the geometric mean over prompts. Where the
    sweep has a control of the configuration, `<name>_control` is the control's mean. In the row of a control, `beneath`
    is the configuration that it is the control of, if the sweep has that. `looping` says whether more than `LOOPING`
    of the text is one loop (`loop_share`) while that is not so for `normal`.
    """
    averaged = [*AVERAGED, *_marks(sweep)]
    columns = [*averaged, "log_perplexity"]
    numbers = sweep.done.astype(dict.fromkeys(columns, float))
    by_prompt = numbers.groupby(["configuration", "unit"])[columns].mean().reset_index()
    n_failed, n_seeds = sweep.failed["configuration"].value_counts(), _n_seeds(sweep.done)
    rows = []
    for configuration in sweep.configurations:
        runs = by_prompt[by_prompt["configuration"] == configuration.key]
        row = naming(configuration, sweep.marked) | {
            "n": len(runs),
            "n_failed": int(n_failed.get(configuration.key, 0)),
            "n_seeds": n_seeds.get(configuration.key, 0),
        }
        found = _estimates(sweep, configuration, runs[columns])
        for name in averaged:
            row |= found[name].columns(name)
        row |= _perplexity(found["log_perplexity"])
        row |= found["mean_depth"].complement.columns(SKIPPED)
        rows.append(row)
    return with_controls(_with_looping(pd.DataFrame(rows)), [*averaged, PERPLEXITY, SKIPPED])


def _marks(sweep: Sweep) -> list[str]:
    """Columns that only some sweeps have: marks of their answers, scores from the file, and what judges said."""
    return [*([CORRECT] if sweep.has_answers else []), *sweep.extra]


def _n_seeds(runs: pd.DataFrame) -> dict[str, int]:
    """How many seeds each configuration has."""
    seeds = runs["seed"].where(~runs["every_seed"], -1)
    return {str(key): int(n) for key, n in seeds.groupby(runs["configuration"]).nunique().items()}


def _with_looping(trade: pd.DataFrame) -> pd.DataFrame:
    if trade.empty:
        return trade
    looping = trade["loop_share"] > LOOPING
    in_normal = bool(looping[trade["configuration"] == NORMAL].any())
    return trade.assign(looping=looping & (not in_normal))


def with_controls(trade: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """The rows with what they are the control of, and with the value of each one's control of these columns."""
    if trade.empty:
        return trade
    trade = trade.assign(beneath=trade["control_of"].where(trade["control_of"].isin(trade["configuration"])))
    controls = trade[trade["beneath"].notna()].drop_duplicates("beneath").set_index("beneath")
    if controls.empty:
        return trade
    return trade.assign(**{f"{name}_control": trade["configuration"].map(controls[name]) for name in names})


def dose_response(trade: pd.DataFrame) -> pd.DataFrame:
    """The rows of `normal`, and those whose parameter fits on its rule's axis (a log2 axis needs positive ones)."""
    if trade.empty:
        return trade
    is_drawable = [
        pd.isna(rule) or parameter > 0 or (parameter <= 0 and not is_doubling(rule))  # never true of NaN
        for rule, parameter in zip(trade["rule"], trade["parameter"].astype(float), strict=True)
    ]
    return trade[is_drawable]


def exit_mix(sweep: Sweep) -> pd.DataFrame:
    """Share of decided tokens per configuration and exit layer, averaged over prompts."""
    labels = list(layer_labels(sweep).values())
    total = sweep.layer_counts.sum(axis=1)
    known = (sweep.generations["status"] == OK).to_numpy() & (total > 0)
    shares = pd.DataFrame(sweep.layer_counts[known] / total[known, None], columns=range(len(labels)))
    keys = sweep.generations.loc[known, ["configuration", "unit"]].reset_index(drop=True)
    by_prompt = pd.concat([keys, shares], axis=1).groupby(["configuration", "unit"]).mean().reset_index()
    n_seeds = _n_seeds(sweep.generations[known])
    rows = []
    for configuration in sweep.configurations:
        runs = by_prompt[by_prompt["configuration"] == configuration.key]
        for rank, estimate in _estimates(sweep, configuration, runs[list(range(len(labels)))]).items():
            named = naming(configuration, sweep.marked) | {"layer": labels[rank], "rank": rank, "n": len(runs)}
            named["n_seeds"] = n_seeds.get(configuration.key, 0)
            rows.append(named | estimate.columns("share"))
    return pd.DataFrame(rows)


def depth_by_position(sweep: Sweep, progress: Progress = ignore) -> pd.DataFrame:
    """Mean depth (fraction of L) along the text, in at most 25 bins of equal width; decided tokens only.

    A bin's n is the number of prompts whose text reaches it, so that the last bins contain only long texts. Tokens are
    read in batches, so that memory holds no more than two numbers per run and bin.
    """
    done = sweep.done
    longest = done["n_tokens"].max()
    if sweep.final_layer is None or not longest > 0:
        return pd.DataFrame()
    width = math.ceil(longest / MAX_BINS)
    depth = _depth_of_runs(sweep, done["run_id"], width, progress)
    keys = [done[name].to_numpy() for name in ("configuration", "unit")]
    per_prompt = pd.DataFrame(depth).groupby(keys).mean()
    n_seeds = _n_seeds(done)
    rows = []
    for configuration in sweep.configurations:
        if configuration.key not in per_prompt.index:
            continue
        for bin_index, estimate in _estimates(sweep, configuration, per_prompt.loc[[configuration.key]]).items():
            if estimate.n:
                position = {"position": bin_index * width + (width - 1) / 2, "width": width}
                position["n_seeds"] = n_seeds[configuration.key]
                rows.append(naming(configuration, sweep.marked) | position | estimate.columns("depth"))
    return pd.DataFrame(rows)


def _depth_of_runs(sweep: Sweep, run_ids: pd.Series, width: int, progress: Progress) -> np.ndarray:
    """Mean depth as runs × bins; NaN where a run has no decided token in a bin."""
    assert sweep.final_layer is not None
    index = pd.Index(run_ids)
    depth, n = np.zeros((len(index), MAX_BINS)), np.zeros((len(index), MAX_BINS))
    rows = sweep.tokens.count_rows()
    read = 0
    for batch in sweep.tokens.to_batches(columns=["run_id", "position", "decided", "exit_layer"]):
        run = index_of_runs(batch, index)
        bin_index = np.asarray(batch.column("position")) // width
        layer = np.asarray(batch.column("exit_layer").fill_null(-1))
        used = (
            np.asarray(batch.column("decided").cast("uint8")).astype(bool)
            & (run >= 0)
            & (bin_index < MAX_BINS)
            & (layer >= 0)
        )
        where = run[used], bin_index[used]
        np.add.at(depth, where, (layer[used] + 1) / (sweep.final_layer + 1))
        np.add.at(n, where, 1)
        read += len(batch)
        progress(f"aggregating tokens: {read:,} of {rows:,}")
    with np.errstate(invalid="ignore"):
        return depth / n


def paired_differences(sweep: Sweep, baseline: str = NORMAL) -> pd.DataFrame:
    """Each configuration compared with the one of key `baseline`, as `PairedRuns.beside` does."""
    return PairedRuns.of(sweep).beside(baseline)


@dataclass(frozen=True)
class PairedRuns:
    """The numbers of runs, N pairs of prompt and seed × X columns × C configurations."""

    sweep: Sweep
    columns: list[str]
    index: pd.Index  # of the pairs: unit, prompt and seed
    numbers_NXC: np.ndarray

    @classmethod
    def of(cls, sweep: Sweep) -> "PairedRuns":
        """A run that is the same for every seed stands beside each seed's run of the other configurations."""
        columns = ["log_perplexity", *DIFFERENCES[1:], SKIPPED, RUN, *_marks(sweep)]
        keys = [configuration.key for configuration in sweep.configurations]
        done = sweep.done.assign(**{SKIPPED: 1 - sweep.done["mean_depth"].astype(float), RUN: saved_of_run(sweep.done)})
        done = done.astype(dict.fromkeys(columns, float))
        means = done.pivot_table(columns, ["unit", "prompt_id", "seed"], "configuration", aggfunc="mean")
        means = means.reindex(columns=pd.MultiIndex.from_product([columns, keys]))
        of_fixed = means.columns.get_level_values(1).isin(sweep.same_for_every_seed)
        means.loc[:, of_fixed] = means.loc[:, of_fixed].groupby("prompt_id").transform("first")
        return cls(sweep, columns, means.index, means.to_numpy().reshape(len(means), len(columns), len(keys)))

    def beside(self, baseline: str, only: Collection[str] | None = None) -> pd.DataFrame:
        """Each configuration, or those of keys `only`, compared with the one of key `baseline`, on the same prompts and
        seeds. If `baseline` is `CONTROL`, each is compared with its own control.

        Perplexities are compared by their ratio, the other columns by their difference: those of DIFFERENCES, what is
        skipped and saved, the accuracy and the scores. A prompt's difference is the mean of those of its seeds;
        `n_seeds` is how many have any.
        """
        sweep, columns = self.sweep, self.columns
        keys = [configuration.key for configuration in sweep.configurations]
        bases = {key: base for key, base in _bases(sweep, baseline).items() if only is None or key in only}
        compared = [keys.index(key) for key in bases]
        if not bases or not set(bases.values()) & set(sweep.done["configuration"]):
            return pd.DataFrame()
        # D configurations are compared with another one.
        base_NXD = self.numbers_NXC[:, :, [keys.index(base) for base in bases.values()]]
        differences_NXD = self.numbers_NXC[:, :, compared] - base_NXD
        flat = pd.DataFrame(differences_NXD.reshape(len(self.index), -1), index=self.index)
        differences = flat.groupby("unit").mean()
        kinds = [ValueKind.DIFFERENCE if _is_share(sweep, name) else ValueKind.NUMBER for name in columns]
        found = estimate_columns(differences.to_numpy(), [kind for kind in kinds for _ in compared])
        paired_ND = ~np.isnan(differences_NXD).all(axis=1)
        seed_N = self.index.get_level_values("seed")
        fixed = sweep.same_for_every_seed
        rows = []
        for number, index in enumerate(compared):
            of = dict(zip(columns, found[number :: len(compared)], strict=True))
            n = max(estimate.n for estimate in of.values())
            if n:
                key = sweep.configurations[index].key
                row = naming(sweep.configurations[index], sweep.marked) | {"baseline": baseline, "n": int(n)}
                row["n_seeds"] = 1 if {key, bases[key]} <= fixed else seed_N[paired_ND[:, number]].nunique()
                row |= _perplexity(of["log_perplexity"])
                for name in columns[1:]:
                    row |= of[name].columns(name)
                if CORRECT in columns:
                    row |= _gains(differences.iloc[:, columns.index(CORRECT) * len(compared) + number].dropna())
                rows.append(row)
        return pd.DataFrame(rows)


def saved_of_run(runs: pd.DataFrame) -> pd.Series:
    """What each run saves of full depth's multiply-adds by what was run; NaN for oracles."""
    saved: pd.Series = 1 - runs["cost_run"].astype(float) / runs["cost_full"].astype(float)
    return saved


def _gains(differences: pd.Series) -> dict[str, float]:
    """How many prompts are right here alone, and there alone; several seeds or prompts of a group count as parts of
    one.

    The p-value of McNemar's exact test is NaN where there are such parts.
    """
    gained, lost = differences.clip(lower=0).sum(), differences.clip(upper=0).abs().sum()
    is_whole = bool(np.isin(differences, (-1, 0, 1)).all())
    p_value = mcnemar(int(gained), int(lost)) if is_whole and len(differences) else math.nan
    return {f"{CORRECT}{GAINED}": gained, f"{CORRECT}{LOST}": lost, f"{CORRECT}{P_VALUE}": p_value}


def _bases(sweep: Sweep, baseline: str) -> dict[str, str]:
    """The key of each compared configuration → the key of the one that it is compared with."""
    if baseline != CONTROL:
        return {c.key: baseline for c in sweep.configurations if c.key != baseline}
    controls = {c.columns["control_of"]: c.key for c in reversed(sweep.configurations)}
    return {c.key: controls[c.key] for c in sweep.configurations if c.key in controls}


def layer_labels(sweep: Sweep) -> dict[int | None, str]:
    """Exit layer → its label, in rank order. The key None is a final layer whose number isn't known."""
    final = "final" if sweep.final_layer is None else f"{sweep.final_layer} (final)"
    return {**{layer: str(layer) for layer in sweep.exitable_layers}, sweep.final_layer: final}


def naming(configuration: Configuration, marked: Collection[str] = ()) -> dict[str, object]:
    """The columns that identify the configuration of a row.

    `series` is the same for configurations that differ in the parameter alone, not in exit set or gate; a control is
    a series of its own. `family` is the rule, or the mode where there is no rule. `shown_as` is the key, marked if the
    rule is in `marked`.
    """
    columns, key, mode = configuration.columns, configuration.key, configuration.mode
    named = {name: columns[name] for name in ("mode", "rule", "parameter", "control_of")}
    if not isinstance(configuration, Exit):
        same = {"family": mode, "series": key, "setting": None, "label": mode}
        return {"configuration": key, "shown_as": key, "oracle": False, **named, **same}
    rule, number = configuration.rule, columns["parameter"]
    within = configuration.within
    return {
        "configuration": key,
        "shown_as": key + (ORACLE_MARK if rule in marked else ""),
        "oracle": configuration.is_oracle,
        **named,
        "family": rule,
        "series": key if columns["control_of"] else f"{mode}/{rule}{within}",
        "setting": configuration.rule_key,
        "label": f"{rule if number is None else shown(configuration.parameter)}{within}",
    }


def ratios(
    runs: pd.DataFrame, above: str, below: str, keys: list[str], kind: ValueKind = ValueKind.NUMBER
) -> list[Estimate]:
    """Σ above / Σ below over prompts, several seeds of a prompt averaged first, for each configuration."""
    means = runs.groupby(["unit", "configuration"])[[above, below]].mean()  # P prompts, C configurations
    above_PC, below_PC = (means[name].unstack().reindex(columns=keys).to_numpy() for name in (above, below))
    return estimate_ratios(above_PC, below_PC, kind)


def _perplexity(log: Estimate) -> dict[str, float]:
    mean, low, high = map(mean_perplexity, (log.mean, log.low, log.high))
    return Estimate(mean, low, high, log.n).columns(PERPLEXITY)


_SHARES: Final = {
    "loop_share",
    *(f.name for f in GENERATIONS if (f.metadata or {}).get(b"unit", b"").startswith((b"fraction", b"flag"))),
}
_GIVEN: Final = ("exit_rate", "mean_depth")  # by a configuration that gives its exits
_GIVEN_BY_NORMAL: Final = (*_GIVEN, "disagreement", "equal_share", "lcs_share")


def _is_share(sweep: Sweep, name: Any) -> bool:
    """Whether a column of runs holds shares.

    Its unit says so, or its name is a number (a layer's part of the exits, or depth by position), or it is a win rate.
    """
    return (
        name in (*_SHARES, SKIPPED)
        or isinstance(name, int)
        or name in [judge.column(PREFERRED) for judge in sweep.judges]
    )


def _estimates(sweep: Sweep, configuration: Configuration, values: pd.DataFrame) -> dict[Any, Estimate]:
    """One estimate per column, over the prompts, which are the rows. What the configuration gives is certain."""
    is_normal, is_given = isinstance(configuration, Normal), gives_its_exits(configuration)
    certain = _GIVEN_BY_NORMAL if is_normal else _GIVEN if is_given else ()
    kinds = [
        ValueKind.SHARE
        if _is_share(sweep, name) and name not in certain and not (is_given and isinstance(name, int))
        else ValueKind.NUMBER
        for name in values.columns
    ]
    return dict(zip(values.columns, estimate_columns(values.to_numpy(dtype=float), kinds), strict=True))
