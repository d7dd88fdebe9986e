"""Why early exit does not pay: the ledger's largest line, and what would have to be different, a sentence each."""

from cluster.assessment.learned import ORACLE
from cluster.assessment.outcome.ledger import Ledger, Line
from cluster.assessment.outcome.verdict import Verdict
from eexit.output.text import counted, is_known, percent, short_percent, written
from eexit.quality.estimates import Estimate
from eexit.studies.verdict_file import DECIDING, KNOWING, OVERHEAD, PROOF, STATE


def why(verdict: Verdict) -> str:
    """The cause with what it takes, and what is left."""
    ledger, cause = verdict.ledger, verdict.cause
    line = ledger.line(cause or "")
    if line is None:
        return f"The model leaves nothing to save: the oracle {ORACLE} itself saves {percent(ledger.ceiling.mean)}."
    taken, before = with_interval(line.taken), percent(line.left + line.taken.mean)
    key, left = line.key or "full depth", percent(line.left)
    match cause:
        case "state":
            return (
                f"What exits leave behind takes most: of {before} that the oracle {ORACLE} would save in exact state, "
                f"{taken} is lost without that; within the bound, {key} saves {left}."
            )
        case "knowing":
            return (
                f"Knowing where to exit takes most: of {before} that an oracle saves there, online rules lose {taken}; "
                f"by its mean loss, {key} keeps the bound and saves {left}."
            )
        case "proof":
            return (
                f"Proof takes most: {_before(ledger, line)} would save {before} by its mean loss, of which {taken} is "
                f"not certified; {key} saves {left}."
            )
        case "deciding":
            head = written(verdict.figures.head_in_layers, ".1f")
            return (
                f"Deciding takes most: {taken} of full depth's multiply-adds, where a read of the head costs {head} "
                f"layers; by its exits alone, {_before(ledger, line)} would save {before}."
            )
        case "batches":
            return (
                f"Batches take most: steps of {_rows(ledger)}, even if all rows leave at the same ones, allow {key} "
                f"{left} of the time, {taken} less than what was run."
            )
    return (
        f"Overhead takes most: steps of {_rows(ledger)} would allow {key} {before} of the time, and the clock says "
        f"{left}, {taken} less."
    )


def _before(ledger: Ledger, line: Line) -> str:
    """The configuration that the line before is of."""
    at = list(ledger.lines).index(line)
    return (ledger.lines[at - 1].key if at else ledger.ceiling_key) or "full depth"


def _rows(ledger: Ledger) -> str:
    return counted(ledger.batch or 1, "row")


def otherwise(verdict: Verdict) -> str:
    """What would have to be different for exits to pay, as far as that is known."""
    figures, best, cause = verdict.figures, verdict.figures.best, verdict.cause
    early = f"{percent(figures.agrees_early)} of the tokens agree with full depth at an exitable layer"
    if cause == PROOF and best and best.loss:
        n = counted(best.loss.n, "prompt")
        if best.would_do:
            return (
                f"About {best.would_do:,} prompts for choosing would certify {best.key} with a chance of 80%, if it "
                f"goes on losing {short_percent(best.loss.mean)}; there were {n}."
            )
        return (
            f"{best.key} loses {short_percent(best.loss.mean)} of {n}, which no number of prompts would certify: a "
            "larger --margin would."
        )
    if cause == DECIDING and best and figures.elsewhere:
        name, saved = next(iter(figures.elsewhere.items()))
        return f"At the prices of {name}, the exits of {best.key} would save {percent(saved)} by what was run."
    batch = verdict.batch or 1
    if cause == OVERHEAD and batch > 1 and best and batch in best.allowed:
        return (
            f"If all {counted(batch, 'row')} left at the same steps, and deciding took no time, "
            f"{percent(best.allowed[batch])} of the time would be saved."
        )
    if cause == STATE:
        return f"For exits to pay, their state would have to mislead less: {early}."
    if cause == KNOWING:
        return f"For exits to pay, a rule would have to know more: {early}."
    return f"For exits to pay, tokens would have to agree earlier: {early}."


def models_part(verdict: Verdict) -> str:
    """What lies beyond the oracle, which is no rule's to lose."""
    possible, ceiling = verdict.figures.possible, verdict.ledger.ceiling.mean
    return (
        f"Leaving at the first layer would save {percent(possible)}; {percent(possible - ceiling)} of it is the "
        "model's, whose tokens do not agree with full depth there."
    )


def ledger_sentence(verdict: Verdict) -> str:
    """All lines, from what the oracle would save to what is left."""
    ledger = verdict.ledger
    lines = "".join(f", {each.restriction} {percent(-each.taken.mean)}" for each in ledger.lines)
    left = percent(ledger.lines[-1].left)
    return f"Of full depth, the oracle would save {percent(ledger.ceiling.mean)}{lines}: {left} is left."


def with_interval(share: Estimate) -> str:
    """Such as `12.3% (11.0 to 13.4)`."""
    if not is_known(share.low):
        return percent(share.mean)
    low, high = (written(100 * end, ".1f") for end in (share.low, share.high))
    return f"{percent(share.mean)} ({low} to {high})"
