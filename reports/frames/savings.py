"""What each configuration saves of the cost of full depth: in theory, of what was run, and of the time it took.

Theoretical: 1 − Σ cost_needed / Σ cost_full over prompts, as if deciding were free and deferral unbounded; several
seeds of a prompt are averaged first. Run: the same with cost_run, the cost of what was run; oracles have none, since
they run every layer. Both have bootstrap intervals over prompts. Realised: 1 − seconds / seconds of full depth in the
same round, as `eexit.studies.timing.speedups` computes it from what `jobs/timings.py` measured, with intervals over
rounds.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from eexit.plan.configuration import GENERATE
from eexit.quality.bootstrap import Estimate, estimate_ratios
from eexit.results.study_tables import TIMINGS
from eexit.studies.timing.speedups import Speedup
from reports.frames.runs import naming, spread
from reports.read.sweep import Sweep
from reports.read.timings import Measured, latest_speedups

THEORETICAL: Final = "theoretical"
RUN: Final = "run"
REALISED: Final = "realised"
KINDS: Final = (THEORETICAL, RUN, REALISED)
_COSTS: Final = {THEORETICAL: "cost_needed", RUN: "cost_run"}
_ENDS: Final = ("", "_low", "_high", "_n", "_control")
_CARRIED: Final = (
    "n",
    "n_seeds",
    "beneath",
    "looping",
    *(f"{name}{end}" for name in ("disagreement", "loop_share") for end in _ENDS),
)


@dataclass(frozen=True)
class Savings:
    """One row per configuration, and one of key `generate` if transformers' own was timed.

    Columns: those of `frames.naming`; of `frames.trade_off`, the disagreement, `loop_share` and `looping`; the savings
    `theoretical` and `run` as fractions of full depth; for each `Measured`, `realised` with its interval over the
    rounds and their number, `tokens_per_s`, `run_timed` (the run saving of the tokens that were timed) and `lacks` (by
    how much the realised saving is less than that). `<saving>_control` is the value of the configuration's control.
    """

    rows: pd.DataFrame
    measured: tuple[Measured, ...]

    @property
    def exiting(self) -> pd.DataFrame:
        """The rows of configurations that can exit early."""
        return self.rows[self.rows["rule"].notna()]


def savings(sweep: Sweep, trade: pd.DataFrame) -> Savings | None:
    """The savings that are known of a sweep; None if none are. `trade` is the frame of `frames.trade_off`."""
    measured, timed = _realised(sweep.rows_of(TIMINGS))
    rows = [
        naming(configuration, sweep.marked) | timed.get(configuration.key, {}) for configuration in sweep.configurations
    ]
    if GENERATE in timed:
        rows.append(dict.fromkeys(rows[0]) | {"configuration": GENERATE, "shown_as": GENERATE} | timed[GENERATE])
    frame = _with_costs(pd.DataFrame(rows), sweep)
    names = [*_COSTS, *(each.column(REALISED) for each in measured)]
    if frame.empty or frame[names].isna().all(axis=None):
        return None
    known = trade.set_index("configuration")
    carried = [name for name in _CARRIED if name in known]
    frame = frame.assign(**{name: frame["configuration"].map(known[name]) for name in carried})
    controls = frame[frame["beneath"].notna()].drop_duplicates("beneath").set_index("beneath")
    beside = {f"{name}_control": frame["configuration"].map(controls[name]).astype(float) for name in names}
    return Savings(frame.assign(**beside), tuple(measured))


def _with_costs(frame: pd.DataFrame, sweep: Sweep) -> pd.DataFrame:
    """The frame with the theoretical and the run savings and their intervals over prompts."""
    keys = frame["configuration"].tolist() if len(frame) else []
    for kind, cost in _COSTS.items():
        runs = sweep.done[["configuration", "prompt_id", cost, "cost_full"]].astype({cost: float, "cost_full": float})
        means = runs.dropna().groupby(["prompt_id", "configuration"])[[cost, "cost_full"]].mean()
        # P prompts, C configurations.
        above_PC, below_PC = (means[name].unstack().reindex(columns=keys).to_numpy() for name in (cost, "cost_full"))
        found = [Estimate(*numbers) for numbers in zip(*estimate_ratios(above_PC, below_PC), strict=True)]
        columns = [spread(kind, Estimate(1 - each.mean, 1 - each.high, 1 - each.low, each.n)) for each in found]
        frame = pd.concat([frame, pd.DataFrame(columns, index=frame.index)], axis=1)
    return frame


def _realised(timings: pd.DataFrame) -> tuple[list[Measured], dict[str, dict[str, Any]]]:
    """What was measured where, and for each configuration its numbers."""
    measured: list[Measured] = []
    found: dict[str, dict[str, Any]] = {}
    for where, latest in latest_speedups(timings):
        measured.append(where)
        for key, speedup in latest.items():
            found.setdefault(key, {}).update(_numbers(speedup, where.number))
    return measured, found


def _numbers(speedup: Speedup, number: int) -> dict[str, float]:
    low, high = (np.nan if end is None else 1 - 1 / end for end in (speedup.low, speedup.high))
    return {
        f"realised_{number}": speedup.realised,
        f"realised_{number}_low": low,
        f"realised_{number}_high": high,
        f"realised_{number}_n": speedup.rounds,
        f"run_timed_{number}": np.nan if speedup.run is None else speedup.run,
        f"lacks_{number}": np.nan if speedup.shortfall is None else speedup.shortfall,
        f"tokens_per_s_{number}": speedup.tokens_per_second,
    }


UNTIMED: Final = "Realised savings were not measured: python jobs/timings.py RESULTS does that."
