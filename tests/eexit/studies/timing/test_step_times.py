"""What T(sequences, layers) allows, in closed form, and the tables of it."""

from typing import Any

from eexit.studies.timing.step_times import StepTimes, allowed_table, step_table, step_times


def measured(key: str, batch: int, seconds: float, **named: Any) -> dict[str, Any]:
    return {"configuration": key, "batch": batch, "round": 1, "seconds": seconds, "tokens": 10 * batch, "rule": None,
            "macs_full": 10.0, "macs_required": 7.0, "macs_executed": 8.0, **named}  # fmt: skip


def test_the_table_comes_from_exits_at_one_layer_and_normal() -> None:
    rows = [measured("normal", batch, 70.0 * batch) for batch in (1, 2)]
    rows += [measured(f"unfrozen/fixed/{layer}", batch, 10.0 * batch * layer, rule="fixed", parameter=layer)
             for batch in (1, 2) for layer in (1, 3)]  # fmt: skip
    times = step_times([*rows, measured("unfrozen/confidence/0.9", 1, 50.0, rule="confidence")], 7)
    assert times == StepTimes([1, 3, 6], {1: [1.0, 3.0, 7.0], 2: [2.0, 6.0, 14.0]})
    assert step_table(times).row_count == 2
    assert step_times(rows[:2], 7) is None, "full depth alone says nothing of layers"
    assert step_times(rows[:-1], 7) is None, "nor does a table with a hole"
    rows.append(measured("unfrozen/confidence/0.9", 1, 50.0, rule="confidence"))
    calls = [row | {"timing_id": call} for call in "ab" for row in rows]
    table = allowed_table(calls, times, {"unfrozen/confidence/0.9": {1: 0.5, 6: 0.5}, "normal": {}})
    [cells] = zip(*(column.cells for column in table.columns), strict=True)
    assert [*cells] == ["1", "unfrozen/confidence/0.9", "35.7%", "20.0%", "42.9%", "28.6%"]
