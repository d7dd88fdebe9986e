"""Controls follow the exits of a finished sweep's configurations."""

from pathlib import Path

import pytest
from driving import land_rows
from scripted import sweep_of

from cluster.console.flags_from_config import load_job
from eexit.errors import UsageError
from eexit.plan.configuration import configuration_of
from eexit.plan.grid_types import ControlSpec
from eexit.plan.runs import configurations, plan_runs
from eexit.plan.sweep_config import SweepConfig
from eexit.results.layout import MANIFEST
from jobs.sweep import DEMO

CONFIG = sweep_of("a-model", "one", "two", rules=["kl=0.5,1", "agree"])


def load(results: Path, *flags: str) -> SweepConfig:
    return load_job(["--controls-of", str(results), *flags], DEMO)[0].config


def test_each_configuration_that_exits_has_a_control_right_behind_it_or_one_in_each_mode(tmp_path: Path) -> None:
    """The runs all exit once at layer 5 and once at the final one."""
    finished = land_rows(tmp_path / "finished", CONFIG)
    config = load(finished, "--rules", "kl=0.5", "--modes", "normal", "unfrozen")
    followed, control = configurations(config)[1:3]
    assert [configuration.key for configuration in configurations(config)] == [
        *("normal", "unfrozen/kl/0.5", "unfrozen/random/kl/0.5", "unfrozen/random/kl/1", "unfrozen/random/agree"),
        *(f"frozen_residual/random/{rule}" for rule in ("kl/0.5", "kl/1", "agree")),
    ]
    assert [control.columns[name] for name in ("control_of", "rule", "parameter")] == [followed.key, "random", None]
    assert config.controls[0].counts == {5: 2, 29: 2}
    assert SweepConfig.model_validate_json(config.model_dump_json()) == config
    other = config.model_copy(update={"controls": [ControlSpec(of=config.controls[0].of, counts={5: 3, 29: 1})]})
    ids = [{run.run_id for run in plan_runs(each) if run.configuration.key == control.key} for each in (config, other)]
    assert len(ids[0] | ids[1]) == 2 * len(config.prompts), "what a control follows is part of its identity"
    flags = "--rules", "kl=0.5", "--modes", "unfrozen", "--control-modes", "unfrozen", "frozen_residual"
    followed, own, elsewhere, *others = configurations(load(finished, *flags))
    keys = ["unfrozen/kl/0.5", "unfrozen/random/kl/0.5", "frozen_residual/random/unfrozen/kl/0.5"]
    assert [each.key for each in (followed, own, elsewhere)] == keys
    assert own.columns["control_of"] == elsewhere.columns["control_of"] == followed.key
    assert len({*keys, *(each.key for each in others)}) == 1 + 2 * 6
    assert configuration_of(elsewhere.columns).key == elsewhere.key, "with the exits of another mode"


def test_a_control_and_what_exits_at_one_layer_have_none_nor_has_an_unfinished_sweep(tmp_path: Path) -> None:
    finished = land_rows(tmp_path / "finished", CONFIG)
    land_rows(tmp_path / "again", load(finished, "--rules", "kl=0.5", "--modes", "unfrozen"))
    assert [each.of for each in load(tmp_path / "again", "--modes", "normal").controls] == ["unfrozen/kl/0.5"]
    land_rows(tmp_path / "one", CONFIG, lambda run: {"exit_layer_counts": [(5, 2), (29, 0)]})
    assert load(tmp_path / "one", "--modes", "normal").controls == ()
    land_rows(tmp_path / "half", CONFIG, leave_out=3)
    with pytest.raises(UsageError, match="has 11 of 14 runs: finish that sweep first"):
        load(tmp_path / "half")
    (finished / MANIFEST).write_bytes(b'{"format": 2, "config": {}, "model": {}, "exitable_layers": []}')
    with pytest.raises(UsageError, match=r"is no sweep's folder \(it has format 2, not 9\)"):
        load(finished)
