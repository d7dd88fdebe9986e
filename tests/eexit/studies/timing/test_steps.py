"""What T(rows, layers) allows, in closed form and by simulation, and the tables of it."""

from typing import Any

import numpy as np
import pytest

from eexit.studies.timing.steps import StepTimes, allowed_table, step_batches, step_table, step_times

TIMES = StepTimes((1, 3, 6), {1: (2.0, 4.0, 7.0), 8: (3.0, 6.0, 10.0)})


def test_one_row_saves_what_its_exits_save_of_its_own_step() -> None:
    expected = 0.25 * 2 + 0.25 * 4 + 0.5 * 7
    assert TIMES.independent(1, (0.25, 0.25, 0.5)) == pytest.approx(1 - expected / 7)


@pytest.mark.parametrize("batch", [1, 8])
def test_rows_that_all_exit_at_one_layer_take_its_step(batch: int) -> None:
    assert TIMES.independent(batch, (0, 1, 0)) == pytest.approx(1 - TIMES.seconds[batch][1] / TIMES.seconds[batch][2])
    assert TIMES.independent(batch, (0, 0, 1)) == 0


def test_rows_leave_one_by_one_as_a_simulation_says() -> None:
    shares, generator = (0.5, 0.3, 0.2), np.random.default_rng(0)
    steps = []
    for exits in generator.choice(3, (4000, 8), p=shares):
        taken = 0.0
        for rank in range(3):
            going = int((exits >= rank).sum())
            before = TIMES.of((1, 3, 6)[rank - 1])[going] if rank else 0.0
            taken += TIMES.of((1, 3, 6)[rank])[going] - before
        steps.append(taken)
    assert TIMES.independent(8, shares) == pytest.approx(1 - np.mean(steps) / 10, abs=0.01)
    assert TIMES.independent(8, shares) < TIMES.independent(1, shares), "a batch waits for its deepest row"


def test_rows_that_leave_together_are_saved_whole_steps() -> None:
    shares = (0.1, 0.0, 0.9)
    assert TIMES.together(8, shares) == pytest.approx(0.1 * (1 - 3 / 10))
    assert TIMES.together(1, shares) == pytest.approx(TIMES.independent(1, shares))
    assert TIMES.together(8, shares) > TIMES.independent(8, shares)


def test_steps_are_timed_with_one_row_and_with_one_row_less_than_what_is_asked_about() -> None:
    assert step_batches((8, 32)) == [1, 7, 8, 31, 32]
    assert step_batches((1,)) == [1]


def measured(
    key: str, batch: int, seconds: float, rule: str | None = None, parameter: float | None = None
) -> dict[str, Any]:
    return {"configuration": key, "batch": batch, "round": 1, "seconds": seconds, "tokens": 10 * batch, "rule": rule,
            "parameter": parameter, "cost_full": 10.0, "cost_needed": 7.0, "cost_run": 8.0}  # fmt: skip


def test_the_table_comes_from_exits_at_one_layer_and_normal() -> None:
    rows = [measured("normal", batch, 70.0 * batch) for batch in (1, 2)]
    rows += [measured(f"unfrozen/fixed/{layer}", batch, 10.0 * batch * layer, "fixed", float(layer))
             for batch in (1, 2) for layer in (1, 3)]  # fmt: skip
    times = step_times([*rows, measured("unfrozen/confidence/0.9", 1, 50.0, "confidence", 0.9)], 7)
    assert times == StepTimes([1, 3, 6], {1: [1.0, 3.0, 7.0], 2: [2.0, 6.0, 14.0]})
    assert step_table(times).row_count == 2
    assert step_times(rows[:2], 7) is None, "full depth alone says nothing of layers"
    assert step_times(rows[:-1], 7) is None, "nor does a table with a hole"
    assert step_times([row for row in rows if row["batch"] == 2], 7) is None, "one row never takes half of what two do"
    rows.append(measured("unfrozen/confidence/0.9", 1, 50.0, "confidence", 0.9))
    table = allowed_table(rows, times, {"unfrozen/confidence/0.9": {1: 0.5, 6: 0.5}, "normal": {}})
    [cells] = zip(*(column.cells for column in table.columns), strict=True)
    assert [*cells] == ["1", "unfrozen/confidence/0.9", "35.7%", "20.0%", "42.9%", "42.9%", "28.6%"]
