"""Fixtures of this folder's tests: reports of several kinds of sweeps, and a browser that opens them."""

import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from chart_fields import content_of
from filelock import FileLock
from report_fixtures import Context, beside, full, make_sweep, report, some, visit, walk, wrong
from screenshot import chromium
from synthetic_sweeps import choose, judge, replay, with_answers

from reports import build_report
from reports.read.sweep import Sweep, read_sweep

JAVASCRIPT = Path(__file__).parent / "template" / "javascript"


@pytest.fixture(scope="session")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report on two modes of an online rule and an oracle: answers, scores, controls, replays, a choice."""
    folder = with_answers(tmp_path_factory.mktemp("answered") / "s", 12)
    judge(folder, fails=["3-unfrozen/kl/2-0"])
    replay(folder)
    choose(folder)
    return build_report(str(folder), folder / "report.html")


@pytest.fixture(scope="session")
def several(answered: Path) -> Sweep:
    return read_sweep(str(answered.parent))


@pytest.fixture(scope="session")
def several_content(answered: Path) -> dict[str, Any]:
    """Return the report's data, which take seconds to compute."""
    return content_of(answered)


@pytest.fixture(scope="session")
def one_mode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a sweep of one mode, with answers."""
    return with_answers(tmp_path_factory.mktemp("verdict") / "s", 12, modes=("unfrozen",))


@pytest.fixture(scope="session")
def context() -> Iterator[Context]:
    """Yield context(color_scheme=…) → the browser context with these options, which all tests share."""
    pytest.importorskip("playwright.sync_api")
    try:
        with chromium() as browser:

            @cache
            def context(**options: Any) -> Any:
                viewport = {name: dict(size) for name, size in options.items() if name == "viewport"}
                found = browser.new_context(**options | viewport)
                found.set_default_timeout(10_000)
                return found

            yield context
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """Return the folder of the npm packages that `tests/reports/template/javascript/package.json` names."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not there: install it to check the page's JavaScript and its accessibility")
    install = [npm, "install", "--prefer-offline"]
    with FileLock(JAVASCRIPT / "node_modules.lock"):
        done = subprocess.run(install, cwd=JAVASCRIPT, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"npm could not install the packages of {JAVASCRIPT}: {done.stderr.strip().splitlines()[-1:]}")
    return JAVASCRIPT / "node_modules"


@pytest.fixture(scope="session")
def axe(node_modules: Path) -> str:
    """Return the source of axe-core, the accessibility checker."""
    return (node_modules / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
