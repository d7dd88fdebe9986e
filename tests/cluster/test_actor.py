"""Metrics of a sweep on the node's Prometheus endpoint."""

import io
import re
import urllib.request
from pathlib import Path

import pytest
import ray
from driving import drive, wait_until
from scripted import TOKENS_PER_RUN, sweep_of


def total(name: str) -> float:
    """Return the sum of a metric over the node's actors; other tests may have counted in this process."""
    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as answer:
        lines = [line for line in answer.read().decode().splitlines() if re.match(rf"{name}(\{{| )", line)]
    this_process = ray.get_runtime_context().get_worker_id()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if this_process not in line)


@pytest.mark.usefixtures("no_ray_yet", "local_ray")  # a new one, which has counted nothing
def test_metrics_appear_on_the_nodes_endpoint_and_runs_are_counted_as_they_end(tmp_path: Path) -> None:
    config = sweep_of(tmp_path, *[*["one"] * 9, "wait"] * 4, *["raise"] * 2, modes=["normal"])
    seen: list[str] = []

    class Log(io.StringIO):
        """Looks at the sweep at work, which goes on once all that is in flight was seen, or after so many lines."""

        def write(self, text: str) -> int:
            seen.extend(re.findall(r"([0-9]+)/42 runs", text))
            is_seen = (total("ray_eexit_runs_in_flight"), seen[-1:]) == (20, ["18"])
            if is_seen or len(seen) > 200:  # ten in each of two actors, nine of them done
                (tmp_path / "go").touch()
            return len(text)

    drive(config, tmp_path / "out", rows=10, log=Log())
    assert "18" in seen, "runs are counted before the first shard has landed"
    assert [*map(int, seen)] == sorted(map(int, seen))
    assert seen[-1] == "42"
    wait_until(lambda: total("ray_eexit_runs_total") >= 40)
    assert total("ray_eexit_runs_total") == 40
    assert total("ray_eexit_tokens_total") >= 40 * TOKENS_PER_RUN
    assert total("ray_eexit_shard_seconds_count") >= 4
    assert total("ray_eexit_shard_seconds_bucket") > 0
