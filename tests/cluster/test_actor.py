"""Actors as processes: metrics on the node's Prometheus endpoint, and what becomes of runs whose actor dies."""

import io
import os
import re
import signal
import threading
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
import ray
from driving import actor_pids, alone, assert_complete, drive, wait_until
from scripted import TOKENS_PER_RUN, sweep_of

from eexit.results.store.commit import RunCounts


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


@pytest.mark.usefixtures("local_ray")
def test_invariant_6_every_run_is_there_once_though_actors_die(tmp_path: Path) -> None:
    config = sweep_of(tmp_path, *["sleep 0.03"] * 36, "die", "sleep 0.03", modes=["normal"])
    done: Counter[str] = Counter()

    def marks() -> list[str]:
        return [path.name.split("-")[1] for path in tmp_path.glob("did-*")]

    def kill() -> None:
        wait_until(lambda: len(marks()) > 3)
        os.kill(actor_pids(tmp_path)[0], signal.SIGKILL)
        done.update(marks())

    killer = threading.Thread(target=kill)
    killer.start()
    tally = drive(config, tmp_path / "out", actors=1)
    killer.join()
    assert tally == RunCounts(runs=38, errors=1, tokens=37 * TOKENS_PER_RUN)
    errors = alone(assert_complete(config, tmp_path / "out"), "die")
    assert "the process that did it died: The actor is dead because its worker process has died." in errors.error.item()
    again = Counter(marks())
    assert any(again[run_id] > n for run_id, n in done.items()), "what was done when it was killed is done again"
