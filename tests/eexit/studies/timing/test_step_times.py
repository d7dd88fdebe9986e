"""What T(sequences, layers) allows, in closed form and beside any exits of rows, and the tables of it."""

from typing import Any

import numpy as np
import pytest

from eexit.studies.timing.step_times import StepTimes, allowed_table, step_table, step_times

TIMES = StepTimes((1, 3, 6), {1: (2.0, 4.0, 7.0), 8: (3.0, 6.0, 10.0)})


@pytest.mark.parametrize(
    ("batch", "shares", "seconds"),
    [
        (1, (0.25, 0.25, 0.5), 0.25 * 2 + 0.25 * 4 + 0.5 * 7),
        (8, (0.1, 0.0, 0.9), 0.1 * 3 + 0.9 * 10),
        (8, (0, 1, 0), 6.0),
        (8, (0, 0, 1), 10.0),
    ],
)
def test_rows_that_leave_together_save_whole_steps(batch: int, shares: tuple[float, ...], seconds: float) -> None:
    assert TIMES.allowed(batch, shares) == pytest.approx(1 - seconds / TIMES.seconds[batch][-1])


def test_no_exits_save_more_than_those_at_the_same_steps() -> None:
    """A step goes as deep as the deepest of its rows: once each exits for itself, and once all as the first one."""
    generator, seconds = np.random.default_rng(0), np.array(TIMES.seconds[8])
    for shares in generator.dirichlet((1, 1, 1), 20):
        exit_SB = generator.choice(3, (500, 8), p=shares)
        for exits in (exit_SB, exit_SB[:, :1].repeat(8, 1)):
            saved = 1 - seconds[exits.max(1)].mean() / seconds[-1]
            allowed = TIMES.allowed(8, (np.bincount(exits.ravel(), minlength=3) / exits.size).tolist())
            assert saved <= allowed + 1e-12
        assert saved == pytest.approx(allowed)


def measured(
    key: str, batch: int, seconds: float, rule: str | None = None, parameter: float | None = None
) -> dict[str, Any]:
    return {"configuration": key, "batch": batch, "round": 1, "seconds": seconds, "tokens": 10 * batch, "rule": rule,
            "parameter": parameter, "macs_full": 10.0, "macs_required": 7.0, "macs_executed": 8.0}  # fmt: skip


def test_the_table_comes_from_exits_at_one_layer_and_normal() -> None:
    rows = [measured("normal", batch, 70.0 * batch) for batch in (1, 2)]
    rows += [measured(f"unfrozen/fixed/{layer}", batch, 10.0 * batch * layer, "fixed", float(layer))
             for batch in (1, 2) for layer in (1, 3)]  # fmt: skip
    times = step_times([*rows, measured("unfrozen/confidence/0.9", 1, 50.0, "confidence", 0.9)], 7)
    assert times == StepTimes([1, 3, 6], {1: [1.0, 3.0, 7.0], 2: [2.0, 6.0, 14.0]})
    assert step_table(times).row_count == 2
    assert step_times(rows[:2], 7) is None, "full depth alone says nothing of layers"
    assert step_times(rows[:-1], 7) is None, "nor does a table with a hole"
    rows.append(measured("unfrozen/confidence/0.9", 1, 50.0, "confidence", 0.9))
    calls = [row | {"timing_id": call} for call in "ab" for row in rows]
    table = allowed_table(calls, times, {"unfrozen/confidence/0.9": {1: 0.5, 6: 0.5}, "normal": {}})
    [cells] = zip(*(column.cells for column in table.columns), strict=True)
    assert [*cells] == ["1", "unfrozen/confidence/0.9", "35.7%", "20.0%", "42.9%", "28.6%"]
