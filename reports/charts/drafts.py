"""The charts of drafts: one number in each cell, by the layer after which tokens are drafted and how many at a time."""

from dataclasses import dataclass
from typing import Final

import altair as alt

from reports.charts.base import RAMP, ROWS, layered
from reports.frames.drafts import Drafts
from reports.read.timings import Measured

SLOWER, AS_FAST, FASTER = "#c2a5cf", "#f7f7f7", "#7fbf7b"  # which dark text can be read on, as on these of the ramp
SHADES: Final = RAMP[:5]
INK: Final = "#16191d"
PICKED: Final = "#c2500a"
CELL_PIXELS: Final = 34


@dataclass(frozen=True)
class _Cell:
    """What a cell shows: a column with its format and colour; `outlined` is a column that says which cells are."""

    column: str
    form: str
    colour: alt.Color
    outlined: str | None = None


def acceptance_chart(drafts: Drafts, description: str) -> alt.LayerChart:
    """The accepted share of drafted tokens."""
    colour = alt.Color("acceptance:Q", legend=None).scale(domain=[0, 1], range=SHADES)
    return _grid(drafts, _Cell("acceptance", ".0%", colour), _told(drafts, None), description)


def speed_chart(drafts: Drafts, measured: Measured | None, description: str) -> alt.LayerChart:
    """The speed-up over `normal`, as it was measured, or as it is expected; the fastest measured one is outlined."""
    name = measured.column("speedup") if measured else "expected"
    known = drafts.drafts[name].dropna()
    most = max(known.max(), 1 / known.min(), 1.05)  # that a small difference is not shown as a large one
    colour = alt.Color(f"{name}:Q", legend=None)
    colour = colour.scale(type="log", domain=[1 / most, 1, most], range=[SLOWER, AS_FAST, FASTER])
    fastest = measured.column("fastest") if measured else None
    return _grid(drafts, _Cell(name, ".2f", colour, fastest), _told(drafts, measured), description)


def _grid(drafts: Drafts, cell: _Cell, told: dict[str, tuple[str, str]], description: str) -> alt.LayerChart:
    """Layers from top to bottom, lengths from left to right, and a column as colour and as text."""
    x = alt.X("draft_length:N", title="N: tokens drafted at a time", sort=drafts.lengths).axis(labelAngle=0)
    y = alt.Y("draft_layer:O", title="Layer", sort=drafts.layers)
    base = alt.Chart(ROWS).transform_filter(f"isValid(datum.pair) && isValid(datum['{cell.column}'])").encode(x=x, y=y)
    tooltip = [alt.Tooltip("configuration:N", title="Configuration")]
    for column, (title, form) in told.items():
        base = base.transform_calculate(**{f"{column}_words": _words(column, form)})
        tooltip.append(alt.Tooltip(f"{column}_words:N", title=title))
    tooltip.append(alt.Tooltip("n:Q", title="n prompts"))
    outlines = [{"test": "picked != '' && picked == datum.configuration", "value": PICKED}]
    outlines += [{"test": f"datum['{cell.outlined}']", "value": INK}] if cell.outlined else []
    # Other cells must not fade, since a paler cell means another value here.
    cells = base.mark_rect(cursor="pointer", strokeWidth=2).encode(
        color=cell.colour, stroke=alt.StrokeValue(None, condition=outlines), tooltip=tooltip
    )
    text = base.mark_text(aria=False, fontSize=13, color=INK, cursor="pointer")
    text = text.encode(text=alt.Text(f"{cell.column}:Q", format=cell.form), tooltip=tooltip)
    return layered(cells, text, description=description).properties(height=alt.Step(CELL_PIXELS))


def _told(drafts: Drafts, measured: Measured | None) -> dict[str, tuple[str, str]]:
    """What a tooltip tells of a cell: column → title and format, for what is known of any cell."""
    timed = {
        "speedup": ("× normal, measured", ".2f"),
        "over_generate": ("× generate, measured", ".2f"),
        "expected_timed": ("× normal, expected of it", ".2f"),
        "tokens_per_s": ("tokens/s", ".4~g"),
    }
    counted = {
        "acceptance": ("Acceptance", ".1%"),
        "acceptance_per_token": ("Acceptance per token", ".1%"),
        "tokens_per_pass": ("Tokens per pass", ".2f"),
        "expected": ("× normal, expected", ".2f"),
    }
    told = {measured.column(name): told for name, told in timed.items()} if measured else {}
    return {name: each for name, each in (told | counted).items() if drafts.drafts[name].notna().any()}


def _words(name: str, written: str) -> str:
    """The Vega expression that writes an estimate and its interval as text."""
    value, low, high = (f"format(datum['{name}{end}'], '{written}')" for end in ("", "_low", "_high"))
    interval = f"isValid(datum['{name}_low']) ? ' [' + {low} + ', ' + {high} + ']' : ''"
    return f"isValid(datum['{name}']) ? {value} + ({interval}) : '–'"
