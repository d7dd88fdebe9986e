"""The overview's fold "All findings in words": sentences on what was saved, on each rule, on quality and on choices.

Each number has its interval, and each sentence its n.
"""

import math
from collections.abc import Iterator
from typing import Final

import pandas as pd

from eexit.output.text import counted, is_known, percent, written
from eexit.quality.estimates import MIN_ROUNDS, MIN_SAMPLES
from eexit.studies.choosing.words import told_choice
from reports.read.judgements import BEST, SCORE, WORST, Judge
from reports.read.parameters import representatives
from reports.read.sweep import Sweep
from reports.shared.measures import CORRECT, DIFFERENCE, DISAGREEMENT, RUN, SKIPPED, CostAxis
from reports.shared.numbers import Row, difference, points, saved_words, with_interval
from reports.shared.paired import GAINED, LOST, P_VALUE
from reports.shared.quality import (
    Quality,
    cheapest,
    held_against_normal,
    kept_of,
    row_of_normal,
)
from reports.shared.savings import UNTIMED, Savings, best_within, saves

ACCURACY: Final = "accuracy"
MOST_TOLD: Final = 6  # questions; the latest are told
SAMPLED: Final = "Tokens are sampled, but compared with full depth's most likely token, so that normal disagrees too."
SEVERAL: Final = 6  # pairs of mode and rule; with more than that, there are sentences for each mode only


def quality_findings(quality: Quality, n_failed: int) -> list[str]:
    """First accuracy, then each judge, then what was chosen; at the end what is counted and in no mean."""
    return [
        *_accuracy(quality),
        *(sentence for judge in quality.judges for sentence in _judged(quality, judge)),
        *choice_findings(quality.choices),
        *([f"{counted(n_failed, 'run')} failed, and count in no mean."] if n_failed else []),
    ]


def _accuracy(quality: Quality) -> Iterator[str]:
    if quality.rows[CORRECT].isna().all():
        return
    normal = row_of_normal(quality, CORRECT)
    if normal is None:
        yield _no_normal(ACCURACY.capitalize())
        return
    yield f"Answers: normal gets {with_interval(normal, CORRECT)} right (n = {_n(normal)})."
    yield from _kept(quality, CORRECT, ACCURACY, quality.margin, is_share=True)


def _judged(quality: Quality, judge: Judge) -> Iterator[str]:
    score = judge.column(SCORE)
    if quality.rows[score].notna().any():
        normal = row_of_normal(quality, score)
        if normal is None:
            yield _no_normal(f"Judge {judge.name}")
        else:
            mean = with_interval(normal, score, ".2f")
            yield f"Judge {judge.name} gives normal a score of {mean} of {BEST} (n = {_n(normal)})."
            on_scale = quality.margin * (BEST - WORST)
            yield from _kept(quality, score, f"the score by {judge.name}", on_scale, is_share=False)
    if judge.errors:
        errors = sum(judge.errors.values())
        runs = counted(errors + judge.n_judged, "run")
        yield f"Judge {judge.name} gave no usable answer for {errors:,} of {runs}, which are in no mean of its scores."


def _no_normal(name: str) -> str:
    return f"{name}: there are no runs of normal to compare with."


def _n(row: Row) -> str:
    """The prompts and seeds that a mean is over."""
    averaged = f"{counted(row['n_seeds'], 'seed')} averaged first" if row["n_seeds"] > 1 else "1 seed"
    return f"{counted(row['n'], 'prompt')}, {averaged}"


def _kept(quality: Quality, column: str, name: str, margin: float, *, is_share: bool) -> Iterator[str]:
    """For each mode, the settings of `held_against_normal` that are not worse than `normal` by more than the margin,
    which of them saves most, and how its control does; and the rules, oracles too, that are certainly below at every
    setting.
    """
    changed = f"{column}{DIFFERENCE}"
    settings = quality.settings[quality.settings[changed].notna()]
    if settings.empty:
        return
    if settings[f"{changed}_low"].isna().all():
        yield f"Fewer than {MIN_SAMPLES} prompts are too few to say which settings are below normal in {name}."
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
            said += _beside_best(quality, best, changed, is_share) if saves(best, cost.column) else []
        below = [str(rule) for rule, of in of_mode.groupby("rule", sort=False) if (of[f"{changed}_high"] < 0).all()]
        if below:
            said.append(f"{mode}: at every setting of {', '.join(below)}, {name} is certainly below that of normal.")
        if said:
            yield " ".join(said)


