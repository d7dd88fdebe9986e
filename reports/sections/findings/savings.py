"""What a sweep saved, as sentences: which configurations took less time than full depth, at what disagreement."""

from collections.abc import Iterator
from typing import Any, Final

from eexit.messages.wording import counted
from eexit.messages.written import percent
from eexit.plan.configuration import GENERATE
from eexit.studies.timing.speedups import MIN_ROUNDS
from reports.frames.savings import REALISED, RUN, UNTIMED, Savings
from reports.read.timings import Measured
from reports.sections.findings.sweep import is_known, with_interval

LIMITS: Final = (0.01, 0.05, 0.1, 0.2)  # of disagreement; the best configuration within each is named
MOST_NAMED: Final = 3  # configurations whose text is mostly one loop
Row = dict[Any, Any]


def saved(savings: Savings) -> list[str]:
    """The sentences that come first. Controls are never named; oracles can't save anything.

    A configuration whose text is mostly one loop is in a sentence of its own, never among the best.
    """
    rows = savings.exiting[savings.exiting["control_of"].isna()].to_dict("records")
    if savings.measured:
        generate = savings.rows[savings.rows["configuration"] == GENERATE].to_dict("records")
        return [" ".join(_timed(rows, generate, measured)) for measured in savings.measured]
    if any(is_known(row[RUN]) for row in rows):
        return [" ".join([*_counted([row for row in rows if is_known(row[RUN])]), UNTIMED])]
    if not rows:
        return ["No configuration of this sweep exits early, apart from controls."]
    if all(row["oracle"] for row in rows):
        return ["No configuration saves time: all rules of this sweep are oracles, which need the full-depth pass."]
    return [UNTIMED]


def _timed(rows: list[Row], generate: list[Row], measured: Measured) -> Iterator[str]:
    column = measured.column(REALISED)
    timed = [row for row in rows if is_known(row[column])]
    rounds = max((int(row[f"{column}_n"]) for row in timed), default=measured.rounds)
    few = f", and fewer than {MIN_ROUNDS} are too few for intervals" if rounds < MIN_ROUNDS else ""
    yield f"Realised at {measured.label} (median of {counted(rounds, 'round')}{few}):"
    sound = [row for row in timed if not row["looping"]]
    best = [
        f"{within}{row['configuration']} took {change(row, column, 'time')}{'' if index else ' than full depth'}"
        f"{_of_run(row, measured)}{_at(row)}"
        for index, (within, row) in enumerate(best_within(sound, column))
    ]
    if best:
        yield f"{'; '.join(best)}."
    elif sound:
        row = max(sound, key=lambda row: row[column])
        yield (
            f"no configuration{_apart(timed)} was certainly faster than full depth; the fastest{_of_them(timed)}, "
            f"{row['configuration']}, took {change(row, column, 'time')}{_of_run(row, measured)}{_at(row)}."
        )
    elif timed:
        yield f"no configuration{_apart(timed)} was timed."
    else:
        yield "no configuration that exits early was timed."
    yield from _in_loops(timed, column, "took", "less time")
    for row in generate:
        if is_known(row[column]):
            yield f"The generate of transformers took {change(row, column, 'time')} than full depth on the same path."


def _counted(rows: list[Row]) -> Iterator[str]:
    sound = [row for row in rows if not row["looping"]]
    best = [
        f"{within}{row['configuration']} ran {change(row, RUN, 'multiply-adds')}{'' if index else ' than full depth'}"
        f"{_at(row)}"
        for index, (within, row) in enumerate(best_within(sound, RUN))
    ]
    if best:
        n = counted(max(row["run_n"] for row in sound), "prompt")
        yield f"Run, not timed (n = {n}): {'; '.join(best)}."
    elif sound:
        row = max(sound, key=lambda row: row[RUN])
        yield (
            f"No configuration{_apart(rows)} ran fewer multiply-adds than full depth; the cheapest{_of_them(rows)}, "
            f"{row['configuration']}, ran {change(row, RUN, 'multiply-adds')}{_at(row)}."
        )
    else:
        yield "No configuration that decides online writes more than loops."
    yield from _in_loops(rows, RUN, "ran", "fewer multiply-adds")


def _apart(rows: list[Row]) -> str:
    return " that writes more than loops" if any(row["looping"] for row in rows) else ""


def _of_them(rows: list[Row]) -> str:
    return " of them" if _apart(rows) else ""


def _in_loops(rows: list[Row], column: str, verb: str, what: str) -> Iterator[str]:
    """A sentence on the configurations that save, but whose text is mostly one loop; those that save most first."""
    loops = sorted((row for row in _sure(rows, column) if row["looping"]), key=lambda row: -row[column])
    if not loops:
        return
    named = ", ".join(row["configuration"] for row in loops[:MOST_NAMED])
    named += f" and {len(loops) - MOST_NAMED} more" if len(loops) > MOST_NAMED else ""
    share = " to ".join(dict.fromkeys(percent(end(row["loop_share"] for row in loops)) for end in (min, max)))
    yield (
        f"{counted(len(loops), 'configuration')} ({named}) {verb} up to {percent(loops[0][column])} {what}, but "
        f"{share} of {'its' if len(loops) == 1 else 'their'} text is one loop, which full depth agrees with once it is "
        "there."
    )


def best_within(rows: list[Row], column: str) -> list[tuple[str, Row]]:
    """The configurations that save most within each of `LIMITS` of disagreement, with words for the lowest such limit.

    All of them save something, with their whole interval where there is one. If none within the limits does, it is the
    one of lowest disagreement that does. Without known disagreements, it is the one that saves most.
    """
    sure = _sure(rows, column)
    comparable = [row for row in sure if is_known(row["disagreement"])]
    if not comparable:
        return [("", max(sure, key=lambda row: row[column]))] if sure else []
    found: dict[str, tuple[str, Row]] = {}
    for limit in LIMITS:
        within = [row for row in comparable if row["disagreement"] <= limit]
        if within:
            row = max(within, key=lambda row: row[column])
            found.setdefault(row["configuration"], (f"within {limit:.0%} disagreement, ", row))
    return list(found.values()) or [("", min(comparable, key=lambda row: row["disagreement"]))]


def _sure(rows: list[Row], column: str) -> list[Row]:
    """The configurations that save something, with their whole interval where there is one."""
    return [row for row in rows if (row[f"{column}_low"] if is_known(row[f"{column}_low"]) else row[column]) > 0]


def change(row: Row, column: str, what: str) -> str:
    """A saving as “31.0% [29.5%, 32.0%] less time”, or as more of it if it is negative."""
    share, low, high = (row[f"{column}{end}"] for end in ("", "_low", "_high"))
    word = "fewer" if what.endswith("s") else "less"
    if share < 0:
        share, low, high, word = -share, -high, -low, "more"
    interval = f" [{percent(low)}, {percent(high)}]" if is_known(low) and low != high else ""
    return f"{percent(share)}{interval.replace('-', '−')} {word} {what}"


def _of_run(row: Row, measured: Measured) -> str:
    run = row[measured.column("run_timed")]
    return f" (run: {percent(run)})".replace("-", "−") if is_known(run) else ""


def _at(row: Row) -> str:
    return f", at {with_interval(row, 'disagreement')} disagreement" if is_known(row["disagreement"]) else ""
