"""Few settings on prompts that chose nothing, which of them may be used, and how long they take."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cluster.assessment import sizes
from cluster.assessment.front import rules_of, spread
from cluster.assessment.outcome.figures import to_time
from cluster.assessment.parts import ANSWERS, CHOOSING, REPORTING
from cluster.assessment.sizes import RunSizes, promise
from cluster.assessment.workshop import RUN, TRIED, Workshop
from eexit.plan.configuration import NORMAL
from eexit.quality.estimates import MIN_ROUNDS
from eexit.results.finished_sweep import read_finished
from eexit.studies.choosing.losses_and_costs import EmptyRiskError
from eexit.studies.timing.study import WhatToTime
from eexit.sweeps.controls import controls_of


def run(shop: Workshop) -> None:
    front = shop.front
    assert front is not None
    assert front.settings
    planned = _run_sizes(shop, len(front.settings))
    keys = spread(front.settings, planned.settings, front.alone)
    prompts = [*shop.parts.some(CHOOSING, planned.choosing), *shop.parts.some(REPORTING, planned.reporting)]
    controls = [each for each in controls_of(shop.at(TRIED)) if each.of in keys] if planned.controls else []
    entries = {entry["key"]: entry for entry in read_finished(shop.at(TRIED), ["status"]).manifest.configurations}
    rules = rules_of((entries[key]["rule"], entries[key]["parameter"]) for key in keys)
    shop.sweep(shop.asked.settings(prompts, front.way, rules, front.exit_set, controls), RUN, 1.0)


def has_run(shop: Workshop) -> bool:
    return not (shop.front and shop.front.settings) or (shop.record.plans.run is not None and shop.is_whole(RUN))


def _run_sizes(shop: Workshop, n_settings: int) -> RunSizes:
    """What the run has room for: planned once, after the search."""
    if shop.record.plans.run is None:
        tried = read_finished(shop.at(TRIED), ["n_tokens"])
        tokens = [n for n in tried.runs["n_tokens"].to_pylist() if n is not None]
        of_a_round = sum(
            4 * shop.timed_tokens * -(-sizes.timed_prompts(batch) // batch) * shop.first_look.seconds(NORMAL, batch)
            for batch in shop.batches
        )
        planned = sizes.run_sizes(shop.budget, float(np.mean(tokens)), n_settings, of_a_round)
        shop.record.plans.run = _found_again(shop, planned)
        shop.leave_out(*planned.left_out)
        if shop.risk == ANSWERS:
            shop.steps.say(promise(shop.enough, planned.choosing))
    return shop.record.plans.run


def _found_again(shop: Workshop, planned: RunSizes) -> RunSizes:
    """The sizes of the run, if it is there though the record of it was lost; else as planned."""
    run = shop.manifest(RUN)
    if run is None:
        return planned
    ids = {prompt["id"] for prompt in run.config["prompts"]}
    choosing, reporting = (sum(each.id in ids for each in shop.parts.of[part]) for part in (CHOOSING, REPORTING))
    n_settings = sum(entry["rule"] is not None and not entry["control_of"] for entry in run.configurations)
    controls = any(entry["control_of"] for entry in run.configurations)
    return replace(planned, choosing=choosing, reporting=reporting, settings=n_settings, controls=controls)


def choose(shop: Workshop) -> None:
    shop.work(1.0)
    try:
        shop.choose(RUN, TRIED)
    except EmptyRiskError as refused:  # by these prompts, if not by the pilot's; no loss was looked at
        shop.settle_risk(str(refused))
        shop.choose(RUN, TRIED)


def has_chosen(shop: Workshop) -> bool:
    return not shop.is_whole(RUN) or shop.choice(RUN) is not None


def time_settings(shop: Workshop) -> None:
    """With the first batch size: the others come once what could be taken instead was timed with it."""
    shop.work(1.0)
    time_settings_with(shop, shop.batches[0])


def time_settings_with(shop: Workshop, batch: int) -> None:
    if batch in untimed_settings(shop, [batch]):
        per_round, rounds = sizes.timed_prompts(batch), _rounds(shop)
        n_prompts, n_tokens = rounds * per_round, shop.timed_tokens
        shop.time_it(RUN, WhatToTime(_to_time(shop), (batch,), n_prompts, n_tokens, rounds, per_round=per_round))


def has_timed(shop: Workshop) -> bool:
    return not untimed_settings(shop, shop.batches[:1])


def untimed_settings(shop: Workshop, batches: Sequence[int]) -> list[int]:
    """The batch sizes at which what decides was not timed in as many rounds as were planned."""
    keys = _to_time(shop)
    return [batch for batch in shop.untimed(RUN, keys[0], _rounds(shop)) if batch in batches] if keys else []


def _rounds(shop: Workshop) -> int:
    return shop.record.plans.run.rounds if shop.record.plans.run else MIN_ROUNDS


def _to_time(shop: Workshop) -> list[str]:
    """None, if nothing was run and chosen."""
    choice = shop.choice(RUN)
    return to_time(read_finished(shop.at(RUN), ["status"]), choice) if choice else []
