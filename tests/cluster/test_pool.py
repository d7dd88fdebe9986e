"""How many actors a cluster's resources allow, how the plan is split into shards, and how progress is written."""

import io
import re
from dataclasses import replace

import pytest
from scripted import sweep_of

from cluster.job import SweepJob, job_of
from cluster.pool import Pool, plan_pools, shortages
from eexit.errors import SweepStopped, UsageError
from eexit.output.display import Lines, open_display
from eexit.output.progress import Progress
from eexit.plan.config import Prompt
from eexit.plan.model_facts import CPU_CACHE_BYTES, Memory
from eexit.plan.runs import plan_runs
from eexit.results.store.writing_shards import Tally
from eexit.sweeps.failed_shards import Breaker
from eexit.sweeps.shard_runner import InFlight, sweep_progress
from eexit.sweeps.shards import Shard, cut, rows_for, split


def job(**fields: object) -> SweepJob:
    return job_of({"prompts": [Prompt(id="0", prompt="x")], **fields})


@pytest.mark.parametrize(
    ("fields", "nodes", "pool"),
    [
        ({}, [{"CPU": 2}], Pool(1, 2, 0)),
        ({}, [{"CPU": 20}], Pool(2, 10, 0)),
        ({}, [{"CPU": 4}, {"CPU": 4}], Pool(2, 4, 0)),  # an actor of 8 would find no node
        ({}, [{"CPU": 0}, {"CPU": 16}], Pool(2, 8, 0)),
        ({"actors": 4}, [{"CPU": 8}], Pool(4, 2, 0)),
        ({"actors": 9}, [{"CPU": 4}], Pool(9, 1, 0)),
        ({"cpus_per_actor": 2}, [{"CPU": 5}, {"CPU": 2}], Pool(3, 2, 0)),
        ({}, [{"CPU": 8}, {"CPU": 64, "GPU": 8}], Pool(8, 1, 1)),
        ({"gpus_per_actor": 0.5}, [{"CPU": 8, "GPU": 2}], Pool(4, 1, 0.5)),
        ({"gpus_per_actor": 2}, [{"CPU": 8, "GPU": 3}, {"CPU": 8, "GPU": 5}, {"CPU": 8}], Pool(3, 1, 2)),
        ({"device": "cpu"}, [{"CPU": 8, "GPU": 2}], Pool(1, 8, 0)),
        ({"seeds": range(11)}, [{"CPU": 2}], Pool(1, 2, 0)),  # 99 runs
        ({"seeds": range(23)}, [{"CPU": 2}], Pool(2, 1, 0)),  # 207
        ({"seeds": range(23)}, [{"CPU": 8}], Pool(2, 4, 0)),
        ({"seeds": range(999)}, [{"CPU": 8}, {"CPU": 3}], Pool(11, 1, 0)),
        ({"gpus_per_actor": 1, "actors": 3}, [{"CPU": 8}], Pool(3, 1, 1)),  # the autoscaler may bring them
    ],
)
def test_actors_fit_the_nodes(fields: dict[str, object], nodes: list[dict[str, float]], pool: Pool) -> None:
    assert plan_pools(job(**fields), nodes) == [pool]


@pytest.mark.parametrize("fields", [{"device": "cuda"}, {"gpus_per_actor": 1}, {"cpus_per_actor": 9}])
def test_what_no_node_can_hold_is_refused_unless_a_node_may_come(fields: dict[str, object]) -> None:
    with pytest.raises(
        UsageError, match=r"no node can hold an actor of .* \(there is a node of 8 CPUs\): ask for what"
    ):
        plan_pools(job(**fields), [{"CPU": 8}])
    with pytest.raises(UsageError, match="no node can hold"):
        plan_pools(job(**fields, actors=2), [{"CPU": 8}], nodes_may_come=False)
    (pool,) = pools = plan_pools(job(**fields, actors=2), [{"CPU": 8}])
    assert pool.actors == 2
    assert [*shortages(pools, [{"CPU": 8}], None)] == [
        f"no node can hold an actor of {pool.each} as yet: waiting for one to join"
    ]


