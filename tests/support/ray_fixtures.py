"""Fixtures that start Ray for the tests of this folder."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from own_ray import SHARED_RAY


@pytest.fixture(scope="session")
def ray_environment() -> Iterator[dict[str, str]]:
    """What a process needs to start a Ray of its own, beside any other on this machine."""
    folder = tempfile.mkdtemp(prefix="eexit-")  # short: Ray's socket names are limited
    yield {
        "RAY_TMPDIR": folder,
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_metrics_report_interval_ms": "500",
        "PYTHONPATH": str(Path(__file__).parent),  # where actors find the scripted generator
    }
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def local_ray(ray_environment: dict[str, str]) -> None:
    """The Ray that tests share; `tests/conftest.py` ends it before a file that has no test with this fixture."""
    SHARED_RAY.start(ray_environment)


@pytest.fixture
def no_ray_yet() -> None:
    """For tests of what starts a Ray of its own, or joins one."""
    SHARED_RAY.end()
