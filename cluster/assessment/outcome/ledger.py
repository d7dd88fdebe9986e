"""The ledger: from what exits could save to what the clock says, what each further restriction takes.

Every line is a saving, as a share of full depth: of its multiply-adds down to *deciding*, of its time from there on.

- The *ceiling*: what the oracle `agree` saves where the state is exact and deciding is free.
- *state*: the oracle in the state that is deployed, at the exit set that saves most of those whose mean loss keeps the
  bound.
- *knowing*: the online rule that saves most by its exits alone, of those whose mean loss keeps the bound.
- *proof*: the one that saves most by its exits alone of the setting that was certified and of those that would not be
  taken if they were, since they run more than it, or than full depth where nothing is certified.
- *deciding*: the certified setting by what was run, which has reads, screens, gates, keys and values; without one, full
  depth.
- *batches*: what steps of so many rows allow its exits at most, if all rows leave at the same ones, less what deciding
  takes.
- *overhead*: what the clock says. Rows that leave at different steps, and so wait for the deepest of them, are in it.

What a restriction takes is the difference of two lines, so that they add up to that of the ceiling and the last line.
What can be had under more restrictions can be had under fewer: down to *proof*, no line is below the next one.

Shapes: D draws, of which the first is the data and each other one takes as many prompts from it, with repeats.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from eexit.quality.estimates import MIN_SAMPLES, Estimate
from eexit.studies.verdict_file import BATCHES, DECIDING, KNOWING, MODEL, OVERHEAD, PROOF, STATE

ENDS: Final = (2.5, 97.5)  # of an interval, in percent of the draws
NORMAL_WIDTH: Final = 2 * 1.959964  # of a 95 % interval, in standard deviations


@dataclass(frozen=True)
class Option:
    """A configuration as the ledger sees it. `saved_D` is what its exits save by themselves, if deciding them and
    writing keys and values were free, `run_D` what it saves by what was run (NaN for an oracle), and `loss_D` its mean
    loss.
    """

    key: str
    saved_D: np.ndarray
    run_D: np.ndarray
    loss_D: np.ndarray
    n: int  # prompts


@dataclass(frozen=True)
class Proven:
    """A setting that was certified: `allowed_D` is what steps allow its exits to save of the time, by batch size, and
    times are multiples of full depth's.
    """

    option: Option
    allowed_D: Mapping[int, np.ndarray] = field(default_factory=dict)
    times: Mapping[int, Estimate] = field(default_factory=dict)


@dataclass(frozen=True)
class LedgerOptions:
    """Everything that could be taken, by the restrictions that it meets."""

    ceiling: Option
    in_state: Sequence[Option] = ()
    online: Sequence[Option] = ()
    proven: Proven | None = None


@dataclass(frozen=True)
class Line:
    """What a restriction takes, and what is left then, by which configuration; None: by full depth."""

    restriction: str
    taken: Estimate
    left: float
    key: str | None


@dataclass(frozen=True)
class Ledger:
    """The lines in their order. `batch` is the size that times are of; None: nothing was timed."""

    ceiling: Estimate
    ceiling_key: str
    lines: Sequence[Line]
    batch: int | None

    @property
    def cause(self) -> str:
        """The restriction that takes most; the model's own where there is nothing to take."""
        largest = max(self.lines, key=lambda line: line.taken.mean)
        return largest.restriction if largest.taken.mean > 0 else MODEL

    def line(self, restriction: str) -> Line | None:
        return next((line for line in self.lines if line.restriction == restriction), None)


class _Level(NamedTuple):
    restriction: str
    saved_D: np.ndarray
    key: str | None


def ledger_of(options: LedgerOptions, at_most: float, batch: int | None = None) -> Ledger:
    """The ledger of these options, where a mean loss may be `at_most` so much, with times of a batch size."""
    proven, zero_D = options.proven, np.zeros_like(options.ceiling.saved_D)
    certified, run = (_Level(restriction, zero_D, None) for restriction in (PROOF, DECIDING))
    if proven is not None:
        certified = certified._replace(saved_D=proven.option.saved_D, key=proven.option.key)
        run = run._replace(saved_D=proven.option.run_D, key=proven.option.key)
    proof = _best(PROOF, options.online, at_most, certified, no_more_than_D=run.saved_D)
    knowing = _best(KNOWING, options.online, at_most, proof)
    state = _best(STATE, options.in_state, at_most, knowing)
    top = np.maximum(options.ceiling.saved_D, state.saved_D)
    levels = [_Level("", top, options.ceiling.key), state, knowing, proof, run]
    if proven is not None:
        levels += _in_time(proven, batch)
    n = min(option.n for option in (options.ceiling, *options.in_state, *options.online))
    lines = [
        Line(after.restriction, _estimate(before.saved_D - after.saved_D, n), float(after.saved_D[0]), after.key)
        for before, after in pairwise(levels)
    ]
    return Ledger(_estimate(top, n), options.ceiling.key, lines, batch)


def _best(
    restriction: str,
    options: Sequence[Option],
    at_most: float,
    least: _Level,
    no_more_than_D: np.ndarray | float = np.inf,
) -> _Level:
    """In each draw, what is saved at most within the bound, and at least what is left under the next restriction. Only
    options count that save no more than so much by what was run.
    """
    saved_D, key = least.saved_D, least.key
    for option in options:
        counts_D = (option.loss_D <= at_most) & ~(option.run_D > no_more_than_D)
        within_D = np.where(counts_D, option.saved_D, 0.0)
        if within_D[0] > saved_D[0]:
            key = option.key
        saved_D = np.maximum(saved_D, within_D)
    return _Level(restriction, saved_D, key)


def _in_time(proven: Proven, batch: int | None) -> list[_Level]:
    """What is left of what a proven setting's exits save, by what steps allow, and by the clock."""
    if batch is None or batch not in proven.times:
        return []
    levels, key, deciding_D = [], proven.option.key, proven.option.saved_D - proven.option.run_D
    if batch in proven.allowed_D:
        levels.append(_Level(BATCHES, proven.allowed_D[batch] - deciding_D, key))
    return [*levels, _Level(OVERHEAD, _realised(proven.times[batch], len(deciding_D)), key)]


def _realised(time: Estimate, n_draws: int) -> np.ndarray:
    """What the clock says is saved; its draws are normal, with the width of its interval."""
    noise_D = np.random.default_rng(0).standard_normal(n_draws)
    saved_D = 1 - time.mean + noise_D * (time.high - time.low) / NORMAL_WIDTH
    saved_D[0] = 1 - time.mean
    return np.asarray(saved_D)


def _estimate(share_D: np.ndarray, n: int) -> Estimate:
    drawn = share_D[1:]
    known = n >= MIN_SAMPLES and len(drawn) > 0 and bool(np.isfinite(drawn).all())
    low, high = np.percentile(drawn, ENDS) if known else (np.nan, np.nan)
    return Estimate(float(share_D[0]), float(low), float(high), n)
