"""What a verdict says: three sentences, a table of six rows at most, and `verdict.json`.

format      1
sentences   three: the verdict; at what risk, or the largest cause with its number; what is possible, or would have
            to be different
pays        whether it does
cause       null if it pays, else `certain too late`, `deciding` or `batches`
rows        up to six records: setting, role (best, tried, control, ceiling, draft or generate), saved_in_theory,
            saved_by_what_was_run; for each batch size B time_at_B, as a multiple of full depth's, with its interval
            (time_at_B_low, time_at_B_high), and allowed_at_B, what T(rows, layers) allows to save of the time; loss,
            n and certified; what is not known is null
losses      of each cause, as a share of full depth
bound       risk, at_most, confidence
model, setting (the key of what can be taken home, or null), seconds (of each step), remarks
    (sentences: what was left out, and what else is to be known)
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from eexit.messages import findings
from eexit.messages.result_table import ResultTable
from eexit.messages.wording import counted
from eexit.messages.written import percent, short_percent, written
from eexit.quality.risks import RISKS
from eexit.studies.assessment.verdict import (
    BATCHES,
    BEST,
    CEILING,
    CONTROL,
    DECIDING,
    DRAFT,
    FORMAT,
    GENERATE,
    LATE,
    TRIED,
    Bound,
    Contender,
    Verdict,
    holds,
    known,
)

CAPTION: Final = (
    "Saved, of full depth's multiply-adds: in theory, if deciding were free (cost_needed); by what was run (cost_run). "
    "Time: as a multiple of full depth's on the same path, medians over rounds; of the oracle agree, what T(rows, "
    "layers) would allow it at least. generate: transformers' own. Lost: {loss}, mean over {n}."
)
LOST: Final = {"answers": "answers that normal has right", "disagreement": "tokens unlike full depth's"}
ROLES: Final = {
    BEST: "best", TRIED: "tried", CONTROL: "control", CEILING: "ceiling", DRAFT: "draft", GENERATE: "",
}  # fmt: skip
NEAREST: Final = "nearest"  # to being certified, where none is


def sentences(verdict: Verdict) -> tuple[str, str, str]:
    """The verdict, why it can be trusted or what stands in the way, and what is possible or would have to change."""
    figures, best, batch = verdict.figures, verdict.figures.best, verdict.batch
    if not (verdict.pays and best and batch):
        return _not_paying(verdict), _cause(verdict), _otherwise(verdict)
    possible = findings.POSSIBLE.format(
        saved=percent(best.run), ceiling=percent(figures.ceiling.theory), possible=percent(figures.possible)
    )
    return findings.IT_PAYS.format(setting=best.key, **_time(best, batch)), _trusted(best, figures.bound), possible


def _trusted(best: Contender, bound: Bound) -> str:
    assert best.loss is not None
    assert best.reporting is not None
    template = findings.IT_PAYS_SURELY if best.confirmed else findings.IT_PAYS_LIKELY
    return template.format(
        confidence=short_percent(bound.confidence),
        bound=RISKS[bound.risk].bound,
        at_most=short_percent(bound.at_most),
        mean=short_percent(best.loss.mean),
        n=f"{best.loss.n:,}",
        later=short_percent(best.reporting.mean),
        others=f"{best.reporting.n:,}",
    )


def _not_paying(verdict: Verdict) -> str:
    figures, best, batch = verdict.figures, verdict.figures.best, verdict.batch
    bound = {"at_most": short_percent(figures.bound.at_most), "bound": RISKS[figures.bound.risk].bound}
    tried = counted(figures.n_tried, "setting")
    if best is None:
        return findings.PAYS_NOT_EXITING
    if best.run <= 0:
        return findings.PAYS_NOT_COSTLY.format(tried=tried, setting=best.key, cost=percent(1 - best.run))
    if not best.certified and best.loss and best.loss.mean <= figures.bound.at_most:
        mean, n = short_percent(best.loss.mean), f"{best.loss.n:,}"
        return findings.PAYS_NOT_SHOWN.format(setting=best.key, mean=mean, n=n, **bound)
    if not best.certified:
        return findings.PAYS_NOT_UNCERTIFIED.format(tried=tried, **bound)
    if best.reporting is not None and not holds(best, figures.bound):
        later = short_percent(best.reporting.mean)
        return findings.PAYS_NOT_LATER.format(setting=best.key, later=later, n=f"{best.reporting.n:,}", **bound)
    if batch is None:
        return findings.PAYS_NOT_UNTIMED.format(setting=best.key)
    return findings.PAYS_NOT_IN_TIME.format(setting=best.key, **_time(best, batch))


def _cause(verdict: Verdict) -> str:
    figures, best, loss = verdict.figures, verdict.figures.best, percent(verdict.losses[verdict.cause or LATE])
    if verdict.cause == DECIDING and best:
        head = written(figures.head_in_layers, ".1f")
        return findings.CAUSE_DECIDING.format(setting=best.key, loss=loss, head=head)
    if verdict.cause == BATCHES and best:
        batch = max(best.allowed, key=lambda each: best.allowed[each] if each in figures.batches else -math.inf)
        allowed = percent(best.allowed[batch])
        return findings.CAUSE_BATCHES.format(
            theory=percent(best.theory), allowed=allowed, rows=counted(batch, "row"), loss=loss
        )
    return findings.CAUSE_LATE.format(
        loss=loss, possible=percent(figures.possible), ceiling=percent(figures.ceiling.theory)
    )


def _otherwise(verdict: Verdict) -> str:
    figures, best = verdict.figures, verdict.figures.best
    if verdict.cause == DECIDING and best and figures.elsewhere:
        name, saved = next(iter(figures.elsewhere.items()))
        return findings.AT_PRICES.format(model=name, setting=best.key, saved=percent(saved))
    if verdict.cause == BATCHES and best and 1 in best.allowed and 1 not in figures.batches:
        return findings.ONE_ROW.format(allowed=percent(best.allowed[1]))
    if verdict.cause == BATCHES and best:
        return findings.TOGETHER.format(early=percent(figures.agrees_early))
    return findings.EARLIER.format(early=percent(figures.agrees_early))


def _time(best: Contender, batch: int) -> Mapping[str, str]:
    time = best.times[batch]
    low, high = (written(100 * end, ".0f") for end in (time.low, time.high))
    return {"time": percent(time.mean, 0), "low": low, "high": high, "rows": counted(batch, "row")}


def verdict_table(verdict: Verdict) -> ResultTable:
    """At most six lines: the best setting, the ceiling, and what stands beside them."""
    figures = verdict.figures
    best_n = counted(figures.best.loss.n, "prompt") if figures.best and figures.best.loss else "no prompt"
    table = ResultTable(CAPTION.format(loss=LOST.get(figures.bound.risk, figures.bound.risk), n=best_n))
    table.add("name", "")
    table.add("key", "setting")
    table.add("number", "saved in\ntheory", "by what\nwas run")
    table.add("number", *(f"time, {batch}\n{'row' if batch == 1 else 'rows'}" for batch in figures.batches), "lost")
    table.add("name", "certified")
    for each in verdict.rows:
        lost = short_percent(each.loss.mean) if each.loss else "–"
        tested = ("yes" if each.certified else "no") if each.loss else "–"
        times = [_cell(each, batch) for batch in figures.batches]
        table.add_row(_role(each), each.key, percent(each.theory), percent(each.run), *times, lost, tested)
    return table


def _role(each: Contender) -> str:
    return NEAREST if each.role == BEST and not each.certified else ROLES[each.role]


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
        "cause": verdict.cause,
        "rows": [each.row(verdict.figures.batches) for each in verdict.rows],
        "losses": {name: known(loss) for name, loss in verdict.losses.items()},
        "bound": {"risk": bound.risk, "at_most": bound.at_most, "confidence": bound.confidence},
        "model": model,
        "setting": best.key if verdict.pays and best else None,
        "seconds": {step: round(spent, 1) for step, spent in seconds.items()},
        "remarks": list(remarks),
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def closing_sentences(verdict: Verdict, seconds: Mapping[str, float], remarks: Sequence[str]) -> Iterator[str]:
    """What the terminal says after the verdict: the other causes, what was left out, and how long each step took."""
    if not verdict.pays:
        losses = ", ".join(f"{name} {percent(loss)}" for name, loss in verdict.losses.items())
        yield findings.CAUSES.format(losses=losses)
    yield from _generate(verdict)
    yield from remarks
    times = ", ".join(f"{step} {_minutes(spent)}" for step, spent in seconds.items())
    yield findings.STEPS_TOOK.format(times=times, total=_minutes(sum(seconds.values())))


def _generate(verdict: Verdict) -> Iterator[str]:
    """Whether transformers' own generate takes less time than the best setting, where that is fastest."""
    best, batch = verdict.figures.best, verdict.batch
    own = next((each.times for each in verdict.figures.others if each.role == GENERATE), {})
    if best and batch is not None and batch in own and own[batch].mean < best.times[batch].mean:
        time, rows = percent(own[batch].mean, 0), counted(batch, "row")
        yield findings.GENERATE_IS_FASTER.format(time=time, rows=rows, setting=best.key)


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
