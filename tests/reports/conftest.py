"""Fixtures of this folder's tests: those of `tests/support`, and a sweep of several rules with its report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from chart_fields import charts_of, content_of
from report_fixtures import (
    answered,
    axe,
    beside,
    browser,
    context,
    full,
    make_sweep,
    node_modules,
    report,
    some,
    tabs,
    unusual,
    visit,
    walk,
    walked,
)
from synthetic_sweeps import BOTH, LAYERS, add_timings, choose, judge, replay, story, swept, with_answers

from eexit.method.rules import CONTROL, ONLINE, ORACLES, ExitHistogram
from eexit.plan.configuration import Configuration, EarlyExit, HFGenerate, NoExit
from reports import build_report
from reports.read.sweep import Sweep, read_sweep


@pytest.fixture(scope="session")
def rules_grid() -> list[Configuration]:
    """Return `normal`, and two modes × three rules; settings of the first rule have a control each."""
    found: list[Configuration] = [NoExit()]
    for mode in BOTH:
        for k in (0.25, 1.0, 4.0):
            followed = EarlyExit(mode, "kl", k)
            found += [followed, EarlyExit(mode, CONTROL, ExitHistogram(followed.key, ()))]
        found += [EarlyExit(mode, "fixed", float(layer)) for layer in LAYERS[1:]]
        found.append(EarlyExit(mode, "agree"))
    return found


@pytest.fixture(scope="session")
def several_report(tmp_path_factory: pytest.TempPathFactory, rules_grid: list[Configuration]) -> Path:
    """Return the report of six prompts in this grid, with timings: later configurations are shallower and differ more.

    Controls disagree far more than settings; oracles have no run cost.
    """

    def columns(its: Configuration, prompt: int = 0, seed: int = 0) -> dict[str, Any]:
        if not isinstance(its, EarlyExit):
            return {
                "disagreement": 0.0,
                "mean_depth": 1.0,
                "macs_full": 100.0,
                "macs_required": 100.0,
                "macs_executed": 100.0,
            }
        bold = rules_grid.index(its) / len(rules_grid)
        return {
            "disagreement": 0.1 + 0.3 * bold + (0.4 if its.rule == CONTROL else 0.0), "exit_rate": 0.2 + 0.5 * bold,
            "mean_depth": 0.9 - 0.4 * bold, "macs_full": 100.0, "macs_required": 90.0 - 30 * bold,
            "macs_executed": None if its.is_oracle else 95.0 - 30 * bold,
        }  # fmt: skip

    def score(its: Configuration, token: Mapping[str, Any]) -> dict[str, Any]:
        if not token["decided"] or not isinstance(its, EarlyExit) or its.rule not in {**ONLINE, **ORACLES}:
            return {"exit_score": None}
        return {"exit_score": token["kl"] if its.rule == "kl" else [float(layer > 10) for layer in LAYERS]}

    def timed(its: Configuration | HFGenerate) -> dict[str, Any]:
        costs = {} if isinstance(its, HFGenerate) else columns(its)
        return {name: costs[name] for name in ("macs_full", "macs_required", "macs_executed") if name in costs}

    folder = tmp_path_factory.mktemp("rules") / "results"

    def words(its: Configuration, prompt: int, seed: int) -> list[str]:
        return story(prompt, its.mode, 1.0 if isinstance(its, EarlyExit) else None, 40)

    swept(folder, rules_grid, columns=columns, of_token=score, pieces=words)
    taken: dict[Configuration | HFGenerate, float] = {
        its: seconds for its in rules_grid if (seconds := columns(its)["macs_executed"])
    }
    taken[HFGenerate()] = 125.0
    for batch in (1, 8):
        slower = {its: [each * (1 + n / 10) / batch for n in range(1, 6)] for its, each in taken.items()}
        add_timings(folder, slower, batch=batch, columns=timed)
    return build_report(str(folder), folder / "report.html")


@pytest.fixture(scope="session")
def several(several_report: Path) -> Sweep:
    return read_sweep(str(several_report.parent))


@pytest.fixture(scope="session")
def several_content(several_report: Path) -> dict[str, Any]:
    """Return the report's data, which take seconds to compute."""
    return content_of(several_report)


@pytest.fixture(scope="session")
def several_charts(several_content: dict[str, Any]) -> dict[str, Any]:
    return charts_of(several_content)


@pytest.fixture(scope="session")
def judged_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report of a sweep with answers, judgements, replays and a choice."""
    folder = with_answers(tmp_path_factory.mktemp("quality") / "s", 8, modes=("unfrozen",))
    judge(folder, fails=["3-unfrozen/kl/2-0"])
    replay(folder)
    choose(folder)
    return build_report(str(folder), folder / "report.html")


@pytest.fixture(scope="session")
def one_mode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a sweep of one mode, with answers."""
    return with_answers(tmp_path_factory.mktemp("verdict") / "s", 12, modes=("unfrozen",))
