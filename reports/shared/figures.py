"""A figure of the overview, as the page's scripts read it: a chart with its rows, and a table of its numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import altair as alt
import pandas as pd

from eexit.output.text import counted_between
from eexit.quality.intervals import LEVEL
from reports.shared.charts import Columns, specification


@dataclass(frozen=True)
class ChartVariant:
    """One way of drawing a figure's rows. The reader chooses it by its label, or by the axes `y` and `x`.

    `note` precedes the figure's caption, and `axes` are the drawn columns.
    """

    label: str
    chart: alt.Chart | alt.LayerChart
    y: str | None = None
    x: str | None = None
    note: str | None = None
    axes: dict[str, str] | None = None

    @property
    def data(self) -> dict[str, Any]:
        """The variant for JSON, without unset fields."""
        told = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "chart"}
        return {name: value for name, value in told.items() if value is not None} | {"spec": specification(self.chart)}


@dataclass(frozen=True)
class RowFilter:
    """Menu that filters a chart's rows by their value in column `key`."""

    label: str
    key: str
    values: Sequence[str]
    first: int = 0


@dataclass(frozen=True)
class Figure:
    """Chart with its variants, rows and table. `choice` names the difference between variants."""

    key: str
    title: str
    caption: str
    variants: Sequence[ChartVariant]
    rows: pd.DataFrame
    columns: Columns
    choice: str | None = None
    slice: RowFilter | None = None
    wide: bool = False
    replayed: dict[str, Any] | None = None  # a further table

    @property
    def data(self) -> dict[str, Any]:
        """The figure for JSON, without unset fields."""
        told = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("rows", "columns")}
        told |= {
            "variants": [variant.data for variant in self.variants],
            "slice": self.slice and vars(self.slice),
            "table": table(self.rows, self.columns),
        }
        return {name: value for name, value in told.items() if value not in (None, False)}


def one(chart: alt.Chart | alt.LayerChart) -> tuple[ChartVariant]:
    """Return the variants of a figure without a choice."""
    return (ChartVariant("", chart),)


def basis(frame: pd.DataFrame, name: str, where: str = "") -> str:
    """Return the end of a caption: the number of prompts and seeds.

    If the column has intervals, `where` comes first, which tells how they are drawn.
    """
    n_seeds = frame["n_seeds"].max()
    seeds = f", the mean of up to {n_seeds} seeds each" if n_seeds > 1 else ""
    count = counted_between(frame.loc[frame[name].notna(), f"{name}_n"], "prompt")
    known = where and frame[f"{name}_low"].notna().any()
    return (f"{where}: {LEVEL:.0%} intervals over prompts; " if known else "") + f"n = {count}{seeds}."


def table(frame: pd.DataFrame, columns: Columns) -> dict[str, Any]:
    """Return a frame as a page's table: the columns to show, and all rows with all columns, for the chart too."""
    shown = [
        {"key": key, "label": label, "form": form}
        for key, label, form in columns
        if key in frame and frame[key].notna().any()
    ]
    return {"columns": shown, "rows": clean(frame.to_dict("records"))}


def _exact(parameter: Any) -> float | None:
    return None if parameter is None or math.isnan(parameter) else float(parameter)


def clean(value: Any) -> Any:
    """Return the value for JSON: NaN and infinity become null, and numbers other than parameters have six digits."""
    if isinstance(value, dict):
        return {key: _exact(part) if key == "parameter" else clean(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [clean(part) for part in value]
    if hasattr(value, "item"):
        value = value.item()
    if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return float(f"{value:.6g}") if isinstance(value, float) else value
