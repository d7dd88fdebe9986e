"""What was chosen, and with which guarantee, in sentences and a table."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow.compute as pc

from eexit.method.rules import ORACLES
from eexit.output.result_table import ResultTable
from eexit.output.text import bracketed, counted, is_known, ordinal, short_percent, written
from eexit.plan.configuration import NORMAL, short_name
from eexit.plan.splits import ONE_IN
from eexit.quality.learn_then_test import FULL_DEPTH, PARETO
from eexit.quality.per_right import COST_NEEDED, COST_RUN
from eexit.quality.risk_tests import BETTING, EXACT, prompts_without_loss
from eexit.quality.risks import RISKS
from eexit.studies.choosing.choice import Choice, Tested, TestedSequence, choice_columns
from eexit.studies.choosing.evidence import Evidence
from eexit.studies.choosing.question import COSTS

CAPTION = (
    "Settings are tested from the safe end to the bold one, until one is not certified. Mean loss and n: over prompts "
    "for choosing. p: of the hypothesis that the risk is above the bound ({test}). Cost: {cost}."
)
TESTS = {
    EXACT: "the exact binomial tail",
    BETTING: "bets against it, prompt by prompt (Waudby-Smith and Ramdas)",
}
DEFENSIBLE = "normal is what can be defended."
Row = Mapping[Any, Any]  # of `eexit.results.study_tables.CHOICES`


def choice_table(choice: Choice) -> ResultTable:
    """A section per family, and a line per setting in the order of testing."""
    evidence = choice.evidence
    cost = COSTS[evidence.question.cost].definition
    which = f"The {ordinal(choice.ask.number)} ask of these prompts. " if choice.ask.number > 1 else ""
    table = ResultTable(which + CAPTION.format(test=TESTS[evidence.test], cost=cost))
    table.add("key", "setting", shorten=short_name)
    table.add("number", "mean loss", "n", "p")
    has_right = any(each.loss_of_right is not None for sequence in choice.sequences for each in sequence.tested)
    table.add("number", *(["of those that\nnormal has right"] if has_right else []), "cost")
    table.add("name", "certified")
    for sequence in choice.sequences:
        table.add_section()
        for setting in sequence.tested:
            numbers = [short_percent(setting.mean_loss), str(setting.n), written(setting.p_value, ".2g")]
            of_right = [short_percent(setting.loss_of_right)] if has_right else []
            cost = short_percent(setting.cost)
            table.add_row(setting.configuration, *numbers, *of_right, cost, _outcome(setting, sequence))
    return table


def _outcome(setting: Tested, sequence: TestedSequence) -> str:
    if setting.certified:
        return "yes"
    return "no: stopped here" if setting == sequence.stopped_at else "not tested"


def choice_sentences(choice: Choice) -> Iterator[str]:
    """What counts as a loss, how it was tested, what was chosen, and how that does on prompts that chose nothing."""
    row = choice_columns(choice)
    yield from _about_losses(choice)
    yield from _about_failures(choice)
    if choice.evidence.question.order == PARETO:
        n = counted(choice.sequences[0].n_pilot, "prompt")
        settings = counted(len(choice.sequences[0].settings), "setting")
        yield (
            f"The order comes from {n} of a pilot, which choose nothing: {settings} that none beats in both loss and "
            "cost."
        )
    yield from (f"Left out: {line}." for line in choice.evidence.left_out)
    for sequence in choice.sequences:
        if setting := sequence.stopped_at:
            yield " ".join(_stopped(sequence, setting, _share_for_choosing(row)))
    yield from told_choice(row)
    if choice.chosen:
        yield from _per_right(choice.chosen.configuration, choice.evidence)
    if choice.chosen and not _is_oracle(choice.chosen.configuration):
        of_generate = {each.batch: each.speedup for each in choice.beside_generate}
        for each in choice.realised:
            rows, own = counted(each.batch, "row"), of_generate.get(each.batch)
            beside = f", {own:.2f} times as fast as transformers' generate," if own else ""
            times = f"{each.speedup:.2f} times as fast as normal{beside}"
            yield f"Realised: {times} with {rows} at a time (jobs/timings.py)."
        if not choice.realised:
            yield "How long it really takes was not measured: python jobs/timings.py RESULTS does that."


def _per_right(key: str, evidence: Evidence) -> Iterator[str]:
    """What a right answer takes, where texts have a chain of thought."""
    for name, of in evidence.per_right(key).items():
        beside = of.beside_normal
        if name != COST_NEEDED and is_known(beside.mean):
            ends = bracketed(beside.low, beside.high, ".2f")
            what = "multiply-adds" if name == COST_RUN else "tokens"
            prompts = counted(beside.n, "prompt")
            yield f"Per right answer, it takes {beside.mean:.2f}{ends} times the {what} of normal, over {prompts}."


def _about_losses(choice: Choice) -> Iterator[str]:
    evidence = choice.evidence
    question = evidence.question
    yield f"Loss of a prompt: {RISKS[question.risk].definition}."
    yield f"It is averaged over {counted(evidence.n_seeds, 'seed')} first."
    if (quantization := evidence.sweep.manifest.model.get("quantization")) is not None:
        yield f"All of it is of {quantization} weights: of others, nothing is certified."
    yield "Prompts are what is counted, never tokens, and those of the same text are one."
    n_prompts, n_groups = evidence.n_groups
    if n_groups:
        yield f"{counted(n_prompts, 'prompt')} belong to {counted(n_groups, 'group')}, each of which counts once."
        if n_groups == n_prompts:
            yield "No group has two prompts, so that groups change nothing."
    if evidence.n_seeds > 1 and evidence.n_same_for_every_seed:
        settings = counted(evidence.n_same_for_every_seed, "setting")
        yield f"Of {settings}, all seeds have the same run, which counts once: nothing is left to chance."
    if evidence.judges:
        yield f"Judged by {', '.join(evidence.judges)}."
        if len(evidence.judges) > 1:
            yield "The losses that they give a text are averaged."
    if question.risk == "answers":
        right = pc.mean(evidence.sweep.runs.filter(pc.field("configuration") == NORMAL)["correct"]).as_py()
        if is_known(right):
            yield f"normal answers {short_percent(right)} of them correctly."
            if not evidence.failed:
                yield "No more than that can be lost."
    is_sampled = evidence.sweep.manifest.config["temperature"] > 0
    if is_sampled and NORMAL in evidence.choosing.configurations and (own := evidence.choosing.of(NORMAL)).any():
        mean = short_percent(float(own.mean()))
        yield f"normal itself has a mean loss of {mean}, since this sweep samples its tokens."


def _about_failures(choice: Choice) -> Iterator[str]:
    evidence = choice.evidence
    if evidence.failed:
        runs = counted(len(evidence.failed), "run")
        yield f"{runs} failed: each is a loss of 1, since no prompt may be left out."
    if (n_of_normal := evidence.failed.count(NORMAL)) and evidence.risk.compares:
        yield f"{n_of_normal:,} of these are of normal: settings are compared with the best that it could have said."
    if evidence.n_unusable:
        texts = counted(evidence.n_unusable, "text")
        yield f"{texts} got no usable judgement, and have the worst score, or the best as texts of normal."
        yield "jobs/judge.py asks for them again."


def _stopped(sequence: TestedSequence, setting: Tested, share: float) -> Iterator[str]:
    stopped = f"{sequence.name} stopped at {setting.configuration}"
    if not setting.n:
        yield f"{stopped}: no prompt for choosing has a loss there."
        return
    yield f"{stopped}: its mean loss is {short_percent(setting.mean_loss)} over {counted(setting.n, 'prompt')}."
    yield _would_do(setting.prompts_needed, share)


def told_choice(row: Row) -> Iterator[str]:
    """What was chosen and with which guarantee, or plainly that nothing can be; `row` is one of `CHOICES`."""
    if len(row["families"]) > 1:
        error, each = short_percent(row["error"]), short_percent(row["error_of_each"])
        yield f"{len(row['families'])} families of settings share the error of {error}: {each} for each (Bonferroni)."
        yield "A family that is through passes its part on to the others."
    yield from _which_ask(row)
    if isinstance(row["configuration"], str) and row["cost"] < FULL_DEPTH:
        yield from _chosen(row)
        yield from _held_out(row, "")
    else:
        yield from _none_chosen(row)
    yield from _naive(row)


def _naive(row: Row) -> Iterator[str]:
    key, naive = row["naive_configuration"], "The naive choice, the cheapest whose mean is within the bound, is"
    if not isinstance(key, str):
        yield "There is no naive choice either: no setting that costs less than full depth has a mean within the bound."
    elif key == row["configuration"]:
        yield f"{naive} the same."
    else:
        mean, cost = (short_percent(row[f"naive_{name}"]) for name in ("mean_loss", "cost"))
        yield f"{naive} {key}: mean {mean}, cost {cost}."
        yield "It has no guarantee."
        yield from _held_out(row, "naive_")


def _which_ask(row: Row) -> Iterator[str]:
    """Nothing for the only ask that was planned, and has been made, of its prompts."""
    number, error, planned = row["question"], row["error"], row["planned"]
    if number <= 1 and planned <= 1:
        return
    of = f" of {planned:.0f} that were planned" if planned > 1 else ""
    yield (
        f"It is the {ordinal(int(number))} ask of these prompts{of}: it may err with {short_percent(error)}, so that "
        f"all of them err with {short_percent(1 - row['confidence'])} at most."
    )


def _bound(row: Row) -> str:
    """What is to hold."""
    return f"{RISKS[row['risk']].bound} is at most {short_percent(row['at_most'])}"


def _chosen(row: Row) -> Iterator[str]:
    key, cost = row["configuration"], short_percent(row["cost"])
    yield f"Certified: {key}, the cheapest that is, at {cost} of full depth: {COSTS[row['cost_by']].definition}."
    yield f"With {short_percent(row['confidence'])} confidence, over prompts like these, {_bound(row)}."
    mean, p_value = short_percent(row["mean_loss"]), written(row["p_value"], ".2g")
    yield f"n = {counted(int(row['n']), 'prompt')}, mean {mean}, p = {p_value}."
    yield from of_the_right(_tested(row), row["at_most"], row["error_of_each"])
    yield from _about_texts(row)
    if _is_oracle(key):
        yield "It is an oracle, which looks at the final layer: at run time it saves nothing."


def of_the_right(tested: Row, at_most: float, error: float) -> Iterator[str]:
    """The loss among the prompts that normal gets right, where answers are the risk: it is another number."""
    if is_known(loss := tested.get("loss_of_right")):
        is_low = (
            "and isn't what was certified" if tested["p_of_right"] <= error else "so that it isn't certified of these"
        )
        yield (
            f"That is of all prompts. Of the {tested['n_of_right']:,} that normal gets right, it loses "
            f"{short_percent(loss)}: at most {short_percent(at_most)} of these has p = "
            f"{written(tested['p_of_right'], '.2g')}, {is_low}."
        )


def _about_texts(row: Row) -> Iterator[str]:
    accuracy, right, changed = (_tested(row).get(name) for name in ("accuracy", "normal_accuracy", "changed"))
    if is_known(accuracy) and is_known(right):
        yield f"It gets {short_percent(accuracy)} of the answers right, and normal {short_percent(right)}."
    if is_known(changed):
        yield f"{short_percent(changed)} of its texts are not those of normal."


def _tested(row: Row) -> Row:
    """What is known of the chosen setting among those that were tested."""
    return next((each for each in row["tested"] if each["configuration"] == row["configuration"]), {})


def _is_oracle(key: str) -> bool:
    return key.split("/")[1] in ORACLES


def _none_chosen(row: Row) -> Iterator[str]:
    certified = [setting for setting in row["tested"] if setting["certified"]]
    if certified:
        yield f"Certified: {counted(len(certified), 'setting')}, but none costs less than full depth."
        yield DEFENSIBLE
        return
    yield none_certified(row)
    known = [setting for setting in row["tested"] if is_known(setting["p_value"])]
    if known:
        nearest = min(known, key=lambda setting: (setting["mean_loss"], setting["cost"]))
        mean, n = short_percent(nearest["mean_loss"]), counted(int(nearest["n"]), "prompt")
        p_value = written(nearest["p_value"], ".2g")
        yield f"The nearest, {nearest['configuration']}, has a mean of {mean} (n = {n}, p = {p_value})."
        yield from of_the_right(nearest, row["at_most"], row["error_of_each"])
        yield _would_do(nearest.get("prompts_needed"), _share_for_choosing(row))
    yield DEFENSIBLE
    least = prompts_without_loss(row["at_most"], row["error_of_each"])
    yield f"A setting without any loss would be certified with {counted(least, 'prompt')}."


def none_certified(row: Row) -> str:
    """The answer to a question for which no setting is certified."""
    return f"No setting is certified with {short_percent(row['confidence'])} confidence that {_bound(row)}."


def _share_for_choosing(row: Row) -> float:
    """Of a sweep's prompts."""
    has_pilot_part = row["order"] == PARETO and not row["pilot"]
    return (1 - 1 / ONE_IN) ** (2 if has_pilot_part else 1)


