"""Splits of an assessment's prompts by a hash of their text or group, such that no prompt is in two of them.

Exits are trained on the *training* split; the *pilot* predicts which settings are worth a run; prompts of the *run*
order the settings, certify one and check it, in the roles of `eexit choose`. A smoke run takes its run from the
training split, and so uses no error budget of a whole assessment.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Final

from eexit.errors import UsageError
from eexit.output.atomic_files import write_atomic
from eexit.plan.prompt_kinds.generators import MOST, draw_prompts
from eexit.plan.splits import in_pilot_split, in_test_split, is_drawn, sampling_units, shuffled
from eexit.plan.sweep_config import Prompt
from eexit.quality.learn_then_test import alpha_share
from eexit.quality.risk_tests import MOST_PROMPTS, prompts_for_loss

TRAINING, PILOT, RUN = PARTS = ("training", "pilot", "run")
CHOOSING, ORDERING, REPORTING = ROLES = ("choosing", "ordering", "reporting")  # of the run's prompts
SHARES: Final = {TRAINING: 16 / 64, PILOT: 6 / 64, RUN: 42 / 64}
OF_RUN: Final = {CHOOSING: 9 / 16, ORDERING: 3 / 16, REPORTING: 4 / 16}
SPARE: Final = 1.15  # prompts drawn for each one that the shares ask for, since a hash splits unevenly
CONFIDENCE, CONFIDENCE_OF_A_SMOKE_RUN = 0.95, 0.5  # a tenth of the prompts can have the latter
ANSWERS, DISAGREEMENT = "answers", "disagreement"  # risks


@dataclass(frozen=True)
class SplitSizes:
    """Number of prompts in the training and pilot splits, and in each role of the run split."""

    training: int
    pilot: int
    choosing: int
    ordering: int
    reporting: int

    @property
    def tenth(self) -> "SplitSizes":
        return SplitSizes(*(math.ceil(size / 10) for size in astuple(self)))


def sizes_at(max_risk: float) -> SplitSizes:
    """Return the sizes that certify `max_risk`, in 80 % of cases, for a setting that loses half of it.

    Raise `UsageError` if a small `max_risk` takes too many prompts.

    >>> sizes_at(0.02)
    SplitSizes(training=300, pilot=200, choosing=975, ordering=325, reporting=400)
    """
    choosing = prompts_for_loss(max_risk / 2, max_risk, alpha_share(CONFIDENCE))
    if choosing is None:
        raise UsageError(f"--max-risk {max_risk:g} takes more than {MOST_PROMPTS:,} prompts: give a higher --max-risk")
    return SplitSizes(training=300, pilot=200, choosing=choosing, ordering=math.ceil(choosing / 3), reporting=400)


def part_of(unit: str) -> str:
    """Return the split (training, pilot or run) to which a hash assigns a prompt's text or group."""
    if is_drawn(unit, TRAINING, one_in=4):
        return TRAINING
    return PILOT if is_drawn(unit, "assessed pilot", one_in=8) else RUN


def role_of(unit: str) -> str:
    """Return the split of a prompt of the run (ordering, calibration or test), by a hash of its text or group."""
    if in_test_split(unit):
        return REPORTING
    return ORDERING if in_pilot_split(unit) else CHOOSING


@dataclass(frozen=True)
class PromptSplits:
    """Prompts by split, the number of choosing prompts, and the risk that can be measured on them."""

    of: Mapping[str, Sequence[Prompt]]
    choosing: int
    risk: str

    def file(self, out: str, part: str) -> str:
        return f"{out.rstrip('/')}/prompts/{part}.jsonl"

    def write(self, out: str) -> None:
        """Write a file of prompts for each split, unless the same prompts are already there."""
        for part in PARTS:
            path = Path(self.file(out, part)).expanduser()
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [
                {name: each[name] for name in each if each[name] is not None} for each in map(asdict, self.of[part])
            ]
            content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            if not path.is_file() or path.read_text(encoding="utf-8") != content:
                write_atomic(path, content)


