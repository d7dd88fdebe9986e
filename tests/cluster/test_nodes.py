"""Nodes come and go in the middle of a sweep."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from driving import assert_undisturbed, drive, wait_until
from ray.cluster_utils import Cluster
from scripted import sweep_of

from cluster.landing import Tally

pytestmark = pytest.mark.slow


@pytest.fixture
def nodes(ray_environment: dict[str, str]) -> Iterator[Cluster]:
    """A head without CPUs, so that all the work is on nodes that can go."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ray_environment.items():
            patch.setenv(name, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": 80_000_000},
        )
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


def used(folder: Path) -> set[str]:
    return {path.name.split("-")[2] for path in folder.glob("loaded-*")}


def test_work_moves_from_nodes_that_go_to_nodes_that_come(nodes: Cluster, tmp_path: Path) -> None:
    config = sweep_of(tmp_path, *["sleep 0.05"] * 60)
    out = tmp_path / "out"
    tallies: list[Tally] = []
    first = nodes.add_node(num_cpus=1, object_store_memory=80_000_000)
    driver = threading.Thread(target=lambda: tallies.append(drive(config, out, actors=2)))
    driver.start()

    def n_landed() -> int:
        return len(list((out / "generations").glob("*.parquet")))

    wait_until(lambda: n_landed() >= 3)
    second = nodes.add_node(num_cpus=1, object_store_memory=80_000_000)
    wait_until(lambda: len(used(tmp_path)) == 2)  # an actor that had found no room joins late
    nodes.remove_node(first, allow_graceful=False)
    before = n_landed()
    wait_until(lambda: n_landed() >= before + 3)
    nodes.add_node(num_cpus=1, object_store_memory=80_000_000)
    wait_until(lambda: len(used(tmp_path)) == 3)
    nodes.remove_node(second, allow_graceful=True)
    driver.join()
    assert tallies
    assert tallies[0].errors == 0
    assert_undisturbed(config, out)
