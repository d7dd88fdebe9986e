"""What could be taken in place of exits, and is held to the same bound: drafts, and a model with fewer layers.

Drafts, by a layer or looked up in the text, and transformers' own `generate` with its variants are timed beside full
depth on prompts of the pilot, whose texts they leave as they are. Cuts leave layers out for every token. They are run
on the pilot, and the largest that loses far less than the margin there is tested as settings are, on the same prompts:
that is a further ask of them.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from cluster.assessment import sizes
from cluster.assessment.asked import AT_ONE_LAYER
from cluster.assessment.certifying import time_settings_with, untimed_settings
from cluster.assessment.learned import UNALTERED
from cluster.assessment.outcome.tables import PromptFigures, SweepFigures
from cluster.assessment.parts import CHOOSING, PILOT, REPORTING
from cluster.assessment.workshop import CUT_RUN, CUTS, INSTEAD, TEXTS, Workshop
from eexit.errors import UsageError
from eexit.output.text import counted, short_percent
from eexit.plan.artefacts import CUT
from eexit.plan.configuration import INT8, LOOKUP, VARIANTS, Draft, Exit, Generate
from eexit.quality.estimates import MIN_ROUNDS
from eexit.studies.timing.study import WhatToTime
from eexit.training.plan import WhatToTrain

LOOKED_UP: Final = Draft(None, None).key
OF_MARGIN: Final = 1 / 2  # the share that a cut may lose on the pilot to be tested
OF_DRAFTS, OF_CUTS = 0.6, 0.4  # parts of the step


def take_instead(shop: Workshop) -> None:
    _time_drafts(shop)
    if _is_cut(shop):
        _learn_cuts(shop)  # or find that this model can't have any
    if _is_cut(shop):
        _try_cuts(shop)
        _test_cut(shop)


def has_taken_instead(shop: Workshop) -> bool:
    if shop.batches[0] in shop.untimed(INSTEAD, LOOKED_UP, MIN_ROUNDS):
        return False
    if not _is_cut(shop):
        return True
    if not all(shop.is_whole(name) for name in _cuts(shop).values()):
        return False
    return _worth_a_test(shop) is None or (shop.choice(CUT_RUN) is not None and not _untimed(shop))


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
    drafts = shop.untimed(INSTEAD, LOOKED_UP, MIN_ROUNDS) if shop.is_whole(INSTEAD) else []
    return [batch for batch in shop.batches[1:] if batch in (*settings, *drafts)]


def _time_drafts(shop: Workshop) -> None:
    prompts = shop.parts.some(PILOT, max(MIN_ROUNDS * sizes.TIMED_PROMPTS, *shop.batches))
    _, layers, _ = shop.place.look(shop.asked.config(shop.parts.all))
    shop.sweep(shop.asked.drafts(prompts, layers), INSTEAD, OF_DRAFTS / 4)
    shop.work(OF_DRAFTS * 3 / 4)
    _time_drafts_with(shop, shop.batches[0])


def _time_drafts_with(shop: Workshop, batch: int) -> None:
    """Drafts, and `generate` with the variants that can be had here, in few rounds."""
    if shop.is_whole(INSTEAD) and batch in shop.untimed(INSTEAD, LOOKED_UP, MIN_ROUNDS):
        _time(shop, INSTEAD, shop.drafts(INSTEAD), batch, _variants(batch, shop.asked.common.get("quantize")))


def _variants(batch: int, quantize: object) -> list[str]:
    """Of `generate`; compiling takes longer than all that is timed here, so that it is left to `jobs/timings.py`, and
    quantised weights (`quantize`) are not quantised again.
    """
    there = {LOOKUP: batch == 1, INT8: quantize is None and find_spec("torchao") is not None}
    return [Generate(variant=variant).key for variant in VARIANTS if there.get(variant)]


def _time(shop: Workshop, name: str, keys: Sequence[str], batch: int, beside: Sequence[str] = ()) -> None:
    """Other prompts in each round, since how often a look-up is right depends on the prompt, and one for each row: the
    more rounds the prompts are for, the narrower is the interval.
    """
    n_prompts = MIN_ROUNDS * sizes.timed_prompts(batch)
    what = WhatToTime(
        keys, (batch,), n_prompts, shop.timed_tokens, n_prompts // batch, beside=[Generate().key, *beside],
        per_round=batch,
    )  # fmt: skip
    shop.time_it(name, what)


def _is_cut(shop: Workshop) -> bool:
    """Whether cuts are searched: there are texts to learn them from, and this model's layers can be left out."""
    return shop.is_whole(TEXTS) and not shop.record.plans.no_cut and bool(_cuts(shop))


