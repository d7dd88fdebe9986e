"""Which settings are worth a run: replays of all on the pilot, and the front of them run there."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import numpy as np

from cluster.assessment import learned, sizes
from cluster.assessment.front import (
    Found,
    Replays,
    as_if_free,
    best_set,
    cost_within,
    found_of,
    front,
    of_set,
    rules_of,
)
from cluster.assessment.learned import LEARNED, UNALTERED, Way
from cluster.assessment.parts import PILOT
from cluster.assessment.preparing import sweep_ceiling
from cluster.assessment.record import Front
from cluster.assessment.workshop import CEILING_LEARNED, TRIED, TRIED_FREE, Workshop
from eexit.errors import UsageError
from eexit.method.rules import ONLINE
from eexit.plan.artefacts import GATE, PROBE
from eexit.plan.configuration import NORMAL
from eexit.quality.learn_then_test import FULL_DEPTH, pareto_sequence
from eexit.results.finished_sweep import read_finished
from eexit.results.landed import read_columns
from eexit.results.store.folder import open_store
from eexit.results.study_tables import REPLAYS
from eexit.studies.choosing.losses_and_costs import LossesAndCosts
from eexit.studies.replay.study import SettingsToReplay, make_replay_plan

Row = Mapping[str, Any]
FAR_LESS: Final = 4  # times less than the margin


def search(shop: Workshop) -> None:
    pilot = shop.parts.some(PILOT, shop.search_sizes.pilot)
    found: dict[Way, list[Found]] = {}
    for at, (name, way) in enumerate((ways := shop.ways()).items()):
        if at:
            sweep_ceiling(shop, name, way, 0.2, "as was learned")
        read, rows = _replay(shop, name, way, 0.5 / len(ways))
        found[read] = _found(shop, rows)
    if shop.record.plans.front is None:
        shop.record.plans.front = _front(shop, found)
        shop.record.plans.free = _front_as_if_free(shop, found, shop.record.plans.front)
        shop.record.write()
    planned = shop.record.plans.front
    if planned.gated:
        _replay_missing(shop, CEILING_LEARNED, _behind_gate(planned), 0.1)
    if not planned.rules:
        shop.leave_out("all runs of settings, since in replays no token leaves early at any of them")
        return
    began, is_new = time.monotonic(), not shop.is_there(TRIED)
    shop.sweep(shop.asked.settings(pilot, planned.way, planned.rules, planned.exit_set), TRIED, 0.3)
    if is_new:
        _note_speed(shop, time.monotonic() - began)
    free = shop.record.plans.free
    if free and free.rules:
        shop.sweep(shop.asked.settings(pilot, free.way, free.rules, free.exit_set), TRIED_FREE, 0.2)
    if planned.settings is None:
        planned.settings, planned.alone = _worth_a_test(shop)
    shop.record.write()


def has_searched(shop: Workshop) -> bool:
    """Whether all replays are there, and what is worth a test was tried."""
    planned, free = shop.record.plans.front, shop.record.plans.free
    if planned is None or (planned.rules and shop.front is None):
        return False
    if planned.rules and free and free.rules and not shop.is_whole(TRIED_FREE):
        return False
    return all(_has_replays(shop, name, way) for name, way in shop.ways().items()) and (
        not planned.gated or not _behind_gate(planned).missing(_replays(shop, CEILING_LEARNED)).rules
    )


def _has_replays(shop: Workshop, name: str, way: Way) -> bool:
    """Whether they are there, as rules look in one of the ways that they can."""
    if not shop.is_whole(name):
        return False
    rows = _replays(shop, name)
    return any(
        not any(wanted.missing(rows).rules for wanted in _wanted(shop, name, each)) for each in _looking(shop, way)
    )


def _front(shop: Workshop, found: Mapping[Way, Sequence[Found]]) -> Front:
    margin = shop.asked.margin
    way = min(found, key=lambda each: cost_within(found[each], margin))
    priced = as_if_free(found[way], margin)
    exit_set = best_set(priced, margin)
    chosen = front(of_set(priced, exit_set), margin, sizes.MOST_TRIED)
    if not any(each.exits for each in chosen):
        return Front()
    rules = rules_of((each.rule, each.parameter) for each in chosen)
    gated = {rule: values for rule, values in rules.items() if ONLINE[rule].reads} if way.gate else {}
    planned = Front(way, exit_set, rules, gated)
    threshold = _best_threshold(shop, planned, cost_within(chosen, margin)) if gated else None
    return replace(planned, way=replace(way, gate_threshold=threshold))


def _looking(shop: Workshop, way: Way) -> list[Way]:
    """How rules may look in this way, the best first: through a screen where a read of the head costs more than a
    layer, unless the model can't have one.
    """
    screened = replace(way, decide_on=str(learned.SCREEN))
    return [screened, way] if shop.first_look.head_in_layers > 1 else [way]


def _front_as_if_free(shop: Workshop, found: Mapping[Way, Sequence[Found]], tried: Front) -> Front:
    """What would save most within the margin if deciding were free, unless it is tried anyway: what rules know is not
    told by those that are cheap to decide.
    """
    margin = shop.asked.margin
    free = {way: [replace(each, cost=each.free) for each in settings] for way, settings in found.items()}
    way = min(free, key=lambda each: cost_within(free[each], margin))
    exit_set = best_set(free[way], margin)
    known = tried.rules if (way, exit_set) == (tried.way, tried.exit_set) else {}
    chosen = front(of_set(free[way], exit_set), margin, sizes.MOST_FREE)
    new = [each for each in chosen if each.exits and each.parameter not in known.get(each.rule, ())]
    return Front(way, exit_set, rules_of((each.rule, each.parameter) for each in new))


def _replay(shop: Workshop, name: str, way: Way, part: float) -> tuple[Way, Sequence[Row]]:
    """The replays of all settings, and how rules look in them; what is there is not done again."""
    ways = _looking(shop, way)
    for each in ways:
        wanted = _wanted(shop, name, each)
        try:
            for replays in wanted:
                _replay_missing(shop, name, replays, part / len(wanted))
        except UsageError as refused:
            if each == way:
                raise
            shop.leave_out(f"a screen, which this model can't have ({refused})")
            continue
        rows = _replays(shop, name)
        return each, [row for replays in wanted for row in replays.of(rows)]
    raise AssertionError("the last way is done, or raises")


def _wanted(shop: Workshop, name: str, way: Way) -> list[Replays]:
    """All rules in all exit sets, and those of what was learned for them."""
    layers = read_finished(shop.at(name), ["status"]).manifest.exitable_layers
    looking = {"decide_on": way.decide_on}
    wanted = [Replays(learned.RULES, learned.exit_sets(layers), replaced=looking)]
    if way.probe:
        probed = {rule: values for each in LEARNED if each.role == PROBE for rule, values in each.rules.items()}
        wanted.append(Replays(probed, replaced={**looking, PROBE: way.probe}))
    return wanted


def _behind_gate(planned: Front) -> Replays:
    assert planned.way.gate is not None
    replaced = {"decide_on": planned.way.decide_on, GATE: planned.way.gate}
    return Replays(planned.gated, (planned.exit_set,), learned.GATE_THRESHOLDS, replaced)


def _replay_missing(shop: Workshop, name: str, wanted: Replays, part: float) -> None:
    shop.work(part)
    left = wanted.missing(_replays(shop, name))
    if not left.rules:
        return
    settings = SettingsToReplay((), left.rules, (UNALTERED,), left.exit_sets, left.thresholds, left.replaced)
    plan = partial(make_replay_plan, asked=settings, text_of=NORMAL)
    shop.place.study(shop.at(name), plan, ("prompt_id", "status"))


def _best_threshold(shop: Workshop, planned: Front, cost: float) -> str | None:
    """The gate's threshold behind which the settings cost least within the margin, and less than without; else None."""
    wanted = _behind_gate(planned)
    _replay_missing(shop, CEILING_LEARNED, wanted, 0.1)
    by_threshold: dict[str, list[Row]] = {}
    for row in wanted.of(_replays(shop, CEILING_LEARNED)):
        by_threshold.setdefault(row["gate"], []).append(row)
    costs = {each: cost_within(_found(shop, rows), shop.asked.margin) for each, rows in by_threshold.items()}
    best = min(costs, key=lambda each: costs[each])
    return best if costs[best] < cost else None


