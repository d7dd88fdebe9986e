"""When failures stop a sweep. `tests/cluster/test_driver.py` has the sweeps that they stop."""

import pytest
from scripted import sweep_of

from eexit.errors import SweepStopped
from eexit.plan.runs import plan_runs
from eexit.sweeps.retry import CircuitBreaker


def test_failures_count_in_a_row_by_their_kind_and_those_of_runs_by_prompt_and_without_hope() -> None:
    runs = list(plan_runs(sweep_of("m", *map(str, range(30)), modes=["normal"])))
    breaker = CircuitBreaker()
    for kind in [*["commit"] * 4, "load", "", *["commit"] * 4]:
        breaker.environment_failed(kind, "full") if kind else breaker.environment_worked()
    with pytest.raises(SweepStopped, match="5 failures in a row, the last: full"):
        breaker.environment_failed("commit", "full")
    breaker.record_success(runs[0])
    for run in [*[runs[1]] * 20, *runs[2:11]]:
        assert not breaker.doubtful
        breaker.run_failed(run, "bad", hope=False)
    assert breaker.doubtful
    breaker.reset()  # the rehearsal went well
    assert not breaker.doubtful
    fresh = CircuitBreaker()
    for run in runs[:10]:
        fresh.run_failed(run, "bad", hope=run is runs[9])  # a shard is at work that may do better
    with pytest.raises(SweepStopped, match="10 prompts failed and none worked, the last: bad"):
        fresh.run_failed(runs[9], "bad", hope=False)
