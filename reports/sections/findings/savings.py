"""What a sweep saved, as sentences: which configurations took less time than full depth, at what disagreement."""

from collections.abc import Iterator
from typing import Final

from eexit.messages import findings
from eexit.messages.wording import counted
from eexit.messages.written import is_known
from eexit.quality.estimates import MIN_ROUNDS
from reports.frames.axes import DISAGREEMENT, RUN, CostAxis
from reports.frames.savings import Savings
from reports.sections.findings.numbers import Row, saved_words, saves, with_interval

LIMITS: Final = (0.01, 0.05, 0.1, 0.2)  # of disagreement; the best configuration within each is named


def saved(savings: Savings) -> list[str]:
    """The sentences that come first. Controls are never named; oracles can't save anything.

    A configuration whose text is mostly one loop is in a sentence of its own, never among the best.
    """
    rows = savings.exiting[savings.exiting["control_of"].isna()].to_dict("records")
    if savings.measured:
        generate = savings.generate.to_dict("records")
        timed = [cost for cost in savings.all_costs if cost.measured]
        return [" ".join([*_of(rows, cost), *_generate(generate, cost)]) for cost in timed]
    if any(is_known(row[RUN]) for row in rows):
        (run,) = (cost for cost in savings.all_costs if cost.column == RUN)
        return [" ".join([*_of(rows, run), findings.UNTIMED])]
    if not rows:
        return [findings.NONE_EXITS]
    return [findings.ALL_ORACLES if all(row["oracle"] for row in rows) else findings.UNTIMED]


def _where(cost: CostAxis) -> str:
    return f"Realised at {cost.measured.label}" if cost.measured else "Run, not timed"


def _of(rows: list[Row], cost: CostAxis) -> Iterator[str]:
    where, column = _where(cost), cost.column
    known = [row for row in rows if is_known(row[column])]
    sound = [row for row in known if not row["looping"]]
    best = best_within(sound, column)
    if not known:
        yield findings.NOTHING_KNOWN.format(where=where)
    elif not sound:
        yield findings.ONLY_LOOPS.format(where=where)
    elif best:
        for limit, row in best:
            template = findings.SAVES if limit is None else findings.SAVES_MOST
            yield template.format(where=where, limit=f"{limit or 1:.0%}", **_said(row, cost))
            yield from _disagrees(row)
    else:
        row = max(sound, key=lambda row: row[column])
        template = findings.NONE_SAVES if len(sound) == len(known) else findings.ONLY_LOOPS_SAVE
        yield template.format(where=where)
        yield findings.CHEAPEST.format(**_said(row, cost))
        yield from _disagrees(row)
    if cost.measured and known and max(row[f"{column}_n"] for row in known) < MIN_ROUNDS:
        yield findings.FEW_ROUNDS.format(least=MIN_ROUNDS)
    loops = sorted((row for row in known if row["looping"] and saves(row, column)), key=lambda row: -row[column])
    if loops:
        counts = counted(len(loops), "configuration")
        yield findings.LOOPS_SAVE.format(configurations=counts, **_said(loops[0], cost))


def _said(row: Row, cost: CostAxis) -> dict[str, str]:
    """The numbers of a configuration by their names in templates."""
    return {
        "setting": row["configuration"],
        "saved": saved_words(row, cost),
        "n": counted(int(row[f"{cost.column}_n"]), "round" if cost.measured else "prompt"),
    }


def _disagrees(row: Row) -> Iterator[str]:
    if is_known(row[DISAGREEMENT]):
        yield findings.HAS_DISAGREEMENT.format(differs=with_interval(row, DISAGREEMENT))


def _generate(rows: list[Row], cost: CostAxis) -> Iterator[str]:
    for row in rows:
        if is_known(row[cost.column]):
            yield findings.GENERATE_SAVES.format(where=_where(cost), saved=saved_words(row, cost))


def best_within(rows: list[Row], column: str) -> list[tuple[float | None, Row]]:
    """The configurations that save most within each of `LIMITS` of disagreement, with the lowest such limit.

    All of them save something, with their whole interval where there is one. If none within the limits does, it is the
    one of lowest disagreement that does. Without known disagreements, it is the one that saves most.
    """
    sure = [row for row in rows if saves(row, column)]
    comparable = [row for row in sure if is_known(row[DISAGREEMENT])]
    if not comparable:
        return [(None, row) for row in sorted(sure, key=lambda row: -row[column])[:1]]
    found: dict[str, tuple[float | None, Row]] = {}
    for limit in LIMITS:
        within = [row for row in comparable if row[DISAGREEMENT] <= limit]
        if within:
            row = max(within, key=lambda row: row[column])
            found.setdefault(row["configuration"], (limit, row))
    return list(found.values()) or [(None, min(comparable, key=lambda row: row[DISAGREEMENT]))]
