"""The last steps: few settings on prompts that chose nothing, which of them may be used, and how long they take."""

from dataclasses import asdict
from functools import partial

import numpy as np

from cluster.studies.assessment.workshop import RUN, TRIED, Workshop
from eexit.plan.configuration import NORMAL
from eexit.results.store.finished_sweep import read_finished
from eexit.studies.assessment import sizes
from eexit.studies.assessment.figures import latest_choice, to_time
from eexit.studies.assessment.front import rules_of, spread
from eexit.studies.assessment.learned import Way
from eexit.studies.assessment.parts import ANSWERS, CHOOSING, REPORTING
from eexit.studies.assessment.promises import promise
from eexit.studies.assessment.sizes import RunSizes
from eexit.studies.choosing.evidence import EmptyRiskError
from eexit.studies.choosing.study import ChoosingStudy
from eexit.studies.controls import controls_of
from eexit.studies.timing.plan import LEAST_TOKENS, WhatToTime


def run(shop: Workshop) -> None:
    plan = shop.record.plans.get("front")
    if not plan:
        return
    if not plan["settings"]:
        shop.leave_out("the run, since on the pilot, each setting that was tried runs more than full depth")
        return
    planned = _run_sizes(shop, len(plan["settings"]))
    keys = spread(plan["settings"], planned.settings, plan["alone"])
    prompts = [*shop.parts.some(CHOOSING, planned.choosing), *shop.parts.some(REPORTING, planned.reporting)]
    controls = [each for each in controls_of(shop.at(TRIED)) if each.of in keys] if planned.controls else []
    entries = {entry["key"]: entry for entry in read_finished(shop.at(TRIED), ["status"]).manifest.configurations}
    rules = rules_of((entries[key]["rule"], entries[key]["parameter"]) for key in keys)
    way = Way(**{name: plan[name] for name in Way.__dataclass_fields__})
    shop.sweep(shop.asked.settings(prompts, way, rules, plan["exit_set"], controls), RUN, 1.0)


def _run_sizes(shop: Workshop, n_settings: int) -> RunSizes:
    """What the run has room for: planned once, after the search."""
    if "run" not in shop.record.plans:
        tried, look = read_finished(shop.at(TRIED), ["n_tokens"]), shop.first_look
        tokens = [n for n in tried.runs["n_tokens"].to_pylist() if n is not None]
        of_a_round = sum(
            4 * sizes.TIMED_TOKENS * -(-max(sizes.TIMED_PROMPTS, batch) // batch) * look.seconds(NORMAL, batch)
            for batch in shop.asked.batches
        )
        planned = sizes.run_sizes(shop.budget, float(np.mean(tokens)), n_settings, of_a_round)
        shop.record.plans["run"] = asdict(planned)
        shop.leave_out(*planned.left_out)
        if shop.risk == ANSWERS:
            shop.steps.say(promise(shop.enough, planned.choosing))
    return RunSizes(**shop.record.plans["run"])


def choose(shop: Workshop) -> None:
    if not shop.is_there(RUN) or latest_choice(read_finished(shop.at(RUN), ["status"])):
        return
    shop.work(1.0)
    try:
        _ask(shop)
    except EmptyRiskError as refused:  # by these prompts, if not by the pilot's; no loss was looked at
        shop.settle_risk(str(refused))
        _ask(shop)


def _ask(shop: Workshop) -> None:
    question = shop.question(shop.at(TRIED))
    shop.place.study(shop.at(RUN), partial(ChoosingStudy, question=question), question.columns)


def time_settings(shop: Workshop) -> None:
    if not shop.is_there(RUN):
        return
    sweep = read_finished(shop.at(RUN), ["status"])
    choice = latest_choice(sweep)
    assert choice is not None
    rounds, keys = shop.record.plans["run"]["rounds"], to_time(sweep, choice)
    tokens = max(LEAST_TOKENS, min(sizes.TIMED_TOKENS, shop.asked.common["max_new_tokens"]))
    for batch in shop.asked.batches:
        shop.work(1 / len(shop.asked.batches))
        if not shop.has_timing(RUN, keys[0], batch, rounds):
            prompts = max(sizes.TIMED_PROMPTS, batch)  # since rows of one prompt would leave together
            shop.time_it(RUN, WhatToTime(keys, (batch,), prompts, tokens, rounds))
