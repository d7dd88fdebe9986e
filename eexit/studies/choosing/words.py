"""What was chosen, and with which guarantee, in sentences and a table."""

import math
from collections.abc import Iterator

import pyarrow.compute as pc

from eexit.messages.result_table import ResultTable
from eexit.messages.wording import counted
from eexit.messages.written import written
from eexit.plan.configuration import NORMAL
from eexit.plan.splits import ONE_IN
from eexit.quality.risks import RISKS
from eexit.studies.choosing.choice import Choice, HeldOut, Tested, TestedFamily
from eexit.studies.choosing.evidence import COSTS

CAPTION = (
    "Settings of a family are tested from the conservative end to the bold one, until one is not certified. Mean loss "
    "and n: over prompts for choosing. p: of the hypothesis that the risk is above the bound (Hoeffding–Bentkus). "
    "Cost: "
)


def choice_table(choice: Choice) -> ResultTable:
    """A section per family, and a line per setting in the order of testing."""
    caption = f"{CAPTION}{COSTS[choice.question.cost].definition}."
    table = ResultTable(caption)
    table.add("key", "setting")
    table.add("number", "mean loss", "n", "p", "cost")
    table.add("name", "certified")
    for family in choice.families:
        table.add_section()
        for setting in family.settings:
            numbers = [_percent(setting.mean_loss), str(setting.n), _p_value(setting.p_value), _percent(setting.cost)]
            table.add_row(setting.configuration, *numbers, _outcome(setting, family))
    return table


def _outcome(setting: Tested, family: TestedFamily) -> str:
    if setting.certified:
        return "yes"
    return "no: stopped here" if setting == family.stopped_at else "not tested"


def choice_sentences(choice: Choice) -> Iterator[str]:
    """What counts as a loss, how it was tested, what was chosen, and how that does on prompts that chose nothing."""
    yield from _about_losses(choice)
    yield from _about_testing(choice)
    if choice.chosen:
        yield from _about_chosen(choice, choice.chosen)
    else:
        yield (
            f"No setting is certified, so that none is chosen: {NORMAL} is what can be defended. A setting without any "
            f"loss would be certified with {counted(choice.least_prompts, 'prompt')}."
        )
    yield from _about_naive(choice)


def _about_losses(choice: Choice) -> Iterator[str]:
    question, evidence = choice.question, choice.evidence
    seeds = f"over {counted(evidence.n_seeds, 'seed')} first" if evidence.n_seeds > 1 else "over the one seed there is"
    yield (
        f"Loss of a prompt: {RISKS[question.risk].definition}. It is averaged {seeds}; prompts are what is counted, "
        "never tokens, and those of the same text are one."
    )
    if evidence.n_seeds > 1 and evidence.n_same_for_every_seed:
        yield (
            f"Of {counted(evidence.n_same_for_every_seed, 'setting')}, all seeds have the same run, which counts once: "
            "tokens are greedy, and exits are not left to chance."
        )
    if evidence.judges:
        averaged = ", and the losses that they give a text are averaged" if len(evidence.judges) > 1 else ""
        yield f"Judged by {', '.join(evidence.judges)}{averaged}."
    if question.risk == "answers":
        right = pc.mean(evidence.sweep.runs.filter(pc.field("configuration") == NORMAL)["correct"]).as_py()
        if right is not None:
            more = "" if evidence.n_failed else ": no more than that can be lost"
            yield f"{NORMAL} answers {_percent(right)} of them correctly{more}."
    is_sampled = evidence.sweep.manifest.config["temperature"] > 0
    if is_sampled and NORMAL in evidence.choosing.configurations and (own := evidence.choosing.of(NORMAL)).any():
        yield f"{NORMAL} itself has a mean loss of {_percent(float(own.mean()))}, since this sweep samples its tokens."
    yield from _about_failures(choice)
    yield from (f"Left out: {line}." for line in evidence.left_out)


def _about_failures(choice: Choice) -> Iterator[str]:
    evidence = choice.evidence
    if evidence.n_failed:
        yield f"{counted(evidence.n_failed, 'run')} failed: each is a loss of 1, since no prompt may be left out."
    if evidence.n_failed_normal and RISKS[choice.question.risk].compares:
        yield (
            f"{evidence.n_failed_normal:,} of these are of {NORMAL}: settings are compared with the best that it could "
            "have said."
        )
    if evidence.n_unusable:
        yield (
            f"{counted(evidence.n_unusable, 'text')} got no usable judgement, and have the worst score, or the best as "
            f"texts of {NORMAL}: jobs/judge.py asks for them again."
        )