def test_gpus_of_several_nodes_hold_no_actor_together() -> None:
    one = "a node of 8 CPUs and 1 GPUs"
    with pytest.raises(UsageError, match=rf"no node can hold an actor of 1 CPUs and 2 GPUs \(there is {one}\): ask"):
        plan_pools(job(gpus_per_actor=2), [{"CPU": 8, "GPU": 1}] * 2)


def test_runs_that_no_node_has_the_memory_for_are_refused() -> None:
    nodes = [{"CPU": 8, "memory": 16e9}, {"CPU": 8, "memory": 2e9}]
    with pytest.raises(
        UsageError, match=r"up to 1,000,000 new tokens may need 17\.0 GB .* \(16\.0 GB\): lower --max-new"
    ):
        plan_pools(job(max_new_tokens=1_000_000), nodes, Memory(1, 17_000_000_000 * 9, 17_000_000_000))
    assert plan_pools(job(), nodes, Memory(1, 15_000_000_000 * 9, 15_000_000_000))


def test_memory_is_asked_for_but_never_more_than_a_node_has() -> None:
    memory = Memory(weights=3_000_000_000, cache=1_000_000_000)
    large, small = {"CPU": 8, "memory": 16e9}, {"CPU": 8, "memory": 2e9}
    assert plan_pools(job(), [large, small], memory) == [Pool(2, 8, 0, memory=4_000_000_000)]
    assert str(Pool(2, 8, 0, memory=4_000_000_000)) == "2 actors of 8 CPUs with 4.0 GB of memory"
    pools = plan_pools(job(), [small], memory)  # an estimate must not keep it from trying
    assert pools == [Pool(1, 8, 0, memory=2_000_000_000)]
    assert "may need 4.0 GB of memory" in next(shortages(pools, [small], memory))
    assert plan_pools(job(), [{**small, "GPU": 1}, large], memory) == [Pool(1, 1, 1, memory=2_000_000_000)]
    assert plan_pools(job(gpus_per_actor=1, actors=3), [small], memory) == [Pool(3, 1, 1)]  # unknown as yet
    many = job(seeds=range(999))
    much = replace(memory, cache=9_000_000_000)  # a CPU holds 4 GiB of it at a time
    assert plan_pools(job(), [large], much) == [Pool(1, 8, 0, memory=3_000_000_000 + CPU_CACHE_BYTES)]
    assert str(much) == "7.3 GB: 3.0 GB weights, 4.3 GB keys and values at a time, and on a GPU up to 9.0 GB"
    assert plan_pools(many, [large], memory) == [Pool(4, 2, 0, memory=4_000_000_000)]
    assert plan_pools(many, [small], memory) == [Pool(1, 8, 0, memory=2_000_000_000)]


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
    singles = split(Shard(runs, failures=2))
    assert [shard.runs[0].prompt.prompt for shard in singles] == ["a", "b", "c"] * 2
    assert {shard.runs[0] for shard in singles} == set(runs)
    assert {shard.failures for shard in singles} == {1}


def test_the_breaker_opens_on_failures_of_the_place_in_a_row() -> None:
    breaker = Breaker()
    for _ in range(4):
        breaker.environment_failed("landing", "full")
    breaker.environment_failed("loading", "died")  # another kind: counted anew
    breaker.environment_worked()
    for _ in range(4):
        breaker.environment_failed("landing", "full")
    with pytest.raises(SweepStopped, match="5 failures in a row, the last: full"):
        breaker.environment_failed("landing", "full")


def test_the_breaker_doubts_the_place_only_after_many_prompts() -> None:
    runs = list(plan_runs(sweep_of("m", *map(str, range(30)), modes=["normal"])))
    breaker = Breaker()
    breaker.landed(runs[0])
    for _ in range(20):
        breaker.run_failed(runs[1], "bad prompt", hope=False)
    assert not breaker.doubtful
    for run in runs[2:11]:
        breaker.run_failed(run, "bad", hope=False)
    assert breaker.doubtful
    breaker.reset()  # the rehearsal went well
    assert not breaker.doubtful
    fresh = Breaker()
    for run in runs[:9]:
        fresh.run_failed(run, "bad", hope=False)
    fresh.run_failed(runs[9], "bad", hope=True)  # a shard is at work that may do better
    with pytest.raises(SweepStopped, match="10 prompts failed and none worked, the last: bad"):
        fresh.run_failed(runs[9], "bad", hope=False)


