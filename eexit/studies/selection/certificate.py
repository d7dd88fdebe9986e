"""Output of `eexit choose`: tested settings, counts, results on test prompts, and the certificate."""

from collections.abc import Iterator

from eexit.method.rules import ORACLES
from eexit.output.result_table import ResultTable
from eexit.output.text import bracketed, format_number, is_known, pluralize, short_percent
from eexit.plan.configuration import NORMAL, short_name
from eexit.quality.certificate import certificate_sentences, none_certified
from eexit.quality.cost_per_correct import COST_RUN, TOKENS
from eexit.quality.risk_tests import BETTING, EXACT, prompts_without_loss
from eexit.quality.risks import RISKS
from eexit.studies.selection.select_setting import HeldOutResult, Selection, TestedSequence, TestedSetting
from eexit.studies.selection.selection_args import COSTS

TESTED = (
    "Tested from safe to bold, until one is not certified. Loss of a prompt: {loss}. Mean loss: over n calibration "
    "prompts. p: that the risk is above the bound ({test}). Enough: calibration prompts that would certify it with "
    "probability 80%, if losses stay as they are. Cost: {cost}."
)
OF_GROUPS = (
    " Groups differ in size and count once each: mean loss, n, p and enough are of groups, and of prompts is the mean "
    "loss over single prompts."
)
TESTS = {
    EXACT: "the exact binomial tail",
    BETTING: "bets against it, prompt by prompt",
}
REPORTING = (
    "On n test prompts, which had no part in the selection. At most: the risk by these alone, with the same "
    "confidence. p: that it is above the bound. Naive: the cheapest setting whose mean loss is within the bound, which "
    "has no guarantee."
)


def tested_table(choice: Selection) -> ResultTable:
    """Return the table of tested settings: a section per family, a line per setting in the order of testing."""
    measured = choice.measured
    loss, cost = RISKS[measured.question.risk].definition, COSTS[measured.question.cost].definition
    caption = TESTED.format(loss=loss, test=TESTS[measured.test], cost=cost)
    of_prompts = ["of\nprompts"] if choice.is_of_groups else []
    table = ResultTable(caption + OF_GROUPS if of_prompts else caption)
    of_right = ["of those that\nnormal has right", "p of\nthese"] if measured.question.risk == "answers" else []
    table.add("key", "setting", shorten=short_name)
    table.add("number", "mean loss", *of_prompts, "n", "p", *of_right, "enough", "cost")
    table.add("name", "certified")
    for sequence in choice.sequences:
        for each in sequence.tested:
            right = [short_percent(each.loss_of_right), format_number(each.p_of_right, ".2g")] if of_right else []
            means = [short_percent(each.mean_loss), *[_share(each.loss_of_prompts) or ""] * len(of_prompts)]
            numbers = [*means, f"{each.n:,}", format_number(each.p_value, ".2g"), *right]
            numbers += [format_number(each.prompts_needed, ",.0f"), short_percent(each.cost)]
            table.add_in(sequence.name, each.configuration, *numbers, _outcome(each, sequence))
    return table


def _outcome(setting: TestedSetting, sequence: TestedSequence) -> str:
    if setting.certified:
        return "yes"
    return "no: stopped here" if setting == sequence.stopped_at else "not tested"


def counted_table(choice: Selection) -> ResultTable:
    """Return the table of counted prompts, groups, seeds and failures."""
    measured = choice.measured
    (n_grouped, n_groups), normal = measured.n_groups, measured.choosing.losses_of(NORMAL)
    is_sampled = measured.sweep.manifest.config["temperature"] > 0 and normal.any()
    n_families, has_answers = len(choice.sequences), measured.accuracy(NORMAL) is not None
    found = {
        "prompts of a pilot, which gave the order and certify nothing": choice.sequences[0].n_pilot,
        "families, which share the error; one that is through passes its part on": n_families > 1 and n_families,
        "seeds, averaged first": measured.n_seeds,
        "settings whose run is the same for all seeds": measured.n_seeds > 1 and measured.n_same_for_every_seed,
        "prompts that belong to a group": n_grouped,
        "groups, each of which counts once": n_groups,
        "weights, for which alone it is certified": measured.sweep.manifest.model.get("quantization"),
        "judges, whose losses are averaged": ", ".join(measured.judges),
        "failed runs, each a loss of 1": len(measured.failed),
        "failed runs of normal, scored as if they were best": measured.risk.compares * measured.failed.count(NORMAL),
        "texts without a usable judgement, which get the worst score, or the best as normal's": measured.n_unusable,
        "mean loss of normal itself, whose tokens are sampled": _share(float(normal.mean())) if is_sampled else None,
        "right answers of normal": _share(measured.accuracy(NORMAL)),
        "its texts that max_new_tokens cut": _share(measured.cut(NORMAL)) if has_answers else None,
        **(_of_certified(choice, choice.chosen) if choice.chosen else {}),
    }
    table = ResultTable()
    table.add("name", "counted")
    table.add("number", "")
    for label, value in found.items():
        if value:
            table.add_row(label, str(value))
    return table


