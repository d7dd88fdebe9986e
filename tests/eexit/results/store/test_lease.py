"""Only one driver at a time works on an `--out`, and the lease of a dead driver is released."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from driving import wait_until
from scripted import rows_of, sweep_of

import eexit.results.store.lease
from cluster.actor import SweepActor
from cluster.custom_exits import CustomExits
from eexit.errors import SweepStopped, UsageError
from eexit.plan.runs import Run, plan_runs
from eexit.plan.sweep_config import SweepConfig
from eexit.results.layout import MANIFEST
from eexit.results.shard_tables import ShardTables
from eexit.results.store.commit import CommitError, survey
from eexit.results.store.folder import Store, open_store
from eexit.results.store.lease import LEASE, STALE_SECONDS, Lease, LeaseHolder, hold, is_fenced

HOLDER = """
import sys, time
from eexit.results.store import lease
from eexit.results.store.folder import open_store
lease.STALE_SECONDS, lease.SECONDS_BETWEEN_RENEWALS = float(sys.argv[2]), float(sys.argv[3])
lease.SECONDS_BETWEEN_POLLS = 0.1
with lease.hold(open_store(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""
# A separate process-id namespace, as in a container: its process is number 1, and others are invisible.
CONTAINER = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]
SHORT, LONG = 0.5, 600  # seconds; a dead holder is succeeded after the short ones


def holder(store: Store, *place: str, stale: float = LONG, renewal: float = 0.2) -> subprocess.Popen[str]:
    """Start a process that requests the lease."""
    command = [*place, sys.executable, "-c", HOLDER, store.root, str(stale), str(renewal)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def held_by(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    """Return that process, once it has the lease."""
    assert process.stdout
    said = [process.stdout.readline()]
    while said[-1] not in ("held\n", ""):
        said.append(process.stdout.readline())
    assert said[-1], process.communicate()
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "out")


@pytest.fixture
def other(store: Store) -> Iterator[subprocess.Popen[str]]:
    process = held_by(holder(store))
    yield process
    end(process)


@pytest.fixture
def containers() -> None:
    if subprocess.run([*CONTAINER, "true"], capture_output=True).returncode:
        pytest.skip("this place has no process-id namespaces to give")


class Clock:
    """Replacement of the module `time` in leases, without delay when it sleeps."""

    def __init__(self) -> None:
        self.slept = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def monotonic(self) -> float:
        return self.slept

    def sleep(self, seconds: float) -> None:
        self.slept += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(eexit.results.store.lease, "time", clock)
    return clock


def test_a_lease_is_gone_afterwards(store: Store) -> None:
    with hold(store) as lease:
        lease.check()
        assert store.has(LEASE)
    assert not Path(store.root).exists()


def test_the_second_driver_refuses_and_names_the_first(store: Store, other: subprocess.Popen[str]) -> None:
    with pytest.raises(UsageError, match=rf"is in use by process {other.pid} on .*, since .* running") as raised:
        Lease(store).take(print)
    assert "\n" not in str(raised.value)


def test_a_killed_driver_is_succeeded_at_once(store: Store, other: subprocess.Popen[str]) -> None:
    other.kill()  # without a wait for its exit code, so that the system keeps its number
    wait_until(lambda: Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
    assert store.has(LEASE)
    with hold(store) as lease:
        lease.check()


def test_a_process_with_the_number_of_a_dead_driver_is_not_taken_for_it(store: Store) -> None:
    with hold(store):
        ours = json.loads(store.read(LEASE) or b"")
    store.publish(LEASE, json.dumps({**ours, "process_started": str(int(ours["process_started"]) - 1)}).encode())
    with hold(store) as lease:
        lease.check()


@pytest.mark.usefixtures("containers")
def test_a_dead_container_whose_process_1_seems_alive_is_succeeded_when_it_is_silent(
    store: Store, clock: Clock
) -> None:
    end(held_by(holder(store, *CONTAINER)))
    assert json.loads(store.read(LEASE) or b"")["pid"] == 1
    said: list[str] = []
    with hold(store, said.append) as lease:
        lease.check()
        assert clock.slept >= STALE_SECONDS
    assert f"the place is free in {STALE_SECONDS:g} s" in said[0]
    assert f"To free it at once if it is dead, remove {store.root}/{LEASE}" in said[0]
    end(held_by(holder(store, *CONTAINER)))
    successor = held_by(holder(store, *CONTAINER, stale=SHORT))  # process 1 too
    end(successor)


@pytest.mark.usefixtures("containers")
def test_a_living_driver_in_another_container_is_never_succeeded(store: Store, other: subprocess.Popen[str]) -> None:
    inside = holder(store, *CONTAINER)  # where no process has the holder's id
    _, refusal = inside.communicate()
    assert f"is in use by process {other.pid} on " in refusal
    assert "which has just renewed its lease: wait for it, stop it, or choose another --out" in refusal
    end(other)
    inside = held_by(holder(store, *CONTAINER, stale=SHORT))
    try:
        with pytest.raises(UsageError, match=r"is in use by process 1 on .*, which has just renewed its lease"):
            Lease(store).take(print)
    finally:
        end(inside)


@pytest.mark.usefixtures("clock")
def test_a_lease_that_someone_removes_is_not_waited_for(store: Store) -> None:
    store.publish(LEASE, elsewhere(0))
    with hold(store, lambda said: store.remove(LEASE)) as lease:
        lease.check()


class Instant:
    def __init__(self, config: SweepConfig, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.config = config
        self.meanwhile = meanwhile

    def generate(self, runs: Sequence[Run], progress: Callable[[int], None]) -> ShardTables:
        self.meanwhile()
        return rows_of(runs, self.config)


def elsewhere(silent: float) -> bytes:
    then = time.time() - silent
    return json.dumps(asdict(LeaseHolder("ab", "another-host", 1, then, then, "another boot"))).encode()


@pytest.mark.parametrize("silent", [-7200, 0, 7200])
def test_one_on_another_machine_is_succeeded_when_it_is_silent_whatever_its_clock_says(
    store: Store, clock: Clock, silent: float
) -> None:
    store.publish(LEASE, elsewhere(silent))
    with hold(store) as lease:
        assert clock.slept >= STALE_SECONDS
        lease.check()


@pytest.mark.parametrize("silent", [-7200, 0, 7200])
def test_one_on_another_machine_that_renews_its_lease_at_last_is_refused_whatever_its_clock_says(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch, silent: float
) -> None:
    def sleep(seconds: float) -> None:
        clock.slept += seconds
        if clock.slept >= STALE_SECONDS:
            store.publish(LEASE, elsewhere(silent - 1))

    monkeypatch.setattr(clock, "sleep", sleep)
    store.publish(LEASE, elsewhere(silent))
    with pytest.raises(UsageError, match=r"process 1 on another-host, .* has just renewed its lease"):
        Lease(store).take(print)
    assert clock.slept == STALE_SECONDS


def test_who_lost_its_lease_stops_and_its_actors_land_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eexit.results.store.lease, "SECONDS_BETWEEN_RENEWALS", 0.05)

    def is_lost() -> bool:
        try:
            lease.check()
        except SweepStopped as error:
            return "another driver has taken over" in str(error)
        return False

    with hold(store) as lease:
        first = store.read(LEASE)
        wait_until(lambda: store.read(LEASE) != first)  # it is renewed
        store.publish(LEASE, elsewhere(0))
        wait_until(is_lost)
        config = sweep_of("m", "one")
        store.publish(MANIFEST, b"{}")
        actor = SweepActor(lambda config, device: Instant(config), config, store.root, "cpu", lease.token, "me")
        actor.load(CustomExits.among([]))
        with pytest.raises(CommitError, match="has another driver now"):
            actor.do(list(plan_runs(config)))
    assert json.loads(store.read(LEASE) or b"")["host"] == "another-host"  # not ours to remove


def test_an_actor_that_was_given_up_lands_nothing_when_it_wakes_up(store: Store) -> None:
    config = sweep_of("m", "one", "two")
    runs = list(plan_runs(config))
    store.publish(MANIFEST, b"{}")
    with hold(store) as lease:

        def actor(token: str, meanwhile: Callable[[], None]) -> SweepActor:
            made = SweepActor(lambda *_: Instant(config, meanwhile), config, store.root, "cpu", lease.token, token)
            made.load(CustomExits.among([]))
            return made

        def while_frozen() -> None:
            lease.fence("frozen")
            actor("next", lambda: None).do(runs[:4])

        with pytest.raises(CommitError, match="this actor was given up"):
            actor("frozen", while_frozen).do(runs[:9])
        assert survey(store).done == {run.run_id for run in runs[:4]}
        with pytest.raises(CommitError, match="this actor was given up"):
            actor("frozen", lambda: None).do(runs[9:])  # for good


def test_the_fence_outlasts_renewals(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eexit.results.store.lease, "SECONDS_BETWEEN_RENEWALS", 0.02)
    with hold(store) as lease:
        lease.fence("one")
        lease.fence("two")
        written = store.read(LEASE)
        wait_until(lambda: store.read(LEASE) != written)
        assert is_fenced(store, lease.token, "one")
        assert is_fenced(store, lease.token, "two")
        assert not is_fenced(store, lease.token, "three")
        assert is_fenced(store, "another driver", "three")


def test_of_many_at_once_one_gets_it(store: Store) -> None:
    store.publish(LEASE, elsewhere(0))
    processes = [holder(store, stale=3, renewal=10) for _ in range(4)]
    try:
        wait_until(lambda: sum(process.poll() is not None for process in processes) == 3)
        time.sleep(1)
        assert sum(process.poll() is None for process in processes) == 1
    finally:
        for process in processes:
            end(process)


@pytest.mark.usefixtures("clock")
def test_a_lease_of_an_older_version_can_be_read(store: Store) -> None:
    old = {"token": "ab", "host": "h", "boot": "b", "pid": 1, "started": 0.0, "renewed": 0.0}
    store.publish(LEASE, json.dumps(old).encode())
    with hold(store) as lease:
        lease.check()
