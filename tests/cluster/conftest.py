import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray


@pytest.fixture(scope="session")
def ray_environment() -> Iterator[dict[str, str]]:
    """What a process needs to start a Ray of its own, beside any other on this machine."""
    folder = tempfile.mkdtemp(prefix="eexit-")  # short: Ray's socket names are limited
    yield {
        "RAY_TMPDIR": folder,
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(Path(__file__).parent),  # where actors find the scripted generator
    }
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def local_ray(ray_environment: dict[str, str]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ray_environment.items():
            patch.setenv(name, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        os.makedirs(ray_environment["RAY_TMPDIR"], exist_ok=True)
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=100_000_000,
            _temp_dir=ray_environment["RAY_TMPDIR"],
        )
        yield
        ray.shutdown()
