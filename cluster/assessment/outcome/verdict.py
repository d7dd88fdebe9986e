"""The verdict: whether early exit pays, and if it does not, which restriction takes most of what exits could save.

It pays if a setting was certified on the prompts for choosing, kept the bound on those for reporting, costs less than
full depth, and takes less time than full depth at one of the batch sizes at least, by the end of its interval. Where
texts have chains of thought, a right answer has to take fewer multiply-adds too, by the end of that interval.

Otherwise the cause is the largest line of the ledger (`outcome.ledger`): it begins with what an oracle
saves here. What leaving at the first layer would save beyond that is the model's own, told apart, and no rule's to
lose. Of an assessment that lacks a step, nothing is concluded. This module knows no tables: `figures` makes `Figures`
of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, Final, NamedTuple

from cluster.assessment.outcome.ledger import Ledger, LedgerOptions, ledger_of
from eexit.quality.estimates import ENDS, NOTHING, Estimate
from eexit.studies.verdict_file import MOST_ROWS

FORMAT: Final = 3
BEST, TRIED, CONTROL, CEILING, DRAFT, GENERATE = "best", "tried", "control", "ceiling", "draft", "generate"


class Loss(NamedTuple):
    """A mean loss over n prompts."""

    mean: float
    n: int


class Texts(NamedTuple):
    """What a setting's texts are like on the prompts for choosing: shares; None where they are not known."""

    accuracy: float | None = None
    normal_accuracy: float | None = None
    changed: float | None = None  # those that are not those of normal


UNKNOWN: Final = Texts()


@dataclass(frozen=True)
class Contender:
    """What the tables say of a configuration; savings are shares of full depth, NaN where they are not known.

    `allowed` and `times` are by batch size: what T(rows, layers) allows exits to save of the time, if deciding were
    free and all rows left at the same steps, and the time as a multiple of that of `normal`, with its interval.
    """

    key: str
    role: str  # BEST, TRIED, CONTROL, CEILING, DRAFT or GENERATE
    theory: float = math.nan
    run: float = math.nan
    allowed: Mapping[int, float] = field(default_factory=dict)
    times: Mapping[int, Estimate] = field(default_factory=dict)
    loss: Loss | None = None  # on the prompts for choosing
    of_right: Loss | None = None  # on those of them that full depth gets right, where answers are the risk
    texts: Texts = UNKNOWN
    certified: bool = False
    reporting: Loss | None = None  # on those for reporting
    confirmed: bool = False  # whether those alone certify the bound too
    per_right: Estimate = NOTHING  # multiply-adds per right answer, of normal's, where texts have chains of thought
    of_generate: Mapping[int, Estimate] = field(default_factory=dict)  # times as multiples of that of `generate`
    would_do: int | None = None  # prompts that would certify it with a chance of 80 %; None: no number, or it is

    def is_proven(self, bound: "Bound") -> bool:
        """Whether it is certified, and prompts for reporting, where there are any, don't speak against it."""
        return self.certified and (self.reporting is None or self.reporting.mean <= bound.at_most)

    @property
    def loses_all(self) -> bool:
        """Whether it loses all answers that full depth gets right."""
        return self.of_right is not None and self.of_right.mean == 1

    @property
    def is_lossless(self) -> bool:
        """Whether its texts are full depth's by how they are made."""
        return self.role in (DRAFT, GENERATE)

    def row(self, batches: Sequence[int]) -> dict[str, Any]:
        """A record of `verdict.json`, of the same columns for all; what is not known is null."""
        of_batches: dict[str, float | None] = {}
        for batch in batches:
            time = self.times.get(batch, NOTHING)
            of_generate = self.of_generate.get(batch, NOTHING)
            for what, each in (("", time), ("_of_generate", of_generate)):
                for name, number in (("", each.mean), ("_low", each.low), ("_high", each.high)):
                    of_batches[f"time_at_{batch}{what}{name}"] = known(number)
            of_batches[f"allowed_at_{batch}"] = known(self.allowed.get(batch))
        return {
            "setting": self.key,
            "role": self.role,
            "saved_in_theory": known(self.theory),
            "saved_by_what_was_run": known(self.run),
            **of_batches,
            "loss": known(self.loss.mean) if self.loss else None,
            "n": self.loss.n if self.loss else None,
            "loss_of_right": known(self.of_right.mean) if self.of_right else None,
            "n_of_right": self.of_right.n if self.of_right else None,
            "certified": self.certified,
            **{name: known(share) for name, share in self.texts._asdict().items()},
            **(
                {f"per_right{end}": known(each) for end, each in zip(ENDS, astuple(self.per_right), strict=True)}
                if self.per_right.n
                else {}
            ),
        }

    @property
    def is_dearer_per_right(self) -> bool:
        """Whether a right answer is not shown to take less than at full depth, where texts have chains of thought."""
        return bool(self.per_right.n) and not self.per_right.high < 1


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
    possible: float  # saved of the multiply-adds if all tokens left at the first exitable layer
    options: LedgerOptions
    ceiling: Contender
    agrees_early: float  # share of decided tokens that agree with full depth before its last layer
    best: Contender | None  # the cheapest certified setting, or that which came nearest; None: nothing was worth a run
    others: Sequence[Contender]  # further rows: settings, and a control
    n_tried: int  # settings that were tested, with their order
    elsewhere: Mapping[str, float]  # saved by what was run at the prices of other models, by their names
    alternatives: Sequence[Contender] = ()  # drafts and `generate`, which could be taken instead of exits
    were_timed: bool = True  # whether these were, by the last step; else their times are of a few tokens
    ask: int = 1  # of its prompts, which ask the choice was
    missing: Sequence[str] = ()  # steps that were cut or are not done: then nothing is concluded


