"""The first steps: how long a step of decoding takes, what could be saved at most, and what can be learned."""

import time
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from cluster.assessment import sizes
from cluster.assessment.asked import READS_KEY
from cluster.assessment.learned import LEARNED, ORACLE, Learned, Way
from cluster.assessment.outcome.figures import of_oracle
from cluster.assessment.outcome.tables import read_step
from cluster.assessment.parts import ANSWERS, PILOT, TRAINING
from cluster.assessment.sizes import CURVE, SearchSizes
from cluster.assessment.workshop import CEILING, LOOK, TEXTS, Workshop
from cluster.interruption import TimeIsUpError
from eexit.errors import UsageError
from eexit.output.text import counted, percent, short_percent, written
from eexit.plan.artefacts import READOUT, STATE_MAPS, Card
from eexit.plan.configuration import NORMAL
from eexit.quality.intervals import clopper_pearson
from eexit.quality.risks import answers_tell
from eexit.results.finished_sweep import read_finished
from eexit.studies.timing.study import WhatToTime
from eexit.training.plan import WhatToTrain

ONE_IN: Final = 4  # texts has what agreement by number of tokens is shown with, beside all


def look(shop: Workshop) -> None:
    prompts, plans = shop.parts.some(PILOT, sizes.SWEPT_PROMPTS), shop.record.plans
    began, is_new = time.monotonic(), not shop.is_whole(LOOK)
    shop.sweep(shop.asked.look(prompts, shop.layers), LOOK, 0.3)
    if plans.start is None and is_new:
        plans.start = time.monotonic() - began
    if not _is_timed(shop):
        shop.work(0.7)
        _time_steps(shop)
    plans.timed = _rounds_timed(shop)
    shop.record.write()
    measured = shop.first_look
    shop.steps.say(
        f"a read of the head costs {written(measured.head_in_layers, '.1f')} layers; a step takes "
        + ", ".join(
            f"{written(1e3 * seconds[-1], '.0f')} ms with {counted(rows, 'row')}"
            for rows, seconds in (measured.steps.seconds.items() if measured.steps else ())
        )
    )


def has_looked(shop: Workshop) -> bool:
    return shop.is_whole(LOOK) and bool(shop.record.plans.timed) and _is_timed(shop)


def _is_timed(shop: Workshop) -> bool:
    """In as many rounds as are recorded or, where an interruption came before that, as were planned."""
    planned = dict.fromkeys(shop.asked.timed_batches, sizes.look_rounds(shop.asked.minutes))
    return all(
        shop.rounds(LOOK, READS_KEY, batch) >= rounds for batch, rounds in (shop.record.plans.timed or planned).items()
    )


def _rounds_timed(shop: Workshop) -> dict[int, int]:
    """By batch size, of those that were timed at all."""
    found = {batch: shop.rounds(LOOK, READS_KEY, batch) for batch in shop.asked.timed_batches}
    return {batch: rounds for batch, rounds in found.items() if rounds}


def _time_steps(shop: Workshop) -> None:
    """T(rows, layers), drafts and `generate`: with as many rows, and in as many rounds, as there is time for.

    Raises `TimeIsUpError` if none of the batch sizes that are asked about can be timed.
    """
    keys, rounds, batches = [READS_KEY, *shop.drafts(LOOK)], sizes.look_rounds(shop.asked.minutes), shop.asked.batches
    what = WhatToTime(keys, shop.asked.timed_batches, sizes.LOOK_PROMPTS, sizes.LOOK_TOKENS, rounds, True)
    with suppress(TimeIsUpError):  # rounds that have landed are of use
        shop.time_it(LOOK, replace(what, seconds=shop.step_seconds_left))
    timed = _rounds_timed(shop)
    if not any(batch in timed for batch in batches):
        raise TimeIsUpError
    if without := [batch for batch in batches if batch not in timed]:
        shop.leave_out(f"times with {' or '.join(map(str, without))} rows, for want of minutes")


def _plan_search(shop: Workshop) -> None:
    """What the search has room for, once. Raises `UsageError` if not even the least has."""
    if shop.record.plans.search is None:
        budget, max_new_tokens, minutes = shop.budget, shop.asked.common["max_new_tokens"], shop.asked.minutes
        planned = sizes.search_sizes(budget, max_new_tokens, minutes)
        said, is_enough = sizes.told_of_minutes(budget, shop.parts.risk, max_new_tokens, minutes)
        (shop.steps.say if is_enough else shop.remark)(said)
        shop.record.plans.search = _found_again(shop, planned)
        shop.leave_out(*planned.left_out)
        shop.record.write()


def _found_again(shop: Workshop, planned: SearchSizes) -> SearchSizes:
    """The sizes of the ceiling and of the texts, and what was learned, as far as they are there; else as planned.

    If the record of them was lost, what is planned anew would not be what is there, and could not be gone on with.
    """
    if ceiling := shop.manifest(CEILING):
        planned = replace(planned, pilot=len(ceiling.config["prompts"]))
    if texts := shop.manifest(TEXTS):
        planned = replace(planned, training=len(texts.config["prompts"]), seeds=len(texts.config["seeds"]))
    learned = [each.what for each in LEARNED if shop.is_learned(each.what)]
    curve = [CURVE for each in LEARNED if each.role == READOUT and shop.is_learned(shop.few(each.what))]
    return replace(planned, learns=(*learned, *curve)) if learned else planned


