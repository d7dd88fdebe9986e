"""A verdict in fixed captions and tables of text, which terminal and report share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from eexit.output.result_table import ResultTable
from eexit.output.text import short_percent, written
from eexit.studies.assessment.verdict import MEANINGS, REASONS, Interval, TakenAfter, Verdict

ANSWERS: Final = {True: "Yes.", False: "No.", None: "Not known."}
NOT_TRIED: Final = "not tried"


@dataclass(frozen=True)
class TextTable:
    """A table whose cells are text; the first column is of names."""

    title: str
    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]

    def printed(self) -> ResultTable:
        """As a command prints it."""
        table = ResultTable(self.caption, self.title)
        table.add("key", self.heads[0])
        table.add("number", *self.heads[1:])
        for row in self.rows:
            table.add_row(*(cell.replace(", after", "\nafter") for cell in row))
        return table


def reason(verdict: Verdict) -> str:
    """What the answer turns on, and which steps are missing."""
    return REASONS[verdict.why] + (f" Missing: {', '.join(verdict.missing)}." if verdict.missing else "")


def cause(verdict: Verdict) -> str | None:
    """What takes most, as far as that is certain; None where nothing is said of it."""
    if verdict.cause:
        return f"Takes most: {verdict.cause} ({MEANINGS[verdict.cause]})."
    *others, last = verdict.undecided or [""]
    return f"What takes most is not decided between {', '.join(others)} and {last}." if others else None


def tables(verdict: Verdict) -> Iterator[TextTable]:
    """One for each kind of number."""
    yield TextTable(
        "Multiply-adds",
        "What each restriction takes of full depth's multiply-adds, as the first and as the last to be imposed (after "
        "which others), and on the mean of all orders that were measured.",
        ("restriction", "as the first", "as the last", "on the mean"),
        [
            (each.restriction, _taken(each.first), _taken(each.last), _share(each.mean))
            for each in verdict.multiply_adds
        ],
    )
    yield TextTable(
        "Best savings",
        "The best saving of multiply-adds within the bound, by what was imposed. Without deciding, exits alone are "
        "counted. By: what most prompts have of it.",
        ("imposed", "saved", "by"),
        [(", ".join(each.imposed) or "nothing", _share(each.saved), each.setting or "full depth")
         for each in verdict.levels],
    )  # fmt: skip
    yield TextTable(
        "Time",
        "What each restriction takes of full depth's time: batches, of what one row's steps would save; overhead, of "
        "what steps of so many rows would.",
        ("restriction", "takes"),
        [(each.restriction, _share(each.taken)) for each in verdict.time],
    )
    if (of := verdict.setting) is not None:
        bound = verdict.bound
        certified = "a look" if verdict.why == "look" else "yes" if of.certified else "no"
        yield TextTable(
            "Setting",
            f"Risk {bound.risk}, at most {short_percent(bound.at_most)} with {short_percent(bound.confidence)} "
            "confidence. Saved: of multiply-adds, by what was run. Time: as a multiple of full depth's.",
            ("setting", "certified", "ask", "lost", "of those right", "held out", "saved", "time"),
            [(of.key, certified, str(of.ask), _lost(of.loss, of.n),
              _lost(of.loss_of_right, of.n_of_right), _lost(of.reporting_loss, of.reporting_n), _share(of.saved),
              _times(of.time))],
        )  # fmt: skip
    again = {verdict.instead.setting: verdict.instead} if verdict.instead else {}
    yield TextTable(
        "Instead",
        "Time as a multiple of full depth's. The fastest of the first rounds is told with an interval by its times in "
        "other calls alone, on other prompts.",
        ("contender", "first rounds", "again", "beside generate"),
        [
            (each.setting, written(each.time, ".2f"),
             *((_times(it.time), _times(it.of_generate)) if (it := again.get(each.setting)) else ("", "")))
            for each in verdict.contenders
        ],
    )  # fmt: skip


def _share(share: Interval | None) -> str:
    if share is None:
        return NOT_TRIED
    ends = "" if share.low is None or share.high is None else f" ({100 * share.low:.1f} to {100 * share.high:.1f})"
    return f"{100 * share.mean:.1f}%{ends}"


def _taken(taken: TakenAfter | None) -> str:
    if taken is None:
        return NOT_TRIED
    return _share(taken.share) + (f", after {', '.join(taken.after)}" if taken.after else "")


def _times(time: Interval | None) -> str:
    if time is None:
        return NOT_TRIED
    ends = "" if time.low is None or time.high is None else f" ({time.low:.2f} to {time.high:.2f})"
    return f"{time.mean:.2f}{ends}"


def _lost(loss: float | None, n: int | None) -> str:
    return NOT_TRIED if loss is None or n is None else f"{short_percent(loss)} of {n:,}"
