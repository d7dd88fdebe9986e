"""The chart "What it saves": the theoretical, the run and the realised saving of each configuration, side by side."""

from collections.abc import Iterator
from typing import Any, Final

import altair as alt
import pandas as pd

from eexit.messages.wording import counted
from eexit.plan.configuration import GENERATE
from eexit.quality.bootstrap import LEVEL
from reports.charts.base import OPACITY, ROOM_PIXELS, ROWS, layered, rows_of, where_known
from reports.charts.styles import hollow
from reports.frames.savings import KINDS, REALISED, RUN, THEORETICAL, UNTIMED, Savings
from reports.read.timings import Measured

X_TITLE: Final = "Saving (fraction of full depth's cost or time)"
SHAPES: Final = {THEORETICAL: "circle", RUN: "diamond", REALISED: "square"}
LINE_PIXELS: Final = 13  # between the names of two vertical lines, which stand above the plot


def saving_chart(savings: Savings, measured: Measured | None, description: str) -> alt.LayerChart:
    """One row per configuration that can exit early, with a mark for each kind of saving that is known of it.

    `measured` says which realised savings are shown. A tick is the saving of the configuration's control, of the kind
    that says most. Dashed lines are full depth and, if it was timed, transformers' `generate`.
    """
    frame, known = _rows(savings), known_savings(savings, measured)
    base = alt.Chart(ROWS).transform_filter("isValid(datum.rule) && !isValid(datum.beneath)")
    base = base.encode(y=rows_of("shown_as", frame["shown_as"].tolist(), grid=True), opacity=OPACITY)
    for kind, column in known.items():
        base = base.transform_calculate(**{f"{kind}_words": _words(column)})
    tooltip = list(_tooltip(frame, known, measured))
    marks = [_marks(base, frame, kind, column, list(known), tooltip) for kind, column in known.items()]
    ticks = where_known(frame[f"{list(known.values())[-1]}_control"], _control(base, *list(known.items())[-1], tooltip))
    gap = [_gap(base, known[RUN], known[REALISED])] if {RUN, REALISED} <= set(known) else []
    one_row = alt.Chart(ROWS).transform_aggregate(n="count()")
    lines = [*_line("full depth", alt.XDatum(0), 0, one_row)]
    if (
        measured
        and savings.rows.loc[savings.rows["configuration"] == GENERATE, measured.column(REALISED)].notna().any()
    ):
        generate = alt.Chart(ROWS).transform_filter(f"datum.configuration === '{GENERATE}'")
        lines += _line(GENERATE, alt.X(f"{measured.column(REALISED)}:Q", title=X_TITLE), 1, generate)
    layers = [*lines, *gap, *(layer for several in marks for layer in several), *ticks]
    return layered(*layers, description=description).properties(height=alt.Step(22))


def known_savings(savings: Savings, measured: Measured | None) -> dict[str, str]:
    """The columns of those kinds of savings that are known of a row of the chart."""
    columns = {THEORETICAL: THEORETICAL, RUN: RUN} | ({REALISED: measured.column(REALISED)} if measured else {})
    return {kind: column for kind, column in columns.items() if _rows(savings)[column].notna().any()}


def _rows(savings: Savings) -> pd.DataFrame:
    """The configurations that have a row of their own: a control is a tick in the row of what it follows."""
    return savings.exiting[savings.exiting["beneath"].isna()]


def _x(column: str) -> alt.X:
    scale = alt.Scale(zero=True, nice=False, padding=ROOM_PIXELS)
    return alt.X(f"{column}:Q", title=X_TITLE, axis=alt.Axis(format=".0%"), scale=scale)


def _marks(
    base: alt.Chart, frame: pd.DataFrame, kind: str, column: str, kinds: list[str], tooltip: list[alt.Tooltip]
) -> Iterator[alt.Chart]:
    """The points of one kind of saving, each with the rule of its interval or range."""
    base = base.transform_filter(f"isValid(datum['{column}'])").transform_calculate(kind=f"'{kind}'")
    colour, legend = _colour(), alt.Legend(values=kinds, offset=2 * LINE_PIXELS)
    shape = alt.Shape("kind:N", title="Saving", legend=legend).scale(domain=list(KINDS), range=list(SHAPES.values()))
    rules = base.mark_rule(aria=False, strokeWidth=2).encode(
        x=_x(f"{column}_low"), x2=alt.X2(f"{column}_high:Q"), color=colour
    )
    yield from where_known(frame[f"{column}_low"], rules)
    points = base.mark_point(filled=True, size=80, cursor="pointer", opacity=1)
    outline = alt.Stroke("kind:N").scale(domain=list(KINDS), range="ordinal").legend(None)
    looks = hollow(frame, outline, legend_offset=2 * LINE_PIXELS)
    yield points.encode(x=_x(column), color=colour.legend(legend), shape=shape, tooltip=tooltip, **looks)