@dataclass(frozen=True)
class Verdict:
    """`pays` is None where a step is missing, and `cause` then too, and if it pays: only of a whole assessment is the
    ledger told. `batch` is the size at which `best` is fastest.
    """

    figures: Figures
    pays: bool | None
    cause: str | None
    ledger: Ledger
    batch: int | None
    instead: "Instead | None"  # of all that keeps the bound and certainly takes less time than full depth, the fastest
    unsure: "Instead | None"  # what takes less time, but not certainly, if nothing certainly does

    @property
    def is_by_time(self) -> bool:
        """Whether the clock decides, since all else speaks for the best setting."""
        best = self.figures.best
        sound = best is not None and best.run > 0 and best.is_proven(self.figures.bound)
        return bool(best and sound and not best.is_dearer_per_right and self.batch) and not self.figures.missing

    @property
    def rows(self) -> Sequence[Contender]:
        of_settings = [self.figures.best] if self.figures.best else []
        alternatives = self.figures.alternatives
        rows = [*of_settings, self.figures.ceiling, *self.figures.others]
        return [*rows[: MOST_ROWS - len(alternatives)], *alternatives]


class Instead(NamedTuple):
    """What could be taken instead of exits, and with how many rows at a time."""

    contender: Contender
    batch: int

    @property
    def time(self) -> Estimate:
        return self.contender.times[self.batch]


def judge(figures: Figures) -> Verdict:
    """The verdict that these figures give."""
    best, usable = figures.best, _usable(figures)
    of_best = _timed(best, figures.batches) if best else []
    fastest = min(of_best, key=_surely, default=None)
    batch = fastest.batch if fastest else None
    is_checked = best is not None and best.reporting is not None and best.is_proven(figures.bound)
    saves = best is not None and best.run > 0 and not best.is_dearer_per_right
    pays = bool(fastest and is_checked and saves and fastest.time.high < 1)
    ledger = ledger_of(figures.options, figures.bound.at_most, batch)
    if figures.missing:
        return Verdict(figures, None, None, ledger, batch, None, None)
    candidates = [*(usable if figures.were_timed else []), *(of_best if pays else [])]
    found = [each for each in candidates if each.time.high < 1]
    instead = min(found, key=lambda each: each.time.high, default=None)
    perhaps = [] if found else [each for each in usable if each.time.mean < 1]
    unsure = min(perhaps, key=_known_and_time, default=None)
    if instead and instead.contender is best:  # by the upper end of its interval, the setting that pays takes least
        instead = None
    return Verdict(figures, pays, None if pays else ledger.cause, ledger, batch, instead, unsure)


def _surely(each: Instead) -> tuple[bool, float]:
    """By the upper end of its time, or the time where there is none."""
    return math.isnan(each.time.high), each.time.mean if math.isnan(each.time.high) else each.time.high


def _known_and_time(each: Instead) -> tuple[bool, float]:
    """What was timed in too few rounds for an interval comes first, since no more can be said then."""
    return not math.isnan(each.time.high), each.time.mean


def _usable(figures: Figures) -> list[Instead]:
    """Lossless alternatives, with each number of rows that they were timed with."""
    return [timed for each in figures.alternatives if each.is_lossless for timed in _timed(each, figures.batches)]


def _timed(contender: Contender, batches: Sequence[int]) -> list[Instead]:
    """With each number of rows that it was timed with."""
    return [Instead(contender, batch) for batch in batches if batch in contender.times]


def known(number: float | None) -> float | None:
    """The number, as JSON has it; None if it is not known."""
    return None if number is None or not math.isfinite(number) else float(number)
