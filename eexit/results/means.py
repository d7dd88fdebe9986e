"""The results of each configuration of a sweep, as numbers."""

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

RUN_OF_ALL_SEEDS = ("prompt_id", "configuration")  # columns in which the runs are the same that count once
KEYS = ("parameter", "kl_factor", "seed")
MOST_NAMED: Final = 3
MANY_CUT: Final = 0.1  # of the texts whose answers are marked; above it, the accuracy may be that of the limit
MEASURES = tuple(
    field.name
    for field in GENERATIONS
    if any(of(field.type) for of in (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean))
    and field.name not in KEYS
)

Numbers = TypeVar("Numbers", float, np.ndarray)


@dataclass(frozen=True)
class Outcomes:
    """How many runs of a configuration there are, how many of them are different and how many are errors.

    Where all seeds have the same run, it counts once: in `n_different`, and in `done`, the rows without an error.
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
    """For each configuration its runs, errors, and the mean over its different runs of each measure of `GENERATIONS`.

    Of `prompts`, as `sweep.json` has them, those that are of a kind say what each configuration does to it, `by_kind`.
    Where texts have chains of thought, `per_right_answer` says what one takes.

    Of configurations that are `same_for_every_seed`, by their keys, a prompt's runs count once.

    The mean `cut` is the share of texts that `max_new_tokens` ended (`cut_share`).

    A mean is None if no run has the measure, or if it is not finite. The mean of `correct` is the accuracy, and that of
    `perplexity` is geometric (`eexit.quality.text_measures.mean_perplexity`).
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
    """Columns: prompt_id, configuration, status, and those that `done` is to have."""
    runs = generations.filter(pc.field("configuration") == configuration.key)
    n_runs, n_errors = runs.num_rows, runs.filter(pc.field("status") == ERROR).num_rows
    if configuration.key in same_for_every_seed:
        runs = once_each(runs, RUN_OF_ALL_SEEDS)
    return Outcomes(n_runs, runs.num_rows, n_errors, runs.filter(pc.field("status") == OK))


def saved(cost: Numbers, full: Numbers) -> Numbers:
    """The share of full depth's cost that is saved, of sums over runs or run by run; below 0 where it costs more."""
    share: Numbers = 1 - cost / full
    return share


def share_saved(runs: pa.Table, configuration: str, cost: str) -> float | None:
    """What a configuration's runs saved of full depth's multiply-adds, by this cost; None where that is not known."""
    known = runs.filter((pc.field("configuration") == configuration) & pc.field(cost).is_valid())
    full = pc.sum(known["cost_full"]).as_py()
    return saved(float(pc.sum(known[cost]).as_py()), full) if full else None


def exit_counts(runs: pa.Table) -> dict[str, Counter[int]]:
    """How many decided tokens of each configuration's runs exited at each layer, by its key."""
    counts: dict[str, Counter[int]] = {}
    keys, by_run = (runs[name].to_pylist() for name in ("configuration", "exit_layer_counts"))
    for key, of_run in zip(keys, by_run, strict=True):
        counts.setdefault(key, Counter()).update(dict(of_run or ()))  # None: the run failed
    return counts


def screen_misses(runs: pa.Table) -> tuple[int, float] | None:
    """How many tokens exited by what a screen let through, and the share of them that was without the likeliest token.

    None where no rule looked through a screen.
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
    """Return the share of texts that `max_new_tokens` ended, of those whose answers are marked, or of all if none is.

    None without such a text.
    """
    is_cut_R = cut(runs["finish_reason"].to_pylist(), runs["correct"].is_valid().to_numpy())
    return float(np.nanmean(is_cut_R)) if (~np.isnan(is_cut_R)).any() else None


def cut_warning(shares: Mapping[str, float | None]) -> str:
    """Return a warning that names the configurations of which more than `MANY_CUT` of the texts are cut; or "".

    `shares` are those of `cut_share` by key. The worst come first, at most `MOST_NAMED`.
    """
    many = {key: share for key, share in shares.items() if share is not None and share > MANY_CUT}  # no NaN is
    worst_first = sorted(many.items(), key=lambda pair: -pair[1])
    named = ", ".join(some([f"{key} ({percent(share)})" for key, share in worst_first], MOST_NAMED))
    return (
        f"Careful: max_new_tokens cut texts of {named}; an answer that had not come by then counts as wrong."
        if named
        else ""
    )


def mean_of(measure: str, runs: pa.Table) -> float | None:
    """The mean of a measure over runs; None if no run has it, or if it is not finite."""
    known = runs[measure].drop_null()
    if measure == "perplexity" and len(known):
        mean = mean_perplexity(float(np.mean(log_perplexity(known.to_numpy()))))
    else:
        mean = pc.mean(known).as_py()
    return mean if mean is not None and math.isfinite(mean) else None
