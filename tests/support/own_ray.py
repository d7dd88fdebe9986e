"""A Ray of a test's own, beside any other on this machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def started_ray(environment: dict[str, str]) -> Iterator[None]:
    """A Ray of two CPUs, whose actors get the environment of this process as it is now, and `environment`."""
    import ray

    from cluster.session import NO_PRESTART

    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setenv(*NO_PRESTART)
        patch.delenv("RAY_ADDRESS", raising=False)
        os.makedirs(environment["RAY_TMPDIR"], exist_ok=True)
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=100_000_000,
            _temp_dir=environment["RAY_TMPDIR"],
        )
        yield
        ray.shutdown()
