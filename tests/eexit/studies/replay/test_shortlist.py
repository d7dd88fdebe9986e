"""Which settings are worth a run: by a pilot, its replays, and a bound."""

from pathlib import Path
from typing import Any

import pytest
from synthetic_sweeps import add, blank, swept

from eexit.errors import UsageError
from eexit.plan.configuration import NORMAL, Configuration, EarlyExit, NoExit
from eexit.results.finished_sweep import read_finished
from eexit.results.study_tables import REPLAYS
from eexit.studies.replay import shortlist
from eexit.studies.replay.shortlist import Neighbours, Pilot, PredictedSetting, cheapest_within, neighbours

MODE, N = "frozen_residual", 100
LOST = {EarlyExit("unfrozen", "confidence", 0.9): 2, EarlyExit(MODE, "confidence", 0.9): 4}  # of N prompts
ORACLES = {EarlyExit(MODE, "agree", None, (25,)): (1, 0.1), EarlyExit(MODE, "agree"): (20, 0.4)}  # lost, and saved


def setting(parameter: float, loss: float, saved: float, cost: float = 1.0) -> PredictedSetting:
    return PredictedSetting(EarlyExit(MODE, "confidence", parameter), loss, saved, cost)


def test_neighbours_are_on_both_sides_of_the_bound() -> None:
    for settings, safe, bold in (
        ([setting(0.9, 0.01, 0.1), setting(0.8, 0.03, 0.2), setting(0.7, 0.04, 0.21)], 0, 1),
        ([setting(0.9, 0.03, 0.1), setting(0.8, 0.05, 0.2)], None, 1),
        ([setting(0.9, 0.001, 0.05), setting(0.8, 0.01, 0.2)], 0, 1),
        ([setting(0.9, 0.01, 0.1)], None, 0),
        ([setting(0.9, 0.01, -0.1), setting(0.8, 0.02, -0.2)], None, 0),
        ([setting(0.9, 0.01, 0.2), setting(0.8, 0.05, 0.1)], None, 0),
    ):
        assert neighbours(settings, 0.02) == (None if safe is None else settings[safe].key, settings[bold].key)


def test_of_settings_those_that_cost_least_within_each_aim_are_run_from_safe_to_bold() -> None:
    front = [setting(1 - at / 100, 0.002 * 2 ** (at / 4), 0.1, 0.95 - at / 100) for at in range(40)]
    beaten = [setting(0.1, each.loss, 0.1, each.cost + 0.005) for each in front]
    aims = [aim * 0.02 for aim in shortlist.AIMS]
    found = cheapest_within([*beaten, *front, setting(0.2, 0.0, 0.0, 1.3)], aims)
    assert set(found) <= set(front)
    assert [each.loss for each in found] == pytest.approx(aims, rel=0.2)
    assert cheapest_within([setting(0.5, 0.2, 0.5), setting(0.4, 0.3, 0.4)], aims) == [setting(0.5, 0.2, 0.5)]


def pilot(folder: Path, settings: dict[Any, Any], replays: dict[float, tuple[float, float]]) -> str:
    """A pilot of N prompts; its replays have by threshold their disagreement, and what exits save."""

    def columns(configuration: Configuration, prompt: int, seed: int) -> dict[str, Any]:
        lost, saved = settings.get(configuration, (0, 0.0))
        return {"macs_full": 100.0, "macs_to_exit": 100 * (1 - saved), "correct": prompt >= lost}

    swept(folder, [NoExit(), *settings], N, columns=columns)
    sweep = read_finished(str(folder), ["run_id"])
    results = sweep.digest_as_read(sweep.manifest.config)
    rows: list[dict[str, Any]] = [
        blank(REPLAYS) | EarlyExit("unfrozen", "confidence", parameter).columns | {
            "expected_disagreement": disagreement, "exit_distribution": [(20, 0.5), (29, 0.5)], "macs_full": 100.0,
            "macs_to_exit": 100 * (1 - saved), "macs_required": 100.0, "macs_executed": 101.0, "results": results,
        }
        for parameter, (disagreement, saved) in replays.items()
    ]  # fmt: skip
    if rows:
        add(folder, REPLAYS, rows)
    return str(folder)


REPLAYED = {0.99: (0.001, 0.05), 0.95: (0.005, 0.1), 0.9: (0.01, 0.2), 0.8: (0.02, 0.3), 0.5: (0.2, 0.5)}
WHOLE = {**{each: (lost, 0.2) for each, lost in LOST.items()}, **ORACLES}


def test_a_pilot_predicts_what_settings_lose_in_each_mode(tmp_path: Path) -> None:
    results = pilot(tmp_path / "p", WHOLE, REPLAYED)
    found = Pilot.read(results, "answers", 0.02)
    for mode, lost in ((MODE, 0.04), ("unfrozen", 0.02)):
        [loss] = [each.loss for each in found.candidates(mode) if each.setting.parameter == 0.95]
        assert loss == pytest.approx(0.005 * (lost + 0.5 / N) / 0.01), "as 0.9 lost, and half a prompt more"
    cells = found.cells
    assert cells.A == (None, "unfrozen/agree")
    assert Neighbours(f"{MODE}/agree@25", f"{MODE}/agree") == cells.B
    assert Neighbours(f"{MODE}/confidence/0.99", f"{MODE}/confidence/0.95") == cells.D
    online = shortlist.settings_worth_running(results, "answers", 0.02, [NORMAL, "unfrozen", MODE])
    assert {cells.C.bold, cells.C.safe, cells.D.bold, cells.D.safe} - {None} <= {each.key for each in online}
    oracles = shortlist.settings_worth_running(results, "answers", 0.02, ["unfrozen", MODE], of_oracle=True)
    assert [each.key for each in oracles] == ["unfrozen/agree", *cells.B]


def test_what_settings_are_found_by_has_to_be_there(tmp_path: Path) -> None:
    lacking: list[tuple[dict[Any, Any], dict[float, tuple[float, float]], str]] = [
        (WHOLE, {}, "has no replays of online rules with an exact KV cache"),
        ({each: (lost, 0.2) for each, lost in LOST.items()}, REPLAYED, "has no runs of frozen_residual/agree"),
        ({EarlyExit("unfrozen", "confidence", 0.9): (0, 0.2)}, REPLAYED, "has no settings in a mode that alters"),
    ]
    for settings, replays, message in lacking:
        results = pilot(tmp_path / f"{len(settings)}", settings, replays)
        with pytest.raises(UsageError, match=message):
            shortlist.settings_worth_running(results, "answers", 0.02, ["unfrozen", MODE])