def split(
    prompts: Sequence[Prompt], whole: SplitSizes, least: int, is_smoke_run: bool = False, batch: int = 1
) -> PromptSplits:
    """Split prompts into training, pilot and run prompts by hash; smaller splits than planned are allowed.

    If at least half of the prompts have an answer, the others are left out. Raise `UsageError` for too few prompts.

    Args:
        whole: Planned sizes, of which a smoke run takes a tenth.
        least: Minimum number of choosing prompts.
        is_smoke_run: True for a smoke run, whose run prompts come from the training split.
        batch: Number of slots; the run needs two prompts per slot.
    """
    answered = [each for each in prompts if each.answer or each.answer_pattern]
    risk = ANSWERS if 2 * len(answered) >= len(prompts) else DISAGREEMENT
    prompts = answered if risk == ANSWERS else prompts
    unit_of = sampling_units([{"id": each.id, "prompt": each.prompt, "group": each.group} for each in prompts])
    by_unit: dict[str, list[Prompt]] = {}
    for at in shuffled([unit_of[each.id] for each in prompts]):
        by_unit.setdefault(unit_of[prompts[at].id], []).append(prompts[at])
    parts = {part: [unit for unit in by_unit if part_of(unit) == part] for part in PARTS}
    sizes, source = (whole.tenth, TRAINING) if is_smoke_run else (whole, RUN)
    share, spent = SHARES[source], sizes.training if is_smoke_run else 0
    to_run = parts[source][spent:]
    roles = {role: [unit for unit in to_run if role_of(unit) == role][: getattr(sizes, role)] for role in ROLES}
    run = [unit for of_role in roles.values() for unit in of_role]
    chosen = {TRAINING: parts[TRAINING][: sizes.training], PILOT: parts[PILOT][: sizes.pilot], RUN: run}
    n, n_run = len(roles[CHOOSING]), len(run)
    if n < least or n_run < 2 * batch or not all([*roles.values(), *chosen.values()]):
        needs = [(least, OF_RUN[CHOOSING]), (1, OF_RUN[ORDERING]), (1, OF_RUN[REPORTING]), (2 * batch, 1.0)]
        enough = max(_enough(spent + _enough(need, of_run), share) for need, of_run in needs)
        why = f"{n} of them are for calibration, and a setting without any loss takes {least}"
        lower = "a higher --max-risk"
        if n >= least and n_run < 2 * batch:
            why = f"the run has {n_run} of them, and timing batches of {batch} takes {2 * batch}"
            lower = f"a --batch below {batch}"
        raise UsageError(f"{len(prompts):,} prompts are too few: {why}; {enough:,} are enough, or {lower}")
    return PromptSplits({part: [each for unit in of for each in by_unit[unit]] for part, of in chosen.items()}, n, risk)


def _enough(need: float, share: float) -> int:
    """Return how many prompts to have: a hash with probability `share` selects `need` or more in 99.9 % of cases."""
    spread = 3.1 * math.sqrt(1 - share)
    return math.ceil(((spread + math.sqrt(spread**2 + 4 * need)) / 2) ** 2 / share)


@cache  # drawing thousands takes seconds
def drawn(whole: SplitSizes, least: int, seed: int, is_smoke_run: bool = False, batch: int = 1) -> PromptSplits:
    """Return splits of generated prompts. Raises `UsageError` for a bound that needs more prompts than can be drawn."""
    run = max(getattr(whole, role) / OF_RUN[role] for role in ROLES)
    wanted = {TRAINING: whole.training, PILOT: whole.pilot, RUN: run}
    n = math.ceil(SPARE * max(wanted[part] / SHARES[part] for part in PARTS))
    if n > MOST:
        why = f"{whole.choosing:,} calibration prompts take {n:,} in all, and at most {MOST:,} can be drawn"
        raise UsageError(f"{why}: give a higher --max-risk")
    return split(draw_prompts(n, seed), whole, least, is_smoke_run, batch)
