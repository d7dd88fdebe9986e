"""Fixtures that tests of several folders share, and the order of the tests.

The process that distributes tests imports this file too, and all others wait for it. So torch and transformers are
imported where they are needed.
"""

import gc
import os
import signal
from collections.abc import Callable, Generator, Iterator
from functools import cache
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM
from typing import TYPE_CHECKING, Any

import pytest
from quick import has_quick_tests, is_quick
from ray_fixtures import SHARED_RAY
from s3_server import wire
from xdist.scheduler import LoadFileScheduling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LONGEST_FIRST = (  # so that no process ends with one of them while the other is idle
    "test_submit.py", "test_readme.py", "test_chaos.py", "test_sweep.py", "test_session.py", "test_setting.py",
)  # fmt: skip
RAY, NO_RAY = "local_ray", "no_ray_yet"  # fixtures
# What takes long to make and is shared by tests of several files → words, one of which these files contain.
SHARED = {
    "reports and a browser": ("from report_fixtures import",),
    "Ray": (f'"{RAY}',),
    "decoders of all families": (
        "any_model: PreTrainedModel", "from tiny_models import ARCHITECTURES", "from rows import",
    ),
}  # fmt: skip
ROOT = Path(__file__).parents[1]
# For all processes of the tests, and before a folder's fixtures import torch. One thread, since small matrices gain
# nothing from more; idle threads sleep, since two that spin compete for a core. No Ray uses a token: a process that has
# started one with a token requires the token of each later one, so a cluster without tokens considers the process dead
# and ends its new actors.
for name, value in {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "RAY_AUTH_MODE": "disabled"}.items():
    os.environ.setdefault(name, value)
FILES_WITH_RAY = pytest.StashKey[set[Path]]()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip the import of files without a quick test in `pytest -m quick`."""
    is_file = collection_path.name.startswith("test_")
    return True if config.option.markexpr == "quick" and is_file and not has_quick_tests(collection_path) else None


@cache
def shared_by(file: Path) -> str | None:
    """Return the entry of `SHARED` that the tests of a file share with other files."""
    text = file.read_text(encoding="utf-8")
    return next((what for what, words in SHARED.items() if any(each in text for each in words)), None)


class SharedInOneProcess(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    """Scheduler that sends the tests of a file, or of all files with the same entry of `SHARED`, to one process."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return shared_by(ROOT / file) or file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SharedInOneProcess:
    return SharedInOneProcess(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect with garbage collection off: imports and tests stay to the end, and each search takes seconds."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)  # before tests without the marker are taken out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark quick tests, and sort tests: the slowest first; of those that share a Ray, first those without Ray."""
    with_ray = config.stash[FILES_WITH_RAY] = set()
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if is_quick(item.path, item.name, fixtures) and not item.get_closest_marker("slow"):
            item.add_marker("quick")
        if RAY in fixtures:
            with_ray.add(item.path)
    ranks = {name: rank for rank, name in enumerate((*SHARED, *LONGEST_FIRST))}

    def turn(item: pytest.Item) -> tuple[int, bool, bool, bool]:
        fixtures = getattr(item, "fixturenames", ())
        rank = ranks.get(shared_by(item.path) or item.path.name, len(ranks))
        wants_none = item.path in with_ray and NO_RAY in fixtures
        return rank, not wants_none, wants_none and RAY in fixtures, item.path not in with_ray

    items.sort(key=turn)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End the shared Ray if the next file has no test with it."""
    if SHARED_RAY.is_up and (nextitem is None or nextitem.path not in item.config.stash[FILES_WITH_RAY]):
        SHARED_RAY.end()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return two processes for the whole suite, which often waits, and no further process for some files."""
    return 2 if config.args_source == pytest.Config.ArgsSource.TESTPATHS else 0


@pytest.fixture
def own_exits() -> Iterator[Callable[[], None]]:
    """Yield a function that removes a test's custom rules and modes; they are removed after the test anyway."""
    from eexit.method.modes import MODES
    from eexit.method.rules import BLIND, ONLINE, ORACLES, RULES

    kinds: list[dict[str, Any]] = [RULES, ORACLES, ONLINE, BLIND, MODES]
    before = [{**kind} for kind in kinds]

    def forget() -> None:
        for kind, held in zip(kinds, before, strict=True):
            kind.clear()
            kind.update(held)

    yield forget
    forget()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let signals act as in a terminal, even if & or nohup told pytest to ignore them. Restore them afterwards."""
    actions: dict[int, Any] = {SIGINT: signal.default_int_handler, SIGTERM: signal.SIG_DFL, SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, action) for number, action in actions.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "any_model" in metafunc.fixturenames:
        from tiny_models import ARCHITECTURES

        metafunc.parametrize("any_model", list(ARCHITECTURES), indirect=True, scope="session")


@pytest.fixture(scope="session")
def any_model(request: pytest.FixtureRequest) -> "PreTrainedModel":
    from references import shared_model

    return shared_model(request.param)


@pytest.fixture(scope="session")
def llama() -> "PreTrainedModel":
    from references import shared_model

    return shared_model("llama")