def _cuts(shop: Workshop) -> dict[int, str]:
    """The sweeps of the cuts on the pilot, by how many layers they leave out: up to a quarter, which is far beyond what
    a model can lose.
    """
    return {n: name for n, name in CUTS.items() if n <= shop.first_look.figures.n_layers // 4}


def _artefact(shop: Workshop, n_layers: int) -> str:
    return str(Path(shop.exits(CUT), str(n_layers)))


def _learn_cuts(shop: Workshop) -> None:
    shop.work(OF_CUTS / 4)
    if all(shop.is_learned(f"{CUT}/{n}") for n in _cuts(shop)):
        return
    asked = WhatToTrain(CUT, shop.exits(CUT), options={"n_layers": tuple(_cuts(shop))})
    try:
        shop.place.train(shop.at(TEXTS), asked)
    except UsageError as refused:
        shop.record.plans.no_cut = True
        shop.leave_out(f"cuts, which this model can't have ({refused})")


def _try_cuts(shop: Workshop) -> None:
    pilot = shop.parts.some(PILOT, shop.search_sizes.pilot)
    for n, name in _cuts(shop).items():
        shop.sweep(shop.asked.cut(pilot, _artefact(shop, n), _last(shop)), name, OF_CUTS / 4 / len(_cuts(shop)))


def _last(shop: Workshop) -> int:
    """The final layer, at which tokens of a cut are read."""
    return shop.first_look.figures.n_layers - 1


def _worth_a_test(shop: Workshop) -> int | None:
    """How many layers the largest cut leaves out that loses far less than the margin on the pilot; None: none does."""
    losses = {n: _loss(shop, name) for n, name in _cuts(shop).items()}
    return max((n for n, loss in losses.items() if loss <= OF_MARGIN * shop.asked.margin), default=None)


def _loss(shop: Workshop, name: str) -> float:
    figures = SweepFigures.read(shop.at(name))
    return float(PromptFigures(figures, [0.0] * len(figures.layers_G), shop.risk).option(_key(shop)).loss_D[0])


def _key(shop: Workshop) -> str:
    return Exit(UNALTERED, AT_ONE_LAYER, float(_last(shop))).key


def _test_cut(shop: Workshop) -> None:
    n, planned = _worth_a_test(shop), shop.record.plans.run
    if n is None:
        least = min(_loss(shop, name) for name in _cuts(shop).values())
        shop.steps.say(f"no cut is worth a test: the best has a loss of {short_percent(least)} on the pilot")
        return
    choosing, reporting = (planned.choosing, planned.reporting) if planned else (shop.enough.least, shop.enough.least)
    prompts = [*shop.parts.some(CHOOSING, choosing), *shop.parts.some(REPORTING, reporting)]
    shop.steps.say(f"a cut of {counted(n, 'layer')} is tested on {counted(len(prompts), 'prompt')}")
    shop.sweep(shop.asked.cut(prompts, _artefact(shop, n), _last(shop)), CUT_RUN, OF_CUTS / 4)
    if shop.choice(CUT_RUN) is None:
        shop.choose(CUT_RUN, _cuts(shop)[n])
    for batch in _untimed(shop):
        shop.work(OF_CUTS / 4 / len(shop.batches))
        _time(shop, CUT_RUN, [_key(shop)], batch)


def _untimed(shop: Workshop) -> list[int]:
    """The batch sizes at which a certified cut is yet to be timed."""
    choice = shop.choice(CUT_RUN)
    return shop.untimed(CUT_RUN, _key(shop), MIN_ROUNDS) if choice and choice["configuration"] else []
