"""What the recipe says beforehand: sizes, the prompts of each part, the ten commands, and how long they take."""

from pathlib import Path
from typing import Final

import numpy as np
import pytest

from cluster.assessment.assess import Pace
from cluster.assessment.prompt_splits import (
    ANSWERS,
    CHOOSING,
    DISAGREEMENT,
    PARTS,
    RUN,
    TRAINING,
    SplitSizes,
    drawn,
    role_of,
    sizes_at,
    split,
)
from cluster.assessment.recipe import REPLAYED, Recipe
from cluster.console.flags_from_config import load_job
from eexit.errors import UsageError
from eexit.plan.exit_layers import with_layer_between
from eexit.plan.prompt_kinds.generators import draw_prompts
from eexit.plan.sweep_config import Prompt
from eexit.quality.estimates import estimate_over_calls
from eexit.quality.learn_then_test import alpha_share
from eexit.quality.power import OF_CALLS, certification_power, time_told
from eexit.studies.assessment.verdict import Bound
from eexit.studies.replay.shortlist import EXACT
from jobs import choose, replay, timings, train
from jobs.sweep import DEMO

WHOLE: Final = SplitSizes(training=300, pilot=200, choosing=975, ordering=325, reporting=400)
NAMES: Final = ("texts", "linear", "kv-maps", "pilot", "replay", "run", "oracles", "choice", "times", "again")
BOUND: Final = Bound(risk=ANSWERS, max_risk=0.02)


def test_sizes_follow_from_the_test_that_will_be_made() -> None:
    assert sizes_at(0.02) == WHOLE
    assert WHOLE.tenth == SplitSizes(training=30, pilot=20, choosing=98, ordering=33, reporting=40)
    assert certification_power(975, 0.02, alpha_share(0.95)).endswith(
        "with a chance of 82%, and one that loses 1.02% with probability 80%"
    )
    assert certification_power(100, 0.02, alpha_share(0.95)).endswith("with a chance of 0%")


def test_drawn_prompts_have_these_sizes_and_no_two_parts() -> None:
    parts, look = drawn(WHOLE, 151, 0), drawn(WHOLE, 37, 0, is_smoke_run=True)
    assert {part: len(parts.of[part]) for part in PARTS} == {"training": 300, "pilot": 200, "run": 975 + 325 + 400}
    assert (parts.choosing, parts.risk) == (975, ANSWERS)
    units = {part: {each.group or each.prompt for each in parts.of[part]} for part in PARTS}
    assert sum(map(len, units.values())) == len(set().union(*units.values()))
    asked = {each.group or each.prompt for each in look.of[RUN]}
    assert (len(look.of[TRAINING]), look.choosing) == (30, 98)
    assert not asked & units[RUN], "a look asks nothing of the prompts that choose"
    assert sum(role_of(each.group or each.prompt) == CHOOSING for each in look.of[RUN]) == 98


def test_prompts_of_a_file_are_used_as_far_as_they_go() -> None:
    prompts = draw_prompts(600, 1)
    parts = split(prompts, WHOLE, 151)
    assert 151 <= parts.choosing < 300
    bare = [Prompt(each.id, each.prompt) for each in prompts]
    assert split(bare, WHOLE, 151).risk == DISAGREEMENT
    assert split([*prompts[:400], *bare[400:]], WHOLE, 100).risk == ANSWERS
    with pytest.raises(UsageError, match=r"600 prompts are too few: \d+ of them are for calibration"):
        split(prompts, WHOLE, 400)


def recipe(out: str) -> Recipe:
    parts = drawn(WHOLE, 151, 0)
    common = ["--model", "smollm2-135m"]
    return Recipe(out, parts, (5, 10, 15, 20, 23, 25), common, [], [], 32, screens=True)


def test_each_command_is_one_that_its_own_parser_reads(tmp_path: Path) -> None:
    """But for what earlier commands leave: what is learned, and the settings that are run."""
    made = recipe(str(tmp_path / "out"))
    made.parts.write(made.out)
    commands = made.commands(BOUND)
    assert tuple(each.name for each in commands) == NAMES
    readers = {"train": train, "replay": replay, "choose": choose, "timings": timings}
    for each in commands:
        if each.script == "sweep":
            aside = {"--readout", "--kv-maps", "--settings-from-replay", "--within"}
            kept = [text for at, text in enumerate(each.arguments) if not aside & {text, each.arguments[at - 1]}]
            plain = [text for text in kept if not text.startswith("mapped_residual")]
            plain += ["--rules", "confidence=0.9"] if each.name == RUN else []
            job, _ = load_job([*plain], DEMO)
            assert job.out == each.folder
            assert len(job.config.prompts) == len(
                made.parts.of[{"texts": TRAINING, "oracles": RUN}.get(each.name, each.name)]
            )
        else:
            readers[each.script].read_flags(each.arguments)
    assert with_layer_between((5, 10, 15, 20, 25)) == (5, 10, 15, 20, 23, 25)
    assert len(made.keys(EXACT, REPLAYED)) == 20 * 4


def test_the_time_left_is_told_by_the_tokens_per_second_of_the_steps_before(tmp_path: Path) -> None:
    commands = recipe(str(tmp_path / "out")).commands(BOUND)
    assert Pace().forecast(commands) == ""
    seconds = sum(each.tokens for each in commands[1:]) / 100
    pace = Pace(tokens=commands[0].tokens, working=commands[0].tokens / 100, loading=20.0)
    n_loads = 8 - 1 + 24  # a choice loads none, and each further call does
    told = f" ({round((seconds + 20 * n_loads) / 60)} minutes left at 100 tokens per second)"
    assert pace.forecast(commands[1:]) == told, "what loads is not taken for what actors do"


@pytest.mark.parametrize("n_calls", [6, 24])
def test_calls_tell_the_time_that_is_announced(n_calls: int) -> None:
    random = np.random.default_rng(n_calls)
    times = np.exp(np.log(time_told(n_calls)) + random.normal(0, OF_CALLS, (2000, n_calls, 1)))
    assert 0.75 < np.mean([estimate_over_calls([*each]).high < 1 for each in times]) < 0.9
