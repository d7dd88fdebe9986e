"""Which settings are worth a run: replays of all on the pilot, and the front of them run there."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Final

import numpy as np

from cluster.studies.assessment.preparing import say_ceiling, sweep_ceiling
from cluster.studies.assessment.workshop import CEILING_LEARNED, TRIED, TRIED_FREE, Workshop
from eexit.messages.errors import UsageError
from eexit.method.rules import ONLINE
from eexit.plan.artefacts import GATE, PROBE
from eexit.plan.configuration import EVERY, NORMAL
from eexit.quality.learn_then_test import FULL_DEPTH, pareto_sequence
from eexit.results.landed import read_columns
from eexit.results.store.finished_sweep import read_finished
from eexit.results.store.folder import open_store
from eexit.results.study_tables import REPLAYS
from eexit.studies.assessment import learned, sizes
from eexit.studies.assessment.front import (
    Found,
    as_if_free,
    best_set,
    cost_within,
    found_of,
    front,
    of_set,
    rules_of,
)
from eexit.studies.assessment.learned import LEARNED, UNALTERED, Rules, Way
from eexit.studies.assessment.parts import PILOT
from eexit.studies.choosing.evidence import Evidence
from eexit.studies.replay.plan import SettingsToReplay, make_replay_plan

Row = Mapping[str, Any]
FAR_LESS: Final = 4  # times less than the margin


def search(shop: Workshop) -> None:
    pilot = shop.parts.some(PILOT, shop.search_sizes.pilot)
    found: dict[Way, list[Found]] = {}
    for at, (name, way) in enumerate((ways := shop.ways()).items()):
        if at:
            sweep_ceiling(shop, name, way, 0.2)
            say_ceiling(shop, name, "as was learned")
        read, rows = _replay(shop, name, way, 0.5 / len(ways))
        look = shop.first_look
        found[read] = [found_of(row, look.figures.n_layers, look.head) for row in rows if not row["gate"]]
    margin = shop.asked.margin
    way = min(found, key=lambda each: cost_within(found[each], margin))
    priced = as_if_free(found[way], margin)
    exit_set = best_set(priced, margin)
    chosen = front(of_set(priced, exit_set), margin, sizes.MOST_TRIED)
    if not any(each.exits for each in chosen):
        shop.record.plans["front"] = None
        shop.leave_out("all runs of settings, since in replays no token leaves early at any of them")
        return
    rules = rules_of((each.rule, each.parameter) for each in chosen)
    way = _gated(shop, way, rules, exit_set, cost_within(chosen, margin))
    began, is_new = time.monotonic(), not shop.is_there(TRIED)
    shop.sweep(shop.asked.settings(pilot, way, rules, exit_set), TRIED, 0.3)
    if is_new:
        _note_speed(shop, time.monotonic() - began)
    _try_as_if_free(shop, found, way, chosen)
    shop.record.plans["front"] = {**asdict(way), "exit_set": exit_set, **_worth_a_test(shop)}
    shop.record.write()


def _try_as_if_free(
    shop: Workshop, found: Mapping[Way, Sequence[Found]], tried_way: Way, tried: Sequence[Found]
) -> None:
    """Run those on the pilot that would save most within the margin if deciding were free, unless they were tried: what
    rules know is not told by those that are cheap to decide.
    """
    margin = shop.asked.margin
    free = {way: [replace(each, cost=each.free) for each in settings] for way, settings in found.items()}
    way = min(free, key=lambda each: cost_within(free[each], margin))
    exit_set = best_set(free[way], margin)
    known = {(each.rule, each.parameter, each.exit_set) for each in tried if way == tried_way}
    chosen = front(of_set(free[way], exit_set), margin, sizes.MOST_FREE)
    chosen = [each for each in chosen if each.exits and (each.rule, each.parameter, each.exit_set) not in known]
    if chosen:
        pilot = shop.parts.some(PILOT, shop.search_sizes.pilot)
        rules = rules_of((each.rule, each.parameter) for each in chosen)
        shop.sweep(shop.asked.settings(pilot, way, rules, exit_set), TRIED_FREE, 0.2)


def _replay(shop: Workshop, name: str, way: Way, part: float) -> tuple[Way, Sequence[Row]]:
    """The replays of all settings that can be had in this way, and how they read; what is there is not done again.

    Where a read of the head costs more than a layer, rules look through a screen, unless the model can't have one.
    """
    ways = [way]
    if shop.first_look.head_in_layers > 1:
        ways.insert(0, replace(way, decide_on=str(learned.SCREEN)))
    for each in ways:
        try:
            _replay_all(shop, name, each, part)
        except UsageError as refused:
            if each == way:
                raise
            shop.leave_out(f"a screen, which this model can't have ({refused})")
            continue
        return each, _replays(shop, name)
    raise AssertionError("the last way is done, or raises")


def _replay_all(shop: Workshop, name: str, way: Way, part: float) -> None:
    layers = read_finished(shop.at(name), ["status"]).manifest.exitable_layers
    probed = {rule: values for each in LEARNED if each.role == PROBE for rule, values in each.rules.items()}
    searches: list[tuple[Rules, Sequence[str]]] = [(learned.RULES, learned.exit_sets(layers))]
    searches += [(probed, (EVERY,))] if way.probe else []
    for rules, exit_sets in searches:
        shop.work(part / len(searches))
        if set(rules) <= {row["rule"] for row in _replays(shop, name)}:
            continue
        replaced = {"decide_on": way.decide_on} | ({PROBE: way.probe} if rules is probed and way.probe else {})
        settings = SettingsToReplay((), rules, (UNALTERED,), exit_sets, replaced=replaced)
        plan = partial(make_replay_plan, asked=settings, text_of=NORMAL)
        shop.place.study(shop.at(name), plan, ("prompt_id", "status"))


def _gated(shop: Workshop, way: Way, rules: Rules, exit_set: str, cost: float) -> Way:
    """The same way behind a gate, where one is there and the settings cost less behind it within the margin."""
    reading = {rule: values for rule, values in rules.items() if ONLINE[rule].reads}
    if way.gate is None or not reading:
        return way
    shop.work(0.1)
    if not any(row["gate"] for row in _replays(shop, CEILING_LEARNED)):
        replaced = {"decide_on": way.decide_on, GATE: way.gate}
        settings = SettingsToReplay((), reading, (UNALTERED,), (exit_set,), learned.GATE_THRESHOLDS, replaced)
        plan = partial(make_replay_plan, asked=settings, text_of=NORMAL)
        shop.place.study(shop.at(CEILING_LEARNED), plan, ("prompt_id", "status"))
    by_threshold: dict[str, list[Found]] = {}
    for row in _replays(shop, CEILING_LEARNED):
        if row["gate"]:
            found = found_of(row, shop.first_look.figures.n_layers, shop.first_look.head)
            by_threshold.setdefault(row["gate"], []).append(found)
    costs = {each: cost_within(found, shop.asked.margin) for each, found in by_threshold.items()}
    best = min(costs, key=lambda each: costs[each])
    return replace(way, gate_threshold=best) if costs[best] < cost else way


def _replays(shop: Workshop, name: str) -> Sequence[Row]:
    return REPLAYS.rows(open_store(shop.at(name)))


def _note_speed(shop: Workshop, seconds: float) -> None:
    """Tokens per second of the settings that were tried, which say more than the first step."""
    n_tokens = sum(filter(None, read_columns(open_store(shop.at(TRIED)), ["n_tokens"])["n_tokens"].to_pylist()))
    shop.record.plans["tried_speed"] = sizes.OBSERVING * n_tokens / max(seconds - shop.record.plans["start"], 1.0)


def _worth_a_test(shop: Workshop) -> dict[str, Any]:
    """The settings that none beats on the pilot in both loss and cost, from safe to bold, up to the margin, where any
    is within it; only such as run less than full depth. If there is time for one alone, it is the boldest that loses
    far less than the margin there.
    """
    question = shop.question(None)
    evidence = Evidence(read_finished(shop.at(TRIED), question.columns), question)
    found, costs = evidence.losses("all"), evidence.costs_of("all")
    risks = np.array([loss.mean() if len(loss := found.of(key)) else math.nan for key in evidence.keys])
    order = pareto_sequence(risks, np.array([costs[key] for key in evidence.keys]))
    saves = [at for at in order if costs[evidence.keys[at]] < FULL_DEPTH]
    within = [at for at in saves if risks[at] <= shop.asked.margin] or saves[:1]
    easily = [at for at in within if risks[at] <= shop.asked.margin / FAR_LESS] or within[:1]
    keys = [evidence.keys[at] for at in within]
    return {"settings": keys, "alone": evidence.keys[easily[-1]] if easily else None}
