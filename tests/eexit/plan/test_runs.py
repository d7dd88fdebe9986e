from typing import Any

from eexit.plan.config import Prompt, SweepConfig
from eexit.plan.runs import count_runs, plan_runs

PROMPTS = (Prompt(id="a", prompt="One?"), Prompt(id="b", prompt="Two?"))


def test_a_plan_holds_every_run_once() -> None:
    config = SweepConfig(prompts=PROMPTS, rules={"kl": (0.5, 1)}, seeds=(0, 1))
    runs = list(plan_runs(config))
    assert len({run.run_id for run in runs}) == len(runs) == count_runs(config) == 2 * (1 + 2 * 2) * 2


def test_a_run_keeps_its_id_when_the_grid_around_it_grows() -> None:
    small = SweepConfig(prompts=PROMPTS[:1], modes=("unfrozen",), rules={"kl": (1,)})
    large = SweepConfig(prompts=PROMPTS, rules={"kl": (0.5, 1, 2)}, seeds=(0, 5))
    assert {run.run_id for run in plan_runs(small)} <= {run.run_id for run in plan_runs(large)}


def test_what_changes_a_result_changes_the_id() -> None:
    run_ids = {
        next(iter(plan_runs(SweepConfig(prompts=PROMPTS, **change)))).run_id
        for change in (
            {},
            {"max_new_tokens": 7},
            {"readout": "raw"},
            {"system": "Be brief."},
            {"model": "other"},
            {"control_tokens": True},
        )
    }
    assert len(run_ids) == 6


def test_what_a_prompt_brings_of_its_own_changes_the_id_and_what_only_sorts_it_does_not() -> None:
    own: list[dict[str, Any]] = [
        {},
        {"prefiller": ""},
        {"prefiller": "So"},
        {"max_new_tokens": 100},
        {"steps": 3, "kind": "x"},
    ]
    ids = [next(plan_runs(SweepConfig(prompts=(Prompt("a", "One?", **each),)))).run_id for each in own]
    assert len(set(ids)) == 4
    assert ids[-1] == ids[0]


def test_an_answer_is_part_of_a_runs_identity_where_there_is_one() -> None:
    marked = (
        PROMPTS[0],
        Prompt(id="a", prompt="One?", answer="1"),
        Prompt(id="a", prompt="One?", answer_pattern="1"),
        Prompt(id="a", prompt="One?", answer="1", answer_pattern="1"),
    )
    run_ids = [next(iter(plan_runs(SweepConfig(prompts=(prompt,))))).run_id for prompt in marked]
    assert len(set(run_ids)) == 4
    assert run_ids[0] == "c626c16cdc993d948ff3e29235a619d6"  # a resumed sweep finds its runs by it
