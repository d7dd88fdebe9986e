"""Does it pay? The steps of an assessment, each an ordinary sweep or study in a folder of its own: `assess`.

    look/               exits of all tokens at each layer, timed: T(rows, layers), drafts and `generate` beside it
    ceiling/            the pilot's texts at full depth, and what oracles would save; replays of settings on them
    texts/, exits/      texts of the model's own, sampled, and what was learned from them
    ceiling-learned/    as ceiling/, read as was learned
    tried/              the front of the replays' settings, run on the pilot: the order in which they are tested
    tried-free/         the front of those that would save most if deciding were free, there too
    run/                the few of them that are tested, on the prompts for choosing and reporting; choice and times
    assessment.json     what was asked and planned, and how long each step took (`eexit.studies.assessment.record`)
    verdict.json        what came of it (`eexit.studies.assessment.words`), in run/ too

What is finished is found and not done again, whatever ended the command before.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from cluster.console.steps import Steps
from cluster.studies.assessment.certifying import choose, run, time_settings
from cluster.studies.assessment.place import Place
from cluster.studies.assessment.preparing import find_ceiling, learn, look
from cluster.studies.assessment.searching import search
from cluster.studies.assessment.workshop import CEILING, CEILING_LEARNED, LOOK, RUN, TRIED, TRIED_FREE, Workshop
from eexit.messages import findings
from eexit.messages.progress import Display
from eexit.studies.assessment import promises, sizes
from eexit.studies.assessment.asked import Asked
from eexit.studies.assessment.figures import AssessmentTables, figures_of
from eexit.studies.assessment.learned import searched_layers
from eexit.studies.assessment.parts import ANSWERS
from eexit.studies.assessment.record import Record
from eexit.studies.assessment.verdict import FILE, Verdict, judge
from eexit.studies.assessment.words import as_json
from eexit.whole_files import write_whole

STEPS: Final[Mapping[str, Callable[[Workshop], None]]] = {
    sizes.LOOK: look,
    sizes.CEILING: find_ceiling,
    sizes.LEARN: learn,
    sizes.SEARCH: search,
    sizes.RUN: run,
    sizes.CHOOSE: choose,
    sizes.TIME: time_settings,
}
LEAVES: Final = {sizes.LOOK: LOOK, sizes.CEILING: CEILING}  # the folders that steps leave, whatever is found


def assess(asked: Asked, out: str | Path, place_on: Callable[[Display], Place], display: Display) -> Verdict:
    """Do the steps that are left, in the place that shows its progress on a display, and judge.

    Raises `UsageError` for what can't be used, and whatever stops a step.
    """
    record = Record.open(out, asked.as_dict())
    steps = Steps(display, sizes.SHARES, record.finished)
    with display:
        shop = Workshop(asked, record.path.parent, place_on(steps), steps, record)
        _say_what_is_asked(shop)
        _, layers, _ = shop.place.look(asked.config(shop.parts.all))
        shop.asked = asked.at_layers(searched_layers(layers))
        for step, work in STEPS.items():
            is_gone = step in LEAVES and not shop.is_there(LEAVES[step])
            if step not in record.finished or is_gone:
                with shop.timed(step):
                    work(shop)
        return _judged(shop)


def _judged(shop: Workshop) -> Verdict:
    """The verdict, which is written down."""
    steps = AssessmentTables(
        look=shop.first_look,
        ceilings=shop.figures(CEILING, CEILING_LEARNED),
        tried=shop.figures(TRIED, TRIED_FREE),
        run=next(iter(shop.figures(RUN)), None),
    )
    verdict = judge(figures_of(steps, shop.bound, shop.asked.batches))
    text = as_json(verdict, shop.asked.common["model"], shop.record.seconds, shop.record.remarks)
    for folder in (shop.out, *([Path(shop.at(RUN))] if shop.is_there(RUN) else [])):
        write_whole(folder / FILE, text)
    return verdict


def _say_what_is_asked(shop: Workshop) -> None:
    if shop.asks_before:
        shop.remark(promises.of_asks(shop.asks_before, shop.enough))
    for line in promises.of_prompts(shop.enough, shop.available, shop.parts.risk):
        shop.steps.say(line)
    if shop.parts.risk != ANSWERS:
        shop.remark(findings.WITHOUT_ANSWERS)
    load, cpus = os.getloadavg()[0], os.cpu_count() or 1
    if load > cpus / 2 and not shop.record.seconds:  # later, the load may be that of the call before
        shop.remark(findings.BUSY.format(load=f"{load:.1f}", cpus=cpus))
