"""Sizes of an assessment's splits, and the prompts of each."""

import numpy as np
import pytest

from cluster.assessment.prompt_splits import ANSWERS, CHOOSING, DISAGREEMENT, RUN, drawn, role_of, sizes_at, split
from eexit.errors import UsageError
from eexit.plan.prompt_kinds.generators import draw_prompts
from eexit.plan.sweep_config import Prompt
from eexit.quality.estimates import estimate_over_calls
from eexit.quality.learn_then_test import alpha_share
from eexit.quality.power import OF_CALLS, certification_power, time_told

WHOLE = sizes_at(0.02)


@pytest.mark.parametrize("n_calls", [6, 24])
def test_calls_tell_the_time_that_is_announced(n_calls: int) -> None:
    random = np.random.default_rng(n_calls)
    times = np.exp(np.log(time_told(n_calls)) + random.normal(0, OF_CALLS, (2000, n_calls, 1)))
    assert 0.75 < np.mean([estimate_over_calls([*each]).high < 1 for each in times]) < 0.9


def test_sizes_follow_from_the_test_that_will_be_made_and_drawn_prompts_have_them_and_no_two_parts() -> None:
    assert (WHOLE.choosing, WHOLE.tenth.choosing, WHOLE.tenth.ordering) == (975, 98, 33)
    assert certification_power(975, 0.02, alpha_share(0.95)).endswith("loses 1.02% with probability 80%")
    assert certification_power(100, 0.02, alpha_share(0.95)).endswith("with probability 0%")
    parts, look = drawn(WHOLE, 151, 0), drawn(WHOLE, 37, 0, is_smoke_run=True)
    assert {part: len(each) for part, each in parts.of.items()} == {"training": 300, "pilot": 200, RUN: 975 + 325 + 400}
    assert (parts.choosing, parts.risk) == (975, ANSWERS)
    units = {part: {each.group or each.prompt for each in prompts} for part, prompts in parts.of.items()}
    assert sum(map(len, units.values())) == len(set().union(*units.values()))
    asked = {each.group or each.prompt for each in look.of[RUN]}
    assert not asked & units[RUN], "a look asks nothing of the prompts that choose"
    assert (len(look.of["training"]), look.choosing) == (30, 98)
    assert sum(role_of(each.group or each.prompt) == CHOOSING for each in look.of[RUN]) == 98


def test_prompts_of_a_file_are_used_as_far_as_they_go() -> None:
    prompts = draw_prompts(600, 1)
    bare = [Prompt(each.id, each.prompt) for each in prompts]
    assert 151 <= split(prompts, WHOLE, 151).choosing < 300
    assert split(bare, WHOLE, 151).risk == DISAGREEMENT
    assert split([*prompts[:400], *bare[400:]], WHOLE, 100).risk == ANSWERS
    with pytest.raises(UsageError, match=r"600 prompts are too few: \d+ of them are for calibration"):
        split(prompts, WHOLE, 400)
