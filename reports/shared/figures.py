"""A figure of the overview: a chart with its rows, and a table of its numbers, as the page's scripts read them."""

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
class Variant:
    """One way of drawing a figure's rows, which the reader chooses by its label, or by the axes `y` and `x`.

    `note` stands before the figure's caption, and `axes` are the columns that are drawn.
    """

    label: str
    chart: alt.Chart | alt.LayerChart
    y: str | None = None
    x: str | None = None
    note: str | None = None
    axes: dict[str, str] | None = None

    @property
    def data(self) -> dict[str, Any]:
        """As JSON; what is not set is left out."""
        told = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "chart"}
        return {name: value for name, value in told.items() if value is not None} | {"spec": specification(self.chart)}


@dataclass(frozen=True)
class Slice:
    """The reader picks one of `values`: the chart draws the rows with that value, or with none, in column `key`."""

    label: str
    key: str
    values: Sequence[str]
    first: int = 0


@dataclass(frozen=True)
class Figure:
    """`choice` names what the variants differ in."""

    key: str
    title: str
    caption: str
    variants: Sequence[Variant]
    rows: pd.DataFrame
    columns: Columns
    choice: str | None = None
    slice: Slice | None = None
    wide: bool = False
    replayed: dict[str, Any] | None = None  # a further table

    @property
    def data(self) -> dict[str, Any]:
        """As JSON; what is not set is left out."""
        told = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("rows", "columns")}
        told |= {
            "variants": [variant.data for variant in self.variants],
            "slice": self.slice and vars(self.slice),
            "table": table(self.rows, self.columns),
        }
        return {name: value for name, value in told.items() if value not in (None, False)}


def one(chart: alt.Chart | alt.LayerChart) -> tuple[Variant]:
    """The variants of a figure that has no choice."""
    return (Variant("", chart),)


def basis(frame: pd.DataFrame, name: str, where: str = "") -> str:
    """The part of a caption that gives n and the seeds and, if there are intervals, says how they are drawn."""
    n_seeds = frame["n_seeds"].max()
    seeds = f", the mean of up to {n_seeds} seeds each" if n_seeds > 1 else ""
    count = counted_between(frame.loc[frame[name].notna(), f"{name}_n"], "prompt")
    known = where and frame[f"{name}_low"].notna().any()
    return (f"{where}: {LEVEL:.0%} intervals over prompts; " if known else "") + f"n = {count}{seeds}."


def table(frame: pd.DataFrame, columns: Columns) -> dict[str, Any]:
    """All rows with all their columns, which the chart reads too, and the columns that the table beside it shows."""
    shown = [
        {"key": key, "label": label, "form": form}
        for key, label, form in columns
        if key in frame and frame[key].notna().any()
    ]
    return {"columns": shown, "rows": clean(frame.to_dict("records"))}


def _exact(parameter: Any) -> float | None:
    return None if parameter is None or math.isnan(parameter) else float(parameter)


def clean(value: Any) -> Any:
    """The value for JSON: NaN and infinity become null, and numbers other than parameters are rounded to six digits."""
    if isinstance(value, dict):
        return {key: _exact(part) if key == "parameter" else clean(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [clean(part) for part in value]
    if hasattr(value, "item"):
        value = value.item()
    if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return float(f"{value:.6g}") if isinstance(value, float) else value