def _cheapest_kept(best: Row, cost: CostAxis, changed: str, is_share: bool) -> Iterator[str]:
    """The one that costs least, if it costs less than full depth: no other is worth a recommendation."""
    if not saves(best, cost.column):
        yield "None of these costs less than full depth."
        return
    change = difference(best, changed, is_share)
    yield f"Of these, {best['shown_as']} costs least: it {saved_words(best, cost)}, at {change}."
    if is_share and is_known(p_value := best.get(f"{CORRECT}{P_VALUE}")):
        gained, lost = (counted(int(best[f"{CORRECT}{end}"]), "prompt") for end in (GAINED, LOST))
        p = written(p_value, ".2g")
        yield f"It alone is right on {gained}, and normal alone on {lost} (McNemar: p = {p})."
    if best["looping"]:
        yield _is_a_loop(best)


def _is_a_loop(row: Row) -> str:
    """What a low disagreement hides: full depth, given a loop, goes on with it."""
    return f"But {percent(row['loop_share'])} of its text is one loop, which full depth agrees with once it is there."


def _beside_best(quality: Quality, best: Row, changed: str, is_share: bool) -> Iterator[str]:
    """How the control does of the setting that costs least."""
    controls = quality.rows[quality.rows["beneath"] == best["configuration"]].to_dict("records")
    for control in controls[:1]:
        if is_known(control[changed]):
            change = difference(control, changed, is_share)
            yield f"Its control, with random exits at the same depths, is at {change}."


def choice_findings(choices: pd.DataFrame) -> list[str]:
    """What `jobs/choose.py` chose with which guarantee, or plainly that nothing can be, one text for each question."""
    rows = choices.to_dict("records")
    said = [" ".join(told_choice(row)) for row in rows[-MOST_TOLD:]]
    if len(rows) > 1:
        asked = counted(len(rows), "question")
        several = [f"{asked} were asked of jobs/choose.py: each guarantee holds for its own question."]
        if len(rows) > MOST_TOLD:
            several.append(f"The latest {MOST_TOLD} of them are told.")
        said.append(" ".join(several))
    return said


def saved(savings: Savings) -> list[str]:
    """What took less time than full depth, or ran less, at what disagreement. Controls are never named; oracles can't
    save anything. A configuration whose text is mostly one loop is in a sentence of its own, never among the best.
    """
    rows = savings.exiting[savings.exiting["control_of"].isna()].to_dict("records")
    if savings.measured:
        generate = savings.generate.to_dict("records")
        timed = [cost for cost in savings.all_costs if cost.measured]
        return [" ".join([*_saved_by(rows, cost), *_generate(generate, cost)]) for cost in timed]
    if any(is_known(row[RUN]) for row in rows):
        (run,) = (cost for cost in savings.all_costs if cost.column == RUN)
        return [" ".join([*_saved_by(rows, run), UNTIMED])]
    if not rows:
        return ["No configuration of this sweep exits early, apart from controls."]
    if all(row["oracle"] for row in rows):
        return ["No configuration saves time: all rules of this sweep are oracles, which need the full-depth pass."]
    return [UNTIMED]


def _where(cost: CostAxis) -> str:
    return f"Realised at {cost.measured.label}" if cost.measured else "Run, not timed"


def _saved_by(rows: list[Row], cost: CostAxis) -> Iterator[str]:
    where, column = _where(cost), cost.column
    known = [row for row in rows if is_known(row[column])]
    sound = [row for row in known if not row["looping"]]
    best = best_within(sound, column)
    if not known:
        yield f"{where}: no configuration that exits early was measured."
    elif not sound:
        yield f"{where}: no configuration writes more than loops."
    elif best:
        for limit, row in best:
            most = f", the most within {limit:.0%} disagreement" if limit else ""
            yield f"{where}: {_saving(row, cost)} than full depth{most} (n = {_n_of_saving(row, cost)})."
            yield from _disagrees(row)
    else:
        row = max(sound, key=lambda row: row[column])
        loops = "" if len(sound) == len(known) else " that writes more than loops"
        yield f"{where}: no configuration{loops} certainly saves."
        saving, n = saved_words(row, cost), _n_of_saving(row, cost)
        yield f"The cheapest, {row['configuration']}, {saving} than full depth (n = {n})."
        yield from _disagrees(row)
    if cost.measured and known and max(row[f"{column}_n"] for row in known) < MIN_ROUNDS:
        yield f"Fewer than {MIN_ROUNDS} rounds are too few for intervals."
    looping = sorted((row for row in known if row["looping"] and saves(row, column)), key=lambda row: -row[column])
    if looping:
        counts = counted(len(looping), "configuration")
        yield f"{_saving(looping[0], cost)}, the most of {counts} with savings whose text is mostly one loop."


