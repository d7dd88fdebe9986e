"""How the plan is cut into shards, and when shards that fail stop a sweep."""

from scripted import sweep_of

from eexit.plan.runs import plan_runs
from eexit.sweeps.shards import Shard, cut, rows_for, single_run_shards


def test_shards_keep_a_prompt_together_are_the_same_after_a_restart_and_single_runs_alternate_between_prompts() -> None:
    runs = list(plan_runs(sweep_of("m", *"abcde", seeds=(0, 1))))
    shards = list(cut(runs, set(), rows=20))
    assert [len(shard.runs) for shard in shards] == [18] * 5
    assert [run for shard in shards for run in shard.runs] == runs
    assert [len(shard.runs) for shard in cut(runs, set(), rows=1)] == [9] * 10
    assert [rows_for(n, actors, at_most=128) for n, actors in ((27, 1), (27, 3), (10_000, 3))] == [27, 9, 128]
    done = {run.run_id for run in [*runs[:17], *runs[19:36]]}
    assert list(cut(runs, done, rows=18)) == [*shards[2:], Shard((runs[17], runs[18]))], "what is left is gathered"
    some = tuple(plan_runs(sweep_of("m", *"abc", modes=["normal", "unfrozen"], kl_factors=[1])))
    singles = single_run_shards(Shard(some, failures=2))
    assert [shard.runs[0].prompt.prompt for shard in singles] == ["a", "b", "c"] * 2
    assert {shard.runs[0] for shard in singles} == {*some}
    assert {shard.failures for shard in singles} == {1}
