"""How the plan is cut into shards, and when shards that fail stop a sweep."""

from scripted import sweep_of

from eexit.plan.runs import plan_runs
from eexit.sweeps.shards import Shard, cut, rows_for, single_run_shards


def test_shards_keep_the_configurations_of_a_prompt_together() -> None:
    runs = list(plan_runs(sweep_of("m", *"abcde", seeds=(0, 1))))
    shards = list(cut(runs, set(), rows=20))
    assert [len(shard.runs) for shard in shards] == [18] * 5
    assert [run for shard in shards for run in shard.runs] == runs
    assert [len(shard.runs) for shard in cut(runs, set(), rows=1)] == [9] * 10


def test_a_restart_cuts_the_same_shards_and_gathers_what_is_left_of_others() -> None:
    runs = list(plan_runs(sweep_of("m", *"abcdef")))
    whole = list(cut(runs, set(), rows=18))
    done = {run.run_id for run in [*runs[:17], *runs[19:36]]}
    assert list(cut(runs, done, rows=18)) == [whole[2], Shard((runs[17], runs[18]))]


def test_every_actor_gets_a_shard() -> None:
    assert rows_for(27, actors=1, at_most=128) == 27
    assert rows_for(27, actors=3, at_most=128) == 9
    assert rows_for(10_000, actors=3, at_most=128) == 128


def test_single_runs_alternate_between_prompts() -> None:
    runs = tuple(plan_runs(sweep_of("m", *"abc", modes=["normal", "unfrozen"], kl_factors=[1])))
    singles = single_run_shards(Shard(runs, failures=2))
    assert [shard.runs[0].prompt.prompt for shard in singles] == ["a", "b", "c"] * 2
    assert {shard.runs[0] for shard in singles} == set(runs)
    assert {shard.failures for shard in singles} == {1}
