"""A verdict in sentences and tables of text, which the last screen of an assessment and the report share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from eexit.output.text import format_number, pluralize, short_percent
from eexit.plan.configuration import GENERATE
from eexit.studies.assessment.cells import A, B, C, D
from eexit.studies.assessment.verdict import MEANINGS, REASONS, Cell, Interval, TimedContender, Verdict

ANSWERS: Final = {True: "Yes.", False: "No.", None: "Not known."}
NOT_MEASURED: Final = "not measured"
EXACT_CACHE: Final = "exact KV cache"
LOST: Final = {"answers": "right answers lost, of all prompts"}  # what is lost where it is not the risk's name
DECIDED_BY: Final = ("the oracle decides where", "the rule decides where")


@dataclass(frozen=True)
class TextTable:
    """A table whose cells are text; the first column is of names."""

    title: str
    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]

    def printed(self) -> str:
        """Return the table as a command prints it: its caption, and a line for each row."""
        lines = [self.heads, *self.rows]
        names, *others = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rows = [[row[0].ljust(names), *map(str.rjust, row[1:], others)] for row in lines]
        return "\n".join([*filter(None, [self.caption]), *("  ".join(row).rstrip() for row in rows)])


def reason(verdict: Verdict) -> str:
    """Return what the answer turns on, with its number, and what is missing."""
    said, setting = REASONS[verdict.why], verdict.setting
    if verdict.missing:
        return f"{said} Missing: {', '.join(verdict.missing)}."
    if setting is None:
        return said
    numbers = {
        "costs": f"saved as run: {share(setting.saved)}",
        "time": f"time: {times(setting.time)} of full depth's",
        "answers": f"multiply-adds per right answer: {times(setting.per_right)} of full depth's",
        "loss": f"lost: {_lost(setting.loss, setting.n)}",
    }
    asked = {
        "costs more": "costs", "costs open": "costs", "slower": "time", "time open": "time", "pays": "time",
        "dear answers": "answers", "answers open": "answers", "loses too much": "loss", "not certified": "loss",
    }  # fmt: skip
    return f"{said[:-1]} ({numbers[asked[verdict.why]]})." if verdict.why in asked else said


def cause(verdict: Verdict) -> str | None:
    """Return what fixing alone gains most, as far as that is certain; None where nothing is said of it."""
    if verdict.cause:
        return f"The cause: {verdict.cause} ({MEANINGS[verdict.cause]})."
    *others, last = verdict.undecided or [""]
    return f"The cause is not decided between {', '.join(others)} and {last}." if others else None


def needed(verdict: Verdict) -> str | None:
    """Return what would decide an open answer."""
    if verdict.needed is None:
        return None
    how_many = "No number in reach" if verdict.needed.n is None else f"About {verdict.needed.n:,}"
    return f"{how_many} of {verdict.needed.what} would decide it."


def alternative(verdict: Verdict) -> TimedContender | None:
    """Return what is faster than full depth, or than a setting that pays, and is not that setting."""
    own = verdict.setting if verdict.pays else None
    limit = own.time.mean if own and own.time else 1.0
    others = [each for each in verdict.timed if not own or each.setting != own.key]
    faster = [each for each in others if each.time and each.time.mean < limit and (own or each.is_faster)]
    return min(faster, key=lambda each: each.time.mean if each.time else limit, default=None)


def sentences(verdict: Verdict) -> Iterator[str]:
    """Yield what follows the answer, a line each."""
    yield from filter(None, (cause(verdict), needed(verdict)))
    if faster := alternative(verdict):
        yield f"Faster: {faster.setting}, {times(faster.time)} of full depth's time."


def tables(verdict: Verdict) -> Iterator[TextTable]:
    """Yield the cells, the gains beside the costs of restrictions, and the times."""
    if verdict.cells:
        n, bound = verdict.cells[0].saved.n, short_percent(verdict.bound.max_risk)
        lost = LOST.get(verdict.bound.risk, verdict.bound.risk)
        caption = f"Saved of multiply-adds if deciding were free, and {lost}, at most {bound} of {n:,}:"
        rows = [(label, _cell(oracle), _cell(rule)) for label, oracle, rule in cells(verdict)]
        yield TextTable("Cells", caption, ("", *DECIDED_BY), rows)
        costs = {each.name: share(each.share) for each in verdict.costs}
        alone, average = (
            [costs.get(f"{each.name} {how}", "") for each in verdict.gains] for how in ("alone", "on average")
        )
        gains = [(each.name, share(each.share)) for each in verdict.gains]
        heads = ("of multiply-adds", "fixing it alone gains", "it costs alone", "on average over both orders")
        found = [(*gain, *of) for gain, *of in zip(gains, alone, average, strict=True)]
        yield TextTable("Gains", "", heads, found)
    if verdict.timed:
        timed = [(each.setting, times(each.time), times(each.of_generate, "")) for each in verdict.timed]
        gaps = [(f"lost to {gap.name}", share(gap.share), "") for gap in verdict.gaps if gap.share and gap.share.high]
        calls = pluralize(max(each.time.n for each in verdict.timed if each.time), "call")
        of_time = (f"over {calls}", "of full depth's time", f"of {GENERATE}'s")
        yield TextTable("Time", "", of_time, [*timed, *gaps])


def cells(verdict: Verdict) -> Iterator[tuple[str, Cell, Cell]]:
    """Yield the rows of the four cells, each with its label: the oracle's and the rule's."""
    by_name = {each.name: each for each in verdict.cells}
    for oracle, rule in ((A, C), (B, D)):
        if oracle in by_name and rule in by_name:
            yield EXACT_CACHE if oracle == A else by_name[rule].mode, by_name[oracle], by_name[rule]


def setting_line(verdict: Verdict) -> str | None:
    """Return what was lost by the setting, of which prompts, and what it saves as run."""
    of = verdict.setting
    if of is None:
        return None
    found = f"certified (use {of.use})" if of.certified else "not certified"
    parts = [
        f"{of.key}: {found}",
        f"lost {_lost(of.loss, of.n)}" + " groups" * (of.n_of_prompts is not None),
        f"of their prompts {_lost(of.loss_of_prompts, of.n_of_prompts)}" if of.n_of_prompts else "",
        f"of right answers {_lost(of.loss_of_right, of.n_of_right)}" if of.n_of_right else "",
        f"of test prompts {share(of.test_loss)} of {of.test_loss.n:,}" if of.test_loss else "",
        f"saved as run {share(of.saved)}",
        f"per right answer {times(of.per_right)}" if of.per_right else "",
    ]
    return "; ".join(filter(None, parts))


def share(found: Interval | None, unknown: str = NOT_MEASURED) -> str:
    """Return a share in percent with its interval."""
    if found is None:
        return unknown
    ends = "" if found.low is None or found.high is None else f" ({100 * found.low:.1f} to {100 * found.high:.1f})"
    return f"{format_number(found.mean, '.1%')}{ends}"


def times(found: Interval | None, unknown: str = NOT_MEASURED) -> str:
    """Return a multiple with its interval."""
    if found is None:
        return unknown
    ends = "" if found.low is None or found.high is None else f" ({found.low:.2f} to {found.high:.2f})"
    return f"{found.mean:.2f}{ends}"


def _cell(cell: Cell) -> str:
    return f"{cell.name} {share(cell.saved)}, lost {short_percent(cell.lost)}"


def _lost(loss: float | None, n: int | None) -> str:
    return NOT_MEASURED if loss is None or n is None else f"{short_percent(loss)} of {n:,}"
