"""Nodes that join and leave the cluster during a sweep."""

import io
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from driving import actor_pids, assert_undisturbed, drive, wait_until
from ray.cluster_utils import Cluster
from scripted import look, sweep_of

from cluster import session
from eexit.errors import SweepStopped
from eexit.model.loading import choose_device, choose_dtype
from eexit.model.quantization import dtype_name
from eexit.plan.model_inspection import MemoryEstimate
from eexit.results.store.commit import RunCounts
from eexit.results.store.folder import open_store
from eexit.results.store.manifest import read_manifest

pytestmark = pytest.mark.slow
SMALL: dict[str, Any] = {"object_store_memory": 80_000_000}


@pytest.fixture
def nodes(ray_environment: dict[str, str]) -> Iterator[Cluster]:
    """A head without CPUs, so that all the work is on nodes that can go."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ray_environment.items():
            patch.setenv(name, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        head = {"num_cpus": 0, "include_dashboard": False, **SMALL}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


def used(folder: Path) -> set[str]:
    return {path.name.split("-")[2] for path in folder.glob("loaded-*")}


def test_each_pool_is_on_the_nodes_of_its_kind(nodes: Cluster, tmp_path: Path) -> None:
    nodes.add_node(num_cpus=2, **SMALL)
    for kind, n_gpus in {"A100": 2, "T4": 1}.items():
        nodes.add_node(num_cpus=2, num_gpus=n_gpus, resources={f"accelerator_type:{kind}": 1}, **SMALL)
    config = sweep_of(tmp_path, *["sleep 0.1"] * 40)
    kinds: dict[str, Any] = {"accelerator_type": ("A100", "T4"), "gpus_per_actor": 0.5}
    log = io.StringIO()
    drive(config, tmp_path / "out", actors=None, cpus=0.5, log=log, **kinds)
    assert "4 actors of 0.5 CPUs and 0.5 A100, 2 actors of 0.5 CPUs and 0.5 T4" in log.getvalue()
    assert_undisturbed(config, tmp_path / "out")
    kind_of = {node["NodeID"]: name[17:] for node in ray.nodes() for name in node["Resources"] if "accelerator" in name}
    loaded = [path.name.split("-") for path in tmp_path.glob("loaded-*")]
    assert {device for *_, device in loaded} == {"cuda"}
    actors = Counter(kind_of[node] for _, _, node, _ in loaded)  # KeyError for the node without GPUs
    assert 0 < actors["A100"] <= 4
    assert 0 < actors["T4"] <= 2
    drive(config, tmp_path / "two", actors=None, cpus=0.5, accelerator_type=("A100",), gpus_per_actor=2)
    assert {path.name.split("-")[-1] for path in tmp_path.glob("loaded-*")} == {"cuda", "balanced"}


def test_a_nodes_memory_bounds_its_actors_and_auto_is_what_it_is_there(nodes: Cluster, tmp_path: Path) -> None:
    nodes.add_node(num_cpus=2, memory=200_000_000, **SMALL)
    config = sweep_of(tmp_path, *["sleep 0.1"] * 10, dtype="auto")
    model, layers, _ = look(config, 9)
    facts = {**model, "dtype": "that of the driver"}, layers, MemoryEstimate(weights=150_000_000, cache=0)
    drive(config, tmp_path / "out", look=lambda *_: facts)
    assert len(actor_pids(tmp_path)) == 1
    held: Any = read_manifest(open_store(tmp_path / "out"))
    there = dtype_name(choose_dtype("auto", choose_device("cpu")))
    assert (held.dtype_asked, held.model["dtype"], held.config["dtype"]) == ("auto", there, there)
    assert_undisturbed(config.model_copy(update={"dtype": there}), tmp_path / "out")


def test_work_moves_from_nodes_that_go_to_nodes_that_come(nodes: Cluster, tmp_path: Path) -> None:
    config = sweep_of(tmp_path, *["sleep 0.05"] * 60)
    out = tmp_path / "out"
    tallies: list[RunCounts] = []
    first = nodes.add_node(num_cpus=1, **SMALL)
    driver = threading.Thread(target=lambda: tallies.append(drive(config, out, actors=2)))
    driver.start()

    def n_committed() -> int:
        return len([*out.glob("generations/*.parquet")])

    wait_until(lambda: n_committed() >= 3)
    second = nodes.add_node(num_cpus=1, **SMALL)
    wait_until(lambda: len(used(tmp_path)) == 2)  # an actor that had found no room joins late
    nodes.remove_node(first, allow_graceful=False)
    before = n_committed()
    wait_until(lambda: n_committed() >= before + 3)
    nodes.add_node(num_cpus=1, **SMALL)
    wait_until(lambda: len(used(tmp_path)) == 3)
    nodes.remove_node(second, allow_graceful=True)
    driver.join()
    assert [tally.errors for tally in tallies] == [0]
    assert_undisturbed(config, out)


def test_without_room_for_an_actor_it_stops(nodes: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(session.SECONDS_WITHOUT_ACTOR, "cluster", 6)
    log = io.StringIO()
    with pytest.raises(SweepStopped, match="no actor has come up for 0 minutes, and no node can hold one"):
        drive(sweep_of(tmp_path, "one"), tmp_path / "out", log=log)
    assert "no node can hold an actor: waiting for one to join" in log.getvalue()
    assert " · starting · " in log.getvalue()