def _about_testing(choice: Choice) -> Iterator[str]:
    error, n_families = 1 - choice.question.confidence, len(choice.families)
    if n_families > 1:
        yield (
            f"{n_families} families of settings share the error of {_percent(error)}: {_percent(choice.error)} for the "
            "sequence of each (Bonferroni)."
        )
    for tested in choice.families:
        if setting := tested.stopped_at:
            yield f"{tested.family.name} stopped at {setting.configuration}: {_what_would_do(choice, setting)}."


def _what_would_do(choice: Choice, setting: Tested) -> str:
    mean = f"its mean loss is {_percent(setting.mean_loss)} over {counted(setting.n, 'prompt')}"
    if not setting.n:
        return "no prompt for choosing has a loss there"
    if (enough := choice.would_do(setting)) is None:
        return f"{mean}, which is not below the bound: if it stays so, no number of prompts would do"
    in_all = math.ceil(enough * ONE_IN / (ONE_IN - 1))
    return f"{mean}; if it stays so, {enough:,} prompts for choosing would do, which is a sweep of about {in_all:,}"


def _about_chosen(choice: Choice, chosen: Tested) -> Iterator[str]:
    question = choice.question
    yield (
        f"Chosen: {chosen.configuration}, the cheapest that is certified. Its cost is {_percent(chosen.cost)} of full "
        f"depth: {COSTS[question.cost].definition}."
    )
    yield (
        f"Guarantee: with {_percent(question.confidence)} confidence, over prompts like these, "
        f"{RISKS[question.risk].bound} is at most {_percent(question.at_most)} (n = {chosen.n} prompts, mean "
        f"{_percent(chosen.mean_loss)}, p = {_p_value(chosen.p_value)})."
    )
    if chosen.cost >= 1:
        yield f"It does not save anything: {NORMAL} costs no more, and needs no guarantee."
    if any(chosen in each.settings and each.family.is_oracle for each in choice.families):
        yield "It is an oracle, which looks at the final layer: at run time it saves nothing."
    elif choice.realised:
        speeds = ", ".join(f"{each.speedup:.2f} with {counted(each.batch, 'row')}" for each in choice.realised)
        yield f"Realised: times as fast as {NORMAL}, {speeds} at a time (jobs/timings.py)."
    else:
        yield "How long it really takes was not measured: python jobs/timings.py RESULTS does that."
    yield f"{_held_out(choice, choice.chosen_held_out)}."


def _about_naive(choice: Choice) -> Iterator[str]:
    bound = _percent(choice.question.at_most)
    if choice.naive is None:
        yield f"Naive choice: none either, since no setting has a mean loss of at most {bound}."
    elif choice.naive == choice.chosen:
        yield f"Naive choice, the cheapest whose mean loss is at most {bound}: the same."
    else:
        naive = choice.naive
        yield (
            f"Naive choice, the cheapest whose mean loss is at most {bound}, without a guarantee: "
            f"{naive.configuration}, mean {_percent(naive.mean_loss)}, cost {_percent(naive.cost)}. "
            f"{_held_out(choice, choice.naive_held_out)}."
        )


def _held_out(choice: Choice, found: HeldOut | None) -> str:
    """Without its full stop."""
    question = choice.question
    if found is None:
        return "This sweep has no prompt for reporting with a loss, so that nothing checks the choice"
    by_itself = 1 - question.confidence
    said = (
        f"On {counted(found.n, 'prompt')} for reporting, which had no part in the choice, the mean loss is "
        f"{_percent(found.mean_loss)}, and the risk is at most {_percent(found.upper)} by these alone, with "
        f"{_percent(question.confidence)} confidence"
    )
    if found.mean_loss > question.at_most:
        return f"{said}: the mean is above the bound"
    if found.p_value <= by_itself:
        return f"{said}: they confirm the bound"
    return f"{said}: the mean is within the bound, but they are too few to confirm it by themselves"


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{written(100 * share, '.3g')}%"


def _p_value(p_value: float) -> str:
    return written(p_value, ".2g")
