"""Means over the runs of each configuration of a sweep."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eexit.output.text import percent, some
from eexit.plan.configuration import Configuration
from eexit.plan.runs import ERROR, OK
from eexit.plan.splits import kinds, units
from eexit.quality.by_kind import by_kind
from eexit.quality.per_right import has_chains, per_right
from eexit.quality.text_measures import cut, log_perplexity, mean_perplexity
from eexit.results.files import once_each
from eexit.results.landed import read_columns
from eexit.results.store.folder import Store
from eexit.results.tables import GENERATIONS, OF_PARTS

RUN_OF_ALL_SEEDS = ("prompt_id", "configuration")  # runs that are equal in these columns count once
KEYS = ("parameter", "kl_factor", "seed")
MOST_NAMED: Final = 3
MANY_CUT: Final = 0.1  # share of texts with marked answers; above it, the token limit may determine the accuracy
MEASURES = tuple(
    field.name
    for field in GENERATIONS
    if any(of(field.type) for of in (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean))
    and field.name not in KEYS
)

Numbers = TypeVar("Numbers", float, np.ndarray)


@dataclass(frozen=True)
class Outcomes:
    """Number of runs, of different runs and of errors of a configuration, with its successful rows.

    Where all seeds give the same run, it counts once, both in `n_different` and in `done`, the rows without an error.
    """

    n_runs: int
    n_different: int
    n_errors: int
    done: pa.Table


def figures(
    store: Store,
    configurations: Sequence[Configuration],
    same_for_every_seed: Collection[str] = (),
    prompts: Sequence[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Return the number of runs and errors of each configuration, and the mean of each measure over its different runs.

    `GENERATIONS` defines the measures. A mean is None if no run has the measure or if it is not finite. The mean of
    `correct` is the accuracy, and that of `perplexity` is geometric (`eexit.quality.text_measures.mean_perplexity`).
    The mean `cut` is the share of texts that `max_new_tokens` ended (`cut_share`).

    In configurations with keys in `same_for_every_seed`, a prompt's runs count once. `prompts` are as in `sweep.json`.
    Their kinds give the entry `by_kind` and, where texts have chains of thought, `per_right_answer` has the cost of a
    right answer.
    """
    generations = read_columns(store, ["prompt_id", "status", "configuration", "seed", "finish_reason", *MEASURES])
    found = by_kind(generations, kinds(prompts), units(prompts)) if prompts else {}
    per_answer = {
        key: {"per_right_answer": {name: taken.as_dict() for name, taken in of.items()}}
        for key, of in (per_right(generations, units(prompts)) if prompts else {}).items()
    }
    if not has_chains(generations):
        generations = generations.drop_columns([name for name in MEASURES if name in OF_PARTS])
    return [
        {
            **_of_configuration(configuration, generations, same_for_every_seed),
            "by_kind": {kind: beside.as_dict() for kind, beside in found.get(configuration.key, {}).items()},
            **per_answer.get(configuration.key, {}),
        }
        for configuration in configurations
    ]


def outcomes(configuration: Configuration, generations: pa.Table, same_for_every_seed: Collection[str]) -> Outcomes:
    """Return the counts and the successful runs of a configuration.

    `generations` has the columns prompt_id, configuration and status, and all that `done` should have.
    """
    runs = generations.filter(pc.field("configuration") == configuration.key)
    n_runs, n_errors = runs.num_rows, runs.filter(pc.field("status") == ERROR).num_rows
    if configuration.key in same_for_every_seed:
        runs = once_each(runs, RUN_OF_ALL_SEEDS)
    return Outcomes(n_runs, runs.num_rows, n_errors, runs.filter(pc.field("status") == OK))


def saved(cost: Numbers, full: Numbers) -> Numbers:
    """Return the saved share of the cost of full depth, from sums or run by run; below 0 where the cost is higher."""
    share: Numbers = 1 - cost / full
    return share


def share_saved(runs: pa.Table, configuration: str, cost: str) -> float | None:
    """Return the share of full-depth multiply-adds that a configuration's runs saved by this cost; None if unknown."""
    known = runs.filter((pc.field("configuration") == configuration) & pc.field(cost).is_valid())
    full = pc.sum(known["cost_full"]).as_py()
    return saved(float(pc.sum(known[cost]).as_py()), full) if full else None


def exit_counts(runs: pa.Table) -> dict[str, Counter[int]]:
    """Return how many decided tokens exited at each layer, by configuration key."""
    counts: dict[str, Counter[int]] = {}
    keys, by_run = (runs[name].to_pylist() for name in ("configuration", "exit_layer_counts"))
    for key, of_run in zip(keys, by_run, strict=True):
        counts.setdefault(key, Counter()).update(dict(of_run or ()))  # None: the run failed
    return counts


def screen_misses(runs: pa.Table) -> tuple[int, float] | None:
    """Return how many tokens exited by a screen, and for which share of them the screen lacked the likeliest token.

    Return None where no rule used a screen.
    """
    looked = runs.filter(pc.field("screen_reads") > 0)
    n_left = pc.sum(pc.multiply(looked["exit_rate"], pc.subtract(looked["n_tokens"], 1))).as_py()
    return (round(n_left), pc.sum(looked["screen_misses"]).as_py() / n_left) if n_left else None


def _of_configuration(
    configuration: Configuration, generations: pa.Table, same_for_every_seed: Collection[str]
) -> dict[str, Any]:
    found = outcomes(configuration, generations, same_for_every_seed)
    return {
        **configuration.columns,
        "runs": found.n_runs,
        "different_runs": found.n_different,
        "errors": found.n_errors,
        "means": {
            **{name: mean_of(name, found.done) for name in MEASURES if name in found.done.column_names},
            "cut": cut_share(found.done),
        },
    }


def cut_share(runs: pa.Table) -> float | None:
    """Return the share of texts that `max_new_tokens` ended, among texts with marked answers; None without a text.

    If no text has a marked answer, all texts count.
    """
    is_cut_R = cut(runs["finish_reason"].to_pylist(), runs["correct"].is_valid().to_numpy())
    return float(np.nanmean(is_cut_R)) if (~np.isnan(is_cut_R)).any() else None


def cut_warning(shares: Mapping[str, float | None]) -> str:
    """Return a warning that names the configurations with more than `MANY_CUT` of their texts cut, or "".

    `shares` has `cut_share` by key. The highest shares come first, `MOST_NAMED` at most.
    """
    many = {key: share for key, share in shares.items() if share is not None and share > MANY_CUT}  # False for NaN
    worst_first = sorted(many.items(), key=lambda pair: -pair[1])
    named = ", ".join(some([f"{key} ({percent(share)})" for key, share in worst_first], MOST_NAMED))
    return (
        f"Careful: max_new_tokens cut texts of {named}; an answer that had not come by then counts as wrong."
        if named
        else ""
    )


def mean_of(measure: str, runs: pa.Table) -> float | None:
    """Return the mean of a measure over runs; None if no run has it or if it is not finite."""
    known = runs[measure].drop_null()
    if measure == "perplexity" and len(known):
        mean = mean_perplexity(float(np.mean(log_perplexity(known.to_numpy()))))
    else:
        mean = pc.mean(known).as_py()
    return mean if mean is not None and math.isfinite(mean) else None
