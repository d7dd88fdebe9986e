"""Fixtures that start Ray for the tests of this folder."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from own_ray import started_ray


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


@pytest.fixture(scope="module")
def local_ray(ray_environment: dict[str, str]) -> Iterator[None]:
    with started_ray(ray_environment):
        yield
