"""What each configuration saves of the cost of full depth: in theory, of what was run, and of the time it took.

Theoretical: 1 − Σ cost_needed / Σ cost_full over prompts, as if deciding were free and deferral unbounded; several
seeds of a prompt are averaged first. Run: the same with cost_run, the cost of what was run; oracles have none, since
they run every layer. Both have intervals over prompts. Realised: 1 − seconds / seconds of full depth in the
same round, as `eexit.studies.timing.speedups` computes it from what `jobs/timings.py` measured, with intervals over
rounds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from eexit.plan.configuration import GENERATE
from eexit.results.study_tables import TIMINGS
from eexit.studies.timing.speedups import Speedup
from reports.frames.axes import REALISED, RUN, THEORETICAL, CostAxis, costs
from reports.frames.runs import ratios, with_controls
from reports.read.sweep import Sweep
from reports.read.timings import Measured, latest_speedups

_COSTS: Final = {THEORETICAL: "cost_needed", RUN: "cost_run"}


@dataclass(frozen=True)
class Savings:
    """The rows of `frames.trade_off` with what each configuration saves, and a row of transformers' own `generate`.

    Columns: the savings `theoretical` and `run` as fractions of full depth; for each `Measured`, `realised` with its
    interval over the rounds and their number, `tokens_per_s`, `run_timed` (the run saving of the tokens that were
    timed) and `lacks` (by how much the realised saving is less than that). `<saving>_control` is the value of the
    configuration's control. `generate` has no row where it was not timed.
    """

    rows: pd.DataFrame
    generate: pd.DataFrame
    measured: tuple[Measured, ...]

    @property
    def exiting(self) -> pd.DataFrame:
        """The rows of configurations that can exit early."""
        return self.rows[self.rows["rule"].notna()]

    @property
    def costs(self) -> list[CostAxis]:
        """In which senses it is known of any configuration that exits early."""
        return [cost for cost in self.all_costs if self.exiting[cost.column].notna().any()]

    @property
    def all_costs(self) -> list[CostAxis]:
        return costs(self.measured)


def savings(sweep: Sweep, trade: pd.DataFrame) -> Savings | None:
    """The savings that are known of a sweep; None if none are. `trade` is the frame of `frames.trade_off`."""
    if trade.empty:
        return None
    measured, timed = _realised(sweep.rows_of(TIMINGS))
    of_keys = [timed.get(key, {}) for key in trade["configuration"]]
    columns = list(dict.fromkeys(name for numbers in timed.values() for name in numbers))
    realised = pd.DataFrame(of_keys, columns=columns, index=trade.index).astype(float)
    rows = pd.concat([trade, realised, *_with_costs(trade, sweep)], axis=1)
    names = [cost.column for cost in costs(measured)]
    if rows[names].isna().all(axis=None) and GENERATE not in timed:
        return None
    generate = [{"configuration": GENERATE, "shown_as": GENERATE} | timed[GENERATE]] if GENERATE in timed else []
    return Savings(with_controls(rows, names), pd.DataFrame(generate), tuple(measured))


def _with_costs(trade: pd.DataFrame, sweep: Sweep) -> Iterator[pd.DataFrame]:
    """The theoretical and the run savings of the rows, with their intervals over prompts."""
    for kind, cost in _COSTS.items():
        runs = sweep.done[["configuration", "unit", cost, "cost_full"]].astype({cost: float, "cost_full": float})
        found = ratios(runs.dropna(), cost, "cost_full", trade["configuration"].tolist())
        yield pd.DataFrame([ratio.complement.columns(kind) for ratio in found], index=trade.index)


def _realised(timings: pd.DataFrame) -> tuple[list[Measured], dict[str, dict[str, Any]]]:
    """What was measured where, and for each configuration its numbers."""
    measured: list[Measured] = []
    found: dict[str, dict[str, Any]] = {}
    for where, latest in latest_speedups(timings):
        measured.append(where)
        for key, speedup in latest.items():
            found.setdefault(key, {}).update(_numbers(speedup, where))
    return measured, found


def _numbers(speedup: Speedup, where: Measured) -> dict[str, float]:
    return {
        **speedup.saved.columns(where.column(REALISED)),
        where.column("run_timed"): np.nan if speedup.run is None else speedup.run,
        where.column("lacks"): np.nan if speedup.shortfall is None else speedup.shortfall,
        where.column("tokens_per_s"): speedup.tokens_per_second,
    }
