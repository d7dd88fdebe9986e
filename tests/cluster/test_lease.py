"""One driver at a time on one `--out`; what a dead one held is free."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
from driving import wait_until
from scripted import rows_of, sweep_of

import cluster.lease
from cluster import manifest
from cluster.actor import SweepActor
from cluster.breaker import SweepStopped
from cluster.landing import LandingError, landed
from cluster.lease import NAME, STALE_SECONDS, Holder, hold, is_fenced
from cluster.store import Store, open_store
from eexit.config import SweepConfig, UsageError
from eexit.generator import Results
from eexit.plan import Run, plan_runs

HOLDER = """
import sys, time
from cluster.lease import hold
from cluster.store import open_store
with hold(open_store(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "out")


@pytest.fixture
def other(store: Store) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, store.root], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lease_is_gone_afterwards(store: Store) -> None:
    with hold(store) as lease:
        lease.check()
        assert store.has(NAME)
    assert [path.name for path in Path(store.root).iterdir()] == []


def test_the_second_driver_refuses_and_names_the_first(store: Store, other: subprocess.Popen[str]) -> None:
    try:
        with pytest.raises(UsageError, match=rf"is in use by process {other.pid} on .*, since ") as raised, hold(store):
            pass
        assert "\n" not in str(raised.value)
    finally:
        other.kill()
        other.wait()


def test_a_killed_driver_is_succeeded_at_once(store: Store, other: subprocess.Popen[str]) -> None:
    other.kill()
    other.wait()
    assert store.has(NAME)
    with hold(store) as lease:
        lease.check()


class Instant:
    def __init__(self, config: SweepConfig, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.config = config
        self.meanwhile = meanwhile

    def generate(self, runs: Sequence[Run], progress: Callable[[int], None]) -> Results:
        self.meanwhile()
        return rows_of(runs, self.config)


def elsewhere(silent: float) -> bytes:
    then = time.time() - silent
    return json.dumps(asdict(Holder("ab", "another-host", "boot", 1, then, then))).encode()


def test_one_on_another_machine_is_succeeded_when_it_is_silent(store: Store) -> None:
    store.publish(NAME, elsewhere(STALE_SECONDS - 10))
    with pytest.raises(UsageError, match="process 1 on another-host"), hold(store):
        pass
    store.publish(NAME, elsewhere(STALE_SECONDS + 1))
    with hold(store) as lease:
        lease.check()


def test_who_lost_its_lease_stops_and_its_actors_land_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.lease, "SECONDS_BETWEEN_RENEWALS", 0.05)

    def is_lost() -> bool:
        try:
            lease.check()
        except SweepStopped as error:
            return "another driver has taken over" in str(error)
        return False

    with hold(store) as lease:
        first = store.read(NAME)
        wait_until(lambda: store.read(NAME) != first)  # it is renewed
        store.publish(NAME, elsewhere(0))
        wait_until(is_lost)
        config = sweep_of("m", "one")
        store.publish(manifest.NAME, b"{}")
        actor = SweepActor(lambda config, device: Instant(config), config, store.root, "cpu", lease.token, "me")
        actor.load()
        with pytest.raises(LandingError, match="has another driver now"):
            actor.do(list(plan_runs(config)))
    assert json.loads(store.read(NAME) or b"")["host"] == "another-host"  # not ours to remove


def test_an_actor_that_was_given_up_lands_nothing_when_it_wakes_up(store: Store) -> None:
    config = sweep_of("m", "one", "two")
    runs = list(plan_runs(config))
    store.publish(manifest.NAME, b"{}")
    with hold(store) as lease:

        def actor(token: str, meanwhile: Callable[[], None]) -> SweepActor:
            made = SweepActor(lambda *_: Instant(config, meanwhile), config, store.root, "cpu", lease.token, token)
            made.load()
            return made

        def while_frozen() -> None:
            lease.fence("frozen")
            actor("next", lambda: None).do(runs[:4])

        with pytest.raises(LandingError, match="this actor was given up"):
            actor("frozen", while_frozen).do(runs[:9])
        assert landed(store) == {run.run_id for run in runs[:4]}
        with pytest.raises(LandingError, match="this actor was given up"):
            actor("frozen", lambda: None).do(runs[9:])  # for good


def test_the_fence_outlasts_renewals(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.lease, "SECONDS_BETWEEN_RENEWALS", 0.02)
    with hold(store) as lease:
        lease.fence("one")
        lease.fence("two")
        written = store.read(NAME)
        wait_until(lambda: store.read(NAME) != written)
        assert is_fenced(store, lease.token, "one")
        assert is_fenced(store, lease.token, "two")
        assert not is_fenced(store, lease.token, "three")
        assert is_fenced(store, "another driver", "three")


def test_of_many_at_once_one_gets_it(store: Store) -> None:
    Path(store.root).mkdir()
    store.publish(NAME, elsewhere(STALE_SECONDS + 1))
    command = [sys.executable, "-c", HOLDER, store.root]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) for _ in range(4)
    ]
    try:
        wait_until(lambda: sum(process.poll() is not None for process in processes) == 3)
        time.sleep(1)
        assert sum(process.poll() is None for process in processes) == 1
    finally:
        for process in processes:
            process.kill()
            process.wait()
