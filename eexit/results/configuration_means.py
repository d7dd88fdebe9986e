"""Means of measures over sampling units: one definition for tables, `--json`, the report, notebooks and studies.

A prompt's seeds are averaged first, then the prompts of a unit (`eexit.plan.splits.sampling_units`), so that a unit
counts once. Failed runs have no measures.

Shapes: R runs without an error, G units.
"""

from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eexit.output.text import percent, truncate_lines
from eexit.plan.configuration import Configuration, NoExit, gives_its_exits
from eexit.plan.runs import ERROR, OK
from eexit.plan.splits import kinds, sampling_units
from eexit.quality.by_kind import by_kind
from eexit.quality.cost_per_correct import has_chains, per_right
from eexit.quality.estimates import Estimate, ValueKind, estimate_columns, estimate_ratios, means_of_units
from eexit.quality.text_metrics import cut, log_perplexity, loop_share, mean_perplexity
from eexit.results.committed import read_columns
from eexit.results.parquet_files import once_each
from eexit.results.store.folder import Store
from eexit.results.tables import GENERATIONS, OF_PARTS

RUN_OF_ALL_SEEDS = ("prompt_id", "configuration")  # runs that are equal in these columns count once
MOST_NAMED: Final = 3
MANY_CUT: Final = 0.1  # share of texts with marked answers; above it, the token limit may determine the accuracy
PERPLEXITY: Final = "perplexity"  # its mean is geometric: `eexit.quality.text_metrics.mean_perplexity`
CUT: Final = "cut"
LOOP_SHARE: Final = "loop_share"
LAYERS_SKIPPED: Final = "layers_skipped"  # 1 − mean depth
MEASURES: Final = tuple(
    field.name
    for field in GENERATIONS
    if any(of(field.type) for of in (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean))
    and field.name not in ("parameter", "kl_factor", "prompt_exits", "seed", "steps")
)
SHARES: Final = frozenset({
    CUT, LOOP_SHARE, LAYERS_SKIPPED,
    *(f.name for f in GENERATIONS if (f.metadata or {}).get(b"unit", b"").startswith((b"fraction", b"flag"))),
})  # fmt: skip
# Measures that a configuration determines, so that their values have no chance variation.
OF_GIVEN_EXITS: Final = ("exit_rate", "mean_depth")
OF_NORMAL: Final = (*OF_GIVEN_EXITS, "disagreement", "equal_share", "lcs_share")
# Measures of drafts that are ratios of sums over units, by numerator and denominator.
DRAFT_RATIOS: Final = {
    "acceptance": ("accepted", "drafted"),
    "tokens_per_pass": ("decided", "passes"),
    "expected_time": ("serial", "decided"),
}
OF_DRAFTS: Final = ("accepted", "drafted", "passes", "tokens_per_pass", "expected_time")

Numbers = TypeVar("Numbers", float, np.ndarray)
Name = TypeVar("Name", bound=Hashable)
Column = Sequence[Any] | np.ndarray


@dataclass(frozen=True)
class RunSummary:
    """Number of runs, of different runs and of errors of a configuration, with its successful rows.

    Runs that are equal for all seeds count once, both in `n_different` and in `done`, the rows without an error.
    """

    n_runs: int
    n_different: int
    n_errors: int
    done: pa.Table


def is_share(name: object) -> bool:
    """Return True if a measure is in [0, 1]: by its unit, or a number for a name (a layer or a bin of positions)."""
    return name in SHARES or isinstance(name, int)


def estimate_measures(
    configuration: Configuration, values: Mapping[Name, np.ndarray], prompt_R: Column, unit_R: Column
) -> dict[Name, Estimate]:
    """Return the mean of each measure over the sampling units of one configuration's runs, with its interval.

    Args:
        values: the runs' numbers by measure, (R,), NaN where unknown.
        prompt_R: prompt ids.
        unit_R: sampling units of the prompts.
    """
    if not values:
        return {}
    columns = [log_perplexity(of) if name == PERPLEXITY else of for name, of in values.items()]
    means_GX = means_of_units(np.column_stack(columns).astype(float), prompt_R, unit_R)
    value_kinds = [_kind_of(configuration, name) for name in values]
    found = dict(zip(values, estimate_columns(means_GX, value_kinds), strict=True))
    return {name: exponential(each) if name == PERPLEXITY else each for name, each in found.items()}


def _kind_of(configuration: Configuration, name: object) -> ValueKind:
    is_normal, is_given = isinstance(configuration, NoExit), gives_its_exits(configuration)
    certain = OF_NORMAL if is_normal else OF_GIVEN_EXITS if is_given else ()
    is_certain = name in certain or (is_given and isinstance(name, int))
    return ValueKind.SHARE if is_share(name) and not is_certain else ValueKind.NUMBER