def _saving(row: Row, cost: CostAxis) -> str:
    return f"{row['configuration']} {saved_words(row, cost)}"


def _n_of_saving(row: Row, cost: CostAxis) -> str:
    return counted(int(row[f"{cost.column}_n"]), "round" if cost.measured else "prompt")


def _disagrees(row: Row) -> Iterator[str]:
    if is_known(row[DISAGREEMENT]):
        yield f"It disagrees on {with_interval(row, DISAGREEMENT)} of decided tokens."


def _generate(rows: list[Row], cost: CostAxis) -> Iterator[str]:
    for row in rows:
        if is_known(row.get(cost.column)):  # it may have been timed at other batch sizes alone
            saving = saved_words(row, cost)
            yield f"{_where(cost)}: the generate of transformers {saving} than full depth on the same path."


def sweep_findings(of_configurations: pd.DataFrame, sampled: bool = False) -> list[str]:
    """What each pair of mode and rule does at its representative parameter, or the best pairs of each mode.

    The rows are those of `per_configuration`. `sampled` means that tokens were sampled rather than decoded greedily.
    """
    frame = of_configurations
    rows = representatives(frame[frame["exit_rate"].notna()]) if len(frame) else []
    said = [" ".join(_of_pair(row)) for row in rows]
    if len(rows) > SEVERAL:
        modes = dict.fromkeys(row["mode"] for row in rows)
        said = [" ".join(_of_mode(mode, [row for row in rows if row["mode"] == mode])) for mode in modes]
    return [*said, *([SAMPLED] if said and sampled else [])]


def _of_pair(row: Row) -> Iterator[str]:
    setting, n = row["shown_as"], counted(row["n"], "prompt")
    skipped, differs = (with_interval(row, name) for name in (SKIPPED, DISAGREEMENT))
    match is_known(row[SKIPPED]), is_known(row[DISAGREEMENT]):
        case True, True:
            yield (
                f"{setting} would skip {skipped} of the layers, and differs from full depth on {differs} of decided "
                f"tokens (n = {n})."
            )
        case True, False:
            yield f"{setting} would skip {skipped} of the layers (n = {n})."
        case False, True:
            yield f"{setting} differs from full depth on {differs} of decided tokens (n = {n})."
        case _:
            yield f"{setting} exits early on {with_interval(row, 'exit_rate', '.0%')} of tokens (n = {n})."
    control = row.get(f"{DISAGREEMENT}_control")
    if is_known(control):
        yield f"Its control, with random exits at the same depths, differs on {percent(control)}."
    if row["looping"]:
        yield _is_a_loop(row)


def _of_mode(mode: str, rows: list[Row]) -> Iterator[str]:
    """The pair of the lowest disagreement and the one that skips most, apart from those that write loops."""
    sound = [row for row in rows if not row["looping"]] or rows
    least = min(sound, key=lambda row: row[DISAGREEMENT] if is_known(row[DISAGREEMENT]) else math.inf)
    yield f"{mode}: of {_rules(rows)}, {least['shown_as']} differs least from full depth."
    yield from _of_pair(least)
    most = max(sound, key=lambda row: row[SKIPPED] if is_known(row[SKIPPED]) else -math.inf)
    if most is not least:
        skipped, differs = (with_interval(most, name) for name in (SKIPPED, DISAGREEMENT))
        yield f"{most['shown_as']} would skip most of the layers, {skipped}, and differs on {differs}."
    if len(sound) < len(rows):
        loops = [row for row in rows if row["looping"]]
        yield f"Not counted, since more than half of the text is one loop: {_rules(loops)}."


def _rules(rows: list[Row]) -> str:
    """How many rules there are; and how many pairs of rule and exit set, if there are more of them."""
    rules = {row["rule"] for row in rows}
    said = counted(len(rules), "rule")
    return said if len(rules) == len(rows) else f"{said}, {len(rows)} with their exit sets"


def unobserved(sweep: Sweep) -> list[str]:
    """What is not known since full depth was not asked."""
    match sweep.config.get("observe"):
        case "none":
            return ["Disagreement and perplexity are not known: full depth was asked nothing (--observe none)."]
        case "final":
            return [
                "KLs of exitable layers are not known: full depth was read at its final layer alone (--observe final)."
            ]
    return []
