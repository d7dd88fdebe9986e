"""Machines and batch sizes at which `eexit timings` measured, and the speed-ups of each configuration there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pandas as pd

from eexit.output.text import pluralize
from eexit.plan.configuration import GENERATE, NORMAL
from eexit.studies.timing.speedups import Speedup, speedups

_SETUP: Final = ["machine", "device", "threads", "dtype"]


@dataclass(frozen=True)
class TimingSetup:
    """Batch size on a machine at which `eexit timings` measured configurations."""

    number: int
    batch: int
    label: str  # such as "batch 8", with the machine if there are several
    machine: str
    rounds: int  # over all calls
    prompts: int  # most prompts in one call
    calls: int = 1

    def column(self, name: str) -> str:
        """Return the name of the column that holds the quantity `name` for this batch size and machine."""
        return f"{name}_{self.number}"


def speedups_by_place(timings: pd.DataFrame, beside: str = NORMAL) -> list[tuple[TimingSetup, dict[str, Speedup]]]:
    """Return each machine and batch size with its speed-ups over configuration `beside`, from all timing calls.

    Batch sizes at which only steps were timed are left out.
    """
    timings = timings[~_of_steps_alone(timings)]
    setups = setups_of(timings)
    found: dict[tuple[int, str], dict[str, Speedup]] = {}
    for setup, rows in timings.groupby(setups, sort=False):
        for speedup in speedups(rows.to_dict("records"), beside):  # type: ignore[arg-type]  # its keys are column names
            found.setdefault((speedup.batch, str(setup)), {})[speedup.configuration] = speedup
    measured = []
    for number, (batch, setup) in enumerate(sorted(found, key=lambda at: at[0])):
        each = found[batch, setup]
        label = f"batch {batch}" + (f", {setup}" if setups.nunique() > 1 else "")
        prompts = int(timings["prompts"][(timings["batch"] == batch) & (setups == setup)].max())
        rounds, calls = (max(getattr(speedup, name) for speedup in each.values()) for name in ("rounds", "calls"))
        measured.append((TimingSetup(number, batch, label, setup, rounds, prompts, calls), each))
    return measured


def _of_steps_alone(timings: pd.DataFrame) -> pd.Series:
    """Return True for rows of step times alone: their batch size has no `generate`, and their call has it at others."""
    is_generate, call = timings["configuration"] == GENERATE, timings["timing_id"]
    in_call, at_size = (is_generate.groupby(by).transform("any") for by in (call, [call, timings["batch"]]))
    return in_call & ~at_size


def setups_of(timings: pd.DataFrame) -> pd.Series:
    """Return the machine, dtype and threads of each row, in words."""
    return pd.Series([_setup(*row) for row in timings[_SETUP].itertuples(index=False)], timings.index, dtype=object)


def _setup(machine: str, device: str, threads: int, dtype: str) -> str:
    return f"{machine}, {dtype}" + (f", {threads} threads" if device == "cpu" else "")


def timed_over(measured: Sequence[TimingSetup]) -> str:
    """Return a phrase with the calls, rounds, machines and prompts of these timings."""
    rounds = dict.fromkeys(
        (f"{pluralize(each.calls, 'call')}: " if each.calls > 1 else "")
        + f"{pluralize(each.rounds, 'round')} on {each.machine}"
        for each in measured
    )
    return f"median of {', '.join(rounds)}; {pluralize(max(each.prompts for each in measured), 'prompt')}"
