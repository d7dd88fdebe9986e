"""Choosing a setting of a finished sweep: `choose_setting`.

Settings are tested on the prompts that are for choosing. The result is looked at on those that are for reporting
(`eexit.plan.splits`), which have no part in it. The method is explained in `eexit.quality.learn_then_test`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from eexit.messages.errors import UsageError
from eexit.quality.learn_then_test import (
    certify,
    cheapest,
    error_of_each,
    hoeffding_bentkus,
    prompts_without_loss,
    upper_bound,
)
from eexit.quality.risks import RISKS
from eexit.quality.sequences import Family
from eexit.results.study_tables import TIMINGS
from eexit.studies.choosing.evidence import ChoiceQuestion, Evidence
from eexit.studies.timing.speedups import Speedup, speedups


@dataclass(frozen=True)
class HeldOut:
    """What a setting does on the prompts that are for reporting."""

    mean_loss: float
    n: int
    upper: float  # what the risk is at most by these prompts alone, with the same confidence
    p_value: float


@dataclass(frozen=True)
class Tested:
    """A setting in the sequence of its family."""

    configuration: str
    mean_loss: float  # over the prompts for choosing
    n: int  # of these prompts
    p_value: float  # of the hypothesis that its risk is above the bound
    certified: bool
    cost: float  # infinite where it is not known


@dataclass(frozen=True)
class TestedFamily:
    """A family's settings in the order of their testing."""

    family: Family
    settings: Sequence[Tested]

    @property
    def stopped_at(self) -> Tested | None:
        """The first setting that was not certified."""
        return next((setting for setting in self.settings if not setting.certified), None)


@dataclass(frozen=True)
class Choice:
    """What was asked, what was tested, and what came of it.

    `naive` is the cheapest setting whose mean loss on the prompts for choosing is at most the bound: no guarantee.
    """

    question: ChoiceQuestion
    evidence: Evidence
    families: Sequence[TestedFamily]
    chosen: Tested | None
    naive: Tested | None
    chosen_held_out: HeldOut | None
    naive_held_out: HeldOut | None
    realised: Sequence[Speedup]  # of the chosen setting, where it was timed

    @property
    def error(self) -> float:
        """The error that each family may make."""
        return error_of_each(self.question.confidence, len(self.families))


def refuse_few(evidence: Evidence, question: ChoiceQuestion, name: str) -> None:
    """Raises `UsageError` if no setting could be certified even if nothing were ever lost."""
    keys = [key for family in evidence.families for key in family.settings]
    n = max(len(evidence.choosing.of(key)) for key in keys)
    n_families = len(evidence.families)
    least = prompts_without_loss(question.at_most, error_of_each(question.confidence, n_families))
    if n < least:
        sharing = f" among {n_families} families of settings, which share the error," if n_families > 1 else ""
        fewer = " or fewer --rules or --modes" if n_families > 1 else ""
        raise UsageError(
            f"{name} has {n} prompts to choose with, and certifying a risk of {question.at_most:g} with confidence "
            f"{question.confidence:g}{sharing} takes at least {least}, even without a single loss: give more prompts "
            f"(three in four are for choosing), a higher --at-most, a lower --confidence{fewer}"
        )


def choose_setting(evidence: Evidence, question: ChoiceQuestion) -> Choice:
    """The cheapest setting whose risk is bounded, and what it was chosen from."""
    tested = _test(evidence, question)
    settings = [setting for family in tested for setting in family.settings]
    costs = np.array([setting.cost for setting in settings])
    chosen = _at(settings, cheapest(costs, np.array([setting.certified for setting in settings])))
    naive = _at(settings, cheapest(costs, np.array([setting.mean_loss <= question.at_most for setting in settings])))
    return Choice(
        question,
        evidence,
        tested,
        chosen,
        naive,
        _held_out(chosen, evidence, question),
        _held_out(naive, evidence, question),
        _realised(chosen, evidence),
    )


def _test(evidence: Evidence, question: ChoiceQuestion) -> list[TestedFamily]:
    samples = [[evidence.choosing.of(key) for key in family.settings] for family in evidence.families]
    n = [np.array([len(losses) for losses in sample]) for sample in samples]
    means = [np.array([losses.mean() if len(losses) else np.nan for losses in sample]) for sample in samples]
    p_values = [hoeffding_bentkus(mean_S, n_S, question.at_most) for mean_S, n_S in zip(means, n, strict=True)]
    certified = certify(p_values, question.confidence)
    return [
        TestedFamily(
            family,
            [
                Tested(key, float(mean), int(count), float(p_value), bool(passed), evidence.costs[key])
                for key, mean, count, p_value, passed in zip(family.settings, *columns, strict=True)
            ],
        )
        for family, *columns in zip(evidence.families, means, n, p_values, certified, strict=True)
    ]


def _at(settings: Sequence[Tested], index: np.ndarray) -> Tested | None:
    return settings[int(index)] if index >= 0 else None


def _held_out(tested: Tested | None, evidence: Evidence, question: ChoiceQuestion) -> HeldOut | None:
    """None if there is no setting, or no prompt for reporting that has a loss."""
    losses = evidence.reporting.of(tested.configuration) if tested else np.array([])
    if not len(losses):
        return None
    mean, n = float(losses.mean()), len(losses)
    p_value = float(hoeffding_bentkus(np.array(mean), np.array(n), question.at_most))
    return HeldOut(mean, n, upper_bound(mean, n, question.confidence), p_value)


def _realised(tested: Tested | None, evidence: Evidence) -> list[Speedup]:
    """What the latest call of `jobs/timings.py` that timed the setting measured, for each batch size."""
    calls: dict[str, list[Mapping[str, Any]]] = {}
    for row in TIMINGS.read(evidence.sweep.store).to_pylist():
        calls.setdefault(row["timing_id"], []).append(row)
    found: list[Speedup] = []
    for rows in calls.values():
        of_tested = [each for each in speedups(rows) if tested and each.configuration == tested.configuration]
        found = of_tested or found
    return found


def choice_columns(choice: Choice) -> dict[str, Any]:
    """The columns of `CHOICES` that the choice fills."""
    question = choice.question
    return {
        "risk": question.risk,
        "at_most": question.at_most,
        "confidence": question.confidence,
        "cost_by": question.cost,
        "loss": RISKS[question.risk].definition,
        "families": [each.family.name for each in choice.families],
        "error_of_each": choice.error,
        "seeds": choice.evidence.n_seeds,
        **dict(_columns_of("", choice.chosen, choice.chosen_held_out)),
        **dict(_columns_of("naive_", choice.naive, choice.naive_held_out)),
        "tested": [asdict(setting) for family in choice.families for setting in family.settings],
    }


def _columns_of(start: str, tested: Tested | None, held_out: HeldOut | None) -> Iterator[tuple[str, Any]]:
    for name in ("configuration", "mean_loss", "n", "p_value", "cost"):
        yield f"{start}{name}", getattr(tested, name, None)
    for name in ("mean_loss", "n", "upper", "p_value"):
        yield f"{start}reporting_{name}", getattr(held_out, name, None)