def _found(shop: Workshop, rows: Sequence[Row]) -> list[Found]:
    look = shop.first_look
    return [found_of(row, look.sweep.n_layers, look.head) for row in rows]


def _replays(shop: Workshop, name: str) -> Sequence[Row]:
    return REPLAYS.rows(open_store(shop.at(name)))


def _note_speed(shop: Workshop, seconds: float) -> None:
    """Tokens per second of the settings that were tried, which say more than the first step."""
    n_tokens = sum(filter(None, read_columns(open_store(shop.at(TRIED)), ["n_tokens"])["n_tokens"].to_pylist()))
    start = shop.record.plans.start or 0.0
    shop.record.plans.tried_speed = sizes.OBSERVING * n_tokens / max(seconds - start, 1.0)


def _worth_a_test(shop: Workshop) -> tuple[Sequence[str], str]:
    """The settings that none beats on the pilot in both loss and cost, from safe to bold, up to the margin, where any
    is within it; only such as run less than full depth. If there is time for one alone, it is the boldest that loses
    far less than the margin there, which is named too.
    """
    question = shop.question(None)
    measured = LossesAndCosts(read_finished(shop.at(TRIED), question.columns), question)
    found, costs = measured.losses("all"), measured.costs_of("all")
    risks = np.array([loss.mean() if len(loss := found.of(key)) else math.nan for key in measured.keys])
    order = pareto_sequence(risks, np.array([costs[key] for key in measured.keys]))
    saves = [at for at in order if costs[measured.keys[at]] < FULL_DEPTH]
    within = [at for at in saves if risks[at] <= shop.asked.margin] or saves[:1]
    easily = [at for at in within if risks[at] <= shop.asked.margin / FAR_LESS] or within[:1]
    keys = [measured.keys[at] for at in within]
    return keys, measured.keys[easily[-1]] if easily else ""
