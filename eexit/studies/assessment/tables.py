"""What the tables of an assessment's steps say: all that is judged or shown is read here, and nothing is measured.

Shapes: G exitable layers and then the final one.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np

from eexit.decode.costs.counting import LOOKS
from eexit.decode.costs.other_models import KNOWN, Looked, cost_at, full_cost_at
from eexit.plan.configuration import GENERATE, NORMAL, Draft, configuration_of
from eexit.plan.runs import OK
from eexit.quality.estimates import Estimate
from eexit.results.means import exit_counts, share_saved
from eexit.results.store.finished_sweep import FinishedSweep, read_finished
from eexit.results.study_tables import TIMINGS
from eexit.studies.assessment.asked import READS_KEY
from eexit.studies.assessment.front import head_in_layers, price_of_head
from eexit.studies.assessment.verdict import BEST, CEILING, CONTROL, DRAFT, TRIED, Bound, Contender, Figures, Loss
from eexit.studies.assessment.verdict import GENERATE as GENERATE_ROLE
from eexit.studies.choosing.study import choices_made
from eexit.studies.timing.speedups import Speedup, speedups
from eexit.studies.timing.steps import StepTimes, step_times

PRICED: Final = ("layers_run", "keys_written", *LOOKS)
OF_COSTS: Final = ("cost_full", "cost_needed", "cost_run")
COLUMNS: Final = ("prompt_id", "configuration", "status", "n_tokens", "exit_layer_counts", *OF_COSTS, *PRICED)
AT_PRICES_OF: Final = ("llama-2-7b", "llama-3-8b")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class SweepFigures:
    """The costs and exits of a finished sweep's configurations, and its latest timing."""

    sweep: FinishedSweep

    @classmethod
    def read(cls, results: str) -> "SweepFigures":
        return cls(read_finished(results, COLUMNS))

    @property
    def layers_G(self) -> list[int]:
        return [*self.sweep.manifest.exitable_layers, self.n_layers - 1]

    @property
    def n_layers(self) -> int:
        return int(self.sweep.manifest.model["n_layers"])

    @cached_property
    def by_key(self) -> Mapping[str, Sequence[Row]]:
        found: dict[str, list[Row]] = {}
        for row in self.sweep.runs.to_pylist():
            if row["status"] == OK:
                found.setdefault(row["configuration"], []).append(row)
        return found

    @cached_property
    def _exits(self) -> Mapping[str, Counter[int]]:
        return exit_counts(self.sweep.runs)

    @cached_property
    def _timings(self) -> Sequence[Row]:
        return TIMINGS.rows(self.sweep.store)

    def timing(self, key: str) -> Sequence[Row]:
        """The rows of the latest timing in which this configuration was timed, beside all others in it."""
        latest = next((row["timing_id"] for row in reversed(self._timings) if row["configuration"] == key), None)
        return [row for row in self._timings if row["timing_id"] == latest]

    def saved(self, key: str, cost: str) -> float:
        """The share of full depth's multiply-adds, over all runs; NaN where it is not known."""
        share = share_saved(self.sweep.runs, key, cost)
        return math.nan if share is None else share

    def share_G(self, key: str) -> Sequence[float]:
        """Where its decided tokens exit."""
        counts = self._exits.get(key, Counter())
        total = counts.total()
        return [counts[layer] / total if total else math.nan for layer in self.layers_G]

    def times(self, key: str) -> dict[int, Estimate]:
        """Its time as a multiple of that of `normal`, by batch size, with the interval of the median."""
        latest = {row["batch"]: row["timing_id"] for row in self._timings if row["configuration"] == key}
        rows = [row for row in self._timings if latest.get(row["batch"]) == row["timing_id"]]
        return {each.batch: _time(each) for each in speedups(rows) if each.configuration == key}

    def at_prices(self, key: str, model: str) -> float:
        """Saved by what was run, at the prices of another model."""
        config, rows = self.sweep.manifest.config, self.by_key.get(key, ())
        known = [row for row in rows if all(row[name] is not None for name in PRICED)]
        if not known:
            return math.nan
        counts = {name: np.array([row[name] for row in known], dtype=float) for name in PRICED}
        n_decided = np.array([row["n_tokens"] - 1 for row in known], dtype=float)
        looked, shapes = Looked.of(config), KNOWN[model]
        full = float(full_cost_at(shapes, n_decided, looked).sum())
        return 1 - float(cost_at(shapes, counts, self.n_layers, looked).sum()) / full if full else math.nan

    def contender(self, key: str, role: str, steps: StepTimes | None, batches: Sequence[int]) -> Contender:
        """What is known of a configuration but its losses."""
        return Contender(
            key,
            role,
            self.saved(key, "cost_needed"),
            self.saved(key, "cost_run"),
            allowed(steps, batches, self.share_G(key)),
            self.times(key),
        )


@dataclass(frozen=True)
class FirstLook:
    """What the first step measured: the sweep of exits of all tokens at each layer, and T(rows, layers)."""

    figures: SweepFigures

    @cached_property
    def steps(self) -> StepTimes | None:
        return step_times(self.figures.timing(READS_KEY), self.figures.n_layers)

    @cached_property
    def head(self) -> float:
        """A read of the head as a share of full depth's multiply-adds."""
        n_layers = self.figures.n_layers
        fixed = {key: int(float(key.rpartition("/")[2])) for key in self.figures.by_key if "/fixed/" in key}
        costs = [((layer + 1) / n_layers, 1 - self.figures.saved(key, "cost_needed")) for key, layer in fixed.items()]
        return price_of_head([pair for pair in costs if math.isfinite(pair[1])])

    @property
    def head_in_layers(self) -> float:
        return head_in_layers(self.head, self.figures.n_layers)

    @property
    def possible(self) -> float:
        """Saved of the multiply-adds if all tokens left at the first exitable layer."""
        saved = [self.figures.saved(key, "cost_needed") for key in self.figures.by_key if "/fixed/" in key]
        return max((share for share in saved if math.isfinite(share)), default=math.nan)

    def seconds(self, key: str, batch: int) -> float:
        """Of a step, the median over rounds; NaN if it was not timed."""
        rows = [row for row in self.figures.timing(key) if row["configuration"] == key and row["batch"] == batch]
        return float(np.median([row["seconds"] * batch / row["tokens"] for row in rows])) if rows else math.nan


