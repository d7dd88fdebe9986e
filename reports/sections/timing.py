"""The overview's section "Time": what was timed, beside what T(rows, layers) allows."""

from typing import Any, Final

import pandas as pd

from eexit.messages import findings
from reports.frames.axes import LAYERS_SKIPPED, SKIPPED
from reports.frames.savings import Savings
from reports.frames.step_times import INDEPENDENT, TOGETHER, known_step_times, timed
from reports.read.sweep import Sweep
from reports.sections.figures import Columns, table
from reports.sections.trade_off import timed_over

TIMED: Final[Columns] = (
    ("configuration", "Setting", "text"),
    (SKIPPED, LAYERS_SKIPPED, "share"),
    ("run", "Multiply-adds saved, run", "share"),
    (INDEPENDENT, "Allowed, independent rows", "share"),
    (TOGETHER, "Allowed, rows together", "share"),
    ("realised", "Time saved, realised", "share"),
)


def timing_section(sweep: Sweep, saves: Savings | None) -> dict[str, Any]:
    """A sentence, and tables of what was timed where something was."""
    rows = timed(sweep, saves) if saves else pd.DataFrame()
    steps = [_steps(where, times) for where, times in known_step_times(sweep).items()]
    if saves is None or rows.empty:
        return {"about": findings.UNTIMED, "steps": steps}
    about = findings.HOW_TIMED.format(rounds=timed_over(saves.measured))
    if rows[INDEPENDENT].isna().all():
        about += f" {findings.NO_STEP_TIMES}"
    places = list(dict.fromkeys(where.label for where in saves.measured if where.label in set(rows["at"])))
    return {"about": about, "table": table(rows, TIMED), "places": places, "steps": steps}


def _steps(where: str, times: Any) -> dict[str, Any]:
    """Milliseconds of a step, a row for each number of rows, a column for each last layer that is run."""
    columns: Columns = (
        ("rows", "Rows", "count"),
        *((f"layer_{layer}", f"Layer {layer}", "real") for layer in times.layers),
    )
    rows = [
        {"rows": n, **{f"layer_{layer}": 1e3 * s for layer, s in zip(times.layers, seconds, strict=True)}}
        for n, seconds in times.seconds.items()
    ]
    return {"where": where, "table": table(pd.DataFrame(rows), columns)}
