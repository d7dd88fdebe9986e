"""The Ray session of a sweep: a cluster's, or one started on this machine; and its liveness."""

import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from cluster import signals
from cluster.actor_resources import PoolSpec
from eexit.errors import SweepStopped, UsageError

ADDRESS = "RAY_ADDRESS"
SECONDS_TO_JOIN = 10.0
SECONDS_BETWEEN_LISTENING = 0.002
NO_PRESTART = ("RAY_enable_worker_prestart", "0")  # else Ray starts a process per CPU, and an actor needs one
OBJECT_STORE_BYTES = 100_000_000  # enough for runs and counts
# Ray kills a driver silently when the cluster's head has been gone for 60 s. Until then the head may come back;
# the head of a Ray on this machine alone never does.
SECONDS_WITHOUT_HEAD = {"own": 5.0, "cluster": 30.0}
# Nodes may join a cluster. On a single machine, an actor starts in seconds, or in minutes if the machine is busy.
SECONDS_WITHOUT_ACTOR = {"own": 600.0, "cluster": 3600.0}
SECONDS_TO_ANSWER = 2.0


@dataclass(frozen=True)
class RaySession:
    """Ray nodes that a sweep can use; `nodes` has the resources of each, by Ray's resource names.

    `is_own`: Ray was started for this sweep, on this machine alone, and no node ever joins. `is_here`: this machine is
    Ray's only node at present.
    """

    nodes: list[Mapping[str, float]]
    is_own: bool
    is_here: bool


@contextmanager
def ray_session(say: Callable[[str], None] = lambda line: None) -> Iterator[RaySession]:
    """Yield a session of the Ray joined before; else join the cluster of a Ray job or of RAY_ADDRESS, else start one.

    At the end, leave a cluster that was joined here, and shut down a Ray that was started here. `say` gets a line
    before joining or starting, which takes seconds. Raise `UsageError` if that fails.
    """
    if ray.is_initialized():
        yield _session(is_own=False)
        return
    say("joining the Ray cluster" if _joins_cluster() else "starting Ray")
    try:
        _start()
    except SystemExit as error:  # while Ray starts, it handles SIGTERM
        raise KeyboardInterrupt from error
    except Exception as error:  # Ray raises a plain Exception for a slow raylet
        reason = " ".join(str(error).split()).removesuffix(".")
        if not _joins_cluster():
            way_out = ": try again when the machine is less busy" if "timed out" in reason else ""
            raise UsageError(f"Ray can't be started on this machine ({reason}){way_out}") from error
        address = os.environ[ADDRESS]
        raise UsageError(
            f"the cluster at {ADDRESS}={address} can't be joined ({reason}): see that it runs, and that "
            f"RAY_AUTH_MODE and the token are its own, or `unset {ADDRESS}` to use this machine alone"
        ) from error
    finally:
        signals.listen_again()
    try:
        yield _session(is_own=not _joins_cluster())
    finally:
        _end()


def _joins_cluster() -> bool:
    """Return True if a sweep would run on an existing cluster, which more nodes may join."""
    return bool(os.environ.get(ADDRESS))


def _session(is_own: bool) -> RaySession:
    alive = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    is_here = [*alive] == [ray.get_runtime_context().get_node_id()]
    return RaySession([*alive.values()], is_own, is_here)


def _start() -> None:
    if _joins_cluster():
        _knock(os.environ[ADDRESS], SECONDS_TO_JOIN)
        ray.init(log_to_driver=not sys.stderr.isatty(), logging_level=logging.WARNING)
    else:
        # Otherwise Ray writes a token to the home folder, and requires it at every later `ray start`.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ.setdefault(*NO_PRESTART)
        ray.init(
            address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
        )  # fmt: skip


def _end() -> None:
    """Shut down Ray, which resets SIGTERM to the default handler, and reinstall our handlers meanwhile.

    Ray resets SIGTERM once, outside Python; until our next iteration, SIGTERM kills the process. Other signals keep
    their handlers.
    """
    ending = threading.Thread(target=ray.shutdown)
    ending.start()
    while ending.is_alive():
        ending.join(SECONDS_BETWEEN_LISTENING)
        signals.listen_again()


def _knock(address: str, seconds: float) -> None:
    """Raise `OSError` if nothing accepts connections at `address`; Ray itself takes minutes to notice."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), seconds).close()


class RayHealth:
    """Watchdog of Ray, created after joining it and checked about once a second.

    Without it, calls to actors of a broken Ray would wait forever.
    """

    def __init__(self, is_own: bool, pools: Sequence[PoolSpec], say: Callable[[str], None]) -> None:
        """Watch the Ray of this process; `say` gets a line on a problem.

        `is_own` is True if this process started Ray, on this machine alone.
        """
        context = ray.get_runtime_context()
        self._head, self._node = context.gcs_address, context.get_node_id()
        own_node = next(node for node in ray.nodes() if node["NodeID"] == self._node)
        self._raylet = f"{own_node['NodeManagerAddress']}:{own_node['NodeManagerPort']}"
        self._kind = "own" if is_own else "cluster"
        self._pools, self._say, self._told = pools, say, False
        self._answered = self._at_work = time.monotonic()

    def check(self, at_work: bool) -> None:
        """Raise `SweepStopped` if the sweep can't go on. `at_work` is True if any actor is up."""
        now = time.monotonic()
        if at_work:
            self._at_work, self._told = now, False
        if answers(self._head):
            self._answered = now
            if not at_work:
                self._check_nodes(now - self._at_work)
        elif now - self._answered > SECONDS_WITHOUT_HEAD[self._kind]:
            raise SweepStopped(
                f"the head of Ray at {self._head} has not answered for {now - self._answered:.0f} s: was its machine "
                "taken away, or its memory short?"
            )

    def check_raylet(self) -> None:
        """Raise `SweepStopped` if the raylet, Ray's process on this machine, has died.

        Its actors die with it, through no fault of their runs. Ray itself reports the death seconds later.
        """
        if not answers(self._raylet):
            raise SweepStopped("the part of Ray that runs on this machine (its raylet) has died: was memory short?")

    def _check_nodes(self, idle: float) -> None:
        self.check_raylet()
        nodes = [node for node in ray.nodes() if node["Alive"]]
        can_hold = any(pool.fits(node["Resources"]) for pool in self._pools for node in nodes)
        if self._kind == "cluster" and can_hold:
            return  # the cluster is busy with other work, and will be free later
        if not can_hold and not self._told and idle > SECONDS_TO_ANSWER:
            self._say("no node can hold an actor: waiting for one to join")
            self._told = True
        if idle > SECONDS_WITHOUT_ACTOR[self._kind]:
            reason = "" if can_hold else ", and no node can hold one"
            raise SweepStopped(f"no actor has come up for {idle / 60:.0f} minutes{reason}")


def answers(address: str) -> bool:
    """Return True if HOST:PORT accepts connections. Ray itself would wait for a missing head."""
    try:
        _knock(address, SECONDS_TO_ANSWER)
    except OSError:
        return False
    return True
