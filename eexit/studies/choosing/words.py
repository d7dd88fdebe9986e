"""What was chosen, and with which guarantee, in sentences and a table."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow.compute as pc

from eexit.method.rules import ORACLES
from eexit.output.result_table import ResultTable
from eexit.output.text import counted, is_known, ordinal, short_percent, written
from eexit.plan.configuration import NORMAL
from eexit.plan.splits import ONE_IN
from eexit.quality.learn_then_test import FULL_DEPTH, PARETO, PASSED_ON
from eexit.quality.risk_tests import BETTING, EXACT, HOEFFDING_BENTKUS, prompts_without_loss
from eexit.quality.risks import RISKS
from eexit.studies.choosing import findings
from eexit.studies.choosing.choice import Choice, Tested, TestedSequence, choice_columns
from eexit.studies.choosing.question import COSTS

CAPTION = (
    "Settings are tested from the safe end to the bold one, until one is not certified. Mean loss and n: over prompts "
    "for choosing. p: of the hypothesis that the risk is above the bound ({test}). Cost: {cost}."
)
TESTS = {
    EXACT: "the exact binomial tail",
    BETTING: "bets against it, prompt by prompt (Waudby-Smith and Ramdas)",
    HOEFFDING_BENTKUS: "Hoeffding–Bentkus",
}
Row = Mapping[Any, Any]  # of `eexit.results.study_tables.CHOICES`


def choice_table(choice: Choice) -> ResultTable:
    """A section per family, and a line per setting in the order of testing."""
    evidence = choice.evidence
    cost = COSTS[evidence.question.cost].definition
    which = f"The {ordinal(choice.ask.number)} ask of these prompts. " if choice.ask.number > 1 else ""
    table = ResultTable(which + CAPTION.format(test=TESTS[evidence.test], cost=cost))
    table.add("key", "setting")
    table.add("number", "mean loss", "n", "p", "cost")
    table.add("name", "certified")
    for sequence in choice.sequences:
        table.add_section()
        for setting in sequence.settings:
            numbers = [short_percent(setting.mean_loss), str(setting.n), written(setting.p_value, ".2g")]
            table.add_row(setting.configuration, *numbers, short_percent(setting.cost), _outcome(setting, sequence))
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
    yield from _about_order(choice)
    yield from (f"Left out: {line}." for line in choice.evidence.left_out)
    for sequence in choice.sequences:
        if setting := sequence.stopped_at:
            yield " ".join(_stopped(sequence, setting, _share_for_choosing(row)))
    yield from told_choice(row)
    if choice.chosen and not _is_oracle(choice.chosen.configuration):
        for each in choice.realised:
            rows = counted(each.batch, "row")
            yield findings.REALISED.format(times=f"{each.speedup:.2f}", rows=rows)
        if not choice.realised:
            yield findings.UNREALISED


def _about_losses(choice: Choice) -> Iterator[str]:
    evidence = choice.evidence
    question = evidence.question
    yield findings.LOSS.format(definition=RISKS[question.risk].definition)
    yield findings.AVERAGED.format(seeds=counted(evidence.n_seeds, "seed"))
    yield findings.COUNTED
    yield from _about_groups(*evidence.n_groups)
    if evidence.n_seeds > 1 and evidence.n_same_for_every_seed:
        yield findings.SAME_RUNS.format(settings=counted(evidence.n_same_for_every_seed, "setting"))
    if evidence.judges:
        yield findings.JUDGED_BY.format(judges=", ".join(evidence.judges))
        yield from [findings.JUDGES_AVERAGED] * (len(evidence.judges) > 1)
    if question.risk == "answers":
        right = pc.mean(evidence.sweep.runs.filter(pc.field("configuration") == NORMAL)["correct"]).as_py()
        if is_known(right):
            yield findings.NORMAL_ANSWERS.format(share=short_percent(right))
            yield from [findings.MOST_TO_LOSE] * (not evidence.failed)
    is_sampled = evidence.sweep.manifest.config["temperature"] > 0
    if is_sampled and NORMAL in evidence.choosing.configurations and (own := evidence.choosing.of(NORMAL)).any():
        yield findings.NORMAL_LOSES.format(mean=short_percent(float(own.mean())))


def _about_groups(n_prompts: int, n_groups: int) -> Iterator[str]:
    if n_groups:
        prompts, groups = counted(n_prompts, "prompt"), counted(n_groups, "group")
        yield findings.GROUPED.format(prompts=prompts, groups=groups)
        yield from [findings.GROUPS_OF_ONE] * (n_groups == n_prompts)


def _about_order(choice: Choice) -> Iterator[str]:
    evidence = choice.evidence
    if evidence.question.order == PARETO:
        n = counted(choice.sequences[0].sequence.n_pilot, "prompt")
        settings = counted(len(choice.sequences[0].settings), "setting")
        yield findings.PILOT.format(n=n, settings=settings)


def _about_failures(choice: Choice) -> Iterator[str]:
    evidence = choice.evidence
    if evidence.failed:
        yield findings.FAILED_IS_LOST.format(runs=counted(len(evidence.failed), "run"))
    if (n_of_normal := evidence.failed.count(NORMAL)) and evidence.risk.compares:
        yield findings.FAILED_NORMAL.format(n=f"{n_of_normal:,}")
    if evidence.n_unusable:
        yield findings.UNJUDGED.format(texts=counted(evidence.n_unusable, "text"))
        yield findings.ASK_AGAIN


def _stopped(sequence: TestedSequence, setting: Tested, share: float) -> Iterator[str]:
    template = findings.STOPPED if setting.n else findings.STOPPED_WITHOUT
    yield template.format(
        family=sequence.name,
        setting=setting.configuration,
        mean=short_percent(setting.mean_loss),
        n=counted(setting.n, "prompt"),
    )
    if setting.n:
        yield _would_do(setting.prompts_needed, share)


def told_choice(row: Row) -> Iterator[str]:
    """What was chosen and with which guarantee, or plainly that nothing can be; `row` is one of `CHOICES`."""
    if len(row["families"]) > 1:
        yield findings.SHARED_ERROR.format(
            families=len(row["families"]),
            error=short_percent(row["error"] if is_known(row.get("error")) else 1 - row["confidence"]),
            each=short_percent(row["error_of_each"]),
        )
        if row["order"] == PASSED_ON:
            yield findings.PASSED_ON
    yield from _which_ask(row)
    if isinstance(row["configuration"], str) and row["cost"] < FULL_DEPTH:
        yield from _chosen(row)
        yield from _held_out(row, "")
    else:
        yield from _none_chosen(row)
    key = row["naive_configuration"]
    if not isinstance(key, str):
        yield findings.NAIVE_IS_NONE
    elif key == row["configuration"]:
        yield findings.NAIVE_IS_THE_SAME
    else:
        mean, cost = (short_percent(row[f"naive_{name}"]) for name in ("mean_loss", "cost"))
        yield findings.NAIVE.format(setting=key, mean=mean, cost=cost)
        yield findings.NO_GUARANTEE
        yield from _held_out(row, "naive_")


def _which_ask(row: Row) -> Iterator[str]:
    """Nothing for the only ask that was planned, and has been made, of its prompts."""
    number, error, planned = (row[name] if is_known(row.get(name)) else 1 for name in ("question", "error", "planned"))
    if number <= 1 and planned <= 1:
        return
    if not is_known(row.get("error")):  # in results of versions in which asks shared nothing
        yield (
            f"It is question {number:.0f} about these prompts: the guarantee is for this answer, not for the best of "
            "several."
        )
        return
    of = f" of {planned:.0f} that were planned" if planned > 1 else ""
    yield (
        f"It is the {ordinal(int(number))} ask of these prompts{of}: it may err with {short_percent(error)}, so that "
        f"all of them err with {short_percent(1 - row['confidence'])} at most."
    )


def _promise(row: Row) -> dict[str, str]:
    """What is to hold, by its names in templates."""
    bound = RISKS[row["risk"]].bound if row["risk"] in RISKS else row["risk"]
    shares = {name: short_percent(row[name]) for name in ("confidence", "at_most")}
    return {"bound": bound, **shares}


def _chosen(row: Row) -> Iterator[str]:
    definition = COSTS[row["cost_by"]].definition if row["cost_by"] in COSTS else row["cost_by"]
    yield findings.CHOSEN.format(setting=row["configuration"], cost=short_percent(row["cost"]), definition=definition)
    yield findings.GUARANTEE.format(**_promise(row))
    yield from _of_the_right(row)
    mean, p_value = short_percent(row["mean_loss"]), written(row["p_value"], ".2g")
    yield findings.TESTED.format(n=counted(int(row["n"]), "prompt"), mean=mean, p=p_value)
    yield from _about_texts(row)
    if _is_oracle(row["configuration"]):
        yield findings.IS_AN_ORACLE


def _of_the_right(row: Row) -> Iterator[str]:
    """What the bound on lost answers is a share of."""
    right = _tested(row).get("normal_accuracy") or 0.0
    if row["risk"] == "answers" and right > 0:
        share = short_percent(min(1.0, row["at_most"] / right))
        yield f"That is {short_percent(row['at_most'])} of the prompts, and up to {share} of normal's right answers."


def _about_texts(row: Row) -> Iterator[str]:
    """How often the chosen setting and normal are right, and how many texts differ."""
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
        yield findings.NONE_SAVES_ANYTHING.format(settings=counted(len(certified), "setting"))
        yield findings.DEFENSIBLE
        return
    yield none_certified(row)
    known = [setting for setting in row["tested"] if is_known(setting["p_value"])]
    if known:
        nearest = min(known, key=lambda setting: setting["p_value"])
        yield findings.NEAREST.format(
            setting=nearest["configuration"],
            mean=short_percent(nearest["mean_loss"]),
            n=counted(int(nearest["n"]), "prompt"),
            p=written(nearest["p_value"], ".2g"),
        )
        yield _would_do(nearest.get("prompts_needed"), _share_for_choosing(row))
    yield findings.DEFENSIBLE
    least = prompts_without_loss(row["at_most"], row["error_of_each"])
    yield findings.WITHOUT_LOSS.format(n=counted(least, "prompt"))


def none_certified(row: Row) -> str:
    """The answer to a question for which no setting is certified."""
    bound, confidence, at_most = (_promise(row)[name] for name in ("bound", "confidence", "at_most"))
    return f"No setting is certified with {confidence} confidence that {bound} is at most {at_most}."


def _share_for_choosing(row: Row) -> float:
    """Of a sweep's prompts."""
    has_pilot_part = row["order"] == PARETO and not row["pilot"]
    return (1 - 1 / ONE_IN) ** (2 if has_pilot_part else 1)


def _would_do(enough: float | None, share: float) -> str:
    """How many prompts would certify a setting whose losses stay as they are; `share` of a sweep are for choosing."""
    if enough is None or not is_known(enough):
        return findings.NONE_WOULD_DO
    in_all = math.ceil(enough / share)
    return findings.WOULD_DO.format(enough=f"{enough:,.0f}", in_all=f"{in_all:,}")


def _held_out(row: Row, start: str) -> Iterator[str]:
    """How a setting does on the prompts that had no part in choosing it; `start` is that of its columns."""
    mean, n, upper, p_value = (row[f"{start}reporting_{name}"] for name in ("mean_loss", "n", "upper", "p_value"))
    if not is_known(mean):
        yield findings.UNCHECKED
        return
    yield findings.HELD_OUT.format(n=counted(int(n), "prompt"), mean=short_percent(mean))
    yield findings.HELD_OUT_RISK.format(upper=short_percent(upper))
    if mean > row["at_most"]:
        yield findings.ABOVE_THE_BOUND
    else:
        yield findings.CONFIRMED if p_value <= 1 - row["confidence"] else findings.TOO_FEW_TO_CONFIRM
