"""The verdict: whether early exit pays, and if it does not, which of three causes is the largest.

It pays if a setting was certified on the prompts for choosing, kept the bound on those for reporting, costs less than
full depth, and takes less time than full depth at one of the batch sizes at least, by the end of its interval.

Otherwise something stands between what exits could save and what they do. Savings are shares of full depth:

- *possible*: of the multiply-adds, if every token left at the first exitable layer and deciding were free;
- *ceiling*: of the multiply-adds, if each left at the first layer that agrees with full depth (oracle `agree`), freely;
- *theory*: of the multiply-adds, by the setting's own exits, if deciding were free (`cost_needed`);
- *run*: of the multiply-adds, by what was run (`cost_run`);
- *allowed*: of the time at a batch size, by the setting's exits, through T(rows, layers), if deciding were free.

The three causes, each as what is lost of full depth:

- `certain too late` = possible − theory, where a setting that was tested in vain, or broke the bound later, counts as
  one that saves nothing in theory: no exits are shown to be possible at that risk. The part possible − ceiling is the
  model's, which no rule could gain; ceiling − theory is the rules'.
- `deciding` = theory − run = (cost_run − cost_needed) / cost_full;
- `batches` = theory − allowed, at the batch size at which the most is allowed.

A cause that is not known, or below 0, counts as 0. This module knows no tables: `tables` makes `Figures` of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from eexit.quality.estimates import NOTHING, Estimate

LATE, DECIDING, BATCHES = CAUSES = ("certain too late", "deciding", "batches")
FILE: Final = "verdict.json"
FORMAT: Final = 1
MOST_ROWS: Final = 6
BEST, TRIED, CONTROL, CEILING, DRAFT, GENERATE = "best", "tried", "control", "ceiling", "draft", "generate"


class Loss(NamedTuple):
    """A mean loss over n prompts."""

    mean: float
    n: int


@dataclass(frozen=True)
class Contender:
    """What the tables say of a configuration; savings are shares of full depth, NaN where they are not known.

    `allowed` and `times` are by batch size; a time is a multiple of that of `normal`, with its interval.
    """

    key: str
    role: str  # BEST, TRIED, CONTROL, CEILING, DRAFT or GENERATE
    theory: float = math.nan
    run: float = math.nan
    allowed: Mapping[int, float] = field(default_factory=dict)
    times: Mapping[int, Estimate] = field(default_factory=dict)
    loss: Loss | None = None  # on the prompts for choosing
    p_value: float = math.nan
    certified: bool = False
    reporting: Loss | None = None  # on those for reporting
    confirmed: bool = False  # whether those alone certify the bound too

    def row(self, batches: Sequence[int]) -> dict[str, Any]:
        """A record of `verdict.json`, of the same columns for all; what is not known is null."""
        of_batches: dict[str, float | None] = {}
        for batch in batches:
            time = self.times.get(batch, NOTHING)
            for name, number in (("", time.mean), ("_low", time.low), ("_high", time.high)):
                of_batches[f"time_at_{batch}{name}"] = known(number)
            of_batches[f"allowed_at_{batch}"] = known(self.allowed.get(batch))
        return {
            "setting": self.key,
            "role": self.role,
            "saved_in_theory": known(self.theory),
            "saved_by_what_was_run": known(self.run),
            **of_batches,
            "loss": known(self.loss.mean) if self.loss else None,
            "n": self.loss.n if self.loss else None,
            "certified": self.certified,
        }


@dataclass(frozen=True)
class Bound:
    """What was to be certified: a risk of `eexit.quality.risks`, at most this, with this confidence."""

    risk: str
    at_most: float
    confidence: float


@dataclass(frozen=True)
class Figures:
    """What the tables of all steps say. `batches` are the sizes that are asked about."""

    bound: Bound
    batches: Sequence[int]
    head_in_layers: float
    possible: float
    ceiling: Contender
    agrees_early: float  # share of decided tokens that agree with full depth before its last layer
    best: Contender | None  # the cheapest certified setting, or that which came nearest; None: nothing was worth a run
    others: Sequence[Contender]  # further rows: settings, a control, a draft, `generate`
    n_tried: int  # settings that were tested, with their order
    elsewhere: Mapping[str, float]  # saved by what was run at the prices of other models, by their names


@dataclass(frozen=True)
class Verdict:
    """`cause` is None if it pays; `losses` are those of all causes. `batch` is the size at which `best` is fastest."""

    figures: Figures
    pays: bool
    cause: str | None
    losses: Mapping[str, float]
    batch: int | None

    @property
    def rows(self) -> Sequence[Contender]:
        of_settings = [self.figures.best] if self.figures.best else []
        return [*of_settings, self.figures.ceiling, *self.figures.others][:MOST_ROWS]


def judge(figures: Figures) -> Verdict:
    """The verdict that these figures give."""
    best = figures.best
    batch = fastest(best, figures.batches) if best else None
    pays = bool(best and batch and holds(best, figures.bound) and best.run > 0 and best.times[batch].high < 1)
    losses = losses_of(figures)
    cause = None if pays else max(CAUSES, key=lambda name: losses[name])
    return Verdict(figures, pays, cause, losses, batch)


def holds(setting: Contender, bound: Bound) -> bool:
    """Whether it is certified, and keeps the bound on the prompts for reporting."""
    return setting.certified and setting.reporting is not None and setting.reporting.mean <= bound.at_most


def fastest(setting: Contender, batches: Sequence[int]) -> int | None:
    """The batch size at which it is surely fastest: by the upper end of its time, or the time where there is none."""

    def at_most(batch: int) -> tuple[bool, float]:
        time = setting.times[batch]
        return math.isnan(time.high), time.mean if math.isnan(time.high) else time.high

    return min((batch for batch in batches if batch in setting.times), key=at_most, default=None)


def losses_of(figures: Figures) -> dict[str, float]:
    """What each cause takes, as a share of full depth."""
    best = figures.best
    if best is None:
        return {LATE: _loss(figures.possible), DECIDING: 0.0, BATCHES: 0.0}
    broken = best.reporting is not None and not holds(best, figures.bound)
    is_refuted = best.loss is not None and (broken or not best.certified)
    shown = 0.0 if is_refuted else best.theory
    allowed = [best.allowed[batch] for batch in figures.batches if batch in best.allowed]
    return {
        LATE: _loss(figures.possible - shown),
        DECIDING: _loss(best.theory - best.run),
        BATCHES: _loss(best.theory - max(allowed)) if allowed else 0.0,
    }


def known(number: float | None) -> float | None:
    """The number, as JSON has it; None if it is not known."""
    return None if number is None or not math.isfinite(number) else float(number)


def _loss(share: float) -> float:
    return max(share, 0.0) if math.isfinite(share) else 0.0