def exponential(log: Estimate) -> Estimate:
    """Return the mean perplexity with its interval, from the mean and interval of log-perplexities."""
    mean, low, high = map(mean_perplexity, (log.mean, log.low, log.high))
    return Estimate(mean, low, high, log.n)


def estimate_ratio(
    above_R: np.ndarray, below_R: np.ndarray, prompt_R: Column, unit_R: Column, kind: ValueKind = ValueKind.NUMBER
) -> Estimate:
    """Return Σ above / Σ below over sampling units, with its interval; a run that lacks either is in neither sum."""
    known_R = ~(np.isnan(above_R) | np.isnan(below_R))
    columns_R2 = np.where(known_R[:, None], np.column_stack([above_R, below_R]), np.nan)
    means_G2 = means_of_units(columns_R2, prompt_R, unit_R)
    return estimate_ratios(means_G2[:, :1], means_G2[:, 1:], kind)[0]


def estimate_drafts(values: Mapping[str, np.ndarray], prompt_R: Column, unit_R: Column) -> dict[str, Estimate]:
    """Return the estimates named in `DRAFT_RATIOS` from a draft's runs.

    `values` has an array (R,) for each of the columns `OF_DRAFTS`.
    """
    decided_R = values["passes"] * values["tokens_per_pass"]
    sums = {**values, "decided": decided_R, "serial": decided_R * values["expected_time"]}  # in full-depth tokens
    sums["drafted"] = np.where(values["drafted"] > 0, values["drafted"], np.nan)
    return {
        name: estimate_ratio(
            sums[above], sums[below], prompt_R, unit_R, ValueKind.SHARE if is_share(name) else ValueKind.NUMBER
        )
        for name, (above, below) in DRAFT_RATIOS.items()
    }


def numbers_of(runs: pa.Table, names: Collection[str] = MEASURES) -> dict[str, np.ndarray]:
    """Return these columns of `runs` as numbers, (R,), NaN where null; columns that `runs` lack are left out."""
    return {name: runs[name].cast("float64").to_numpy() for name in names if name in runs.column_names}


def estimates_of_runs(configuration: Configuration, done: pa.Table, unit_of: Mapping[str, str]) -> dict[str, Estimate]:
    """Return the means over sampling units of all measures in `done`, one configuration's runs without an error.

    `done` has the columns prompt_id, n_tokens, and `CUT` from `with_cut`. `unit_of` maps prompt ids to sampling units;
    a prompt that it lacks is a unit. Derived measures are `CUT` and `LOOP_SHARE`; `DRAFT_RATIOS` are ratios of sums.
    """
    prompt_R = done["prompt_id"].to_pylist()
    unit_R = [unit_of.get(prompt_id, prompt_id) for prompt_id in prompt_R]
    values = numbers_of(done, (*MEASURES, CUT))
    if "longest_loop" in values:
        values[LOOP_SHARE] = loop_share(values["longest_loop"], values["n_tokens"])
    found = estimate_measures(configuration, values, prompt_R, unit_R)
    if {*OF_DRAFTS} <= values.keys():
        found |= estimate_drafts(values, prompt_R, unit_R)
    return found


def with_cut(runs: pa.Table) -> pa.Table:
    """Return the runs with the column `CUT` (`eexit.quality.text_metrics.cut`)."""
    is_cut_R = cut(runs["finish_reason"].to_pylist(), runs["correct"].is_valid().to_numpy())
    return runs.append_column(CUT, pa.array(is_cut_R, pa.float64(), from_pandas=True))


