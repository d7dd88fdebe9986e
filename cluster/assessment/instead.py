"""What could be taken in place of exits: drafts by a layer, and transformers' own `generate` with its lookup.

They are timed beside full depth on prompts of the pilot, whose texts they leave as they are.
"""

from cluster.assessment import sizes
from cluster.assessment.certifying import time_settings_with, untimed_settings
from cluster.assessment.parts import PILOT
from cluster.assessment.workshop import INSTEAD, Workshop
from eexit.plan.configuration import GENERATE, LOOKUP, Generate
from eexit.quality.estimates import MIN_ROUNDS
from eexit.studies.timing.study import WhatToTime


def take_instead(shop: Workshop) -> None:
    prompts = shop.parts.some(PILOT, max(MIN_ROUNDS * sizes.TIMED_PROMPTS, *shop.batches))
    _, layers, _ = shop.place.look(shop.asked.config(shop.parts.all))
    shop.sweep(shop.asked.drafts(prompts, layers), INSTEAD, 1 / 4)
    shop.work(3 / 4)
    _time_drafts_with(shop, shop.batches[0])


def has_taken_instead(shop: Workshop) -> bool:
    return shop.batches[0] not in shop.untimed(INSTEAD, GENERATE, MIN_ROUNDS)


def time_with_more_rows(shop: Workshop) -> None:
    """Settings, and what could be taken instead, with the other batch sizes: each may be the last that time suffices
    for.
    """
    for batch in shop.batches[1:]:
        shop.work(1 / 2 / len(shop.batches[1:]))
        time_settings_with(shop, batch)
        shop.work(1 / 2 / len(shop.batches[1:]))
        _time_drafts_with(shop, batch)


def has_timed_with_more_rows(shop: Workshop) -> bool:
    return not _untimed_rows(shop)


def cut_rows(shop: Workshop) -> str:
    """What is left out: the batch sizes that were timed in fewer rounds than planned, or not at all."""
    return f"times with {' or '.join(map(str, _untimed_rows(shop)))} rows"


def _untimed_rows(shop: Workshop) -> list[int]:
    settings = untimed_settings(shop, shop.batches)
    drafts = shop.untimed(INSTEAD, GENERATE, MIN_ROUNDS) if shop.is_whole(INSTEAD) else []
    return [batch for batch in shop.batches[1:] if batch in (*settings, *drafts)]


def _time_drafts_with(shop: Workshop, batch: int) -> None:
    """Drafts, and `generate` with its lookup for one row, in few rounds.

    Other prompts in each round, since how often a draft is right depends on the prompt, and one for each row: the
    more rounds the prompts are for, the narrower is the interval.
    """
    if not shop.is_whole(INSTEAD) or batch not in shop.untimed(INSTEAD, GENERATE, MIN_ROUNDS):
        return
    n_prompts = MIN_ROUNDS * sizes.timed_prompts(batch)
    variants = [Generate(variant=LOOKUP).key] if batch == 1 else []
    what = WhatToTime(
        shop.drafts(INSTEAD), (batch,), n_prompts, shop.timed_tokens, n_prompts // batch,
        beside=[Generate().key, *variants], per_round=batch,
    )  # fmt: skip
    shop.time_it(INSTEAD, what)
