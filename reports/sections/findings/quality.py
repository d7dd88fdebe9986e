"""What a sweep says of quality, as sentences: accuracy, what judges say, and which setting was certified."""

import math
from collections.abc import Iterator
from typing import Final

from eexit.messages import findings
from eexit.messages.wording import counted
from eexit.messages.written import is_known, percent, written
from eexit.plan.configuration import NORMAL
from eexit.quality.estimates import MIN_SAMPLES
from reports.frames.axes import CORRECT, DIFFERENCE, SKIPPING, THEORETICAL, CostAxis
from reports.frames.quality import Quality
from reports.frames.runs import GAINED, LOST, P_VALUE
from reports.read.judgements import BEST, PREFERRED, SCORE, WORST, Judge
from reports.sections.findings.choices import choice_findings
from reports.sections.findings.numbers import Row, difference, saved_words, saves, with_interval

ACCURACY: Final = "accuracy"


def quality_findings(quality: Quality, n_failed: int) -> list[str]:
    """First accuracy, then each judge, then what was chosen; at the end what is counted and in no mean."""
    return [
        *_accuracy(quality),
        *(sentence for judge in quality.judges for sentence in _judged(quality, judge)),
        *choice_findings(quality.choices),
        *([findings.FAILED.format(runs=counted(n_failed, "run"))] if n_failed else []),
    ]


def headline(quality: Quality) -> list[str]:
    """For the top of the report: how often answers are right, and how many settings that a deployed model could use
    are not worse by more than the margin. None without answers of `normal`.
    """
    normal = _normal(quality, CORRECT)
    if normal is None:
        return []
    said = [_answers(normal)]
    name = f"{CORRECT}{DIFFERENCE}"
    held = held_against_normal(quality, name)
    kept = kept_of(held, name, quality.margin)
    if held:
        template = findings.KEEPS_SOME if kept else findings.KEEPS_NONE
        settings = counted(len(held), "setting")
        said.append(template.format(kept=len(kept), settings=settings, margin=points(quality.margin)))
    if kept:
        said += _cheapest_kept(*cheapest(quality, kept), name, is_share=True)
    return [" ".join(said)]


def held_against_normal(quality: Quality, changed: str) -> list[Row]:
    """The settings that a deployed model can follow whose difference from `normal`, column `changed`, has an interval:
    those that are meant wherever it is said how many settings are as good.
    """
    rows = quality.settings[~quality.settings["oracle"]].to_dict("records")
    return [row for row in rows if is_known(row.get(f"{changed}_low"))]


def not_held(quality: Quality) -> str:
    """Why no setting is held against `normal` by right answers."""
    if quality.rows[CORRECT].isna().all():
        return "No answer was checked, so that nothing says which setting is as good as full depth."
    if _normal(quality, CORRECT) is None:
        return "Answers were checked, but there are no runs of normal to compare with."
    if quality.settings["oracle"].all():
        return "Answers were checked, but no setting that a deployed model can follow was tried."
    return (
        f"Answers were checked, but fewer than {MIN_SAMPLES} prompts are too few to say which setting is as good as "
        "full depth."
    )


def kept_of(rows: list[Row], changed: str, margin: float) -> list[Row]:
    """Those that are not worse than `normal` by more than the margin, by the low end of `changed`."""
    return [row for row in rows if is_known(row[f"{changed}_low"]) and row[f"{changed}_low"] >= -margin]


def _cheapest_kept(best: Row, cost: CostAxis, changed: str, is_share: bool) -> Iterator[str]:
    """The one that costs least, if it costs less than full depth: no other is worth a recommendation."""
    if not saves(best, cost.column):
        yield findings.KEPT_COST_MORE
        return
    saved, change = saved_words(best, cost), difference(best, changed, is_share)
    yield findings.CHEAPEST_KEPT.format(setting=best["shown_as"], saved=saved, difference=change)
    if is_share and is_known(p_value := best.get(f"{CORRECT}{P_VALUE}")):
        gained, lost = (counted(int(best[f"{CORRECT}{end}"]), "prompt") for end in (GAINED, LOST))
        yield findings.PAIRS.format(gained=gained, lost=lost, p=written(p_value, ".2g"))
    if best["looping"]:
        yield findings.IS_A_LOOP.format(loop=percent(best["loop_share"]))


def points(share: float) -> str:
    """A share as “2 points”."""
    return f"{written(100 * share, '.3g')} points"


def _answers(normal: Row) -> str:
    return findings.ANSWERS.format(share=with_interval(normal, CORRECT), n=_n(normal))


def _accuracy(quality: Quality) -> Iterator[str]:
    if quality.rows[CORRECT].isna().all():
        return
    normal = _normal(quality, CORRECT)
    if normal is None:
        yield findings.NO_NORMAL.format(name=ACCURACY.capitalize())
        return
    yield _answers(normal)
    yield from _kept(quality, CORRECT, ACCURACY, quality.margin)


