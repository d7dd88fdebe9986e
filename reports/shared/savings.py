"""Savings of each configuration relative to full depth: theoretical, as run, and in time.

- Theoretical: 1 − Σ macs_required / Σ macs_full over prompts, as if deciding were free and deferral unbounded. Seeds
  of a prompt are averaged first.
- Run: the same with macs_executed, the cost of the operations that ran. Oracles have none, since they run every layer.
- Elsewhere: as run, for the same exits at another model's unit costs.
- Per right answer, where texts have chains of thought: 1 − cost of one / cost of one for `normal`, as in
  `eexit.quality.cost_per_correct`.
- Realised: 1 − seconds / seconds of full depth in the same round, as `eexit.studies.timing.speedups` computes it from
  the measurements of `eexit timings`. Its intervals are over calls; all others are over prompts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from eexit.costs.operations import READS
from eexit.method.screen_size import screen_size
from eexit.output.text import is_known
from eexit.plan.configuration import GENERATE
from eexit.quality.cost_per_correct import COLUMNS as OF_RIGHT
from eexit.quality.cost_per_correct import per_right
from eexit.quality.estimates import NOTHING
from eexit.results.study_tables import TIMINGS
from eexit.studies.cost_projection import ModelShape, cost_at, full_cost_at
from reports.read.sweep import Sweep
from reports.read.timings import TimingSetup, speedups_by_place
from reports.shared.measures import (
    DISAGREEMENT,
    ELSEWHERE,
    PER_RIGHT,
    REALISED,
    RUN,
    THEORETICAL,
    CostAxis,
    costs,
)
from reports.shared.number_format import Row
from reports.shared.per_configuration import ratios, with_controls

_COSTS: Final = {THEORETICAL: "macs_required", RUN: "macs_executed"}


@dataclass(frozen=True)
class SavingsTable:
    """The rows of `per_configuration` with each configuration's savings, and a row of transformers' own `generate`.

    Columns: `theoretical` and `run`, savings as fractions of full depth, and for each `TimingSetup`: `realised` with
    its interval over calls and its rounds' number; `tokens_per_s`; `run_timed`, the run saving of the timed tokens; and
    `lacks`, by how much the realised saving is less. `<saving>_control` is the control's value. `generate` has no row
    unless timed.
    """

    rows: pd.DataFrame
    generate: pd.DataFrame
    measured: tuple[TimingSetup, ...]
    elsewhere: str | None = None  # name of the model at whose unit costs `run_elsewhere` is

    @property
    def exiting(self) -> pd.DataFrame:
        """The rows of configurations that can exit early."""
        return self.rows[self.rows["rule"].notna()]

    @property
    def costs(self) -> list[CostAxis]:
        """The senses in which a saving is known for any configuration that exits early."""
        known = costs(self.rows.columns, self.measured, self.elsewhere)
        return [cost for cost in known if self.exiting[cost.column].notna().any()]


def savings(sweep: Sweep, trade: pd.DataFrame) -> SavingsTable | None:
    """Return the savings table of a sweep; None if no saving is known. `trade` is the frame of `per_configuration`."""
    if trade.empty:
        return None
    measured, timed = _realised(sweep.rows_of(TIMINGS))
    of_keys = [timed.get(key, {}) for key in trade["configuration"]]
    columns = list(dict.fromkeys(name for numbers in timed.values() for name in numbers))
    realised = pd.DataFrame(of_keys, columns=columns, index=trade.index).astype(float)
    rows = pd.concat([trade, realised, *_with_costs(trade, sweep)], axis=1)
    elsewhere = sweep.unit_costs_of.name if sweep.unit_costs_of else None
    names = [cost.column for cost in costs(rows.columns, measured, elsewhere)]
    if rows[names].isna().all(axis=None) and GENERATE not in timed:
        return None
    generate = [{"configuration": GENERATE, "shown_as": GENERATE} | timed[GENERATE]] if GENERATE in timed else []
    return SavingsTable(with_controls(rows, names), pd.DataFrame(generate), tuple(measured), elsewhere)


def _with_costs(trade: pd.DataFrame, sweep: Sweep) -> Iterator[pd.DataFrame]:
    """Yield frames with each row's savings in multiply-adds, with intervals over prompts."""
    named = ["configuration", "prompt_id", "unit"]
    of_costs = {
        kind: sweep.done[[*named, cost, "macs_full"]].rename(columns={cost: "run", "macs_full": "full"})
        for kind, cost in _COSTS.items()
    }
    if sweep.unit_costs_of and sweep.final_layer is not None:
        of_costs[ELSEWHERE] = _at_unit_costs(sweep, sweep.unit_costs_of, sweep.final_layer + 1)
    for kind, runs in of_costs.items():
        known = runs.astype({"run": float, "full": float}).dropna()
        found = ratios(known, "run", "full", trade["configuration"].tolist())
        yield pd.DataFrame([ratio.complement.columns(kind) for ratio in found], index=trade.index)
    yield from _per_right(trade, sweep)