def allowed(steps: StepTimes | None, batches: Sequence[int], share_G: Sequence[float]) -> dict[int, float]:
    """What T(rows, layers) allows such exits to save of the time, at the batch sizes that it has."""
    if steps is None or not all(map(math.isfinite, share_G)):
        return {}
    return {batch: steps.allowed(batch, share_G) for batch in batches if batch in steps.seconds}


def latest_choice(sweep: FinishedSweep) -> Row | None:
    """The row of the latest choice that came to an end."""
    return next(reversed(choices_made(sweep.store)), None)


def figures_of(
    look: FirstLook, ceiling: SweepFigures, run: SweepFigures | None, bound: Bound, batches: Sequence[int], oracle: str
) -> Figures:
    """All that is judged: `ceiling` has the runs of the oracle with this key; None: no setting was run."""
    top = replace(ceiling.contender(oracle, CEILING, look.steps, batches), run=math.nan)
    early = 1 - ceiling.share_G(oracle)[-1]
    choice = latest_choice(run.sweep) if run else None
    best: Contender | None = None
    others: list[Contender] = []
    if run and choice:
        tested = {setting["configuration"]: setting for setting in choice["tested"]}
        key = _best(choice)
        best = _settled(run.contender(key, BEST, look.steps, batches), tested[key], choice)
        controls = controls_by_setting(run.sweep)
        others += [run.contender(controls[key], CONTROL, look.steps, batches)] if key in controls else []
        others += [
            _settled(run.contender(other, TRIED, look.steps, batches), setting, choice)
            for other, setting in tested.items()
            if other != key
        ][:2]
    elif run:  # what was tried on the pilot, of which nothing was worth a test
        best = max(
            (run.contender(key, BEST, look.steps, batches) for key in run.by_key if key != NORMAL),
            key=lambda each: each.run,
        )
    saved = {name: run.at_prices(best.key, name) if run and best else math.nan for name in AT_PRICES_OF}
    elsewhere = {KNOWN[name].name: share for name, share in saved.items() if math.isfinite(share)}
    lossless = [*_drafts(look, batches), *_generate(look)]
    others = [*others[: 4 - len(lossless)], *lossless]
    n_tried = len(choice["tested"]) if choice else max(0, len(run.by_key) - 1) if run else 0
    return Figures(bound, batches, look.head_in_layers, look.possible, top, early, best, others, n_tried, elsewhere)


def to_time(sweep: FinishedSweep, choice: Row) -> list[str]:
    """The settings whose time decides: the best one, and its control where there is one."""
    best, controls = _best(choice), controls_by_setting(sweep)
    return [best, *([controls[best]] if best in controls else [])]


def controls_by_setting(sweep: FinishedSweep) -> dict[str, str]:
    """The keys of controls, by those of the settings whose exit layers they follow."""
    entries = sweep.manifest.configurations
    return {entry["control_of"]: entry["key"] for entry in entries if entry["control_of"]}


def _best(choice: Row) -> str:
    """The chosen setting; else the cheapest certified one; else the one that came nearest to being certified."""
    if choice["configuration"]:
        return str(choice["configuration"])
    certified = [setting for setting in choice["tested"] if setting["certified"]]
    pool, key = (certified, "cost") if certified else (choice["tested"], "p_value")
    return str(min(pool, key=lambda setting: (setting[key], setting["cost"]))["configuration"])


def _settled(contender: Contender, tested: Row, choice: Row) -> Contender:
    """With its losses: on the prompts for choosing, and on those for reporting where it was chosen."""
    loss = Loss(tested["mean_loss"], tested["n"]) if tested["n"] else None
    settled = replace(contender, loss=loss, p_value=tested["p_value"], certified=tested["certified"])
    if contender.key != choice["configuration"] or choice["reporting_mean_loss"] is None:
        return settled
    return replace(
        settled,
        reporting=Loss(choice["reporting_mean_loss"], choice["reporting_n"]),
        confirmed=choice["reporting_p_value"] <= 1 - choice["confidence"],
    )


def _drafts(look: FirstLook, batches: Sequence[int]) -> list[Contender]:
    """The fastest draft, whose text is that of full depth."""
    drafts = [
        entry["key"]
        for entry in look.figures.sweep.manifest.configurations
        if isinstance(configuration_of(entry), Draft)
    ]
    timed = [Contender(key, DRAFT, times=look.figures.times(key)) for key in drafts if look.figures.times(key)]
    return sorted(timed, key=lambda each: min(time.mean for time in each.times.values()))[:1]


def _generate(look: FirstLook) -> list[Contender]:
    times = look.figures.times(GENERATE)
    return [Contender(GENERATE, GENERATE_ROLE, times=times)] if times else []


def _time(speedup: Speedup) -> Estimate:
    ratio = speedup.ratio
    return Estimate(1 / ratio.mean, 1 / ratio.high, 1 / ratio.low, ratio.n)
