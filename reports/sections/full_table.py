"""Columns of the overview's fold "All numbers": every statistic of every configuration."""

from collections.abc import Iterator

from eexit.quality.rubric import ASPECTS
from reports.read.judgements import BEST, SCORE
from reports.read.sweep import Sweep
from reports.shared import measures
from reports.shared.measures import DISAGREEMENT, LAYERS_SKIPPED, SKIPPED
from reports.shared.paired import GAINED, LOST, P_VALUE
from reports.shared.savings import SavingsTable


def configuration_columns(sweep: Sweep, savings: SavingsTable | None) -> Iterator[tuple[str, str, str]]:
    """Yield key, label and form of each column of a table of configurations; a table shows columns with values."""
    measured = savings.measured if savings else ()
    yield "configuration", "Configuration", "text"
    yield measures.CORRECT, "Accuracy", "share"
    yield measures.CUT, measures.CUT_TEXTS, "share"
    yield f"{measures.CORRECT}{measures.DIFFERENCE}", "Accuracy, beside normal", "points"
    yield f"{measures.CORRECT}{GAINED}", "Right here, wrong in normal", "real"
    yield f"{measures.CORRECT}{LOST}", "Wrong here, right in normal", "real"
    yield f"{measures.CORRECT}{P_VALUE}", "McNemar’s p", "fine"
    for judge in sweep.judges:
        by = f", {judge.name}" if len(sweep.judges) > 1 else ""
        yield judge.column(SCORE), f"Judge's score of {BEST}{by}", "real"
        yield f"{judge.column(SCORE)}{measures.DIFFERENCE}", f"Score, beside normal{by}", "fine"
        yield from ((judge.column(name), f"{name.replace('_', ' ').capitalize()}{by}", "real") for name in ASPECTS)
    yield from ((key, label, "real") for key, label in sweep.scores.items())
    yield SKIPPED, LAYERS_SKIPPED, "share"
    yield DISAGREEMENT, "Disagreement", "share"
    yield measures.CONTRADICTED, measures.EARLY_CONTRADICTED, "share"
    yield "loop_share", "In one loop", "share"
    for each in measured:
        yield each.column(measures.REALISED), f"Saving, realised, {each.label}", "share"
        yield each.column("lacks"), f"Realised lacks of run, {each.label}", "points"
    yield measures.RUN, "Saving, run", "share"
    if savings and savings.elsewhere:
        yield measures.ELSEWHERE, f"Saving, run, these exits at the unit costs of {savings.elsewhere}", "share"
    yield measures.THEORETICAL, "Saving, theoretical", "share"
    for column, sense in measures.SENSES.items():
        yield column, f"Saving per right answer, {sense}", "share"
    yield "exit_rate", "Early exits", "share"
    yield measures.PERPLEXITY, "Perplexity", "real"
    yield measures.FIDELITY, "Same as normal until", "real"
    yield "lcs_share", "Agreement with normal", "share"
    yield "distinct_2", "Distinct 2-grams", "share"
    for each in measured:
        yield each.column("tokens_per_s"), f"Tokens/s, {each.label}", "real"
        yield each.column("run_timed"), f"Saving, run, of what was timed, {each.label}", "share"
    yield "chosen", "Chosen for", "text"
    yield "certified", "Certified for", "text"
    yield "n", "n prompts", "count"
    yield f"{measures.CORRECT}_n", "n with an answer", "count"
    yield "n_failed", "Failed runs", "count"
    yield "judge_errors", "Judge's errors", "count"
