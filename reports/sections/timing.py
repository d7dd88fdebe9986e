"""The overview's section "Time": measured times, and the savings that the step times T(sequences, layers) allow."""

import math
from typing import Any, Final

import pandas as pd

from eexit.quality.estimates import ENDS
from eexit.results.study_tables import TIMINGS
from eexit.studies.timing.step_times import StepTimes, step_times
from reports.read.sweep import Sweep
from reports.read.timings import setups_of, timed_over
from reports.shared.charts import Columns
from reports.shared.figures import table
from reports.shared.measures import LAYERS_SKIPPED, SKIPPED
from reports.shared.savings import UNTIMED, SavingsTable

ALLOWED: Final = "allowed"
TIMED: Final[Columns] = (
    ("configuration", "Configuration", "text"),
    (SKIPPED, LAYERS_SKIPPED, "share"),
    ("run", "Multiply-adds saved, run", "share"),
    (ALLOWED, "Allowed by T(sequences, layers)", "share"),
    ("realised", "Time saved, realised", "share"),
)


def timing_section(sweep: Sweep, saves: SavingsTable | None) -> dict[str, Any]:
    """Return a sentence, tables of settings where any was timed, and tables of step times."""
    rows = timed(sweep, saves) if saves else pd.DataFrame()
    steps = [_steps(where, times) for where, times in known_step_times(sweep).items()]
    if saves is None or rows.empty:
        return {"about": UNTIMED, "steps": steps}
    about = (
        f"Realised: time beside full depth on the same path ({timed_over(saves.measured)}); allowed: what steps of "
        "fewer layers would save if deciding were free and all sequences exited at the same steps."
    )
    if rows[ALLOWED].isna().all():
        about += " What a step allows was not measured: eexit timings --steps does that."
    places = list(dict.fromkeys(where.label for where in saves.measured if where.label in set(rows["at"])))
    return {"about": about, "table": table(rows, TIMED), "places": places, "steps": steps}


def _steps(where: str, times: Any) -> dict[str, Any]:
    """Return milliseconds per step: a row per number of sequences, a column per last layer that runs."""
    of_layers = [(f"layer_{layer}", f"Layer {layer}", "real") for layer in times.layers]
    rows = [
        {"rows": n, **{key: 1e3 * s for (key, _, _), s in zip(of_layers, seconds, strict=True)}}
        for n, seconds in times.seconds.items()
    ]
    return {"where": where, "table": table(pd.DataFrame(rows), (("rows", "Sequences", "count"), *of_layers))}


def known_step_times(sweep: Sweep) -> dict[str, StepTimes]:
    """Return machine and dtype → step times of the latest call that measured them there."""
    timings = sweep.rows_of(TIMINGS)
    if sweep.final_layer is None or timings.empty:
        return {}
    found: dict[str, StepTimes] = {}
    for (setup, _), rows in timings.groupby([setups_of(timings), "timing_id"], sort=False):
        times = step_times(rows.to_dict("records"), sweep.final_layer + 1)  # type: ignore[arg-type]  # column names
        if times is not None:
            found[str(setup)] = times
    return found


def timed(sweep: Sweep, saves: SavingsTable) -> pd.DataFrame:
    """Return one row per configuration and place that was timed, the largest saving first.

    Columns: `configuration`, `shown_as`, `at` (batch size and machine), `layers_skipped`, `run` (the run saving of the
    timed tokens), `allowed` and the estimate `realised`. `allowed` is the saving by T(sequences, layers) if deciding
    were free; NaN where step times or exits are not known.
    """
    times = known_step_times(sweep)
    shares = exit_shares(sweep)
    frames = []
    for where in saves.measured:
        column = where.column("realised")
        names = {where.column("run_timed"): "run", **{f"{column}{end}": f"realised{end}" for end in ENDS}}
        rows = saves.exiting.loc[saves.exiting[column].notna(), ["configuration", "shown_as", SKIPPED, *names]]
        of_step = times.get(where.machine)
        allowed = [_allowed(of_step, where.batch, shares.get(key, {})) for key in rows["configuration"]]
        frames.append(rows.rename(columns=names).assign(at=where.label, allowed=allowed))
    if not frames:
        return pd.DataFrame()
    return pd.concat(frames).sort_values(["at", "realised"], ascending=[True, False], kind="stable")


def exit_shares(sweep: Sweep) -> dict[str, dict[int, float]]:
    """Return configuration → exit layer → share of its decided tokens that exited there."""
    if sweep.final_layer is None:
        return {}
    done = sweep.done
    counts = pd.DataFrame(sweep.layer_counts[done.index], columns=sweep.layers)
    sums = counts.groupby(done["configuration"].to_numpy()).sum()
    shares = {str(key): row / row.sum() for key, row in sums.iterrows() if row.sum()}
    return {key: {layer: of_layer[layer] for layer in sweep.layers} for key, of_layer in shares.items()}


def _allowed(times: StepTimes | None, batch: int, shares: dict[int, float]) -> float:
    if times is None or not shares or batch not in times.seconds:
        return math.nan
    if any(share and layer not in times.layers for layer, share in shares.items()):
        return math.nan
    return times.allowed(batch, [shares.get(layer, 0.0) for layer in times.layers])