def _judged(quality: Quality, judge: Judge) -> Iterator[str]:
    score = judge.column(SCORE)
    if quality.rows[score].notna().any():
        normal = _normal(quality, score)
        if normal is None:
            yield findings.NO_NORMAL.format(name=f"Judge {judge.name}")
        else:
            mean = with_interval(normal, score, ".2f")
            yield findings.JUDGED.format(judge=judge.name, score=mean, best=BEST, n=_n(normal))
            on_scale = quality.margin * (BEST - WORST)
            yield from _kept(quality, score, f"the score by {judge.name}", on_scale, judge.column(PREFERRED))
    if judge.errors:
        n = sum(judge.errors.values())
        runs = counted(n + judge.n_judged, "run")
        yield findings.UNUSABLE.format(judge=judge.name, errors=f"{n:,}", runs=runs)


def _normal(quality: Quality, column: str) -> Row | None:
    """The row of `normal`, with the n of this column as its own; None if it is not known there."""
    rows = quality.rows[(quality.rows["configuration"] == NORMAL) & quality.rows[column].notna()].to_dict("records")
    return rows[0] | {"n": rows[0][f"{column}_n"]} if rows else None


def _n(row: Row) -> str:
    """The prompts and seeds that a mean is over."""
    averaged = f"{counted(row['n_seeds'], 'seed')} averaged first" if row["n_seeds"] > 1 else "1 seed"
    return f"{counted(row['n'], 'prompt')}, {averaged}"


def _kept(quality: Quality, column: str, name: str, margin: float, preferred: str | None = None) -> Iterator[str]:
    """For each mode, the settings of `held_against_normal` that are not worse than `normal` by more than the margin,
    which of them saves most, and how its control does; and the rules, oracles too, that are certainly below at every
    setting. `preferred` is a column of win rates, told beside.
    """
    changed, is_share = f"{column}{DIFFERENCE}", preferred is None
    settings = quality.settings[quality.settings[changed].notna()]
    if settings.empty:
        return
    if settings[f"{changed}_low"].isna().all():
        yield findings.FEW_PROMPTS.format(least=MIN_SAMPLES, name=name)
        return
    held = held_against_normal(quality, changed)
    for mode, of_mode in settings.groupby("mode", sort=False):
        rows = [row for row in held if row["mode"] == mode]
        kept, said = kept_of(rows, changed, margin), []
        if rows:
            n = counted(int(max(row[f"{changed}_n"] for row in rows)), "prompt")
            by = points(margin) if is_share else written(margin, ".2g")
            counts = f"{len(kept) or 'none'} of the {counted(len(rows), 'setting')}"
            said.append(
                f"{mode}, at most {by} below normal in {name}, by the interval's end: {counts} tried that a deployed "
                f"model can follow (paired over {n})."
            )
        if kept:
            best, cost = cheapest(quality, kept)
            said += _cheapest_kept(best, cost, changed, is_share)
            said += _beside_best(quality, best, changed, preferred) if saves(best, cost.column) else []
        below = [str(rule) for rule, of in of_mode.groupby("rule", sort=False) if (of[f"{changed}_high"] < 0).all()]
        said += [findings.BELOW.format(mode=mode, rules=", ".join(below), name=name)] if below else []
        if said:
            yield " ".join(said)


def _beside_best(quality: Quality, best: Row, changed: str, preferred: str | None) -> Iterator[str]:
    """The win rate of the setting that costs least, and how its control does."""
    if preferred and is_known(best[preferred]):
        yield findings.WINS.format(share=with_interval({**best, "n": best[f"{preferred}_n"]}, preferred))
    controls = quality.rows[quality.rows["beneath"] == best["configuration"]].to_dict("records")
    for control in controls[:1]:
        if is_known(control[changed]):
            yield findings.CONTROL_KEEPS.format(difference=difference(control, changed, preferred is None))


def cheapest(quality: Quality, rows: list[Row]) -> tuple[Row, CostAxis]:
    """The row that saves most, in the sense that says most of these settings (`cost_of`)."""
    cost = cost_of(quality, rows)
    return max(rows, key=lambda row: row[cost.column] if is_known(row[cost.column]) else -math.inf), cost


def cost_of(quality: Quality, rows: list[Row]) -> CostAxis:
    """The sense of saving that says most of these settings: time if any was timed, else what was run, else layers."""
    timed = [cost for cost in quality.costs if cost.measured]
    others = [cost for cost in quality.costs if not cost.measured and cost.column != THEORETICAL]
    known = (cost for cost in [*timed, *reversed(others)] if any(is_known(row[cost.column]) for row in rows))
    return next(known, SKIPPING)