def figures(
    store: Store,
    configurations: Sequence[Configuration],
    same_for_every_seed: Collection[str] = (),
    prompts: Sequence[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Return each configuration's number of runs and errors, and the estimate of each measure, as JSON.

    `estimates` has mean, low, high and n by measure (`estimates_of_runs`), None where unknown. In configurations with
    keys in `same_for_every_seed`, a prompt's runs count once. `prompts` are as in `sweep.json`. Their kinds give the
    entry `by_kind` and, where texts have chains of thought, `per_right_answer` has the cost of a right answer.
    """
    columns = ("prompt_id", "status", "configuration", "prompt_exits", "seed", "finish_reason", *MEASURES)
    generations = read_columns(store, columns)
    unit_of = sampling_units(prompts)
    found = by_kind(generations, kinds(prompts), unit_of) if prompts else {}
    per_answer = {
        key: {"per_right_answer": {name: taken.as_dict() for name, taken in of.items()}}
        for key, of in (per_right(generations, unit_of) if prompts else {}).items()
    }
    if not has_chains(generations):
        generations = generations.drop_columns([name for name in MEASURES if name in OF_PARTS])
    generations = with_cut(generations)
    rows = []
    for configuration in configurations:
        runs = outcomes(configuration, generations, same_for_every_seed)
        estimates = estimates_of_runs(configuration, runs.done, unit_of)
        rows.append(
            {
                **configuration.columns,
                "runs": runs.n_runs,
                "different_runs": runs.n_different,
                "errors": runs.n_errors,
                "estimates": {name: estimate.as_dict for name, estimate in estimates.items()},
                "by_kind": {kind: beside.as_dict() for kind, beside in found.get(configuration.key, {}).items()},
                **per_answer.get(configuration.key, {}),
            }
        )
    return rows


def outcomes(configuration: Configuration, generations: pa.Table, same_for_every_seed: Collection[str]) -> RunSummary:
    """Return the counts and the successful runs of a configuration.

    `generations` has the columns prompt_id, configuration and status, and all that `done` should have.
    """
    runs = generations.filter(pc.field("configuration") == configuration.key)
    n_runs, n_errors = runs.num_rows, runs.filter(pc.field("status") == ERROR).num_rows
    if configuration.key in same_for_every_seed:
        runs = once_each(runs, RUN_OF_ALL_SEEDS)
    return RunSummary(n_runs, runs.num_rows, n_errors, runs.filter(pc.field("status") == OK))


def saved_share(cost: Numbers, full: Numbers) -> Numbers:
    """Return the saved share of the cost of full depth, from sums or run by run; below 0 where the cost is higher."""
    share: Numbers = 1 - cost / full
    return share


def exit_counts(runs: pa.Table) -> dict[str, Counter[int]]:
    """Return how many decided tokens exited at each layer, by configuration key."""
    counts: dict[str, Counter[int]] = {}
    keys, by_run = (runs[name].to_pylist() for name in ("configuration", "exit_layer_counts"))
    for key, of_run in zip(keys, by_run, strict=True):
        counts.setdefault(key, Counter()).update(dict(of_run or ()))  # None: the run failed
    return counts


def screen_misses(runs: pa.Table) -> tuple[int, float] | None:
    """Return how many tokens exited by a screen, and for which share of them the screen lacked the likeliest token.

    The share is of all tokens, not a mean over units. Return None where no rule used a screen.
    """
    looked = runs.filter(pc.field("screen_reads") > 0)
    n_left = pc.sum(pc.multiply(looked["exit_rate"], pc.subtract(looked["n_tokens"], 1))).as_py()
    return (round(n_left), pc.sum(looked["screen_misses"]).as_py() / n_left) if n_left else None


def cut_shares(runs: pa.Table, unit_of: Mapping[str, str]) -> dict[str, float]:
    """Return the mean share of texts that `max_new_tokens` ended, over sampling units, by configuration key.

    Texts count as in `with_cut`. `runs` have prompt_id, configuration, status, finish_reason and correct.
    """
    done = with_cut(runs.filter(pc.field("status") == OK))
    shares = {}
    for key in pc.unique(done["configuration"]).to_pylist():
        of_key = done.filter(pc.field("configuration") == key)
        prompt_R = of_key["prompt_id"].to_pylist()
        unit_R = [unit_of.get(prompt_id, prompt_id) for prompt_id in prompt_R]
        is_cut_G = means_of_units(numbers_of(of_key, [CUT])[CUT][:, None], prompt_R, unit_R)
        shares[key] = estimate_columns(is_cut_G, [ValueKind.SHARE])[0].mean
    return shares


def cut_warning(shares: Mapping[str, float | None]) -> str:
    """Return a warning that names the configurations with more than `MANY_CUT` of their texts cut, or "".

    `shares` has the share of cut texts by key. The highest shares come first, `MOST_NAMED` at most.
    """
    named = name_above(shares, MANY_CUT, {key: percent(share) for key, share in shares.items()})
    careful = f"Careful: max_new_tokens cut texts of {named}; an answer that had not come by then counts as wrong."
    return named and careful


def name_above(shares: Mapping[str, float | None], bound: float, labels: Mapping[str, str]) -> str:
    """Return the keys with a share above `bound` and their labels, highest first, `MOST_NAMED` at most."""
    many = {key: share for key, share in shares.items() if share is not None and share > bound}  # False for NaN
    worst_first = sorted(many, key=lambda key: -many[key])
    return ", ".join(truncate_lines([f"{key} ({labels[key]})" for key in worst_first], MOST_NAMED))
