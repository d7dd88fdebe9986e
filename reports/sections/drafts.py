"""The overview's section "Drafts": acceptance and time, by layer and by number of tokens at a time.

Acceptance, tokens per pass and the expected time are ratios of sums over prompts; acceptance per token is a mean.
Seeds of a prompt are averaged first. All have intervals over prompts. Measured times are medians over rounds with
intervals over calls, as `eexit.studies.timing.speedups` computes them. Plain decoding is `normal`, full depth on the
same path, and transformers' `generate`. A draft has to beat both.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import altair as alt
import pandas as pd

from eexit.output.text import counted_between
from eexit.plan.configuration import DRAFT, DRAFTING, GENERATE, LOOKUP, Configuration, Draft, HFGenerate, NoExit
from eexit.quality.estimates import NOTHING
from eexit.quality.intervals import LEVEL
from eexit.results.configuration_means import OF_DRAFTS, estimate_drafts
from eexit.results.study_tables import TIMINGS
from eexit.studies.timing.speedups import Speedup
from reports.read.sweep import Sweep
from reports.read.timings import TimingSetup, speedups_by_place, timed_over
from reports.shared.charts import RAMP, Columns, layered, rows_where, with_tooltips
from reports.shared.figures import ChartVariant, Figure, one, table
from reports.shared.per_configuration import estimates_of

ABOUT: Final = f"{DRAFTING.removeprefix('no exits: ')}. LAYER:N drafts up to N tokens after that layer."
SLOWER, AS_FAST, FASTER = "#c2a5cf", "#f7f7f7", "#7fbf7b"  # dark text is legible on them
SHADES: Final = RAMP[:5]
INK: Final = "#16191d"
PICKED: Final = "#c2500a"
CELL_PIXELS: Final = 34


@dataclass(frozen=True)
class DraftTable:
    """One row per draft, then one each of `normal`, `generate` and `generate/LAYER` if they were timed with drafts.

    Columns: the configuration's; `pair`, which is LAYER:N; `n` prompts and `n_failed` runs; the estimates `acceptance`,
    `acceptance_per_token`, `tokens_per_pass` and `expected`, the expected time. For each `TimingSetup`: `time` as a
    multiple of that of `normal` and `of_generate` of transformers' own, with intervals and number of rounds;
    `tokens_per_s`; and `fastest`, True for the fastest draft. `rows` is sorted by layer and then by N.
    """

    rows: pd.DataFrame
    measured: tuple[TimingSetup, ...]  # where drafts were timed
    n_texts: int  # runs of drafts that can be compared with the normal run of their prompt and seed
    n_other_texts: int  # the number of them whose text differs

    @property
    def drafts(self) -> pd.DataFrame:
        """Rows of configurations in mode `draft`."""
        # If other rows have no runs, pandas stores whole numbers as floats.
        return self.rows[self.rows["mode"] == DRAFT].astype(dict.fromkeys(("n", "n_failed", "draft_layer"), int))

    @property
    def layers(self) -> list[int]:
        return sorted(self.drafts["draft_layer"].unique().tolist())

    @property
    def lengths(self) -> list[str]:
        return sorted(self.drafts["draft_length"].unique(), key=int)


def drafted(sweep: Sweep) -> DraftTable | None:
    """Return the statistics of a sweep's drafts; None if there are none."""
    unsorted = [configuration for configuration in sweep.configurations if isinstance(configuration, Draft)]
    configurations = sorted(unsorted, key=lambda draft: (draft.layer, draft.n_tokens))
    if not configurations:
        return None
    rows = _counted(configurations, sweep)
    keys = [configuration.key for configuration in configurations]
    by_place = {where.label: found for where, found in speedups_by_place(sweep.rows_of(TIMINGS), GENERATE)}
    measured = []
    for where, found in speedups_by_place(sweep.rows_of(TIMINGS)):
        if not found.keys() & set(keys):
            continue
        measured.append(where)
        beside = {key: _naming(columns) for key, columns in _plain(found).items()}
        rows += [row for key, row in beside.items() if key not in {row["configuration"] for row in rows}]
        of_generate = by_place.get(where.label, {})
        fastest = min((key for key in keys if key in found), key=lambda key: found[key].time.mean)
        for row in rows:
            key = row["configuration"]
            if key in found:
                beside_generate = of_generate[key].time if key in of_generate else NOTHING
                row |= found[key].time.columns(where.column("time"))
                row |= beside_generate.columns(where.column("of_generate"))
                row |= {where.column("tokens_per_s"): found[key].tokens_per_second}
                row |= {where.column("fastest"): key == fastest}
    runs = sweep.done[sweep.done["configuration"].isin(keys)]
    known = runs["equal_share"].astype(float).dropna()
    return DraftTable(pd.DataFrame(rows), tuple(measured), len(known), int((known < 1).sum()))


