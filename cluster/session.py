"""The Ray that a sweep runs on: the cluster it was sent to, or one of its own on this machine."""

import logging
import os
import secrets
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType

import ray
from ray import cloudpickle
from ray.exceptions import RayError

from cluster import interruption
from eexit.config import UsageError

ADDRESS = "RAY_ADDRESS"
SECONDS_TO_ANSWER = 10.0
SECONDS_BETWEEN_LISTENING = 0.002
OBJECT_STORE_BYTES = 100_000_000  # only runs and counts go through it


def send_with_actors(module: ModuleType) -> None:
    """Have a generator's module sent to the actors, for one that their processes could not import."""
    cloudpickle.register_pickle_by_value(module)


@contextmanager
def ray_session() -> Iterator[list[Mapping[str, float]]]:
    """Join the cluster that a job or RAY_ADDRESS names, else start one, which ends with the block.

    Gives the resources of each node, as Ray names them. Raises `UsageError` where there is no Ray to be had.
    """
    try:
        _start()
    except SystemExit as error:  # while Ray starts, it handles SIGTERM
        raise KeyboardInterrupt from error
    except (RayError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        if not joins_cluster():
            raise UsageError(f"Ray can't be started on this machine: {reason}") from error
        address = os.environ[ADDRESS]
        raise UsageError(
            f"the cluster at {ADDRESS}={address} can't be joined ({reason}): see that it runs, and that "
            f"RAY_AUTH_MODE and the token are its own, or `unset {ADDRESS}` to use this machine alone"
        ) from error
    finally:
        interruption.listen_again()
    try:
        yield [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        _end()


def joins_cluster() -> bool:
    """Whether a sweep would run on a cluster that is there already, and to which more nodes may come."""
    return bool(os.environ.get(ADDRESS))


def _start() -> None:
    if joins_cluster():
        _knock(os.environ[ADDRESS])
        ray.init(log_to_driver=not sys.stderr.isatty(), logging_level=logging.WARNING)
    else:
        # Without one, Ray would write a token to the home folder, and ask every later `ray start` for it.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
        )


def _end() -> None:
    """Leave Ray, which meanwhile puts the system's own way with SIGTERM in place: to end this process at once.

    It does so outside Python and once, so a SIGTERM that comes before the next look still does that. SIGINT and SIGHUP
    keep their handlers.
    """
    ending = threading.Thread(target=ray.shutdown)
    ending.start()
    while ending.is_alive():
        ending.join(SECONDS_BETWEEN_LISTENING)
        interruption.listen_again()


def _knock(address: str) -> None:
    """Raises `OSError` if nobody answers at `address`, which Ray itself takes minutes to notice."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()
