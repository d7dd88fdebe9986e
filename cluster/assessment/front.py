"""Which settings are worth a run: those of the pilot's replays that none beats in both disagreement and cost.

Replays are in the state that alters nothing, and say where tokens would exit and what looking there would cost. What
a setting costs in the state that is run is estimated from that, for the order of what is tried: it is counted when it
runs.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from cluster.assessment.learned import UNALTERED, Rules
from eexit.plan.configuration import EVERY, Exit, parse_exit_set
from eexit.quality.learn_then_test import FULL_DEPTH, pareto_sequence

Row = Mapping[str, Any]
# Disagreement that settings are looked for at, as multiples of the margin: a small one can lose many answers, and more
# in the state that is run.
AIMS: Final = (0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4)
NEGLIGIBLE: Final = 1e-4  # disagreement that is as good as none


@dataclass(frozen=True)
class Found:
    """A setting of the replays."""

    rule: str
    parameter: float
    exit_set: str
    disagreement: float
    cost: float  # estimated, as a share of full depth
    free: float  # the same if deciding were free
    exits: float  # share of tokens that leave early


@dataclass(frozen=True)
class Replays:
    """These rules in each of these exit sets and, if there are thresholds, behind a gate with each of them.

    `replaced` are settings of the sweep that they have otherwise, such as `decide_on`.
    """

    rules: Rules
    exit_sets: Sequence[str] = (EVERY,)
    thresholds: Sequence[str] = ()
    replaced: Mapping[str, str] = field(default_factory=dict)

    def keys(self, rule: str) -> set[str]:
        """The keys of all settings of a rule."""
        gates = [f"{float(threshold):g}" for threshold in self.thresholds] if self.thresholds else [None]
        return {
            Exit(UNALTERED, rule, parameter, parse_exit_set(exit_set), gate).key
            for parameter in self.rules[rule]
            for exit_set in self.exit_sets
            for gate in gates
        }

    def missing(self, rows: Iterable[Row]) -> "Replays":
        """The replays of the rules of which these rows lack a setting: a rule's settings land together."""
        there = {row["configuration"] for row in self.of(rows)}
        return replace(self, rules={rule: self.rules[rule] for rule in self.rules if not self.keys(rule) <= there})

    def of(self, rows: Iterable[Row]) -> list[Row]:
        """The rows that are of these replays, of each setting the latest."""
        wanted = {key for rule in self.rules for key in self.keys(rule)}
        deciding = self.replaced.get("decide_on")
        latest = {row["configuration"]: row for row in rows if deciding in (None, row["decide_on"])}
        return [row for key, row in latest.items() if key in wanted]


def price_of_head(depth_and_cost: Iterable[tuple[float, float]]) -> float:
    """The share of a read of the head in full depth's multiply-adds: what exits at no depth at all would cost.

    Given depths of exits of all tokens, as shares of the layers, and their costs, as shares of full depth, of which the
    straight line through them is taken; full depth itself is (1, 1).
    """
    depth, cost = np.array([*depth_and_cost, (1.0, 1.0)]).T
    _, intercept = np.polyfit(depth, cost, 1) if len(set(depth)) > 1 else (0.0, math.nan)
    return float(np.clip(intercept, 0.0, 1.0))


def head_in_layers(head: float, n_layers: int) -> float:
    """What a read of the head costs, in layers."""
    return head * n_layers / (1 - head) if head < 1 else math.inf


def found_of(row: Mapping[str, Any], n_layers: int, head: float) -> Found:
    """A row of `REPLAYS`, where a read of the head costs such a share of full depth.

    Layers are those up to the exits, as where deeper ones are left to their keys and values; looks are the replay's.
    """
    shares = {int(layer): float(share) for layer, share in row["exit_distribution"]}
    depth = sum(share * (layer + 1) / n_layers for layer, share in shares.items())
    free = depth * (1 - head) + head
    looks = (row["cost_run"] - row["cost_needed"]) / row["cost_full"]
    early = sum(share for layer, share in shares.items() if layer < n_layers - 1)
    exit_set = row["exit_set"] or EVERY
    return Found(
        row["rule"], float(row["parameter"]), exit_set, row["expected_disagreement"], free + looks, free, early
    )


def as_if_free(found: Sequence[Found], margin: float) -> list[Found]:
    """These settings; if none of them saves within the margin, as if deciding were free: then what is tried says how
    much deciding takes."""
    if cost_within(found, margin) < FULL_DEPTH:
        return list(found)
    return [replace(each, cost=each.free) for each in found]


def best_set(found: Sequence[Found], margin: float) -> str:
    """The exit set whose settings cost least within the margin of disagreement."""
    sets = dict.fromkeys(each.exit_set for each in found)
    return min(sets, key=lambda name: cost_within(of_set(found, name), margin))


def of_set(found: Sequence[Found], exit_set: str) -> list[Found]:
    """Settings of this exit set."""
    return [each for each in found if each.exit_set == exit_set]


def cost_within(found: Sequence[Found], margin: float) -> float:
    """The least estimated cost of settings within the margin of disagreement that let any token leave; else infinite.

    A setting without any exit costs what looking costs.
    """
    return min((each.cost for each in found if each.disagreement <= margin and each.exits > 0), default=math.inf)


def front(found: Sequence[Found], margin: float, most: int) -> list[Found]:
    """Settings that none beats in both disagreement and cost, from safe to bold: those nearest to `AIMS`.

    Settings that no token leaves at are left out, unless there is no other one.
    """
    exiting = [each for each in found if each.exits > 0] or list(found)
    order = pareto_sequence(np.array([e.disagreement for e in exiting]), np.array([e.cost for e in exiting]))
    on_front = [exiting[at] for at in order]
    targets = [math.log(aim * margin + NEGLIGIBLE) for aim in AIMS]
    near = [min(on_front, key=lambda each: abs(math.log(each.disagreement + NEGLIGIBLE) - at)) for at in targets]
    kept = list(dict.fromkeys(near))[:most]
    return [each for each in on_front if each in kept]


def spread(settings: Sequence[str], n: int, alone: str) -> list[str]:
    """So many of these, in their order: both ends and what lies between them; of one, that which is named `alone`."""
    if n == 1:
        return [alone]
    return [settings[at] for at in dict.fromkeys(np.linspace(0, len(settings) - 1, n).astype(int).tolist())]


def rules_of(settings: Iterable[tuple[str, float]]) -> Rules:
    """Rules with their parameters, as a sweep's configuration has them."""
    rules: dict[str, tuple[float, ...]] = {}
    for rule, parameter in settings:
        rules[rule] = (*rules.get(rule, ()), parameter)
    return rules
