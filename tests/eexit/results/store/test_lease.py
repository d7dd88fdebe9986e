"""Only one driver at a time works on an `--out`, and the lease of a dead driver is released."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from driving import wait_until
from scripted import rows_of, sweep_of

import eexit.results.store.lease
from cluster.actor import SweepActor
from cluster.custom_exits import CustomExits
from eexit.errors import SweepStopped, UsageError
from eexit.plan.runs import plan_runs
from eexit.results.layout import MANIFEST
from eexit.results.store.commit import CommitError, survey
from eexit.results.store.folder import Store
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
CONFIG = sweep_of("m", "one", "two")
RUNS = list(plan_runs(CONFIG))


@contextmanager
def holding(
    store: Store, *place: str, stale: float = LONG, renewal: float = 0.2, is_held: bool = True
) -> Iterator[subprocess.Popen[str]]:
    """Run a process that requests the lease, and kill it in the end; with `is_held`, wait until it has the lease."""
    command = [*place, sys.executable, "-c", HOLDER, store.root, str(stale), str(renewal)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = iter(process.stdout.readline, "")  # type: ignore[union-attr]
    try:
        assert not is_held or "held\n" in said, process.communicate()
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def containers() -> None:
    if subprocess.run([*CONTAINER, "true"], capture_output=True).returncode:
        pytest.skip("this place has no process-id namespaces to give")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return the clock of leases, which sleep without delay and call `meanwhile` then."""
    clock = SimpleNamespace(slept=0.0, meanwhile=lambda: None)

    def sleep(seconds: float) -> None:
        clock.slept += seconds
        clock.meanwhile()

    own_time = SimpleNamespace(**{**vars(time), "monotonic": lambda: clock.slept, "sleep": sleep})
    monkeypatch.setattr(eexit.results.store.lease, "time", own_time)
    return clock


def assert_free(store: Store, say: Callable[[str], object] = print) -> None:
    with hold(store, say) as lease:
        lease.check()
        assert store.has(LEASE)


def assert_refused(store: Store, words: str) -> None:
    with pytest.raises(UsageError, match=rf"^[^\n]*{words}[^\n]*$"):
        Lease(store).take(print)


