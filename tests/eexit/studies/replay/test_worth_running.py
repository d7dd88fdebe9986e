"""Which settings of a sweep's replays are worth a run."""

from pathlib import Path

import pytest
from synthetic_assessment import Assessed

from eexit.errors import UsageError
from eexit.results.store.folder import open_store
from eexit.results.study_tables import REPLAYS
from eexit.studies.replay.worth_running import AIMS, ReplayedSetting, cheapest_within_aims, settings_worth_running


def setting(parameter: float, disagreement: float, cost: float) -> ReplayedSetting:
    return ReplayedSetting("confidence", parameter, "all", disagreement, cost)


def test_of_settings_those_that_cost_least_within_each_aim_are_run_from_safe_to_bold() -> None:
    front = [setting(1 - at / 100, 0.0001 * 2 ** (at / 4), 0.95 - at / 100) for at in range(40)]
    beaten = [setting(0.1, each.disagreement, each.cost + 0.005) for each in front]
    dear = [setting(0.2, 0.0, 1.3)]
    found = cheapest_within_aims([*beaten, *front, *dear])
    assert len(found) == len(AIMS)
    assert set(found) <= set(front)
    assert [each.disagreement for each in found] == pytest.approx(AIMS, rel=0.2)
    assert cheapest_within_aims([setting(0.5, 0.2, 0.5), setting(0.4, 0.3, 0.4)]) == [setting(0.5, 0.2, 0.5)]


def test_a_sweep_without_replays_in_which_tokens_exit_has_none(tmp_path: Path) -> None:
    steps = Assessed(n=10).write(tmp_path)
    assert steps.pilot
    assert steps.run
    rows = REPLAYS.rows(open_store(steps.pilot))
    assert rows[0]["exit_distribution"] == []
    for results in (steps.pilot, steps.run):
        with pytest.raises(UsageError, match="has no replays of online rules in exact state in which any token exits"):
            settings_worth_running(results)