def _control(base: alt.Chart, kind: str, column: str, tooltip: list[alt.Tooltip]) -> alt.Chart:
    ticks = base.transform_filter(f"isValid(datum['{column}_control'])").transform_calculate(kind=f"'{kind}'")
    ticks = ticks.mark_tick(orient="vertical", thickness=2.5, size=16, cursor="pointer")
    found: alt.Chart = ticks.encode(x=_x(f"{column}_control"), color=_colour(), tooltip=tooltip)
    return found


def _colour() -> alt.Color:
    return alt.Color("kind:N", title="Saving").scale(domain=list(KINDS), range="ordinal")


def _gap(base: alt.Chart, run: str, realised: str) -> alt.Chart:
    """The distance from what was run to what was realised."""
    both = base.transform_filter(f"isValid(datum['{run}']) && isValid(datum['{realised}'])")
    found: alt.Chart = both.mark_rule(aria=False, strokeDash=[1, 3]).encode(x=_x(run), x2=alt.X2(f"{realised}:Q"))
    return found


def _line(name: str, x: Any, line: int, data: alt.Chart) -> Iterator[alt.Chart]:
    """A vertical line with its name above the plot."""
    yield data.mark_rule(aria=False, strokeDash=[5, 4]).encode(x=x)
    text = data.mark_text(aria=False, text=name, fontSize=11, baseline="bottom")
    yield text.encode(x=x, y=alt.value(-4 - line * LINE_PIXELS))


def _tooltip(frame: pd.DataFrame, known: dict[str, str], measured: Measured | None) -> Iterator[alt.Tooltip]:
    yield alt.Tooltip("shown_as:N", title="Configuration")
    for kind, column in known.items():
        yield alt.Tooltip(f"{kind}_words:N", title=f"Saving, {kind}")
        yield from where_known(
            frame[f"{column}_control"], alt.Tooltip(f"{column}_control:Q", title="its control", format=".1%")
        )
    if measured:
        yield alt.Tooltip(f"{measured.column('lacks')}:Q", title="realised lacks of run", format="+.1%")
        yield alt.Tooltip(f"{measured.column('tokens_per_s')}:Q", title="tokens/s", format=".4~g")
    yield from where_known(frame["disagreement"], alt.Tooltip("disagreement:Q", title="Disagreement", format=".1%"))
    yield from where_known(frame["loop_share"], alt.Tooltip("loop_share:Q", title="In one loop", format=".1%"))
    yield alt.Tooltip("n:Q", title="n prompts")


def _words(column: str) -> str:
    """The Vega expression that writes a saving and its interval or range as text."""
    value, low, high = (f"format(datum['{column}{end}'], '.1%')" for end in ("", "_low", "_high"))
    interval = f"isValid(datum['{column}_low']) ? ' [' + {low} + ', ' + {high} + ']' : ''"
    return f"isValid(datum['{column}']) ? {value} + ({interval}) : datum.oracle ? 'none: an oracle' : 'not measured'"


def saving_columns(savings: Savings) -> Iterator[tuple[str, str, str]]:
    """The columns of the table beside the chart, as key, label and form."""
    yield "configuration", "Configuration", "text"
    for each in savings.measured:
        yield each.column(REALISED), f"Saving, realised, {each.label}", "share"
        yield each.column("lacks"), f"Realised lacks of run, {each.label}", "points"
    yield RUN, "Saving, run", "share"
    yield THEORETICAL, "Saving, theoretical", "share"
    yield "disagreement", "Disagreement", "share"
    yield "loop_share", "In one loop", "share"
    for each in savings.measured:
        yield each.column("tokens_per_s"), f"Tokens/s, {each.label}", "real"
        yield each.column("run_timed"), f"Saving, run, of what was timed, {each.label}", "share"
    yield "n", "n prompts", "count"


def saving_caption(savings: Savings) -> Iterator[str]:
    """The sentences of the caption, for what is known of the sweep."""
    exiting = savings.exiting
    yield "Right is better."
    if exiting[THEORETICAL].notna().any():
        yield "Theoretical: what the exits need, if deciding were free."
    if exiting[RUN].notna().any():
        yield "Run: what was run. Both are multiply-adds of decided tokens."
    if savings.measured:
        rounds = dict.fromkeys(f"{counted(each.rounds, 'round')} on {each.machine}" for each in savings.measured)
        prompts = counted(max(each.prompts for each in savings.measured), "prompt")
        yield f"Realised: time, beside full depth on the same path (median of {', '.join(rounds)}; {prompts})."
        yield "Dotted: from run to realised."
    if (n_seeds := exiting["n_seeds"].max()) > 1:
        yield f"Costs are means of up to {n_seeds:.0f} seeds of each prompt."
    over = ["prompts"] if exiting[[f"{THEORETICAL}_low", f"{RUN}_low"]].notna().any(axis=None) else []
    over += (
        ["rounds for realised"]
        if any(exiting[f"{each.column(REALISED)}_low"].notna().any() for each in savings.measured)
        else []
    )
    if over:
        yield f"Bars: {LEVEL:.0%} intervals over {', over '.join(over)}."
    if exiting["oracle"].any():
        yield "Oracles save nothing at run time."
    if exiting["beneath"].notna().any():
        yield "Tick: the configuration's control, which exits as often at each layer, without looking."
    if not savings.measured:
        yield UNTIMED