def test_the_second_driver_refuses_and_names_the_first_and_a_killed_one_is_succeeded_at_once(store: Store) -> None:
    with holding(store) as other:
        assert_refused(store, f"is in use by process {other.pid} on .* which is running")
        other.kill()  # without a wait for its exit code, so that the system keeps its number
        wait_until(lambda: Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
        assert store.has(LEASE)
        assert_free(store)


def test_a_lease_that_is_over_is_not_waited_for(store: Store, clock: SimpleNamespace) -> None:
    with hold(store):
        ours = json.loads(store.read(LEASE) or b"")
    assert not Path(store.root).exists()
    store.publish(LEASE, json.dumps({**ours, "process_started": str(int(ours["process_started"]) - 1)}).encode())
    assert_free(store)
    older_version = {"token": "ab", "host": "h", "boot": "b", "pid": 1, "started": 0.0, "renewed": 0.0}
    store.publish(LEASE, json.dumps(older_version).encode())
    assert_free(store, lambda said: store.remove(LEASE))
    assert clock.slept < STALE_SECONDS


@pytest.mark.usefixtures("containers")
def test_a_dead_container_whose_process_1_seems_alive_is_succeeded(store: Store, clock: SimpleNamespace) -> None:
    with holding(store, *CONTAINER):
        pass
    assert json.loads(store.read(LEASE) or b"")["pid"] == 1
    said: list[str] = []
    assert_free(store, said.append)
    assert clock.slept >= STALE_SECONDS
    assert re.search(rf"free in {STALE_SECONDS:g} s, .*remove {store.root}/{LEASE}", said[0])
    with holding(store, *CONTAINER):
        pass
    with holding(store, *CONTAINER, stale=SHORT):  # process 1 too
        pass


@pytest.mark.usefixtures("containers")
def test_a_living_driver_in_another_container_is_never_succeeded(store: Store) -> None:
    said = "is in use by process {} on .* which has just renewed its lease"
    with holding(store) as other, holding(store, *CONTAINER, is_held=False) as inside:  # which sees no such process
        assert re.search(said.format(other.pid), inside.communicate()[1])
    with holding(store, *CONTAINER, stale=SHORT):
        assert_refused(store, said.format(1))


def elsewhere(silent: float) -> bytes:
    """Return another machine's lease that was renewed so many seconds ago."""
    then = time.time() - silent
    return json.dumps(asdict(LeaseHolder("ab", "another-host", 1, then, then, "another boot"))).encode()


@pytest.mark.parametrize("silent", [-7200, 0, 7200])
def test_another_machines_lease_ends_by_silence(store: Store, clock: SimpleNamespace, silent: float) -> None:
    store.publish(LEASE, elsewhere(silent))

    def renew() -> None:
        if clock.slept >= STALE_SECONDS:
            store.publish(LEASE, elsewhere(silent - 1))

    clock.meanwhile = renew
    assert_refused(store, "has just renewed its lease")
    assert clock.slept == STALE_SECONDS
    clock.meanwhile = lambda: None
    assert_free(store)
    assert clock.slept >= 2 * STALE_SECONDS


def actor(store: Store, lease: Lease, token: str, meanwhile: Callable[[], None] = lambda: None) -> SweepActor:
    """Return a loaded actor whose generator calls `meanwhile`, and gives its rows at once."""

    def generate(runs: Any, progress: object) -> Any:
        meanwhile()
        return rows_of(runs, CONFIG)

    generator: Any = SimpleNamespace(generate=generate)
    store.publish(MANIFEST, b"{}")
    made = SweepActor(lambda *_: generator, CONFIG, store.root, "cpu", lease.token, token)
    made.load(CustomExits.among([]))
    return made


def test_fences_outlast_renewals_and_nobody_commits_without_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eexit.results.store.lease, "SECONDS_BETWEEN_RENEWALS", 0.05)
    with hold(store) as lease:
        for fenced in ("one", "two"):
            lease.fence(fenced)
        written = store.read(LEASE)
        wait_until(lambda: store.read(LEASE) != written)  # it is renewed
        assert [is_fenced(store, lease.token, actor) for actor in ("one", "two", "three")] == [True, True, False]
        assert is_fenced(store, "another driver", "three")
        store.publish(LEASE, elsewhere(0))
        with pytest.raises(SweepStopped, match="another driver has taken over"):
            wait_until(lambda: bool(lease.check()))  # type: ignore[func-returns-value]
        with pytest.raises(CommitError, match="has another driver now"):
            actor(store, lease, "me").do(RUNS)
    assert json.loads(store.read(LEASE) or b"")["host"] == "another-host"  # not ours to remove


def test_an_actor_that_was_given_up_lands_nothing_when_it_wakes_up(store: Store) -> None:
    with hold(store) as lease:

        def while_frozen() -> None:
            lease.fence("frozen")
            actor(store, lease, "next").do(RUNS[:4])

        with pytest.raises(CommitError, match="this actor was given up"):
            actor(store, lease, "frozen", while_frozen).do(RUNS[:9])
        assert survey(store).done == {run.run_id for run in RUNS[:4]}
        with pytest.raises(CommitError, match="this actor was given up"):
            actor(store, lease, "frozen").do(RUNS[9:])  # for good


def test_of_many_at_once_one_gets_it(store: Store) -> None:
    store.publish(LEASE, elsewhere(0))
    with ExitStack() as ending:
        processes = [ending.enter_context(holding(store, stale=3, renewal=10, is_held=False)) for _ in range(4)]
        wait_until(lambda: sum(process.poll() is not None for process in processes) == 3)
        time.sleep(1)
        assert sum(process.poll() is None for process in processes) == 1
