"""Rays of the tests, separate from any other on this machine, and the fixtures that start them."""

import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest


class SharedRay:
    """The Ray of two CPUs that tests share, also of several consecutive files, since starting one takes seconds."""

    def __init__(self) -> None:
        self._patch, self.is_up = pytest.MonkeyPatch(), False
        self.folder = Path()  # of its logs

    def start(self, environment: Mapping[str, str]) -> None:
        """Start it unless it is up; its actors get this process's current environment, and `environment`."""
        if self.is_up:
            return
        import ray

        from cluster.session import NO_PRESTART

        for name, value in [*environment.items(), NO_PRESTART]:
            self._patch.setenv(name, value)
        self._patch.delenv("RAY_ADDRESS", raising=False)
        self.is_up, self.folder = True, Path(environment["RAY_TMPDIR"])
        self.folder.mkdir(parents=True, exist_ok=True)
        sizes: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 100_000_000, "_temp_dir": str(self.folder)}
        ray.init("local", include_dashboard=False, log_to_driver=False, **sizes)

    def end(self) -> None:
        if self.is_up:
            import ray

            ray.shutdown()
            self._patch.undo()
            self.is_up = False


SHARED_RAY = SharedRay()
# Ray's socket names are limited, and its processes may still write while the folder is removed.
short_folder = partial(tempfile.TemporaryDirectory, prefix="eexit-", ignore_cleanup_errors=True)


@pytest.fixture(scope="session")
def ray_environment() -> Iterator[dict[str, str]]:
    """Yield the environment of a process that starts a Ray separate from any other on this machine."""
    with short_folder() as folder:
        yield {
            "RAY_TMPDIR": folder, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_metrics_report_interval_ms": "500", "AWS_DEFAULT_REGION": "us-east-1",
            "PYTHONPATH": str(Path(__file__).parent),  # where actors find the scripted generator
        }  # fmt: skip


@pytest.fixture
def local_ray(ray_environment: dict[str, str]) -> None:
    """Start the Ray that tests share; `tests/conftest.py` ends it before a file that has no test with this fixture."""
    SHARED_RAY.start(ray_environment)


@pytest.fixture
def no_ray_yet() -> None:
    """End the shared Ray, for tests of code that starts a Ray or joins one."""
    SHARED_RAY.end()
