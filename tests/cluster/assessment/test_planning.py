"""What is planned: prompts in parts, sizes by the minutes, and which settings of the replays are worth a run."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cluster.assessment.asked import Asked
from cluster.assessment.front import (
    Found,
    as_if_free,
    best_set,
    found_of,
    front,
    head_in_layers,
    of_set,
    price_of_head,
    rules_of,
    spread,
)
from cluster.assessment.learned import exit_sets, searched_layers
from cluster.assessment.parts import (
    ANSWERS,
    CHOOSING,
    DISAGREEMENT,
    PARTS,
    PILOT,
    REPORTING,
    TRAINING,
    Enough,
    drawn,
    split,
)
from cluster.assessment.sizes import (
    CHECKED,
    INSTEAD,
    LEAST_TEXTS,
    LOOK,
    MOST_SETTINGS,
    OBSERVING,
    OF_TEXTS,
    SAMPLING,
    SHARES,
    STEPS,
    TIME,
    TOKENS_OF_A_TEXT,
    Budget,
    minutes_that_would_do,
    most_seconds,
    parts_of_learning,
    promise,
    run_sizes,
    search_sizes,
    told_of_minutes,
    told_of_prompts,
)
from eexit.errors import UsageError
from eexit.plan.config import Prompt
from eexit.plan.prompt_kinds.drawing import draw_prompts
from eexit.quality.learn_then_test import certify, error_of_ask
from eexit.quality.risk_tests import POWER, exact_binomial

ENOUGH = Enough.at(0.02, 0.95)
AVAILABLE = {TRAINING: 700, PILOT: 390, CHOOSING: 1158, REPORTING: 519}


def budget(seconds: float, start: float = 10) -> Budget:
    return Budget(seconds, 400, 250, start, AVAILABLE, ENOUGH)


def test_as_many_prompts_as_a_margin_takes() -> None:
    assert (ENOUGH.least, ENOUGH.likely) == (151, 975)
    assert ENOUGH.error == pytest.approx(0.0475)
    assert Enough.at(0.1, 0.95).least == 29
    second = Enough.at(0.02, 0.95, ask=2)
    assert (second.least, second.likely) == (300, 2064), "it may err with less"
    assert ENOUGH.chance(393) == pytest.approx(0.446, abs=5e-4), "and not 80 %"
    assert ENOUGH.chance(975) >= POWER > ENOUGH.chance(974)
    assert ENOUGH.loss_certified(975) == pytest.approx(0.0102, abs=5e-5)
    assert math.isnan(ENOUGH.loss_certified(150))


def test_no_prompt_has_two_parts_and_a_group_has_one() -> None:
    prompts = [*draw_prompts(700, 3), *(Prompt(f"v{n}", f"variant {n}", group="one") for n in range(40))]
    parts = split(prompts, Enough.at(0.1, 0.95), 0.1)
    ids = [prompt.id for part in PARTS for prompt in parts.of[part]]
    assert len(ids) == len(set(ids))
    of_group = {part for part in PARTS if any(prompt.group == "one" for prompt in parts.of[part])}
    assert len(of_group) <= 1
    again = split(prompts[::-1], Enough.at(0.1, 0.95), 0.1)
    assert {part: {p.id for p in parts.of[part]} for part in PARTS} == {
        part: {p.id for p in again.of[part]} for part in PARTS
    }


def test_the_risk_is_answers_where_enough_prompts_have_one_and_those_without_are_for_learning_alone() -> None:
    prompts = [*draw_prompts(400, 0), *(Prompt(f"open {n}", f"Tell me about {n}.") for n in range(400))]
    parts = split(prompts, Enough.at(0.05, 0.95), 0.05)
    assert parts.risk == "answers"
    assert all(prompt.answer or prompt.answer_pattern for prompt in parts.of[CHOOSING])
    assert any(prompt.id.startswith("open") for prompt in parts.of[TRAINING])
    assert split(prompts[350:], Enough.at(0.05, 0.95), 0.05).risk == "disagreement"


def test_too_few_prompts_are_refused_with_the_number_that_would_do() -> None:
    with pytest.raises(UsageError, match=r"100 prompts are too few for a margin of 0.02: 3\d of them are for choosing, "
                       r"and a setting without any loss takes 151; about 46\d would do") as refused:  # fmt: skip
        split(draw_prompts(100, 0), ENOUGH, 0.02)
    would_do = int(str(refused.value).split("about ")[1].split()[0])
    split(draw_prompts(would_do, 0), ENOUGH, 0.02)
    with pytest.raises(UsageError, match="give a larger --margin"):
        drawn(Enough.at(0.0004, 0.95), 0.0004, 0)


def test_drawn_prompts_leave_room_for_more_than_are_likely_to_show_it() -> None:
    enough = Enough.at(0.1, 0.95)
    parts = drawn(enough, 0.1, 0)
    assert len(parts.of[CHOOSING]) >= 2 * enough.likely
    assert len(parts.of[REPORTING]) >= 2 * CHECKED * enough.likely


@pytest.mark.parametrize(
    ("minutes", "start", "learns"),
    [(30, 10, ("linear", "state", "probe", "gate", "curve")), (3, 8, ("linear",)), (3, 12, ())],
)
def test_what_is_learned_fits_the_minutes(minutes: float, start: float, learns: tuple[str, ...]) -> None:
    sizes = search_sizes(budget(60 * minutes, start), 32, minutes)
    assert sizes.learns == learns
    assert len(sizes.left_out) == 5 - len(learns)
    assert sizes.pilot <= AVAILABLE[PILOT]


def test_more_minutes_give_more_tokens_to_learn_from() -> None:
    few, many = (search_sizes(budget(s), 32, s / 60) for s in (900, 3600))
    assert few.training * few.seeds < many.training * many.seeds


def test_texts_and_what_is_learned_from_them_take_a_quarter_of_the_minutes_at_most() -> None:
    planned = search_sizes(budget(1800), 32, 30)
    seconds_of_texts = planned.training * planned.seeds * TOKENS_OF_A_TEXT / (SAMPLING * 400)
    part = parts_of_learning(planned.learns)
    assert sum(part.values()) == pytest.approx(1)
    assert seconds_of_texts / part[OF_TEXTS] <= 1800 / 4 / (1 - SHARES[LOOK])
    assert planned.training * planned.seeds >= 2 * LEAST_TEXTS


def test_minutes_that_are_too_few_are_refused_with_those_that_would_do() -> None:
    with pytest.raises(UsageError, match=r"--minutes 1 are too few on this machine: \d+ would do"):
        search_sizes(Budget(40, 100, 50, 20, AVAILABLE, ENOUGH), 32, 1)


def test_a_step_may_take_longer_than_planned_and_leaves_the_later_ones_half_of_theirs() -> None:
    left = 1800.0
    for at, step in enumerate(STEPS):
        own, later = SHARES[step], STEPS[at + 1 :]
        others = sum(SHARES[each] for each in later)
        seconds = most_seconds(step, left, later)
        assert left * own / (own + others) <= seconds <= left
        assert left - seconds >= left * others / (own + others) / 2 - 1e-9
        assert seconds <= 3 * left * own / (own + others) + 1e-9
    assert most_seconds(LOOK, left, STEPS[1:]) == pytest.approx(3 * SHARES[LOOK] * left)
    assert most_seconds(STEPS[-1], left, ()) == left
    assert most_seconds(LOOK, -5.0, STEPS[1:]) == 0


def test_the_minutes_that_would_do_follow_from_how_far_a_step_came() -> None:
    assert minutes_that_would_do(12, 0.25) == 49
    assert minutes_that_would_do(12, 1.0) == minutes_that_would_do(12, 0.8) == 16
    assert minutes_that_would_do(12, 0.0) == minutes_that_would_do(12, 0.05) == 241
    assert minutes_that_would_do(100, 0.5, INSTEAD) == 101 + 100 * SHARES[INSTEAD]


def test_the_run_has_enough_prompts_before_it_has_more_settings() -> None:
    def sizes(seconds: float, n_found: int = 6) -> Any:
        return run_sizes(budget(seconds), 20, n_found, 10.0)

    long, short, shortest = sizes(4800), sizes(900), sizes(60)
    all_there_are = (AVAILABLE[CHOOSING], AVAILABLE[REPORTING])
    assert (long.settings, long.controls, long.choosing, long.reporting) == (MOST_SETTINGS, True, *all_there_are)
    assert 1 <= short.settings < MOST_SETTINGS
    assert ENOUGH.likely <= short.choosing <= AVAILABLE[CHOOSING]
    assert not any("prompts for choosing" in line for line in (*long.left_out, *short.left_out))
    assert (shortest.settings, shortest.controls, shortest.choosing) == (1, False, ENOUGH.least)
    assert any("prompts for choosing" in line for line in shortest.left_out)
    assert sizes(4800, 1).settings == 1


def test_the_run_leaves_the_steps_behind_it_their_share() -> None:
    """So that what to take instead of exits is known, however many prompts a setting would take."""
    seconds, each = 900.0, 20
    planned = run_sizes(budget(seconds), each, 1, 10.0)
    texts = 2 * (planned.choosing + planned.reporting)
    left = seconds - texts * each * OBSERVING / budget(seconds).reading
    assert left / seconds >= (SHARES[TIME] + SHARES[INSTEAD]) / sum(SHARES[step] for step in STEPS[4:])


@pytest.mark.parametrize("seconds", [300, 600, 900, 3600])
def test_what_is_promised_of_the_run_is_what_simulated_choices_do(seconds: float) -> None:
    """Of prompts that are lost with the chance that is named, the first ask certifies as often as was said."""
    n = run_sizes(budget(seconds), 20, 6, 10.0).choosing
    for loss, chance in ((ENOUGH.loss_certified(n), POWER), (ENOUGH.margin / 2, ENOUGH.chance(n))):
        lost_D = np.random.default_rng(n).binomial(n, loss, 4000)
        p_values_D = exact_binomial((np.arange(n) < lost_D[:, None]).astype(np.float32), ENOUGH.margin)
        (certified_D1,) = certify([p_values_D[:, None]], 1 - error_of_ask(0.95))
        assert certified_D1.mean() == pytest.approx(chance, abs=0.03)
    assert f"{n:,} prompts for choosing certify 2% with a chance of 80% if a setting loses " in promise(ENOUGH, n)


def test_beforehand_it_is_said_what_prompts_and_minutes_certify_and_how_many_would_do() -> None:
    few = {**AVAILABLE, CHOOSING: 393}
    assert len([*told_of_prompts(ENOUGH, AVAILABLE, ANSWERS)]) == 1
    assert list(told_of_prompts(ENOUGH, few, ANSWERS))[1] == (
        "393 prompts for choosing certify 2% with a chance of 80% if a setting loses 0.585% of them, and of 45% if it "
        "loses 1%; about 3,005 prompts in all would do for 1%"
    )
    assert promise(ENOUGH, 150) == "150 prompts for choosing can't certify a loss of at most 2%"
    said, is_enough = told_of_minutes(budget(600), ANSWERS, 32, 11)
    assert not is_enough
    assert said.startswith("with 11 minutes: 273 prompts for choosing certify 2% with a chance of 80% if a setting")
    would_do = int(said.rpartition("; about ")[2].split()[0])
    longer = budget(600 + 60 * (would_do - 11))
    assert told_of_minutes(longer, ANSWERS, 32, would_do)[1], "with so many minutes, they are enough"
    assert not told_of_minutes(budget(600 + 60 * (would_do - 12)), ANSWERS, 32, would_do - 1)[1]
    assert run_sizes(longer, 32, 1, 10.0).choosing >= ENOUGH.likely, "and the run has them, if all goes as planned"
    assert told_of_minutes(budget(60), DISAGREEMENT, 32, 2)[1]


def test_the_price_of_a_read_is_where_the_line_through_exits_of_all_tokens_meets_no_depth() -> None:
    head, layer = 8.0, 1.0  # of 30 layers
    full = 30 * layer + head
    pairs = [((depth + 1) / 30, ((depth + 1) * layer + head) / full) for depth in (5, 15, 25)]
    assert price_of_head(pairs) == pytest.approx(head / full)
    assert head_in_layers(price_of_head(pairs), 30) == pytest.approx(8.0)


def test_what_a_setting_would_cost_are_layers_up_to_its_exits_a_read_and_the_replays_looks() -> None:
    row = {
        "rule": "confidence", "parameter": 0.9, "exit_set": None, "expected_disagreement": 0.01, "cost_full": 200.0,
        "cost_needed": 190.0, "cost_run": 230.0, "exit_distribution": [(2, 0.5), (5, 0.0), (9, 0.5)],
    }  # fmt: skip
    found = found_of(row, n_layers=10, head=0.5)
    assert found.free == pytest.approx(0.5 * (0.3 * 0.5 + 0.5) + 0.5 * 1.0)
    assert found.cost == pytest.approx(found.free + 0.2)
    assert (found.exits, found.exit_set) == (0.5, "all")


def setting(disagreement: float, cost: float, exit_set: str = "all", exits: float = 0.2) -> Found:
    return Found("confidence", 1 - disagreement, exit_set, disagreement, cost, cost / 2, exits)


def test_the_front_goes_from_safe_to_bold_and_leaves_out_what_is_beaten_or_never_exits() -> None:
    found = [setting(0.02, 0.8), setting(0.001, 0.95), setting(0.03, 0.85), setting(0.0, 0.9, exits=0.0)]
    assert [each.disagreement for each in front(found, 0.02, 8)] == [0.001, 0.02]
    safest = [setting(0.0, 0.97), setting(0.0, 0.96), *found]
    assert [each.cost for each in front(safest, 0.02, 8)] == [0.97, 0.95, 0.8]
    none = [setting(0.0, 0.9, exits=0.0)]
    assert front(none, 0.02, 8) == none


def test_the_exit_set_is_the_one_that_costs_least_within_the_margin() -> None:
    found = [setting(0.01, 0.9, "25"), setting(0.5, 0.3, "all"), setting(0.015, 0.85, "20,25")]
    assert best_set(found, 0.02) == "20,25"
    assert of_set(found, "25") == found[:1]
    assert as_if_free(found, 0.02) == found
    assert [each.cost for each in as_if_free([setting(0.01, 1.2), setting(0.5, 0.4)], 0.02)] == [0.6, 0.2]


def test_searched_are_late_layers_and_few_at_a_time_unless_it_is_asked_which() -> None:
    assert exit_sets((5, 10, 15, 25)) == ("25", "15", "10", "15,25", "all")
    assert exit_sets((10, 25)) == ("25", "10", "all")
    assert exit_sets((5,)) == ("all",)
    assert searched_layers((5, 10, 15, 20, 25)) == (5, 10, 15, 20, 23, 25)
    assert searched_layers((4, 5)) == (4, 5)
    assert searched_layers((5,)) == (5,)
    asked = Asked({"model": "m"})
    assert asked.at_layers((3, 4)).common["exit_layers"] == (3, 4)
    for name, given in (("exit_every", 3), ("exit_layers", [2])):
        assert replace(asked, common={"model": "m", name: given}).at_layers((3, 4)).common[name] == given


def test_of_more_settings_than_fit_both_ends_are_taken_and_of_one_that_which_is_named() -> None:
    assert spread(["a", "b", "c", "d", "e"], 3, "b") == ["a", "c", "e"]
    assert spread(["a", "b", "c"], 1, "b") == ["b"]
    assert spread(["a"], 4, "a") == ["a"]
    assert rules_of([("confidence", 0.9), ("entropy", 0.1), ("confidence", 0.99)]) == {
        "confidence": (0.9, 0.99),
        "entropy": (0.1,),
    }