def _of_certified(choice: Selection, chosen: TestedSetting) -> dict[str, str | None]:
    """Return the certified setting's texts, its cost of a right answer, and its speed where it was timed."""
    cut = _share(choice.measured.cut(chosen.configuration))
    found = {
        "right answers of the certified setting": _share(chosen.accuracy),
        "of its texts, those that max_new_tokens cut": None if chosen.accuracy is None else cut,
        "its texts that are not those of normal": _share(chosen.changed),
    }
    of_right = choice.measured.per_right(chosen.configuration)
    for name, what in ((COST_RUN, "multiply-adds"), (TOKENS, "tokens")):
        if name in of_right and is_known((ratio := of_right[name].beside_normal).mean):
            ends = bracketed(ratio.low, ratio.high, ".2f")
            found[f"its {what} per right answer, as a multiple of normal's"] = f"{ratio.mean:.2f}{ends}"
    for beside, speedups in (("full depth", choice.realised), ("transformers' generate", choice.beside_generate)):
        for each in speedups:
            at_batch = f"at {pluralize(each.batch, 'sequence')}"
            found[f"its time, as a multiple of that of {beside}, {at_batch}"] = f"{each.time.mean:.2f}"
    return found if choice.realised else found | {"its time, which eexit timings measures": "not measured"}


def _share(known: float | None) -> str | None:
    return None if known is None else short_percent(known)


def held_out_table(choice: Selection) -> ResultTable:
    """Return the table of the certified and the naive setting on the test prompts."""
    table = ResultTable(REPORTING)
    table.add("name", "choice")
    table.add("key", "setting", shorten=short_name)
    table.add("number", "cost", "mean loss,\ncalibration", "mean loss,\ntest", "n", "at most", "p")
    for name, setting, held_out in (
        ("certified", choice.chosen, choice.chosen_held_out),
        ("naive", choice.naive, choice.naive_held_out),
    ):
        numbers = _shares(setting.cost, setting.mean_loss) if setting else ["", ""]
        table.add_row(name, setting.configuration if setting else "none", *numbers, *_numbers(held_out))
    return table


def _shares(*shares: float) -> list[str]:
    return [short_percent(share) for share in shares]


def _numbers(held_out: HeldOutResult | None) -> list[str]:
    if held_out is None:
        return ["", "0", "", ""]
    mean, upper = _shares(held_out.mean_loss, held_out.upper)
    return [mean, f"{held_out.n:,}", upper, format_number(held_out.p_value, ".2g")]


def certificate(choice: Selection) -> Iterator[str]:
    """Yield the certificate with its confidence, or that nothing can be certified, and the number of this use."""
    question, ask, chosen = choice.measured.question, choice.ask, choice.chosen
    err, of_all = short_percent(ask.error), short_percent(1 - question.confidence)
    yield (
        f"Use {ask.number} of these prompts, of {ask.planned} planned: its error budget is {err}, that of all uses "
        f"{of_all}."
    )
    if chosen:
        yield f"Certified: {chosen.configuration}, the cheapest that is, at {short_percent(chosen.cost)} of full depth."
        yield from certificate_sentences(question.risk, question.max_risk, question.confidence, vars(chosen))
        if not choice.saves:
            yield "It does not cost less than full depth. Use normal."
        if chosen.configuration.split("/")[1] in ORACLES:
            yield "It is an oracle, which reads the final layer: at run time it saves nothing."
    else:
        least = prompts_without_loss(question.max_risk, ask.error / len(choice.sequences))
        yield none_certified(question.risk, question.max_risk, question.confidence, choice.is_of_groups)
        yield f"Use normal. A setting without any loss would be certified with {least:,} calibration prompts."
