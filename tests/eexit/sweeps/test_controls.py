"""Controls follow the exits of a finished sweep's configurations."""

from pathlib import Path

import pytest
from landed_sweep import land_rows
from scripted import sweep_of

from cluster.console.flags_from_config import load_job
from eexit.errors import UsageError
from eexit.plan.configuration import configuration_of
from eexit.plan.runs import configurations, plan_runs
from eexit.plan.sweep_config import SweepConfig
from eexit.results.layout import MANIFEST

DEMO = Path(__file__).parents[3] / "jobs" / "sweeps" / "demo.toml"
CONFIG = sweep_of("a-model", "one", "two", rules=["kl=0.5,1", "agree"])


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A sweep whose runs all exit once at layer 5 and once at the final one."""
    return land_rows(tmp_path / "finished", CONFIG)


def load(*arguments: str | Path) -> SweepConfig:
    return load_job([str(argument) for argument in arguments], DEMO)[0].config


def test_each_configuration_that_exits_has_a_control_right_behind_it(finished: Path) -> None:
    config = load("--controls-of", finished, "--rules", "kl=0.5", "--modes", "normal", "unfrozen")
    assert [configuration.key for configuration in configurations(config)] == [
        *("normal", "unfrozen/kl/0.5", "unfrozen/random/kl/0.5", "unfrozen/random/kl/1", "unfrozen/random/agree"),
        *(f"frozen_residual/random/{rule}" for rule in ("kl/0.5", "kl/1", "agree")),
    ]
    control = configurations(config)[2]
    assert control.columns["control_of"] == "unfrozen/kl/0.5"
    assert (control.columns["rule"], control.columns["parameter"]) == ("random", None)
    assert config.controls[0].counts == {5: 2, 29: 2}
    assert SweepConfig.model_validate_json(config.model_dump_json()) == config


def test_controls_can_have_the_exits_of_another_mode(finished: Path) -> None:
    flags = "--controls-of", finished, "--rules", "kl=0.5", "--modes", "unfrozen"
    config = load(*flags, "--control-modes", "unfrozen", "frozen_residual")
    followed, own, elsewhere, *_ = configurations(config)
    assert (followed.key, own.key) == ("unfrozen/kl/0.5", "unfrozen/random/kl/0.5")
    assert elsewhere.key == "frozen_residual/random/unfrozen/kl/0.5"
    assert own.columns["control_of"] == elsewhere.columns["control_of"] == followed.key
    assert len({each.key for each in configurations(config)}) == 1 + 2 * 6
    assert configuration_of(elsewhere.columns).key == elsewhere.key
    assert SweepConfig.model_validate_json(config.model_dump_json()) == config


def test_a_control_has_none_of_its_own(finished: Path, tmp_path: Path) -> None:
    config = load("--controls-of", finished, "--rules", "kl=0.5", "--modes", "unfrozen")
    land_rows(tmp_path / "again", config)
    again = load("--controls-of", tmp_path / "again", "--modes", "normal")
    assert [control.of for control in again.controls] == ["unfrozen/kl/0.5"]


def test_what_always_exits_at_one_layer_has_no_control(tmp_path: Path) -> None:
    land_rows(tmp_path / "one", CONFIG, lambda run: {"exit_layer_counts": [(5, 2), (29, 0)]})
    assert load("--controls-of", tmp_path / "one", "--modes", "normal").controls == ()


def test_what_a_control_follows_is_part_of_its_identity(finished: Path) -> None:
    config = load("--controls-of", finished, "--modes", "normal")
    other = config.model_copy(update={"controls": [control_with(config, {5: 3, 29: 1})]})
    ids = [{run.run_id for run in plan_runs(each) if run.configuration.mode != "normal"} for each in (config, other)]
    assert len(ids[0]) == 6 * 3
    assert ids[1]
    assert not ids[0] & ids[1]


def control_with(config: SweepConfig, counts: dict[int, int]) -> object:
    return type(config.controls[0])(of=config.controls[0].of, counts=counts)


def test_only_a_finished_sweep_of_this_format_can_be_followed(finished: Path, tmp_path: Path) -> None:
    land_rows(tmp_path / "half", CONFIG, leave_out=3)
    (tmp_path / "empty").mkdir()
    manifest = finished / MANIFEST
    for results, message in (
        (tmp_path / "half", "has 11 of 14 runs: finish that sweep first"),
        (tmp_path / "empty", "holds no sweep.json: give the folder of a finished sweep"),
    ):
        with pytest.raises(UsageError, match=message):
            load("--controls-of", results)
    manifest.write_bytes(b'{"format": 2, "config": {}, "model": {}, "exitable_layers": []}')
    with pytest.raises(UsageError, match=r"is no sweep's folder \(it has format 2, not 9\)"):
        load("--controls-of", finished)
