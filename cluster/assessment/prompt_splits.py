"""The prompts of an assessment, split by a hash of their text or group: no prompt has two parts.

From those for *training*, exits learn. Those of the *pilot* say which settings are worth a run. Those of the *run*
order the settings, choose one and check it, as `jobs/choose.py` splits them. A look runs prompts that a whole
assessment learns from, so that it asks nothing of those that choose.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Final

from cluster.assessment.split_sizes import SplitSizes
from eexit.errors import UsageError
from eexit.output.atomic_files import write_atomic
from eexit.plan.config import Prompt
from eexit.plan.prompt_kinds.generators import MOST, draw_prompts
from eexit.plan.splits import in_pilot_split, in_test_split, is_drawn, sampling_units, shuffled
from eexit.quality.risks import RISKS

TRAINING, PILOT, RUN = PARTS = ("training", "pilot", "run")
CHOOSING, ORDERING, REPORTING = ROLES = ("choosing", "ordering", "reporting")  # of prompts of the run
ONE_IN_TO_TRAIN, ONE_IN_TO_PILOT = 4, 8  # prompts, and of the others
SHARES: Final = {TRAINING: 16 / 64, PILOT: 6 / 64, RUN: 42 / 64}
OF_RUN: Final = {CHOOSING: 9 / 16, ORDERING: 3 / 16, REPORTING: 4 / 16}
SPARE: Final = 1.15  # times as many as the shares ask for are drawn, since a hash does not share out evenly
ANSWERS, DISAGREEMENT = "answers", "disagreement"
assert {ANSWERS, DISAGREEMENT} <= RISKS.keys()


def part_of(unit: str) -> str:
    """The part of a prompt's text or, where prompts name a group, of that."""
    if is_drawn(unit, TRAINING, ONE_IN_TO_TRAIN):
        return TRAINING
    return PILOT if is_drawn(unit, "assessed pilot", ONE_IN_TO_PILOT) else RUN


def role_of(unit: str) -> str:
    """What a prompt of the run is for, as `jobs/choose.py` has it."""
    if in_test_split(unit):
        return REPORTING
    return ORDERING if in_pilot_split(unit) else CHOOSING


@dataclass(frozen=True)
class PromptSplits:
    """The prompts of each part, how many of the run are for choosing, and the risk that their answers allow."""

    of: Mapping[str, Sequence[Prompt]]
    choosing: int
    risk: str

    def file(self, out: str, part: str) -> str:
        return f"{out.rstrip('/')}/prompts/{part}.jsonl"

    def write(self, out: str) -> None:
        for part in PARTS:
            path = Path(self.file(out, part)).expanduser()
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [
                {name: value for name, value in asdict(each).items() if value is not None} for each in self.of[part]
            ]
            content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            if not path.is_file() or path.read_text(encoding="utf-8") != content:
                write_atomic(path, content)


def split(
    prompts: Sequence[Prompt], whole: SplitSizes, least: int, is_look: bool = False, batch: int = 1
) -> PromptSplits:
    """The parts of these prompts, each of the size in `whole`, or a tenth for a look, or as many as there are.

    Where half of the prompts bring an answer or more, these alone are used. Raises `UsageError` if fewer than `least`
    are for choosing, if those of the run don't fill two batches, or if a part has none.
    """
    answered = [each for each in prompts if each.answer or each.answer_pattern]
    risk = ANSWERS if 2 * len(answered) >= len(prompts) else DISAGREEMENT
    prompts = answered if risk == ANSWERS else prompts
    unit_of = sampling_units([{"id": each.id, "prompt": each.prompt, "group": each.group} for each in prompts])
    by_unit: dict[str, list[Prompt]] = {}
    for at in shuffled([unit_of[each.id] for each in prompts]):
        by_unit.setdefault(unit_of[prompts[at].id], []).append(prompts[at])
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for unit in by_unit:
        parts[part_of(unit)].append(unit)
    sizes = whole.tenth if is_look else whole
    to_run = parts[TRAINING][sizes.training :] if is_look else parts[RUN]
    wanted = {CHOOSING: sizes.choosing, ORDERING: sizes.ordering, REPORTING: sizes.reporting}
    roles = {role: [unit for unit in to_run if role_of(unit) == role][: wanted[role]] for role in ROLES}
    chosen = {
        TRAINING: parts[TRAINING][: sizes.training],
        PILOT: parts[PILOT][: sizes.pilot],
        RUN: [unit for units_of_role in roles.values() for unit in units_of_role],
    }
    n, n_run = len(roles[CHOOSING]), len(chosen[RUN])
    if n < least or n_run < 2 * batch or not all([*roles.values(), *chosen.values()]):
        share, spent = SHARES[TRAINING if is_look else RUN], sizes.training if is_look else 0
        needs = [(OF_RUN[role], least if role == CHOOSING else 1) for role in ROLES]
        enough = [_enough(spent + _enough(need, of_run), share) for of_run, need in (*needs, (1.0, 2 * batch))]
        why = (
            f"the run has {n_run} of them, and timing batches of {batch} rows takes {2 * batch}"
            if n >= least and n_run < 2 * batch
            else f"{n} of them are for choosing, and a setting without any loss takes {least}"
        )
        lower = f"a --batch below {batch}" if n >= least and n_run < 2 * batch else "a higher --max-risk"
        raise UsageError(f"{len(prompts):,} prompts are too few: {why}; {max(enough):,} are enough, or {lower}")
    return PromptSplits({part: [each for unit in of for each in by_unit[unit]] for part, of in chosen.items()}, n, risk)


def _enough(need: float, share: float) -> int:
    """Return how many prompts give so many that a hash draws with this chance, but once in a thousand times."""
    spread = 3.1 * math.sqrt(1 - share)
    return math.ceil(((spread + math.sqrt(spread**2 + 4 * need)) / 2) ** 2 / share)


@cache  # drawing thousands takes seconds
def drawn(whole: SplitSizes, least: int, seed: int, is_look: bool = False, batch: int = 1) -> PromptSplits:
    """The parts of generated prompts. Raises `UsageError` if more are needed than can be drawn."""
    wanted = {CHOOSING: whole.choosing, ORDERING: whole.ordering, REPORTING: whole.reporting}
    of_run = max(wanted[role] / OF_RUN[role] for role in ROLES)
    n = math.ceil(SPARE * max(of_run / SHARES[RUN], whole.pilot / SHARES[PILOT], whole.training / SHARES[TRAINING]))
    if n > MOST:
        raise UsageError(
            f"{whole.choosing:,} prompts for choosing take {n:,} in all, and at most {MOST:,} can be drawn: give a "
            "higher --max-risk"
        )
    return split(draw_prompts(n, seed), whole, least, is_look, batch)
