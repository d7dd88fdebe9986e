"""Where `jobs/timings.py` measured, and the latest speed-ups of each configuration there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pandas as pd

from eexit.output.text import counted
from eexit.plan.configuration import GENERATE, NORMAL
from eexit.studies.timing.speedups import Speedup, speedups

_SETUP: Final = ["machine", "device", "threads", "dtype"]


@dataclass(frozen=True)
class Measured:
    """A batch size on a machine for which `jobs/timings.py` measured how long configurations take."""

    number: int
    batch: int
    label: str  # such as "batch 8", with the machine if there are several
    machine: str
    rounds: int
    prompts: int

    def column(self, name: str) -> str:
        """The name of a column that was measured here."""
        return f"{name}_{self.number}"


def latest_speedups(timings: pd.DataFrame, beside: str = NORMAL) -> list[tuple[Measured, dict[str, Speedup]]]:
    """What was measured where, with the speed-ups of each configuration over the one of key `beside`.

    Seconds of different calls of `jobs/timings.py` are not compared. If several calls on one machine timed a
    configuration, the latest counts. Sizes at which only steps were timed are left out.
    """
    timings = timings[~_of_steps_alone(timings)]
    setups = setups_of(timings)
    several = setups.nunique() > 1
    latest: dict[tuple[int, str], dict[str, Speedup]] = {}  # by batch and machine, in the order of calls
    prompts: dict[tuple[int, str], int] = {}
    for (setup, _), rows in timings.groupby([setups, "timing_id"], sort=False):
        for speedup in speedups(rows.to_dict("records"), beside):  # type: ignore[arg-type]  # its keys are column names
            at = (speedup.batch, str(setup))
            latest.setdefault(at, {})[speedup.configuration] = speedup
            prompts[at] = max(prompts.get(at, 0), int(rows["prompts"].max()))
    found = []
    for number, at in enumerate(sorted(latest, key=lambda at: at[0])):
        batch, setup = at
        label = f"batch {batch}" + (f", {setup}" if several else "")
        rounds = max(speedup.rounds for speedup in latest[at].values())
        found.append((Measured(number, batch, label, setup, rounds, prompts[at]), latest[at]))
    return found


def _of_steps_alone(timings: pd.DataFrame) -> pd.Series:
    """Whether rows are of a batch size at which nothing was asked about: `generate` was timed beside others alone."""
    is_generate, call = timings["configuration"] == GENERATE, timings["timing_id"]
    in_call, at_size = (is_generate.groupby(by).transform("any") for by in (call, [call, timings["batch"]]))
    return in_call & ~at_size


def setups_of(timings: pd.DataFrame) -> pd.Series:
    """The machine, dtype and threads of each row, in words."""
    return pd.Series([_setup(*row) for row in timings[_SETUP].itertuples(index=False)], timings.index, dtype=object)


def _setup(machine: str, device: str, threads: int, dtype: str) -> str:
    return f"{machine}, {dtype}" + (f", {threads} threads" if device == "cpu" else "")


def timed_over(measured: Sequence[Measured]) -> str:
    """The rounds and prompts of what was timed."""
    rounds = dict.fromkeys(f"{counted(each.rounds, 'round')} on {each.machine}" for each in measured)
    return f"median of {', '.join(rounds)}; {counted(max(each.prompts for each in measured), 'prompt')}"
