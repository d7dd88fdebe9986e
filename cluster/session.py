"""The Ray that a sweep runs on: the cluster it was sent to, or one of its own on this machine."""

import logging
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import ray

OBJECT_STORE_BYTES = 100_000_000  # only runs and counts go through it


@contextmanager
def ray_session() -> Iterator[list[Mapping[str, float]]]:
    """Join the cluster that a job or RAY_ADDRESS names, else start one, which ends with the block.

    Gives the resources of each node, as Ray names them.
    """
    if "RAY_ADDRESS" in os.environ:
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
    try:
        yield [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()
