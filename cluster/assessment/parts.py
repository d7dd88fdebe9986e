"""The prompts of an assessment, split by a hash of their text or group: no prompt has two parts.

From those for *training*, exits learn; those of the *pilot* say which settings are worth a run, and in which order they
are tested; on those for *choosing*, they are tested; and those for *reporting* check what was chosen.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from eexit.errors import UsageError
from eexit.output.text import counted
from eexit.plan.config import Prompt
from eexit.plan.prompt_kinds.drawing import MOST, draw_prompts
from eexit.plan.splits import for_pilot, for_reporting, is_drawn, shuffled, units
from eexit.quality.learn_then_test import error_of_ask
from eexit.quality.risk_tests import (
    MOST_PROMPTS,
    chance_of_certificate,
    loss_certified,
    prompts_for_loss,
    prompts_without_loss,
)

TRAINING, PILOT, CHOOSING, REPORTING = PARTS = ("training", "pilot", "choosing", "reporting")
ONE_IN: Final = 4  # prompts is for training
SHARES: Final = {TRAINING: 1 / 4, PILOT: 9 / 64, CHOOSING: 27 / 64, REPORTING: 3 / 16}  # of all prompts
SPARE: Final = 1.3  # times as many as the shares ask for are drawn, since a hash does not share out evenly
ROOM: Final = 2  # times as many as are likely to be enough, for minutes that allow more
ANSWERS, DISAGREEMENT = "answers", "disagreement"  # risks: where enough prompts bring an answer, and else


def part_of(unit: str) -> str:
    """The part of a prompt's text or, where prompts name a group, of that."""
    if is_drawn(unit, TRAINING, ONE_IN):
        return TRAINING
    if for_reporting(unit):
        return REPORTING
    return PILOT if for_pilot(unit) else CHOOSING


@dataclass(frozen=True)
class Enough:
    """How many prompts for choosing a verdict takes at a margin, by the exact test of lost answers.

    With `least`, a setting without a single loss is certified. With `likely`, one that loses half of the margin is with
    a chance of 80 %.
    """

    margin: float
    error: float
    least: int
    likely: int

    @classmethod
    def at(cls, margin: float, confidence: float, ask: int = 1) -> "Enough":
        """For this ask of the prompts, from 1."""
        error = error_of_ask(confidence, ask)
        likely = prompts_for_loss(margin / 2, margin, error) or MOST_PROMPTS
        return cls(margin, error, prompts_without_loss(margin, error), likely)

    @property
    def likely_in_all(self) -> int:
        """Prompts of which about as many are for choosing as are likely to be enough."""
        return math.ceil(SPARE * self.likely / SHARES[CHOOSING])

    def loss_certified(self, n: int) -> float:
        """What a setting may lose to be certified by n prompts with a chance of 80 %; NaN: they certify nothing."""
        loss = loss_certified(n, self.margin, self.error)
        return math.nan if loss is None else loss

    def chance(self, n: int) -> float:
        """With which n prompts certify a setting that loses half of the margin."""
        return float(chance_of_certificate(self.margin / 2, n, self.margin, self.error))


@dataclass(frozen=True)
class PromptParts:
    """The prompts of each part, in an order that depends on nothing but their texts, and the risk that they allow."""

    of: Mapping[str, Sequence[Prompt]]
    risk: str

    @property
    def all(self) -> list[Prompt]:
        return [prompt for part in PARTS for prompt in self.of[part]]

    def some(self, part: str, n: int) -> tuple[Prompt, ...]:
        """The first n of a part."""
        return tuple(self.of[part][:n])


def split(prompts: Sequence[Prompt], enough: Enough, margin: float) -> PromptParts:
    """The parts of a file's prompts. Raises `UsageError` if they are too few for any verdict at this margin."""
    unit_of = units([{"id": each.id, "prompt": each.prompt, "group": each.group} for each in prompts])
    by_part: dict[str, list[Prompt]] = {part: [] for part in PARTS}
    for at in shuffled([unit_of[prompt.id] for prompt in prompts]):
        by_part[part_of(unit_of[prompts[at].id])].append(prompts[at])
    n_units = {part: len({unit_of[each.id] for each in them}) for part, them in by_part.items()}
    n, least = n_units[CHOOSING], enough.least
    if n < least or not all(n_units.values()):
        would_do = math.ceil(SPARE * max(least, 1) / SHARES[CHOOSING])
        raise UsageError(
            f"{counted(len(prompts), 'prompt')} are too few for a margin of {margin:g}: {n} of them are for choosing, "
            f"and a setting without any loss takes {least}; about {would_do:,} would do, or a larger --margin"
        )
    answered = {part: [each for each in them if each.answer or each.answer_pattern] for part, them in by_part.items()}
    if len({unit_of[each.id] for each in answered[CHOOSING]}) < least or not all(answered.values()):
        return PromptParts(by_part, DISAGREEMENT)
    return PromptParts({**answered, TRAINING: by_part[TRAINING]}, ANSWERS)


@cache  # drawing thousands takes seconds
def drawn(enough: Enough, margin: float, seed: int) -> PromptParts:
    """The parts of generated prompts, of which there are more than a verdict is likely to take. Raises `UsageError`."""
    n = min(MOST, ROOM * enough.likely_in_all)
    if enough.least > n * SHARES[CHOOSING]:
        raise UsageError(
            f"--margin {margin:g} takes {enough.least:,} prompts for choosing, and at most {MOST:,} prompts can be "
            f"drawn, of which {int(MOST * SHARES[CHOOSING]):,} are for that: give a larger --margin"
        )
    return split(draw_prompts(n, seed), enough, margin)
