"""What a verdict says: three sentences, what to take instead, a table of ten rows at most, and `verdict.json`.

format      3
sentences   three: the verdict; at what risk, or the largest cause with its number; what is possible, or would have
            to be different
pays        whether it does; null where a step of the assessment is missing or was cut
by_time     whether the clock decides, by the time of the best row, since all else speaks for it
cause       null if it pays or that is not known, else `state`, `knowing`, `proof`, `deciding`, `batches`, `overhead` or
            `model`
rows        up to ten records: setting, role (best, tried, control, ceiling, draft or generate), saved_in_theory,
            saved_by_what_was_run; for each batch size B time_at_B, as a multiple of full depth's, with its interval
            (time_at_B_low, time_at_B_high), the same beside transformers' generate (time_at_B_of_generate), and what
            T(rows, layers) allows to save of the time if all rows leave at the same steps (allowed_at_B); loss, n and
            certified, and loss_of_right and n_of_right, the same among the prompts that full depth gets right; the
            accuracy of its texts and normal_accuracy, that of normal's, and changed, the share of texts that are not
            those of normal; where texts have chains of thought, per_right, what of normal's multiply-adds a right
            answer takes, with its interval and n; what is not known is null
ledger      null where a step is missing, else ceiling (saved, low, high, setting), batch (of the times, or null) and
            lines: each with restriction, taken, low, high, left and setting, as shares of full depth
            (`cluster.assessment.outcome.ledger`)
instead     null if nothing else takes certainly less time, or exits pay most; else the setting, role, batch, time, low
            and high of what takes least of all that keeps the bound, and a sentence that says so, and how it is used
possible    what leaving at the first layer would save; beyond the ceiling, that is the model's
bound       risk, at_most, confidence
ask         which ask of its prompts for choosing it is: further ones share the error with those before
model, setting (the key of what can be taken home, or null), seconds (of each step), remarks
    (sentences: what was left out, and what else is to be known)
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from cluster.assessment.outcome.causes import ledger_sentence, models_part, otherwise, why
from cluster.assessment.outcome.ledger import Ledger
from cluster.assessment.outcome.verdict import (
    BEST,
    CEILING,
    CONTROL,
    DRAFT,
    FORMAT,
    GENERATE,
    TRIED,
    Bound,
    Contender,
    Figures,
    Verdict,
    known,
)
from eexit.output.result_table import ResultTable
from eexit.output.text import bracketed, counted, ordinal, percent, short_percent, written
from eexit.plan.configuration import LOOKUP, LOOKUP_TOKENS, Generate, short_name
from eexit.quality.estimates import Estimate
from eexit.quality.risks import RISKS

CAPTION: Final = (
    "Saved, of full depth's multiply-adds: in theory, if deciding were free (cost_needed); by what was run (cost_run). "
    "Time: as a multiple of full depth's on the same path, medians over rounds; of the oracle agree, what T(rows, "
    "layers) would allow rows that leave together. generate: transformers' own. Lost: {loss}, mean over {n}."
)
LOST: Final = {"answers": "answers that normal has right", "disagreement": "tokens unlike full depth's"}
ROLES: Final = {
    BEST: "best", TRIED: "tried", CONTROL: "control", CEILING: "ceiling", DRAFT: "draft", GENERATE: "",
}  # fmt: skip
NEAREST: Final = "nearest"  # to being certified, where none is


def sentences(verdict: Verdict) -> tuple[str, str, str]:
    """The verdict, why it can be trusted or what stands in the way, and what is possible or would have to change."""
    figures, best, batch = verdict.figures, verdict.figures.best, verdict.batch
    if figures.missing:
        return _not_known(verdict)
    if not (verdict.pays and best and batch):
        return _not_paying(verdict), why(verdict), otherwise(verdict)
    return (
        f"It pays here: {best.key} takes {_time(best, batch)}.",
        _trusted(best, figures),
        f"It saves {percent(best.run)} of the multiply-adds by what was run; the oracle agree would save "
        f"{percent(verdict.ledger.ceiling.mean)}, and exits at the first layer {percent(figures.possible)}.",
    )


def _not_known(verdict: Verdict) -> tuple[str, str, str]:
    missing = verdict.figures.missing
    *others, last = missing
    steps = f"steps {', '.join(others)} and {last} are" if others else f"step {last} is"
    return (
        f"It is not known whether it pays here: {steps} not done, or not in full.",
        "What was measured stays, and the same command with more --minutes goes on.",
        f"The oracle agree would save {percent(verdict.ledger.ceiling.mean)} in exact state, and exits at the first "
        f"layer {percent(verdict.figures.possible)}.",
    )


def _trusted(best: Contender, figures: Figures) -> str:
    assert best.loss is not None
    assert best.reporting is not None
    bound = figures.bound
    later, n_later = short_percent(best.reporting.mean), f"{best.reporting.n:,}"
    told = f", which {n_later} other prompts confirm ({later})" if best.confirmed else ""
    told = told or f"; of {n_later} other prompts, it is {later}"
    return (
        f"With {short_percent(bound.confidence)} confidence, {_bound(bound)} ({short_percent(best.loss.mean)} of "
        f"{best.loss.n:,}{_of_right(best)}{_ask(figures)}){told}."
    )


def _of_right(best: Contender) -> str:
    """What it loses of the prompts that full depth gets right, where answers are the risk."""
    right = best.of_right
    return f" and {short_percent(right.mean)} of the {right.n:,} that full depth gets right" if right else ""


def _ask(figures: Figures) -> str:
    return f", by the {ordinal(figures.ask)} ask of these prompts" if figures.ask > 1 else ""


def _bound(bound: Bound) -> str:
    return f"{RISKS[bound.risk].bound} is at most {short_percent(bound.at_most)}"


def _not_paying(verdict: Verdict) -> str:
    figures, best, batch = verdict.figures, verdict.figures.best, verdict.batch
    bound, no = figures.bound, "It does not pay here"
    tried = counted(figures.n_tried, "setting")
    if best is None:
        return f"{no}: in replays on the pilot, no token leaves early at any setting."
    if best.run <= 0:
        return f"{no}: the cheapest of {tried}, {best.key}, runs {percent(1 - best.run)} of full depth's multiply-adds."
    if best.loses_all and best.of_right:  # and it is the nearest
        return f"{no}: no setting keeps any of the {counted(best.of_right.n, 'right answer')}."
    if not best.certified and best.loss and best.loss.mean <= bound.at_most:
        return (
            f"{no}, as far as is shown: {best.key} loses {short_percent(best.loss.mean)} over {best.loss.n:,} prompts"
            f"{_of_right(best)}{_ask(figures)}, which are too few to certify that {_bound(bound)}."
        )
    if not best.certified:
        return f"{no}: of {tried} tried, none is certified that {_bound(bound)}."
    if best.reporting is not None and not best.is_proven(bound):
        later, n_later = short_percent(best.reporting.mean), f"{best.reporting.n:,}"
        return (
            f"{no}: {best.key} was certified, but {RISKS[bound.risk].bound} is {later} of {n_later} other prompts, not "
            f"at most {short_percent(bound.at_most)}."
        )
    if best.is_dearer_per_right:
        return f"{no}: {best.key}, certified, {_per_right(best)}."
    if batch is None:
        return f"{no} as far as is known: {best.key} was not timed."
    return f"{no}: {best.key}, certified, takes {_time(best, batch)}."


def _per_right(setting: Contender) -> str:
    of = setting.per_right
    ends = bracketed(of.low, of.high, ".2f")
    return f"takes {written(of.mean, '.2f')}{ends} times full depth's multiply-adds per right answer (n = {of.n:,})"


def _time(best: Contender, batch: int) -> str:
    time = best.times[batch]
    interval = f"{100 * time.low:.0f} to {100 * time.high:.0f}"
    between = "too few rounds for an interval" if math.isnan(time.high) else interval
    of_generate = best.of_generate.get(batch)
    beside = f" and {of_generate.mean:.2f} times that of transformers' generate" if of_generate else ""
    return f"{percent(time.mean, 0)} of full depth's time ({between}){beside} with {counted(batch, 'row')} at a time"


def verdict_table(verdict: Verdict) -> ResultTable:
    """At most ten lines: the best setting, the ceiling, and what stands beside them."""
    figures = verdict.figures
    best_n = counted(figures.best.loss.n, "prompt") if figures.best and figures.best.loss else "no prompt"
    table = ResultTable(CAPTION.format(loss=LOST.get(figures.bound.risk, figures.bound.risk), n=best_n))
    table.add("name", "")
    table.add("key", "setting", shorten=short_name)
    table.add("number", "saved in\ntheory", "by what\nwas run")
    has_right = any(each.of_right for each in verdict.rows)
    table.add("number", *(f"time, {batch}\n{'row' if batch == 1 else 'rows'}" for batch in figures.batches), "lost")
    table.add("number", *(["of those\nright"] if has_right else []))
    table.add("name", "certified")
    for each in verdict.rows:
        lost = short_percent(each.loss.mean) if each.loss else "–"
        tested = ("yes" if each.certified else "no") if each.loss else "–"
        times = [_cell(each, batch) for batch in figures.batches]
        role = ROLES[each.role]
        if each.role == BEST and not each.certified:
            role = ROLES[TRIED] if each.loses_all else NEAREST
        of_right = [short_percent(each.of_right.mean) if each.of_right else "–"] if has_right else []
        table.add_row(role, each.key, percent(each.theory), percent(each.run), *times, lost, *of_right, tested)
    return table


def _cell(each: Contender, batch: int) -> str:
    if batch in each.times:
        return written(each.times[batch].mean, ".2f")
    return written(1 - each.allowed[batch], ".2f") if each.role == CEILING and batch in each.allowed else "–"


def as_json(verdict: Verdict, model: str, seconds: Mapping[str, float], remarks: Sequence[str]) -> str:
    """The content of `verdict.json`."""
    best, bound = verdict.figures.best, verdict.figures.bound
    content: dict[str, Any] = {
        "format": FORMAT,
        "sentences": list(sentences(verdict)),
        "pays": verdict.pays,
        "by_time": verdict.is_by_time,
        "cause": verdict.cause,
        "rows": [each.row(verdict.figures.batches) for each in verdict.rows],
        "ledger": None if verdict.figures.missing else _ledger(verdict.ledger),
        "instead": _instead(verdict),
        "possible": known(verdict.figures.possible),
        "bound": {"risk": bound.risk, "at_most": bound.at_most, "confidence": bound.confidence},
        "ask": verdict.figures.ask,
        "model": model,
        "setting": best.key if verdict.pays and best else None,
        "seconds": {step: round(spent, 1) for step, spent in seconds.items()},
        "remarks": list(remarks),
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _instead(verdict: Verdict) -> dict[str, Any] | None:
    if verdict.instead is None:
        return None
    contender, batch = verdict.instead
    return {
        "setting": contender.key,
        "role": contender.role,
        "batch": batch,
        **_with_ends("time", verdict.instead.time),
        "sentence": instead_sentence(verdict),
    }


def instead_sentence(verdict: Verdict) -> str:
    """What to take instead of exits, or that nothing else takes less time."""
    if verdict.figures.missing:
        return "What pays most is not known either."
    if not verdict.figures.were_timed:
        return "What pays most is not known: what could be taken instead of exits was timed on a few tokens alone."
    nothing = "Nothing that could be taken instead takes certainly less time within the bound"
    if verdict.unsure:
        contender, batch = verdict.unsure
        takes = f"{contender.key} takes {_time(contender, batch)}"
        if math.isnan(verdict.unsure.time.high):
            return f"What pays most is not known: {takes}."
        return f"{nothing}; nearest to it, {takes}."
    if verdict.instead is None:
        if verdict.pays:
            return "Of what was measured beside it, nothing takes less time within the bound."
        keys = ", ".join(each.key for each in verdict.figures.alternatives if each.times) or "nothing"
        return f"{nothing}; timed: {keys}."
    contender, batch = verdict.instead
    return (
        f"What pays most is {contender.key}, which takes {_time(contender, batch)}; its texts are full depth's. "
        f"{_how(contender)}"
    )


def _how(contender: Contender) -> str:
    if contender.role != GENERATE:
        return "The folder setting/ has it."
    looked_up = f", prompt_lookup_num_tokens={LOOKUP_TOKENS}" if contender.key == Generate(variant=LOOKUP).key else ""
    return f"It is transformers' own: model.generate(**inputs{looked_up})."


def _ledger(ledger: Ledger) -> dict[str, Any]:
    lines = [
        {
            "restriction": line.restriction,
            **_with_ends("taken", line.taken),
            "left": known(line.left),
            "setting": line.key,
        }
        for line in ledger.lines
    ]
    ceiling = {**_with_ends("saved", ledger.ceiling), "setting": ledger.ceiling_key}
    return {"ceiling": ceiling, "batch": ledger.batch, "lines": lines}


def _with_ends(name: str, share: Estimate) -> dict[str, float | None]:
    return {name: known(share.mean), "low": known(share.low), "high": known(share.high)}


def closing_sentences(verdict: Verdict, seconds: Mapping[str, float], remarks: Sequence[str]) -> Iterator[str]:
    """What the terminal says after the verdict: the ledger, what was left out, and how long each step took."""
    yield instead_sentence(verdict)
    if verdict.pays and verdict.figures.best and verdict.figures.best.per_right.n:
        yield f"With its chains of thought, it {_per_right(verdict.figures.best)}."
    if not verdict.figures.missing:
        yield ledger_sentence(verdict)
        yield models_part(verdict)
    yield from remarks
    times = ", ".join(f"{step} {_minutes(spent)}" for step, spent in seconds.items())
    yield f"Minutes: {times}; {_minutes(sum(seconds.values()))} in all."


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
