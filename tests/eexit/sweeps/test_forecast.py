"""Times of a sweep's steps come from timings of the same model. `test_local.py` has what is said before a sweep."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from synthetic_sweeps import blank

from eexit.results.store.folder import open_store
from eexit.results.study_tables import TIMINGS
from eexit.sweeps.forecast import step_at_full_depth


def time_it(folder: Path, number: int, **fields: Any) -> None:
    """Two rounds of `normal`, with one row and with eight, that began on this day of a month."""
    common = {**blank(TIMINGS), "started": datetime(2026, 1, number, tzinfo=UTC), "machine": "a machine"}
    common |= {"model": "a/model", "dtype": "float32", "configuration": "normal", "tokens": 16, **fields}
    took = {1: (0.8, 0.8), 8: (0.1, 0.3)}
    rows = [{**common, "batch": batch, "seconds": number * each} for batch, both in took.items() for each in both]
    TIMINGS.publish(open_store(folder), str(number) * 32, rows)


@pytest.mark.parametrize(
    ("fields", "step"),
    [
        ({}, "1 sequence 100.0 ms, 8 sequences 200.0 ms, at full depth ({}: a machine, float32)"),
        ({"quantization": "int8"},
         "1 sequence 150.0 ms, 8 sequences 300.0 ms, at full depth ({}: a machine, float32 with int8 weights)"),
        ({"dtype": "bfloat16"}, ""),
        ({"name": "another/model"}, ""),
    ],
)  # fmt: skip
def test_a_step_takes_what_it_took_when_this_model_was_timed_last(tmp_path: Path, fields: Any, step: str) -> None:
    time_it(tmp_path / "first", 1)
    time_it(tmp_path / "timed", 2)
    time_it(tmp_path / "timed", 3, dtype="float32 with int8 weights")
    time_it(tmp_path / "timed", 4, configuration="generate")
    model = {"name": "a/model", "dtype": "float32", **fields}
    assert step_at_full_depth(str(tmp_path / "new"), model) == step.format(tmp_path / "timed")
    assert step_at_full_depth("s3://bucket/new", model) == ""
