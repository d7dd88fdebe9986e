"""The overview's section "Drafts": what was accepted and what it gained, by layer and by how many tokens at a time."""

from collections.abc import Iterator
from typing import Any, Final

from eexit.messages.wording import counted_between
from eexit.plan.configuration import ALL_MODES, DRAFT
from eexit.quality.intervals import LEVEL
from reports.charts.drafts import acceptance_chart, speed_chart
from reports.frames.drafts import Drafts, drafted
from reports.read.sweep import Sweep
from reports.sections.figures import Columns, Figure, Variant, one, table
from reports.sections.findings.drafts import draft_findings
from reports.sections.findings.sweep import is_sampled
from reports.sections.trade_off import timed_over

ABOUT: Final = (
    f"{ALL_MODES[DRAFT].removeprefix('no exits: ')}. LAYER:N drafts up to N tokens after that layer; auto follows the "
    "acceptance so far."
)


def draft_section(sweep: Sweep) -> dict[str, Any] | None:
    """Findings, charts and a table; None for a sweep without drafts."""
    drafts = drafted(sweep)
    if not drafts:
        return None
    columns = tuple(_columns(drafts))
    figures = [*_acceptance(drafts, columns), *_speed(drafts, columns)]
    return {
        "about": ABOUT[0].upper() + ABOUT[1:],
        "findings": draft_findings(drafts, is_sampled(sweep)),
        "charts": [figure.data for figure in figures],
        "table": table(drafts.rows, columns),
    }


def _acceptance(drafts: Drafts, columns: Columns) -> Iterator[Figure]:
    if drafts.drafts["acceptance"].notna().any():
        caption = (
            "Higher is better. Accepted: the share of all drafted tokens that full depth agreed with, those after the "
            f"first wrong one counted as drafted. {_basis(drafts)} A click opens the configuration."
        )
        chart = acceptance_chart(drafts, f"Acceptance by layer and N. {caption}")
        yield Figure("draft-acceptance", "Acceptance", caption, one(chart), drafts.drafts, columns)


def _speed(drafts: Drafts, columns: Columns) -> Iterator[Figure]:
    """The measured speed-up with a variant per batch size; the expected one if nothing was timed."""
    if drafts.measured:
        caption = (
            "How many times as fast as normal, which is full depth on the same path: above 1 (green), time is saved; "
            f"below (violet), it takes longer ({timed_over(drafts.measured)}). Outlined: the fastest."
        )
        variants = [
            Variant(
                each.label, speed_chart(drafts, each, f"Measured speed-up by layer and N at {each.label}. {caption}")
            )
            for each in drafts.measured
        ]
        yield Figure(
            "draft-speed", "Measured speed-up", caption, variants, drafts.drafts, columns, choice="Measured at"
        )
    elif drafts.drafts["expected"].notna().any():
        caption = (
            "Not measured: how many times as fast as normal it would be if a call of a layer or of the head takes as "
            "long for several tokens as for one, attention apart. Above 1: green, below: violet. "
            f"{_basis(drafts)} python jobs/timings.py RESULTS measures it."
        )
        chart = speed_chart(drafts, None, f"Expected speed-up by layer and N. {caption}")
        title = "Expected speed-up, not measured"
        yield Figure("draft-speed", title, caption, one(chart), drafts.drafts, columns)


def _columns(drafts: Drafts) -> Iterator[tuple[str, str, str]]:
    """The columns of the table, as key, label and form."""
    yield "configuration", "Configuration", "text"
    yield "acceptance", "Acceptance", "share"
    yield "acceptance_per_token", "Acceptance per token", "share"
    yield "tokens_per_pass", "Tokens per pass", "times"
    yield "expected", "× normal, expected", "times"
    for each in drafts.measured:
        yield each.column("speedup"), f"× normal, measured, {each.label}", "times"
        yield each.column("over_generate"), f"× generate, measured, {each.label}", "times"
        yield each.column("tokens_per_s"), f"Tokens/s, {each.label}", "real"
    for each in drafts.measured:
        yield each.column("expected_timed"), f"× normal, expected, {each.label}", "times"
    yield "n", "n prompts", "count"
    if drafts.rows["n_failed"].fillna(0).any():
        yield "n_failed", "Failed runs", "count"


def _basis(drafts: Drafts) -> str:
    count = counted_between(drafts.drafts["n"], "prompt")
    known = drafts.drafts["acceptance_low"].notna().any()
    intervals = f"Tooltips and table: {LEVEL:.0%} intervals over prompts; " if known else ""
    return f"{intervals}n = {count}."