def test_a_log_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr("sys.stderr", log)
    display = open_display()
    assert isinstance(display, Lines)
    progress = sweep_progress(30, 0, Tally(10, 1, 1000), InFlight(500), 100, (1, 2))
    assert progress.share == 0.5
    with display:
        display.show(progress)
        display.show(progress)  # too soon for another line
        display.show(progress, last=True)
    lines = log.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("1,500 tokens · 10/30 runs · ")
    assert lines[0].endswith(" left · 1 error · 1/2 actors")


def test_lines_become_fewer_as_time_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    log = io.StringIO()
    monkeypatch.setattr("sys.stderr", log)
    display = open_display()
    for second in range(3600):
        now = float(second)
        display.show(sweep_progress(27, 0, Tally(), InFlight(second), 100, (1, 1)))
    lines = log.getvalue().splitlines()
    assert [line.split(" tokens")[0] for line in lines[:3]] == ["0", "5", "10"]
    assert len(lines) < 120, "720 at one every five seconds"
    assert all(" · 1 tokens/s · " in line for line in lines[1:])


def test_a_step_has_the_rate_of_its_own_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one before had made 1,000 when this one began to count from none, at 5 tokens per second."""
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    log = io.StringIO()
    monkeypatch.setattr("sys.stderr", log)
    display = open_display()
    for second, tokens in enumerate([0, 500, 1000, *range(0, 60, 5)]):
        now = float(second)
        display.show(Progress("learning", tokens, 0.5, with_rate=True), last=second > 3)
    assert [line.split(" · ")[2] for line in log.getvalue().splitlines()[1:]] == ["5 tokens/s"] * 11


def test_while_finished_texts_are_observed_it_says_so_in_place_of_a_rate_and_of_the_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = io.StringIO()
    monkeypatch.setattr("sys.stderr", log)
    for observed in (0, 128, 256):
        progress = sweep_progress(30, 0, Tally(), InFlight(500, observed=observed), 100, (1, 1))
        open_display().show(progress)
    generating, *observing = log.getvalue().splitlines()
    assert re.fullmatch(r"500 tokens · 0/30 runs · [\d,]+ tokens/s · 0:00 left · 0 errors · 1/1 actors", generating)
    assert observing == [
        f"500 tokens · 0/30 runs · observing finished texts: {n} tokens · 0 errors · 1/1 actors" for n in (128, 256)
    ]


def test_quiet_shows_nothing_and_progress_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    progress = sweep_progress(27, 0, Tally(), InFlight(5), 100, (1, 1))
    with open_display(quiet=True) as display:
        display.show(progress, last=True)
        display.say("something")
    assert capsys.readouterr() == ("", "")
    with open_display() as display:
        display.show(progress, last=True)
        display.say("something")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[1:] == ["something"]


T4, A100 = {"CPU": 16, "GPU": 4, "accelerator_type:T4": 1}, {"CPU": 32, "GPU": 8, "accelerator_type:A100": 1}


def test_each_accelerator_type_gets_a_pool() -> None:
    wanted = job(accelerator_type=("A100", "T4"), gpus_per_actor=0.5)
    assert plan_pools(wanted, [T4, A100]) == [Pool(16, 1, 0.5, "A100"), Pool(8, 1, 0.5, "T4")]
    assert plan_pools(job(), [T4, A100]) == [Pool(12, 1, 1)]


def test_an_accelerator_that_is_not_there_needs_a_number_of_actors() -> None:
    there = r"\(there is a node of 16 CPUs and 4 T4, a node of 32 CPUs and 8 A100\)"
    with pytest.raises(UsageError, match=rf"no node can hold an actor of 1 CPUs and 1 H100 {there}"):
        plan_pools(job(accelerator_type=("H100",)), [T4, A100])
    assert plan_pools(job(accelerator_type=("H100",), actors=4), [T4]) == [Pool(4, 1, 1, "H100")]


def test_cpus_come_in_fractions() -> None:
    assert plan_pools(job(cpus_per_actor=0.5), [{"CPU": 2}]) == [Pool(4, 0.5, 0)]
    assert str(Pool(4, 0.5, 0)) == "4 actors of 0.5 CPUs"
    assert str(Pool(1, 2, 0.25, "T4")) == "1 actor of 2 CPUs and 0.25 T4"
