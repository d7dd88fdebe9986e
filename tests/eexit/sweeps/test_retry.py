"""When failures stop a sweep."""

import pytest
from scripted import sweep_of

from eexit.errors import SweepStopped
from eexit.plan.runs import plan_runs
from eexit.sweeps.retry import CircuitBreaker


def test_the_breaker_opens_on_failures_of_the_place_in_a_row() -> None:
    breaker = CircuitBreaker()
    for _ in range(4):
        breaker.environment_failed("commit", "full")
    breaker.environment_failed("load", "died")  # another kind: counted anew
    breaker.environment_worked()
    for _ in range(4):
        breaker.environment_failed("commit", "full")
    with pytest.raises(SweepStopped, match="5 failures in a row, the last: full"):
        breaker.environment_failed("commit", "full")


def test_the_breaker_doubts_the_place_only_after_many_prompts() -> None:
    runs = list(plan_runs(sweep_of("m", *map(str, range(30)), modes=["normal"])))
    breaker = CircuitBreaker()
    breaker.record_success(runs[0])
    for _ in range(20):
        breaker.run_failed(runs[1], "bad prompt", hope=False)
    assert not breaker.doubtful
    for run in runs[2:11]:
        breaker.run_failed(run, "bad", hope=False)
    assert breaker.doubtful
    breaker.reset()  # the rehearsal went well
    assert not breaker.doubtful
    fresh = CircuitBreaker()
    for run in runs[:9]:
        fresh.run_failed(run, "bad", hope=False)
    fresh.run_failed(runs[9], "bad", hope=True)  # a shard is at work that may do better
    with pytest.raises(SweepStopped, match="10 prompts failed and none worked, the last: bad"):
        fresh.run_failed(runs[9], "bad", hope=False)
