"""Plans hold every run once, and a run's id depends on what changes its result."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from untrained import TINY, artefact, config_with, save_state_maps, stream_maps

from eexit.errors import UsageError
from eexit.plan.artefacts import READOUT
from eexit.plan.runs import configurations, count_runs, plan_runs, refuse_unknown_only
from eexit.plan.sweep_config import Prompt, SweepConfig

PROMPTS = (Prompt(id="a", prompt="One?"), Prompt(id="b", prompt="Two?"))


def ids(config: SweepConfig) -> list[str]:
    return [run.run_id for run in plan_runs(config)]


def test_a_plan_holds_every_run_once_and_a_run_keeps_its_id_when_the_grid_around_it_grows() -> None:
    small = SweepConfig(prompts=PROMPTS[:1], modes=("unfrozen",), rules={"kl": (1,)})
    large = SweepConfig(prompts=PROMPTS, rules={"kl": (0.5, 1, 2)}, seeds=(0, 5))
    assert len({*ids(large)}) == len(ids(large)) == count_runs(large) == 2 * (1 + 2 * 3) * 2
    assert {*ids(small)} <= {*ids(large)}
    assert ids(large)[0] == "c626c16cdc993d948ff3e29235a619d6"  # a resumed sweep finds its runs by it


def test_prompt_exits_are_configurations_of_their_own_and_refused_where_none_is_asked_for() -> None:
    """A sweep has all its configurations with prompt exits, or those that `only` names with and without."""
    grid: dict[str, Any] = {"prompts": PROMPTS, "modes": ("normal", "unfrozen"), "rules": {"kl": (1,), "fixed": (5,)}}
    config, plain = SweepConfig(**grid, prompt_exits=True), SweepConfig(**grid)
    keys = [each.key for each in configurations(config)]
    assert keys == ["normal", "unfrozen/kl/1+prompt", "unfrozen/fixed/5+prompt"]
    assert len({*ids(config)} & {*ids(plain)}) == len(PROMPTS), "only those of normal"
    only = ("unfrozen/kl/1", "unfrozen/kl/1+prompt")
    both = SweepConfig(**grid, prompt_exits=True, only=only)
    assert tuple(each.key for each in configurations(both)) == only
    refuse_unknown_only(both)
    with pytest.raises(UsageError, match=r"none of the configurations to run ends in \+prompt"):
        refuse_unknown_only(SweepConfig(**grid, prompt_exits=True, only=only[:1]))


def test_what_changes_a_result_changes_the_id_and_what_only_sorts_a_prompt_does_not() -> None:
    def id_with(of_prompt: Mapping[str, Any], **of_sweep: Any) -> str:
        return ids(SweepConfig(prompts=(Prompt("a", "One?", **of_prompt),), **of_sweep))[0]

    of_sweep = {"max_new_tokens": 7, "readout": "raw", "system": "Be brief.", "model": "m", "control_tokens": True}
    of_prompts: list[dict[str, Any]] = [{"answer": "1"}, {"answer_pattern": "1"}, {"prefiller": ""}]
    of_prompts += [{"answer": "1", "answer_pattern": "1"}, {"prefiller": "So"}, {"max_new_tokens": 100}]
    changed = [id_with({}, **{name: value}) for name, value in of_sweep.items()] + [*map(id_with, of_prompts)]
    assert len({*changed, id_with({})}) == len(changed) + 1
    assert id_with({"steps": 3, "kind": "x"}) == id_with({})


def test_ids_depend_on_what_was_trained_where_it_is_used_and_not_on_where_it_lies(tmp_path: Path) -> None:
    def mapped(name: str, std: float = 0.1) -> list[str]:
        place = save_state_maps(tmp_path / name, stream_maps(std=std), TINY)
        return ids(config_with(kv_maps=str(place), modes=("normal", "mapped_residual")))

    first = mapped("a")
    assert mapped("b") == first
    assert {*first} & {*mapped("c", 0.2)} == {*ids(config_with(modes=["normal"]))}, "normal has none"
    place = artefact(tmp_path / "first", "linear", (READOUT,))
    its = ids(config_with(readout=str(place)))
    assert ids(config_with(readout=str(place.rename(tmp_path / "elsewhere")))) == its
    other = artefact(tmp_path / "other", "linear", (READOUT,), layers=range(5))
    assert len({*map(tuple, (its, ids(config_with(readout=str(other))), ids(config_with())))}) == 3
