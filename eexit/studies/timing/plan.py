"""What is timed of a finished sweep: which configurations, at which batch sizes, with which prompts."""

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from eexit.errors import UsageError
from eexit.method.states import STATES
from eexit.output.text import some
from eexit.plan.config import Prompt, SweepConfig
from eexit.plan.configuration import GENERATE, NORMAL, Configuration, Draft, Exit, Generate, Normal
from eexit.plan.runs import OK, configurations
from eexit.plan.splits import representative
from eexit.results.means import exit_counts
from eexit.results.store.finished_sweep import FinishedSweep, refuse_unknown
from eexit.studies.timing.study import Contender, SweepExits, TimingStudy
from eexit.studies.timing.time_left import TimeLeft

COLUMNS: Final = ("prompt_id", "status")
EXITS: Final = ("configuration", "exit_layer_counts")  # also needed with steps
FIRST_STATE: Final = next(iter(STATES))  # what exits at one layer leave behind is never needed
LEAST_TOKENS: Final = 3  # the first two of a row are not timed


@dataclass(frozen=True)
class WhatToTime:
    """The flags of `jobs/timings.py`. Without keys, all configurations that can be timed; `with_steps`, also how long a
    step takes by the layers run. In these `seconds`, as many batch sizes, in their order, and rounds as there is time
    for: one of each at the least.
    """

    keys: Sequence[str]
    batches: Sequence[int]
    n_prompts: int
    n_tokens: int | None  # None: as many as the sweep's runs have at most
    n_rounds: int
    with_steps: bool = False
    seconds: float = math.inf

    @property
    def columns(self) -> Sequence[str]:
        """The columns of runs that a plan needs."""
        return (*COLUMNS, *(EXITS if self.with_steps else ()))


def make_plan(sweep: FinishedSweep, asked: WhatToTime) -> TimingStudy:
    """What to time.

    Raises `UsageError` for configurations that can't be timed, and for prompts that all failed.
    """
    config = sweep.config(", which can't be timed by this one")
    chosen = choose(configurations(config), asked.keys, sweep.name)
    prompts = _prompts_that_worked(config, sweep.runs, asked.n_prompts)
    if not prompts:
        raise UsageError(f"all runs of {sweep.name} are errors: there is no prompt to time")
    n_tokens = max(config.max_new_tokens, LEAST_TOKENS) if asked.n_tokens is None else asked.n_tokens
    if n_tokens < LEAST_TOKENS:
        raise UsageError(f"--tokens must be at least {LEAST_TOKENS}, since the first two are not timed, got {n_tokens}")
    config = config.model_copy(update={"prompts": prompts})
    drafting = [Generate(layer) for layer in dict.fromkeys(each.layer for each in chosen if isinstance(each, Draft))]
    exits = _exits(sweep, {prompt.id for prompt in prompts}) if asked.with_steps else None
    if exits:
        chosen = [*chosen, *(each for each in _at_each_layer(sweep) if each not in chosen)]
    contenders: tuple[Contender, ...] = (Normal(), Generate(), *chosen, *drafting)
    study = TimingStudy(config, contenders, tuple(dict.fromkeys(asked.batches)), n_tokens, asked.n_rounds, exits)
    study.time_left = TimeLeft(asked.seconds)
    return study


def _at_each_layer(sweep: FinishedSweep) -> list[Exit]:
    """SweepExits of all tokens at each exitable layer, which say how long a step takes by the layers run."""
    return [Exit(FIRST_STATE, "fixed", float(layer)) for layer in sweep.manifest.exitable_layers]


def _exits(sweep: FinishedSweep, prompt_ids: Set[str]) -> SweepExits:
    """Where the tokens of each configuration exited on these prompts."""
    counts = exit_counts(sweep.runs.filter(pc.field("prompt_id").isin(sorted(prompt_ids))))
    shares = {
        key: {layer: n / total for layer, n in of.items() if n} for key, of in counts.items() if (total := of.total())
    }
    return SweepExits(shares, sweep.manifest.model["n_layers"])


def choose(there: Sequence[Configuration], keys: Sequence[str], name: str) -> list[Configuration]:
    """The configurations with these keys, or all that can be timed; `normal` is not among them.

    Raises `UsageError` for an unknown key, for an oracle, and if there is nothing to time.
    """
    by_key = {each.key: each for each in there}
    oracles = {each.key: each.rule for each in there if isinstance(each, Exit) and each.is_oracle}
    timeable = [key for key in by_key if key != NORMAL and key not in oracles]
    refuse_unknown([key for key in keys if key not in (NORMAL, GENERATE)], list(by_key), name)
    for key in keys:
        if key in oracles:
            raise UsageError(
                f"{key} can't be timed: {oracles[key]} is an oracle, which needs the full-depth pass beside it; "
                f"choose from {', '.join(some(timeable)) or 'a sweep with online rules'}"
            )
    if not timeable:
        raise UsageError(
            f"{name} has nothing to time: its rules are oracles, which save nothing at run time, or it has "
            "none; run a sweep with others, such as --rules fixed=10, or with drafts, such as --draft 20:4"
        )
    return [by_key[key] for key in dict.fromkeys(keys or timeable) if key in timeable]


def _prompts_that_worked(config: SweepConfig, runs: pa.Table, n_prompts: int) -> tuple[Prompt, ...]:
    """A sample of the sweep's prompts that have no run with an error, with each sort's share of them."""
    failed = {
        prompt_id
        for prompt_id, status in zip(*(runs[name].to_pylist() for name in COLUMNS), strict=True)
        if status != OK
    }
    worked = {prompt.id: prompt for prompt in config.prompts if prompt.id not in failed}
    drawn = representative({prompt_id: prompt.prompt for prompt_id, prompt in worked.items()}, n_prompts)
    return tuple(worked[prompt_id] for prompt_id in drawn)
