"""The configurations worth running: a sweep's cheapest replays within some levels of disagreement.

Replays have a full-depth KV cache, and yield where tokens exit and the cost of exit scores. The loss and the cost in
the deployed mode are measured in runs.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from eexit.errors import UsageError
from eexit.method.modes import MODES
from eexit.method.rules import ONLINE
from eexit.plan.configuration import EVERY
from eexit.results.finished_sweep import read_finished
from eexit.results.study_tables import REPLAYS

# Levels of disagreement: a small one can lose many answers, and more in a mode that alters the KV cache.
AIMS: Final = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01)
Row = Mapping[str, Any]


class ReplayedSetting(NamedTuple):
    """A replayed configuration: its rule, its expected disagreement, and its cost as a share of full depth."""

    rule: str
    parameter: float
    exit_set: str
    disagreement: float
    cost: float


def settings_worth_running(results: str) -> tuple[Mapping[str, tuple[float, ...]], str]:
    """Return at most one rule and parameter for each of `AIMS`, and the exit set in which they save most.

    Raise `UsageError` if `results` is not a finished sweep, or has no suitable replay in which any token exits.
    """
    sweep = read_finished(results, ["run_id"], "--settings-of")
    looks = {name: sweep.manifest.config[name] for name in ("readout", "decide_on")}
    rows = [row for row in REPLAYS.rows(sweep.store) if all(row[name] == looks[name] for name in looks)]
    latest = {row["configuration"]: row for row in rows if is_candidate(row)}
    found = [_setting(row) for row in latest.values() if _exits(row, sweep.n_layers)]
    if not found:
        raise UsageError(
            f"--settings-of {sweep.name} has no replays of online rules in exact state in which any token exits: run "
            "jobs/replay.py with --modes unfrozen and bolder --rules"
        )
    sets = dict.fromkeys(each.exit_set for each in found)
    within = {name: [each for each in found if each.exit_set == name] for name in sets}
    best = min(sets, key=lambda name: sum(_cost_within(within[name], aim) for aim in AIMS))
    rules: dict[str, tuple[float, ...]] = {}
    for each in cheapest_within_aims(within[best]):
        rules[each.rule] = (*rules.get(each.rule, ()), each.parameter)
    return rules, best


def is_candidate(row: Row) -> bool:
    """Return True for replays of an ungated online rule with a full-depth KV cache and known costs."""
    return row["rule"] in ONLINE and not MODES[row["mode"]].alters and not row["gate"] and bool(row["cost_run"])


def cheapest_within_aims(found: Sequence[ReplayedSetting]) -> list[ReplayedSetting]:
    """Return the cheapest configuration within each of `AIMS`, from safe to bold; if none, the least disagreeing."""
    within = [[each for each in found if each.disagreement <= aim] for aim in AIMS]
    cheapest = [min(settings, key=lambda each: each.cost) for settings in within if settings]
    return list(dict.fromkeys(cheapest)) or [min(found, key=lambda each: each.disagreement)]


def _setting(row: Row) -> ReplayedSetting:
    looks = row["cost_run"] - row["cost_needed"]
    return ReplayedSetting(
        rule=row["rule"],
        parameter=float(row["parameter"]),
        exit_set=row["exit_set"] or EVERY,
        disagreement=row["expected_disagreement"],
        cost=(row["cost_exits"] + looks) / row["cost_full"],
    )


def _exits(row: Row, n_layers: int) -> bool:
    return any(share for layer, share in row["exit_distribution"] if layer < n_layers - 1)


def _cost_within(found: Sequence[ReplayedSetting], disagreement: float) -> float:
    """Return the least cost within this disagreement; 1, that of full depth, if there is none."""
    return min([1.0, *(each.cost for each in found if each.disagreement <= disagreement)])