def find_ceiling(shop: Workshop) -> None:
    _plan_search(shop)
    sweep_ceiling(shop, CEILING, Way(), 1.0, "with the lens")
    _see_whether_answers_tell(shop)


def _see_whether_answers_tell(shop: Workshop) -> None:
    """On the pilot, by the lower end of the interval of `normal`'s accuracy."""
    if shop.risk != ANSWERS:
        return
    runs = read_finished(shop.at(CEILING), ["configuration", "correct"]).runs
    marks = [run["correct"] for run in runs.to_pylist() if run["configuration"] == NORMAL]
    low, _ = clopper_pearson(sum(map(bool, marks)), len(marks))
    if not answers_tell(low, shop.asked.margin):
        shop.settle_risk(
            f"full depth gets {sum(map(bool, marks))} of {len(marks)} answers of the pilot right: a setting that loses "
            f"half of the right ones could keep a bound of {short_percent(shop.asked.margin)} on lost answers"
        )


def sweep_ceiling(shop: Workshop, name: str, way: Way, part: float, how: str) -> None:
    """What the oracle would save on the pilot, read in this way, which is said."""
    pilot = shop.parts.some(PILOT, shop.search_sizes.pilot)
    shop.sweep(shop.asked.ceiling(pilot, way, shop.layers), name, part)
    top = of_oracle(read_step(shop.at(name)), shop.first_look)
    allowed = {batch: top.allowed[batch] for batch in shop.batches if batch in top.allowed}
    in_time = ", ".join(f"{percent(share, 0)} with {counted(batch, 'row')}" for batch, share in allowed.items())
    shop.steps.say(
        f"{how}, the oracle {ORACLE} would save {percent(top.theory)} of the multiply-adds, and of the time at most "
        f"{in_time}"
    )


def has_ceiling(shop: Workshop) -> bool:
    return shop.record.plans.search is not None and shop.is_whole(CEILING)


def learn(shop: Workshop) -> None:
    planned = shop.search_sizes
    prompts = shop.parts.some(TRAINING, planned.training)
    part = sizes.parts_of_learning(planned.learns)
    shop.sweep(shop.asked.texts(prompts, planned.seeds), TEXTS, part[sizes.OF_TEXTS])
    folders: dict[str, str] = {}
    for each in _wanted(shop):
        shop.work(part[each.what])
        folders[each.role] = shop.exits(each.what)
        through: dict[str, Any] = {READOUT: folders[READOUT]} if each.role != READOUT else {}
        asked = WhatToTrain(each.what, folders[each.role], options={**through, **each.options})
        try:
            card = shop.place.train(shop.at(TEXTS), asked)
        except UsageError as refused:
            if each.role != STATE_MAPS:
                raise
            shop.learn_no_more_than([what for what in shop.search_sizes.learns if what != each.what])
            shop.leave_out(f"{sizes.NAMES[each.what]}, which this model can't have ({refused})")
            continue
        if each.role == READOUT and sizes.CURVE in planned.learns:
            shop.work(part[sizes.CURVE])
            few = WhatToTrain(each.what, shop.exits(shop.few(each.what)), one_in=ONE_IN)
            _say_agreement(shop, shop.place.train(shop.at(TEXTS), few), card)


def has_learned(shop: Workshop) -> bool:
    """Whether all artefacts are there; the texts that they learned from are of no use to the steps after it."""
    return all(map(shop.is_learned, _artefacts(shop).values()))


def cut_learning(shop: Workshop) -> None:
    """What is learned by now is what is searched."""
    there = {what: shop.is_learned(artefact) for what, artefact in _artefacts(shop).items()}
    shop.learn_no_more_than([what for what, is_there in there.items() if is_there])
    shop.leave_out(*(f"{sizes.NAMES[what]}, for want of minutes" for what, is_there in there.items() if not is_there))


def _artefacts(shop: Workshop) -> dict[str, str]:
    """What is to be learned, and the folder that it is in then."""
    artefacts = {each.what: each.what for each in _wanted(shop)}
    if sizes.CURVE in shop.search_sizes.learns:
        artefacts[sizes.CURVE] = next(shop.few(each.what) for each in LEARNED if each.role == READOUT)
    return artefacts


def _wanted(shop: Workshop) -> list[Learned]:
    reads_cost = shop.first_look.head_in_layers > 1
    return [each for each in LEARNED if each.what in shop.search_sizes.learns and (reads_cost or not each.for_reads)]


def _say_agreement(shop: Workshop, few: Card, many: Card) -> None:
    """Say how often the last exitable layer, learned from few tokens and from many, agrees with full depth."""
    layer = many.layers[-1]
    told = [
        f"{percent(row.agreement)} with {card.data['n_tokens']:,} tokens"
        for card in (few, many)
        for row in card.table
        if row.layer == layer and row.series == card.what and row.agreement is not None
    ]
    shop.steps.say(f"as full depth at layer {layer}, learned: {', '.join(told)}")