def _would_do(enough: float | None, share: float) -> str:
    """How many prompts would certify a setting whose losses stay as they are; `share` of a sweep are for choosing."""
    if enough is None or not is_known(enough):
        return "If it stays so, no number of prompts that can be asked for would do."
    return (
        f"If it stays so, {enough:,.0f} prompts for choosing would do with a chance of 80%, which is a sweep of about "
        f"{math.ceil(enough / share):,}."
    )


def _held_out(row: Row, start: str) -> Iterator[str]:
    """How a setting does on the prompts that had no part in choosing it; `start` is that of its columns."""
    mean, n, upper, p_value = (row[f"{start}reporting_{name}"] for name in ("mean_loss", "n", "upper", "p_value"))
    if not is_known(mean):
        yield "No prompt for reporting has a loss, so that nothing checks it."
        return
    prompts = counted(int(n), "prompt")
    yield f"On {prompts} for reporting, which had no part in the choice, its mean is {short_percent(mean)}."
    yield f"By these alone, the risk is at most {short_percent(upper)} with the same confidence."
    if mean > row["at_most"]:
        yield "That mean is above the bound."
    elif p_value <= 1 - row["confidence"]:
        yield "They confirm the bound."
    else:
        yield "It is within the bound, but they are too few to confirm it by themselves."
