"""Outcome of a sweep: its counts of runs, and each configuration's figures."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pyarrow.compute as pc

from eexit.output.text import describe_precision, pluralize
from eexit.plan.configuration import Configuration, configuration_of, is_earlier, same_for_every_seed
from eexit.plan.runs import ERROR, configurations
from eexit.plan.sweep_config import SweepConfig
from eexit.results.committed import read_columns
from eexit.results.configuration_means import figures
from eexit.results.finished_sweep import manifest_of
from eexit.results.store.commit import RunCounts
from eexit.results.store.folder import open_store


@dataclass(frozen=True)
class SweepSummary:
    """Outcome of a sweep. `model` and `dtype_asked` are as in `sweep.json`.

    `out` is an absolute path or a URI. `done` runs were committed with a result, and `errors` runs with an error;
    together they are all runs of `config`. `tally` counts the runs committed by this call, none if nothing remained to
    do.
    """

    config: SweepConfig
    out: str
    model: Mapping[str, Any]
    dtype_asked: str
    done: int
    errors: int
    tally: RunCounts

    @property
    def precision(self) -> str:
        """Precision in which the model computes, as messages name it."""
        return describe_precision(self.model, self.dtype_asked)

    @property
    def of_errors(self) -> str:
        """Number of failed runs and the reason of the first, read from the results."""
        runs = read_columns(open_store(self.out), ["status", "error"])
        reason = runs.filter(pc.field("status") == ERROR)["error"][0].as_py()
        runs = pluralize(self.done + self.errors, "run")
        return f"{f'{self.errors:,} of {runs}' if self.done else f'all {runs}'} are errors, such as: {reason}"

    def figures(self) -> list[dict[str, Any]]:
        """Return each configuration's counts of runs, different runs and errors, and its mean measures, by the results.

        Runs that are the same for every seed are one different run. `by_kind` has accuracy, cut texts, disagreement,
        and savings and losses compared with `normal`, by kind of prompt.
        """
        prompts = [asdict(prompt) for prompt in self.config.prompts]
        return figures(open_store(self.out), self.configurations, self.same_for_every_seed, prompts)

    @cached_property
    def configurations(self) -> list[Configuration]:
        """The configurations in order, including those of redefined rules and modes, which no longer run."""
        planned = configurations(self.config)
        if not self.config.shown_names:
            return planned
        held = [configuration_of(columns) for columns in manifest_of(open_store(self.out), self.out).configurations]
        return [*planned, *(each for each in held if is_earlier(each.key))]

    @property
    def same_for_every_seed(self) -> frozenset[str]:
        """Keys of configurations whose runs are the same for every seed, so that one run stands for all."""
        return same_for_every_seed(self.configurations, self.config.temperature)