def draft_section(sweep: Sweep) -> dict[str, Any] | None:
    """Return charts and a table; None for a sweep without drafts."""
    drafts = drafted(sweep)
    if not drafts:
        return None
    columns = tuple(_columns(drafts, drafts.measured))
    figures = [*_acceptance(drafts, columns, sweep.is_sampled), *_speed(drafts, columns)]
    return {
        "about": ABOUT[0].upper() + ABOUT[1:],
        "charts": [figure.data for figure in figures],
        "table": table(drafts.rows, columns),
    }


def _acceptance(drafts: DraftTable, columns: Columns, is_sampled: bool) -> Iterator[Figure]:
    if drafts.drafts["acceptance"].notna().any():
        caption = (
            "Higher is better. Accepted: the share of all drafted tokens that full depth agreed with, those after the "
            f"first wrong one counted as drafted. {_basis(drafts)} A click opens the configuration."
        )
        if not is_sampled:  # differences are from rounding at near ties, above all in 16 bits
            caption += f" Texts that are not those of normal: {drafts.n_other_texts:,} of {drafts.n_texts:,}."
        colour = alt.Color("acceptance:Q", legend=None, scale={"domain": [0, 1], "range": SHADES})
        chart = _grid(drafts, "acceptance", colour, None, f"Acceptance by layer and N. {caption}")
        yield Figure("draft-acceptance", "Acceptance", caption, one(chart), drafts.drafts, columns)


def _speed(drafts: DraftTable, columns: Columns) -> Iterator[Figure]:
    """Yield the measured time with a variant per batch size, or the expected one if nothing was timed."""
    if drafts.measured:
        caption = (
            "Time as a multiple of normal's, which is full depth on the same path: below 1 (green), time is saved; "
            f"above (violet), it takes longer ({timed_over(drafts.measured)}). Outlined: the fastest."
        )
        said = "Measured time by layer and N at"
        charts = [time_chart(drafts, each, f"{said} {each.label}. {caption}") for each in drafts.measured]
        variants = [ChartVariant(each.label, chart) for each, chart in zip(drafts.measured, charts, strict=True)]
        yield Figure("draft-time", "Measured time", caption, variants, drafts.drafts, columns, choice="Measured at")
    elif drafts.drafts["expected"].notna().any():
        caption = (
            "Not measured: time as a multiple of normal's if calls of layers and of the head took as long for several "
            "tokens as for one, attention apart. Below 1: green, above: violet. "
            f"{_basis(drafts)} eexit timings measures it."
        )
        chart = time_chart(drafts, None, f"Expected time by layer and N. {caption}")
        title = "Expected time, not measured"
        yield Figure("draft-time", title, caption, one(chart), drafts.drafts, columns)


def _columns(drafts: DraftTable, measured: Sequence[TimingSetup] = ()) -> Iterator[tuple[str, str, str]]:
    """Yield key, label and form of the table's columns, with the measurements at these places."""
    yield "configuration", "Configuration", "text"
    yield "acceptance", "Acceptance", "share"
    yield "acceptance_per_token", "Acceptance per token", "share"
    yield "tokens_per_pass", "Tokens per pass", "times"
    yield "expected", "× full depth's time, expected", "times"
    for each in measured:
        yield each.column("time"), f"× full depth's time, measured, {each.label}", "times"
        yield each.column("of_generate"), f"× generate's time, measured, {each.label}", "times"
        yield each.column("tokens_per_s"), f"Tokens/s, {each.label}", "real"
    yield "n", "n prompts", "count"
    if drafts.rows["n_failed"].fillna(0).any():
        yield "n_failed", "Failed runs", "count"


def _basis(drafts: DraftTable) -> str:
    count = counted_between(drafts.drafts["n"], "prompt")
    known = drafts.drafts["acceptance_low"].notna().any()
    intervals = f"Tooltips and table: {LEVEL:.0%} intervals over prompts; " if known else ""
    return f"{intervals}n = {count}."


