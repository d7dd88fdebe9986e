"""Which settings are worth a run: replays of all on the pilot, and the front of them run there."""

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from cluster.studies.assessment.preparing import say_ceiling
from cluster.studies.assessment.workshop import TRIED, Workshop
from eexit.messages.errors import UsageError
from eexit.plan.config import SCREEN, Prompt
from eexit.plan.configuration import EVERY, NORMAL
from eexit.quality.learn_then_test import FULL_DEPTH, pareto_sequence
from eexit.results.landed import read_columns
from eexit.results.store.finished_sweep import read_finished
from eexit.results.store.folder import open_store
from eexit.results.study_tables import REPLAYS
from eexit.studies.assessment import learned, sizes
from eexit.studies.assessment.front import (
    Found,
    LookPrices,
    as_if_free,
    best_set,
    cost_within,
    found_of,
    front,
    of_set,
    rules_of,
)  # fmt: skip
from eexit.studies.assessment.learned import LEARNED, UNALTERED, Rules, Way
from eexit.studies.assessment.parts import PILOT
from eexit.studies.choosing.evidence import Evidence
from eexit.studies.replay.plan import SettingsToReplay, make_replay_plan


def search(shop: Workshop) -> None:
    pilot = shop.parts.some(PILOT, shop.search_sizes.pilot)
    ways = shop.ways()
    for at, (name, way) in enumerate(ways.items()):
        if at:
            shop.sweep(shop.asked.ceiling(pilot, way), name, 0.2)
            say_ceiling(shop, name, "as was learned")
        _replay(shop, name, way, 0.5 / len(ways))
    found = {name: _found(shop, name) for name in ways}
    margin = shop.asked.margin
    name = min(found, key=lambda each: cost_within(found[each], margin))
    priced = as_if_free(found[name], margin)
    exit_set = best_set(priced, margin)
    chosen = front(of_set(priced, exit_set), margin, sizes.MOST_TRIED)
    way, rules = ways[name], rules_of((each.rule, each.parameter) for each in chosen)
    if not any(each.exits for each in chosen):
        shop.record.plans["front"] = None
        shop.leave_out("all runs of settings, since in replays no token leaves early at any of them")
        return
    began, is_new = time.monotonic(), not shop.is_there(TRIED)
    way = _try(shop, pilot, way, rules, exit_set)
    if is_new:
        _note_speed(shop, time.monotonic() - began)
    shop.record.plans["front"] = {
        "readout": way.readout,
        "decide_on": way.decide_on,
        "probe": way.probe,
        "exit_set": exit_set,
        "settings": _worth_a_test(shop),
    }
    shop.record.write()


def _try(shop: Workshop, pilot: Sequence[Prompt], way: Way, rules: Rules, exit_set: str) -> Way:
    """Run the front's settings on the pilot, through a screen where that can be had; returns how they read."""
    screened = _screened(shop, way, rules)
    try:
        shop.sweep(shop.asked.settings(pilot, screened, rules, exit_set), TRIED, 0.3)
    except UsageError as refused:
        if screened == way:
            raise
        shop.leave_out(f"a screen, which this model can't have ({refused})")
        shop.sweep(shop.asked.settings(pilot, way, rules, exit_set), TRIED, 0.3)
        return way
    return screened


def _screened(shop: Workshop, way: Way, rules: Rules) -> Way:
    """The same way through a screen, where a read of the head costs more than a layer."""
    reads = any(name not in learned.FREE for name in rules)
    if shop.first_look.head_in_layers <= 1 or not reads:
        return way
    return Way(way.readout, SCREEN, way.probe)


def _replay(shop: Workshop, name: str, way: Way, part: float) -> None:
    """Replays of all settings that can be had in this way; what is there is not replayed again."""
    layers = read_finished(shop.at(name), ["status"]).manifest.exitable_layers
    own = {rule: values for each in LEARNED if getattr(way, each.role, None) for rule, values in each.rules.items()}
    searches: list[tuple[Rules, Sequence[str]]] = [(learned.RULES, learned.exit_sets(layers))]
    searches += [(own, (EVERY,))] if own and way.probe else []
    for rules, exit_sets in searches:
        shop.steps.work(part / len(searches))
        if set(rules) <= {row["rule"] for row in _replays(shop, name)}:
            continue
        settings = SettingsToReplay((), rules, (UNALTERED,), exit_sets)
        probe = way.probe if rules is own else None
        plan = partial(make_replay_plan, asked=settings, text_of=NORMAL, probe=probe)
        shop.place.study(shop.at(name), plan, ("prompt_id", "status"))


def _replays(shop: Workshop, name: str) -> Sequence[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = REPLAYS.read(open_store(shop.at(name))).to_pylist()
    return rows


def _found(shop: Workshop, name: str) -> list[Found]:
    sweep, look = read_finished(shop.at(name), ["status"]), shop.first_look
    screens = look.head_in_layers > 1
    prices = LookPrices(look.head, look.head * (learned.SCREENED if screens else 1.0))
    n_layers, layers = int(sweep.manifest.model["n_layers"]), sweep.manifest.exitable_layers
    return [found_of(row, layers, n_layers, prices) for row in _replays(shop, name)]


def _note_speed(shop: Workshop, seconds: float) -> None:
    """Tokens per second of the settings that were tried, which say more than the first step."""
    n_tokens = sum(filter(None, read_columns(open_store(shop.at(TRIED)), ["n_tokens"])["n_tokens"].to_pylist()))
    shop.record.plans["tried_speed"] = sizes.OBSERVING * n_tokens / max(seconds - shop.record.plans["start"], 1.0)


def _worth_a_test(shop: Workshop) -> list[str]:
    """The settings that none beats on the pilot in both loss and cost, from safe to bold, up to the margin, where any
    is within it; only such as run less than full depth."""
    question = shop.question(None)
    evidence = Evidence(read_finished(shop.at(TRIED), question.columns), shop.at(TRIED), question)
    found, costs = evidence.losses("all"), evidence.costs_of("all")
    risks = np.array([loss.mean() if len(loss := found.of(key)) else math.nan for key in evidence.keys])
    order = pareto_sequence(risks, np.array([costs[key] for key in evidence.keys]))
    saves = [at for at in order if costs[evidence.keys[at]] < FULL_DEPTH]
    within = [at for at in saves if risks[at] <= shop.asked.margin] or saves[:1]
    return [evidence.keys[at] for at in within]
