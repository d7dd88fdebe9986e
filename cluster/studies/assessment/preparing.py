"""The first steps: how long a step of decoding takes, what could be saved at most, and what can be learned."""

import time
from typing import Any, Final

from cluster.studies.assessment.workshop import CEILING, LOOK, TEXTS, Workshop
from eexit.messages.wording import counted
from eexit.messages.written import percent, short_percent, written
from eexit.plan.artefacts import READOUT, Card
from eexit.plan.configuration import NORMAL
from eexit.quality.intervals import clopper_pearson
from eexit.quality.risks import answers_tell
from eexit.results.store.finished_sweep import read_finished
from eexit.studies.assessment import sizes
from eexit.studies.assessment.asked import READS_KEY
from eexit.studies.assessment.figures import of_oracle
from eexit.studies.assessment.learned import LEARNED, ORACLE, Way
from eexit.studies.assessment.parts import ANSWERS, PILOT, TRAINING
from eexit.studies.assessment.tables import SweepFigures
from eexit.studies.timing.plan import WhatToTime
from eexit.training.plan import WhatToTrain

ONE_IN: Final = 4  # texts has what agreement by number of tokens is shown with, beside all


def look(shop: Workshop) -> None:
    prompts, rounds = shop.parts.some(PILOT, sizes.SWEPT_PROMPTS), sizes.look_rounds(shop.asked.minutes)
    _, layers, _ = shop.place.look(shop.asked.config(shop.parts.all))
    began = time.monotonic()
    shop.sweep(shop.asked.look(prompts, layers), LOOK, 0.3)
    shop.record.plans.setdefault("start", time.monotonic() - began)
    batches = shop.asked.timed_batches
    if not shop.has_timing(LOOK, READS_KEY, batches[-1], rounds):
        shop.work(0.7)
        keys = [READS_KEY, *shop.drafts(LOOK)]
        shop.time_it(LOOK, WhatToTime(keys, batches, sizes.LOOK_PROMPTS, sizes.LOOK_TOKENS, rounds, True))
    shop.record.write()
    measured = shop.first_look
    shop.steps.say(
        f"a read of the head costs {written(measured.head_in_layers, '.1f')} layers; a step takes "
        + ", ".join(
            f"{written(1e3 * seconds[-1], '.0f')} ms with {counted(rows, 'row')}"
            for rows, seconds in (measured.steps.seconds.items() if measured.steps else ())
        )
    )


def find_ceiling(shop: Workshop) -> None:
    sweep_ceiling(shop, CEILING, Way(), 1.0)
    say_ceiling(shop, CEILING, "with the lens")
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


def sweep_ceiling(shop: Workshop, name: str, way: Way, part: float) -> None:
    """What the oracle would save on the pilot, read in this way."""
    pilot = shop.parts.some(PILOT, shop.search_sizes.pilot)
    _, layers, _ = shop.place.look(shop.asked.config(shop.parts.all))
    shop.sweep(shop.asked.ceiling(pilot, way, layers), name, part)


def say_ceiling(shop: Workshop, name: str, how: str) -> None:
    top = of_oracle(SweepFigures.read(shop.at(name)), shop.first_look, shop.asked.batches)
    in_time = ", ".join(
        f"{percent(share.independent, 0)} with {counted(batch, 'row')}" for batch, share in top.allowed.items()
    )
    shop.steps.say(
        f"{how}, the oracle {ORACLE} would save {percent(top.theory)} of the multiply-adds, and of the time {in_time}"
    )


def learn(shop: Workshop) -> None:
    planned = shop.search_sizes
    if not planned.learns:
        return
    prompts = shop.parts.some(TRAINING, planned.training)
    part = sizes.parts_of_learning(planned.learns)
    shop.sweep(shop.asked.texts(prompts, planned.seeds), TEXTS, part[sizes.OF_TEXTS])
    reads_cost = shop.first_look.head_in_layers > 1
    wanted = [each for each in LEARNED if each.what in planned.learns and (reads_cost or not each.for_reads)]
    folders: dict[str, str] = {}
    for each in wanted:
        shop.work(part[each.what])
        folders[each.role] = shop.exits(each.what)
        through: dict[str, Any] = {READOUT: folders[READOUT]} if each.role != READOUT else {}
        asked = WhatToTrain(each.what, folders[each.role], settings={**through, **each.settings})
        card = shop.place.train(shop.at(TEXTS), asked)
        if each.role == READOUT and "curve" in planned.learns:
            shop.work(part["curve"])
            few = WhatToTrain(each.what, shop.exits(f"{each.what}-few"), one_in=ONE_IN)
            _say_agreement(shop, shop.place.train(shop.at(TEXTS), few), card)


def _say_agreement(shop: Workshop, few: Card, many: Card) -> None:
    """As final at the last exitable layer, by the tokens that were learned from."""
    layer = many.layers[-1]
    told = [
        f"{percent(row['agreement'])} with {card.data['n_tokens']:,} tokens"
        for card in (few, many)
        for row in card.held_out
        if row["layer"] == layer and row["readout"] == card.what
    ]
    shop.steps.say(f"as full depth at layer {layer}, learned: {', '.join(told)}")
