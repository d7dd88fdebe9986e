"""The Ray that a sweep uses: a cluster, or one that is started for it on this machine."""

import logging
import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray.exceptions import RayError

from cluster.console import interruption
from eexit.messages.errors import UsageError

ADDRESS = "RAY_ADDRESS"
SECONDS_TO_ANSWER = 10.0
SECONDS_BETWEEN_LISTENING = 0.002
NO_PRESTART = ("RAY_enable_worker_prestart", "0")  # else Ray starts a process per CPU, of which an actor needs one
OBJECT_STORE_BYTES = 100_000_000  # enough, since only runs and counts go through it


@dataclass(frozen=True)
class Session:
    """The resources of each node, as Ray names them, and whether Ray was started for this sweep on this machine alone.

    No node ever joins such a Ray.
    """

    nodes: list[Mapping[str, float]]
    is_own: bool


@contextmanager
def ray_session(say: Callable[[str], None] = lambda line: None) -> Iterator[Session]:
    """Use the Ray that this process has joined; else join the cluster that a job or RAY_ADDRESS names; else start one.

    Leaves what it has joined, and ends what it has started. `say` is told which of them takes its seconds. Raises
    `UsageError` if Ray can't be joined or started.
    """
    if ray.is_initialized():
        yield Session(_nodes(), is_own=False)
        return
    say("joining the Ray cluster" if _joins_cluster() else "starting Ray")
    try:
        _start()
    except SystemExit as error:  # while Ray starts, it handles SIGTERM
        raise KeyboardInterrupt from error
    except (RayError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        if not _joins_cluster():
            raise UsageError(f"Ray can't be started on this machine: {reason}") from error
        address = os.environ[ADDRESS]
        raise UsageError(
            f"the cluster at {ADDRESS}={address} can't be joined ({reason}): see that it runs, and that "
            f"RAY_AUTH_MODE and the token are its own, or `unset {ADDRESS}` to use this machine alone"
        ) from error
    finally:
        interruption.listen_again()
    try:
        yield Session(_nodes(), is_own=not _joins_cluster())
    finally:
        _end()


def _joins_cluster() -> bool:
    """Whether a sweep would run on an existing cluster, which more nodes may join."""
    return bool(os.environ.get(ADDRESS))


def _nodes() -> list[Mapping[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _start() -> None:
    if _joins_cluster():
        _knock(os.environ[ADDRESS])
        ray.init(log_to_driver=not sys.stderr.isatty(), logging_level=logging.WARNING)
    else:
        # Otherwise Ray writes a token to the home folder, and requires it at every later `ray start`.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ.setdefault(*NO_PRESTART)
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
        )


def _end() -> None:
    """Leave Ray, which in doing so resets SIGTERM to the default handler, which kills this process.

    Ray resets it once and outside Python, so that a SIGTERM before our next look still kills. SIGINT and SIGHUP keep
    their handlers.
    """
    ending = threading.Thread(target=ray.shutdown)
    ending.start()
    while ending.is_alive():
        ending.join(SECONDS_BETWEEN_LISTENING)
        interruption.listen_again()


def _knock(address: str) -> None:
    """Raises `OSError` if nothing accepts connections at `address`, which Ray itself takes minutes to notice."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()
