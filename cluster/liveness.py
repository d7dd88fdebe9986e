"""Whether the sweep's Ray still works. If it does not, calls of actors would never be answered."""

import socket
import time
from collections.abc import Callable, Sequence

import ray

from cluster.pool import Pool
from eexit.messages.errors import SweepStopped

# Ray kills a driver silently when the head of its cluster has been gone for 60 s. Until then the head may come back;
# that of a Ray on this machine alone never does.
SECONDS_WITHOUT_HEAD = {"own": 5.0, "cluster": 30.0}
# Nodes may join a cluster. On a single machine, an actor comes up in seconds, or in minutes if the machine is busy.
SECONDS_WITHOUT_ACTOR = {"own": 600.0, "cluster": 3600.0}
SECONDS_TO_ANSWER = 2.0


class Liveness:
    """Checks Ray about once a second; made after Ray has been joined."""

    def __init__(self, own: bool, pools: Sequence[Pool], say: Callable[[str], None]) -> None:
        """`own` says that this process started Ray, on this machine alone."""
        context = ray.get_runtime_context()
        self._head, self._node = context.gcs_address, context.get_node_id()
        own_node = next(node for node in ray.nodes() if node["NodeID"] == self._node)
        self._raylet = f"{own_node['NodeManagerAddress']}:{own_node['NodeManagerPort']}"
        self._kind = "own" if own else "cluster"
        self._pools = pools
        self._say = say
        self._answered = self._at_work = time.monotonic()
        self._told = False

    def check(self, at_work: bool) -> None:
        """Raises `SweepStopped` if the sweep can't go on. `at_work` says whether any actor is up."""
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
        """Raises `SweepStopped` if this machine's part of Ray has died, which takes actors with it: no run is to blame.

        Ray itself notices it seconds later.
        """
        if not answers(self._raylet):
            raise SweepStopped("the part of Ray that runs on this machine (its raylet) has died: was memory short?")

    def _check_nodes(self, idle: float) -> None:
        self.check_raylet()
        nodes = [node for node in ray.nodes() if node["Alive"]]
        can_hold = any(pool.fits(node["Resources"]) for pool in self._pools for node in nodes)
        if self._kind == "cluster" and can_hold:
            return  # it is busy with other work, and will be free later
        if not can_hold and not self._told and idle > SECONDS_TO_ANSWER:
            self._say("no node can hold an actor: waiting for one to join")
            self._told = True
        if idle > SECONDS_WITHOUT_ACTOR[self._kind]:
            reason = "" if can_hold else ", and no node can hold one"
            raise SweepStopped(f"no actor has come up for {idle / 60:.0f} minutes{reason}")


def answers(address: str) -> bool:
    """Whether HOST:PORT accepts connections. Ray itself would wait for a head that is gone."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()
    except OSError:
        return False
    return True