def _per_right(trade: pd.DataFrame, sweep: Sweep) -> Iterator[pd.DataFrame]:
    """Yield frames with each row's savings per right answer, relative to `normal`."""
    runs = pa.Table.from_pandas(sweep.done[list(OF_RIGHT)], preserve_index=False)
    found = per_right(runs, dict(zip(sweep.done["prompt_id"], sweep.done["unit"], strict=True)))
    for column, cost in PER_RIGHT.items() if found else ():
        beside = [found[key][cost].beside_normal if key in found else NOTHING for key in trade["configuration"]]
        yield pd.DataFrame([ratio.complement.columns(column) for ratio in beside], index=trade.index)


def _at_unit_costs(sweep: Sweep, shapes: ModelShape, n_layers: int) -> pd.DataFrame:
    """Return each run's multiply-adds, as run and at full depth, at another model's unit costs; NaN for oracles."""
    done, screen = sweep.done, screen_size(sweep.config["screen"])
    names = ("layers_run", "kv_writes", *READS)
    counts = {name: done[name].to_numpy(dtype=float, na_value=np.nan) for name in names}
    n_tokens, n_prompt = (done[name].to_numpy(dtype=float, na_value=np.nan) for name in ("n_tokens", "n_prompt_tokens"))
    in_prompt = np.array([each is True for each in done["prompt_exits"]])
    n_decided, n_unread = n_tokens - ~in_prompt, np.where(in_prompt, n_prompt - 1, 0)
    return done[["configuration", "prompt_id", "unit"]].assign(
        run=cost_at(shapes, counts, n_layers, screen), full=full_cost_at(shapes, n_decided, n_unread)
    )


def _realised(timings: pd.DataFrame) -> tuple[list[TimingSetup], dict[str, dict[str, Any]]]:
    """Return the machines and batch sizes of all timings, and the numbers of each configuration."""
    measured: list[TimingSetup] = []
    found: dict[str, dict[str, Any]] = {}
    for where, speedups in speedups_by_place(timings):
        measured.append(where)
        for key, speedup in speedups.items():
            found.setdefault(key, {}).update(speedup.saved.columns(where.column(REALISED)) | {
                where.column("run_timed"): np.nan if speedup.run is None else speedup.run,
                where.column("lacks"): np.nan if speedup.shortfall is None else speedup.shortfall,
                where.column("tokens_per_s"): speedup.tokens_per_second,
            })  # fmt: skip
    return measured, found


UNTIMED: Final = "Realised savings were not measured: eexit timings does that."
LIMITS: Final = (0.01, 0.05, 0.1, 0.2)  # of disagreement; the best configuration within each is named


def best_within(rows: list[Row], column: str) -> list[tuple[float | None, Row]]:
    """Return the configuration that saves most within a limit of disagreement, for each of `LIMITS` that has one.

    A configuration counts if it certainly saves something. If none is within the limits, return the one with the lowest
    disagreement. Without known disagreements, return the one that saves most.
    """
    sure = [row for row in rows if saves(row, column)]
    comparable = [row for row in sure if is_known(row[DISAGREEMENT])]
    if not comparable:
        return [(None, row) for row in sorted(sure, key=lambda row: -row[column])[:1]]
    found: dict[str, tuple[float | None, Row]] = {}
    for limit in LIMITS:
        within = [row for row in comparable if row[DISAGREEMENT] <= limit]
        if within:
            row = max(within, key=lambda row: row[column])
            found.setdefault(row["configuration"], (limit, row))
    return list(found.values()) or [(None, min(comparable, key=lambda row: row[DISAGREEMENT]))]


def saves(row: Row, column: str) -> bool:
    """Return True if a configuration costs less than full depth, by its interval's end if there is one."""
    low = row[f"{column}_low"]
    return bool((low if is_known(low) else row[column]) > 0)
