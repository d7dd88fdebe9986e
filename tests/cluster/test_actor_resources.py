"""How many actors a cluster's resources allow."""

from dataclasses import replace

import pytest

from cluster.actor_resources import PoolSpec, plan_pools, shortages
from cluster.sweep_job import SweepJob, job_of
from eexit.errors import UsageError
from eexit.plan.model_inspection import CPU_CACHE_BYTES, MemoryEstimate
from eexit.plan.sweep_config import Prompt

T4, A100 = {"CPU": 16, "GPU": 4, "accelerator_type:T4": 1}, {"CPU": 32, "GPU": 8, "accelerator_type:A100": 1}


def job(**fields: object) -> SweepJob:
    return job_of({"prompts": [Prompt(id="0", prompt="x")], **fields})


@pytest.mark.parametrize(
    ("fields", "nodes", "pool"),
    [
        ({}, [{"CPU": 2}], PoolSpec(1, 2, 0)),
        ({}, [{"CPU": 20}], PoolSpec(2, 10, 0)),
        ({}, [{"CPU": 4}, {"CPU": 4}], PoolSpec(2, 4, 0)),  # an actor of 8 would find no node
        ({}, [{"CPU": 0}, {"CPU": 16}], PoolSpec(2, 8, 0)),
        ({"actors": 4}, [{"CPU": 8}], PoolSpec(4, 2, 0)),
        ({"actors": 9}, [{"CPU": 4}], PoolSpec(9, 1, 0)),
        ({"cpus_per_actor": 2}, [{"CPU": 5}, {"CPU": 2}], PoolSpec(3, 2, 0)),
        ({}, [{"CPU": 8}, {"CPU": 64, "GPU": 8}], PoolSpec(8, 1, 1)),
        ({"gpus_per_actor": 0.5}, [{"CPU": 8, "GPU": 2}], PoolSpec(4, 1, 0.5)),
        ({"gpus_per_actor": 2}, [{"CPU": 8, "GPU": 3}, {"CPU": 8, "GPU": 5}, {"CPU": 8}], PoolSpec(3, 1, 2)),
        ({"device": "cpu"}, [{"CPU": 8, "GPU": 2}], PoolSpec(1, 8, 0)),
        ({"seeds": range(11)}, [{"CPU": 2}], PoolSpec(1, 2, 0)),  # 99 runs
        ({"seeds": range(23)}, [{"CPU": 2}], PoolSpec(2, 1, 0)),  # 207
        ({"seeds": range(23)}, [{"CPU": 8}], PoolSpec(2, 4, 0)),
        ({"seeds": range(999)}, [{"CPU": 8}, {"CPU": 3}], PoolSpec(11, 1, 0)),
        ({"gpus_per_actor": 1, "actors": 3}, [{"CPU": 8}], PoolSpec(3, 1, 1)),  # the autoscaler may bring them
        ({"accelerator_type": ("H100",), "actors": 4}, [T4], PoolSpec(4, 1, 1, "H100")),
        ({"accelerator_type": ("A100",), "gpus_per_actor": 0.5}, [T4, A100], PoolSpec(16, 1, 0.5, "A100")),
        ({}, [T4, A100], PoolSpec(12, 1, 1)),
        ({"cpus_per_actor": 0.5}, [{"CPU": 2}], PoolSpec(4, 0.5, 0)),
    ],
)
def test_actors_fit_the_nodes(fields: dict[str, object], nodes: list[dict[str, float]], pool: PoolSpec) -> None:
    assert plan_pools(job(**fields), nodes) == [pool]


@pytest.mark.parametrize("fields", [{"device": "cuda"}, {"gpus_per_actor": 1}, {"cpus_per_actor": 9}])
def test_what_no_node_can_hold_is_refused_unless_a_node_may_come(fields: dict[str, object]) -> None:
    nodes = [{"CPU": 8.0}]
    with pytest.raises(UsageError, match=r"no node can hold an actor of .* \(there is a node of 8 CPUs\): lower"):
        plan_pools(job(**fields), nodes)
    with pytest.raises(UsageError, match="no node can hold"):
        plan_pools(job(**fields, actors=2), nodes, nodes_may_come=False)
    (pool,) = pools = plan_pools(job(**fields, actors=2), nodes)
    assert pool.actors == 2
    waiting = f"no node can hold an actor of {pool.each} as yet: waiting for one to join"
    assert [*shortages(pools, nodes, None)] == [waiting]


def test_memory_is_asked_for_but_never_more_than_a_node_has() -> None:
    large, small = nodes = [{"CPU": 8, "memory": 16e9}, {"CPU": 8, "memory": 2e9}]
    with pytest.raises(UsageError, match=r"1,000,000 new tokens may need 17\.0 GB .* \(16\.0 GB\): lower --max-new"):
        plan_pools(job(max_new_tokens=1_000_000), nodes, MemoryEstimate(1, 17_000_000_000 * 9, 17_000_000_000))
    assert plan_pools(job(), nodes, MemoryEstimate(1, 15_000_000_000 * 9, 15_000_000_000))
    memory, many = MemoryEstimate(weights=3_000_000_000, cache=1_000_000_000), job(seeds=range(999))
    much = replace(memory, cache=9_000_000_000)  # a CPU holds 4 GiB of it at a time
    assert str(much) == "7.3 GB: 3.0 GB weights, 4.3 GB keys and values at a time, and on a GPU up to 9.0 GB"
    assert plan_pools(job(), [large], much) == [PoolSpec(1, 8, 0, memory=3_000_000_000 + CPU_CACHE_BYTES)]
    (both,) = plan_pools(job(), nodes, memory)
    assert (both, str(both)) == (PoolSpec(2, 8, 0, memory=4_000_000_000), "2 actors of 8 CPUs with 4.0 GB of memory")
    pools = plan_pools(job(), [small], memory)  # an estimate must not keep it from trying
    assert pools == plan_pools(many, [small], memory) == [PoolSpec(1, 8, 0, memory=2_000_000_000)]
    assert "may need 4.0 GB of memory" in next(shortages(pools, [small], memory))
    assert plan_pools(job(), [{**small, "GPU": 1}, large], memory) == [PoolSpec(1, 1, 1, memory=2_000_000_000)]
    assert plan_pools(job(gpus_per_actor=1, actors=3), [small], memory) == [PoolSpec(3, 1, 1)]  # unknown as yet
    assert plan_pools(many, [large], memory) == [PoolSpec(4, 2, 0, memory=4_000_000_000)]


def test_each_accelerator_type_gets_a_pool_and_what_is_there_is_named() -> None:
    pools = plan_pools(job(accelerator_type=("A100", "T4"), gpus_per_actor=0.5), [T4, A100])
    assert [str(each) for each in pools] == ["16 actors of 1 CPUs and 0.5 A100", "8 actors of 1 CPUs and 0.5 T4"]
    with pytest.raises(UsageError, match=r"2 GPUs \(there is a node of 8 CPUs and 1 GPUs\): lower"):
        plan_pools(job(gpus_per_actor=2), [{"CPU": 8, "GPU": 1}] * 2)
    with pytest.raises(
        UsageError, match=r"1 H100 \(there is a node of 16 CPUs and 4 T4, a node of 32 CPUs and 8 A100\)"
    ):
        plan_pools(job(accelerator_type=("H100",)), [T4, A100])