def time_chart(drafts: DraftTable, measured: TimingSetup | None, description: str) -> alt.LayerChart:
    """Return the time as a multiple of that of `normal`, measured or expected; the fastest draft is outlined."""
    name = measured.column("time") if measured else "expected"
    known = drafts.drafts[name].dropna()
    most = max(known.max(), 1 / known.min(), 1.05)  # so a small difference has no strong colour
    scale = {"type": "log", "domain": [1 / most, 1, most], "range": [FASTER, AS_FAST, SLOWER]}
    colour = alt.Color(f"{name}:Q", legend=None, scale=scale)
    return _grid(drafts, name, colour, measured, description)


def _grid(
    drafts: DraftTable, column: str, colour: alt.Color, measured: TimingSetup | None, description: str
) -> alt.LayerChart:
    """Return a chart of layers (top to bottom) by draft lengths (left to right), with a column as colour and text."""
    title, axis = "N: tokens drafted at a time", {"labelAngle": 0}
    x = alt.X("draft_length:N", title=title, sort=drafts.lengths, axis=axis)
    y = alt.Y("draft_layer:O", title="Layer", sort=drafts.layers)
    base = rows_where(f"isValid(datum.pair) && isValid(datum['{column}'])").encode(x=x, y=y)
    base, tooltip = with_tooltips(base, tuple(_columns(drafts, [measured] if measured else [])), drafts.drafts)
    outlines = [{"test": "picked != '' && picked == datum.configuration", "value": PICKED}]
    outlines += [{"test": f"datum['{measured.column('fastest')}']", "value": INK}] if measured else []
    # Other cells must not fade, since a paler cell means another value.
    cells = base.mark_rect(cursor="pointer", strokeWidth=2).encode(
        color=colour, stroke=alt.StrokeValue(None, condition=outlines), tooltip=tooltip
    )
    text = alt.Text(f"{column}:Q", format=".0%" if column == "acceptance" else ".2f")
    words = base.mark_text(aria=False, fontSize=13, color=INK, cursor="pointer").encode(text=text, tooltip=tooltip)
    return layered(cells, words, description=description, height=alt.Step(CELL_PIXELS))


def _naming(columns: dict[str, Any]) -> dict[str, Any]:
    named = {name: columns[name] for name in ("configuration", "mode", "draft_layer", "draft_length")}
    length = columns["draft_length"]
    return {**named, "pair": None if length is None else f"{columns['draft_layer']}:{length}"}


def _plain(found: dict[str, Speedup]) -> dict[str, dict[str, Any]]:
    """Return key → identifying columns, for `normal` and transformers' own variants that were timed."""
    layers = sorted(int(within) for key in found if (within := key.removeprefix(f"{GENERATE}/")).isdigit())
    known: list[Configuration | HFGenerate] = [NoExit(), HFGenerate(), *map(HFGenerate, layers)]
    return {each.key: each.columns for each in [*known, HFGenerate(variant=LOOKUP)] if each.key in found}


def _counted(drafts: Sequence[Draft], sweep: Sweep) -> list[dict[str, Any]]:
    """Return a row per draft: numbers of prompts and failed runs, and estimates of acceptance and expected speed-up."""
    names = [*OF_DRAFTS, "acceptance_per_token"]
    done = sweep.done[["configuration", "prompt_id", "unit", *names]].astype(dict.fromkeys(names, float))
    by_key = dict([*done.groupby("configuration")])
    failed = sweep.failed["configuration"].value_counts()
    prompts = sweep.done.groupby("configuration")["unit"].nunique()
    counted_rows = []
    for configuration, row in zip(drafts, map(_naming, (each.columns for each in drafts)), strict=True):
        runs = by_key.get(configuration.key, done[:0])
        ids = [runs[name].to_numpy() for name in ("prompt_id", "unit")]
        found = estimate_drafts({name: runs[name].to_numpy() for name in OF_DRAFTS}, *ids)
        found |= estimates_of(configuration, runs[["acceptance_per_token"]], runs)
        found["expected"] = found.pop("expected_time")
        row |= {"n": int(prompts.get(configuration.key, 0)), "n_failed": int(failed.get(configuration.key, 0))}
        counted_rows.append(row | {k: v for name, each in found.items() for k, v in each.columns(name).items()})
    return counted_rows
