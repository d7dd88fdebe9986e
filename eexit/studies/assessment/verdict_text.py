"""Sentences and tables of a verdict, which an assessment's last screen and the report share."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Final

from eexit.output.text import format_number, pluralize, short_percent
from eexit.output.text_table import TextTable
from eexit.plan.configuration import GENERATE
from eexit.quality.estimates import Estimate
from eexit.studies.assessment.cells import A, B, C, D
from eexit.studies.assessment.verdict import CAUSES, REASONS, JudgedSetting, Verdict

ANSWERS: Final = {True: "Yes.", False: "No.", None: "Not known."}
NOT_MEASURED: Final = "not measured"
EXACT_CACHE: Final = "exact KV cache"
LOST: Final = {"answers": "right answers lost, of all prompts"}  # the loss where it is not the risk's name
DECIDED_BY: Final = ("the oracle decides where", "the rule decides where")


def explain(verdict: Verdict) -> str:
    """Return the answer's reason with its number, and the missing steps."""
    reason, setting = REASONS[verdict.why], verdict.setting
    if verdict.missing:
        return f"{reason.sentence} Missing: {', '.join(verdict.missing)}."
    if setting is None or not reason.field:
        return reason.sentence
    number = {
        "losses": f"lost: {_losses(setting)[0]}",
        "test_loss": f"lost: {share(setting.test_loss)}",
        "saved": f"saved as run: {share(setting.saved)}",
        "per_right": f"multiply-adds per right answer: {multiple(setting.per_right)} of full depth's",
        "time": f"time: {multiple(setting.time)} of full depth's",
    }[reason.field]
    return f"{reason.sentence[:-1]} ({number})."


def cause(verdict: Verdict) -> str | None:
    """Return a sentence on the cause, or on the possible causes; None without any."""
    if verdict.cause:
        return f"The cause: {verdict.cause} ({CAUSES[verdict.cause]})."
    *others, last = [*verdict.causes] or [""]
    return f"The cause is not decided between {', '.join(others)} and {last}." if others else None


def alternative(verdict: Verdict) -> str | None:
    """Return the fastest configuration that beats full depth in time or, if exits pay, beats the setting."""
    own = verdict.setting.key if verdict.setting else ""
    limit = verdict.timed[own].time.mean if verdict.pays and own in verdict.timed else 1.0
    times = {key: each.time for key, each in verdict.timed.items() if key != own}
    faster = [key for key, time in times.items() if (time.mean < limit if verdict.pays else time.is_below(1))]
    return min(faster, key=lambda key: times[key].mean, default=None)


def sentences(verdict: Verdict) -> Iterator[str]:
    """Yield the sentences after the answer."""
    if found := cause(verdict):
        yield found
    if needs := REASONS[verdict.why].needs:
        how_many = f"No number of {needs} in reach" if verdict.needed is None else f"About {verdict.needed:,} {needs}"
        yield f"{how_many} would decide it."
    if faster := alternative(verdict):
        yield f"Faster: {faster}, {multiple(verdict.timed[faster].time)} of full depth's time."


def tables(verdict: Verdict) -> Iterator[TextTable]:
    """Yield the cells, the gains beside the costs of restrictions, and the times."""
    if {A, B, C, D} <= verdict.cells.keys():
        n, bound = verdict.cells[A].saved.n, short_percent(verdict.bound.max_risk)
        lost = LOST.get(verdict.bound.risk, verdict.bound.risk)
        caption = f"Saved of multiply-adds if deciding were free, and {lost}, at most {bound} of {n:,}:"
        cells = {name: f"{name} {share(of.saved)}, lost {short_percent(of.lost)}" for name, of in verdict.cells.items()}
        rows = [(EXACT_CACHE, cells[A], cells[C]), (verdict.cells[D].mode, cells[B], cells[D])]
        yield TextTable("Cells", caption, ("", *DECIDED_BY), rows)
        costs = {name: share(cost) for name, cost in verdict.costs.items()}
        pairs = {name: [costs.get(f"{name} {how}", "") for how in ("alone", "on average")] for name in verdict.gains}
        gains = [(name, share(gain), *pairs[name]) for name, gain in verdict.gains.items()]
        heads = ("of multiply-adds", "fixing it alone gains", "it costs alone", "on average over both orders")
        yield TextTable("Gains", "", heads, gains)
    if verdict.timed:
        beside = {key: "" if key == GENERATE else multiple(of.of_generate, "") for key, of in verdict.timed.items()}
        timed = [(key, multiple(of.time), beside[key]) for key, of in verdict.timed.items()]
        gaps = [(f"lost to {name}", share(gap), "") for name, gap in verdict.gaps.items() if not math.isnan(gap.low)]
        calls = pluralize(max(each.time.n for each in verdict.timed.values()), "call")
        yield TextTable("Time", "", (f"over {calls}", "of full depth's time", f"of {GENERATE}'s"), [*timed, *gaps])


def setting_line(verdict: Verdict) -> str | None:
    """Return the setting's losses, each with its prompts, and its saving as run."""
    setting = verdict.setting
    if setting is None:
        return None
    parts = [
        f"{setting.key}: " + (f"certified (use {setting.use})" if setting.certified else "not certified"),
        f"lost {', '.join(_losses(setting))}",
        f"of test prompts {share(setting.test_loss)} of {setting.test_loss.n:,}" if setting.test_loss.n else "",
        f"saved as run {share(setting.saved)}",
        f"per right answer {multiple(setting.per_right)}" if setting.per_right.n else "",
    ]
    return "; ".join(filter(None, parts))


def share(found: Estimate | None, unknown: str = NOT_MEASURED, form: str = ".1%") -> str:
    """Return a share in percent with its interval."""
    if found is None or math.isnan(found.mean):
        return unknown
    low, high = (format_number(end, form).removesuffix("%") for end in (found.low, found.high))
    return f"{format_number(found.mean, form)}" + ("" if math.isnan(found.low) else f" ({low} to {high})")


multiple = partial(share, form=".2f")


def _losses(setting: JudgedSetting) -> list[str]:
    return [f"{short_percent(loss)} of {n:,} {population}" for population, (loss, n) in setting.losses.items()]
