"""Selection of a finished sweep's setting with a bounded risk: `choose_setting`.

Settings are tested on the calibration prompts, in an order from other prompts. The selected one is checked on the test
prompts (`eexit.plan.splits`), which select nothing. `eexit.quality.learn_then_test` explains the method.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from eexit.plan.configuration import GENERATE, NORMAL
from eexit.quality.learn_then_test import FULL_DEPTH, certify
from eexit.quality.risk_tests import RISK_TESTS, prompts_needed, upper_bound
from eexit.quality.risks import RISKS
from eexit.studies.selection.alpha_spending import columns_of
from eexit.studies.selection.selection_args import AlphaShare
from eexit.studies.selection.selection_data import SelectionData, SettingSequence
from eexit.studies.timing.speedups import Speedup, speedups_of


@dataclass(frozen=True)
class HeldOutResult:
    """Result of a setting on the test prompts."""

    mean_loss: float
    n: int
    upper: float  # what the risk is at most by these prompts alone, with the same confidence
    p_value: float


@dataclass(frozen=True)
class TestedSetting:
    """Tested setting of a `TestedSequence`: its mean loss, the p-value of its test, its cost and further figures."""

    configuration: str
    mean_loss: float  # over the prompts for choosing
    n: int  # of these prompts
    p_value: float  # of the hypothesis that its risk is above the bound
    certified: bool
    cost: float  # infinite where it is not known
    prompts_needed: int | None  # to certify it with a chance of 80 %; None if these do, and if no number would do
    accuracy: float | None  # over the prompts for choosing; None where no answer is known
    normal_accuracy: float | None
    changed: float | None  # share of its texts that are not those of normal; None without normal
    loss_of_right: float | None = None  # mean loss over the prompts that normal gets right; None but for risk answers
    n_of_right: int | None = None
    p_of_right: float | None = None  # the p-value among these, which is not what was asked
    loss_of_prompts: float | None = None  # mean loss over single prompts; None where all groups have one size
    n_of_prompts: int | None = None


@dataclass(frozen=True)
class TestedSequence(SettingSequence):
    """Sequence of settings, with their tests."""

    tested: Sequence[TestedSetting] = ()

    @property
    def stopped_at(self) -> TestedSetting | None:
        """First setting that was not certified."""
        return next((setting for setting in self.tested if not setting.certified), None)


@dataclass(frozen=True)
class Selection:
    """Tested settings and the selected one.

    `chosen` is the cheapest certified setting, even where it costs more than full depth. `naive` is the cheapest
    setting with a mean loss within the bound on the calibration prompts, which has no guarantee.
    """

    measured: SelectionData
    sequences: Sequence[TestedSequence]
    ask: AlphaShare
    chosen: TestedSetting | None
    naive: TestedSetting | None
    chosen_held_out: HeldOutResult | None
    naive_held_out: HeldOutResult | None
    realised: Sequence[Speedup]  # of the chosen setting, where it was timed
    beside_generate: Sequence[Speedup]  # the same, beside transformers' own

    @property
    def saves(self) -> bool:
        """True if a certified setting costs less than full depth."""
        return self.chosen is not None and self.chosen.cost < FULL_DEPTH

    @property
    def is_of_groups(self) -> bool:
        """True if groups differ in size, so that a mean over groups is no mean over prompts."""
        tested = [each for sequence in self.sequences for each in sequence.tested]
        return any(each.loss_of_prompts is not None for each in tested)


def choose_setting(measured: SelectionData, sequences: Sequence[SettingSequence], ask: AlphaShare) -> Selection:
    """Return the tests of all settings in `sequences`, and the cheapest certified one; `ask` has the error budget."""
    tested = _test(measured, sequences, ask)
    settings = [setting for sequence in tested for setting in sequence.tested]
    chosen = _cheapest([setting for setting in settings if setting.certified])
    everything = [_tested(measured, key, ask) for key in measured.keys]
    naive = _cheapest([setting for setting in everything if setting.mean_loss <= measured.question.max_risk])
    held_out = _held_out(measured, chosen), _held_out(measured, naive)
    timings, key = measured.sweep.timings, chosen.configuration if chosen else ""
    speedups = (speedups_of(timings, key, beside) for beside in (NORMAL, GENERATE))
    return Selection(measured, tested, ask, chosen, naive, *held_out, *speedups)


def _test(measured: SelectionData, sequences: Sequence[SettingSequence], ask: AlphaShare) -> list[TestedSequence]:
    looked_at = [[_tested(measured, key, ask) for key in sequence.settings] for sequence in sequences]
    p_values = [np.array([setting.p_value for setting in settings]) for settings in looked_at]
    certified = certify(p_values, 1 - ask.error)
    error = ask.error / len(sequences)
    return [
        TestedSequence(
            **vars(sequence),
            tested=[
                replace(setting, certified=bool(passed), prompts_needed=_needed(measured, setting, error))
                for setting, passed in zip(settings, passes, strict=True)
            ],
        )
        for sequence, settings, passes in zip(sequences, looked_at, certified, strict=True)
    ]


def _tested(measured: SelectionData, key: str, ask: AlphaShare) -> TestedSetting:
    question, loss_P = measured.question, measured.choosing.losses_of(key)
    texts = (measured.accuracy(key), measured.accuracy(NORMAL), measured.changed(key))
    if not len(loss_P):
        return TestedSetting(key, math.nan, 0, 1.0, False, measured.costs[key], None, *texts)
    p_value, mean = RISK_TESTS[measured.test](loss_P, question.max_risk, ask.error), float(loss_P.mean())
    found = TestedSetting(key, mean, len(loss_P), float(p_value), False, measured.costs[key], None, *texts)
    if over_prompts := measured.choosing.over_prompts(key):
        found = replace(found, loss_of_prompts=over_prompts[0], n_of_prompts=over_prompts[1])
    of_right_P = measured.losses_of_right(key)
    if not len(of_right_P):
        return found
    p_value = RISK_TESTS[measured.test](of_right_P, question.max_risk, ask.error)
    return replace(found, loss_of_right=float(of_right_P.mean()), n_of_right=len(of_right_P), p_of_right=float(p_value))


def _needed(measured: SelectionData, setting: TestedSetting, error: float) -> int | None:
    """Return how many prompts would certify a setting at this error; None if these do, or if no number would."""
    if setting.p_value <= error or not setting.n:
        return None
    losses = measured.choosing.losses_of(setting.configuration)
    return prompts_needed(RISK_TESTS[measured.test], losses, measured.question.max_risk, error)


def _cheapest(settings: Sequence[TestedSetting]) -> TestedSetting | None:
    """Return the setting with the least known cost; of equal costs, the first."""
    known = [setting for setting in settings if math.isfinite(setting.cost)]
    return min(known, key=lambda setting: setting.cost, default=None)


def _held_out(measured: SelectionData, tested: TestedSetting | None) -> HeldOutResult | None:
    """Return the result on the test prompts; None without a setting, or without a loss."""
    loss_P = measured.reporting.losses_of(tested.configuration) if tested else np.array([])
    if not len(loss_P):
        return None
    question, test = measured.question, RISK_TESTS[measured.test]
    p_value = float(test(loss_P, question.max_risk, 1 - question.confidence))
    return HeldOutResult(float(loss_P.mean()), len(loss_P), upper_bound(test, loss_P, question.confidence), p_value)


def question_columns(measured: SelectionData, sequences: Sequence[SettingSequence]) -> dict[str, Any]:
    """Return the columns of `CHOICES` that record the arguments and the calibration prompts."""
    question = measured.question
    return {
        "risk": question.risk,
        "max_risk": question.max_risk,
        "confidence": question.confidence,
        "cost_by": question.cost,
        "loss": RISKS[question.risk].definition,
        "test": measured.test,
        "order": question.order,
        "pilot": question.pilot,
        "families": [sequence.name for sequence in sequences],
        "seeds": measured.n_seeds,
        "asked": [key for sequence in sequences for key in sequence.settings],
        **columns_of(measured.sweep, measured.units_of("choosing")),
    }


def ask_columns(ask: AlphaShare, n_sequences: int) -> dict[str, Any]:
    """Return the columns of `CHOICES` that record the number of this use and its error budget."""
    error = {"error": ask.error, "error_of_each": ask.error / n_sequences}
    return {"question": ask.number, "planned": ask.planned, **error}


def choice_columns(choice: Selection) -> dict[str, Any]:
    """Return the columns of `CHOICES` that record the selection."""
    return {
        **question_columns(choice.measured, choice.sequences),
        **ask_columns(choice.ask, len(choice.sequences)),
        **dict(_columns_of("", choice.chosen, choice.chosen_held_out)),
        **dict(_columns_of("naive_", choice.naive, choice.naive_held_out)),
        "tested": [asdict(setting) for sequence in choice.sequences for setting in sequence.tested],
    }


def _columns_of(start: str, tested: TestedSetting | None, held_out: HeldOutResult | None) -> Iterator[tuple[str, Any]]:
    for name in ("configuration", "mean_loss", "n", "p_value", "cost"):
        yield f"{start}{name}", getattr(tested, name, None)
    for name in ("mean_loss", "n", "upper", "p_value"):
        yield f"{start}reporting_{name}", getattr(held_out, name, None)
