"""Tables of a comparison as text, which the command prints and the page shows."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pandas as pd

from eexit.output.text import format_number
from eexit.output.text_table import TextTable
from eexit.quality.estimates import Estimate
from eexit.quality.intervals import LEVEL
from eexit.studies.assessment.verdict_text import multiple, share
from eexit.studies.comparison.comparison import DEPTHS, SHAPE, Comparison
from eexit.studies.comparison.model_results import AGREEMENT, CONFIRMED, CORRECT, EXITED, SKIPPED

UNKNOWN: Final = "–"
MEASURES: Final = {
    CORRECT: "right at full depth",
    AGREEMENT: "agreement with the final layer",
    CONFIRMED: "sure and confirmed",
    EXITED: "exited by the oracle",
    SKIPPED: "layers that the oracle skips",
}
Row = Mapping[Any, Any]


def tables(comparison: Comparison, confidences: Sequence[float] = (LEVEL,)) -> Iterator[TextTable]:
    """Yield the tables of a line per model, then the paired differences at these confidences.

    Tables about assessments, times and differences are left out if nothing is known.
    """
    rows = comparison.models_table().to_dict("records")
    yield _models(rows)
    for measure, caption in (
        (AGREEMENT, "Tokens for which the exitable layer nearest to a depth (first) predicts the final layer's"),
        (CONFIRMED, "Tokens for which that layer is also sure (confidence at least 0.9)"),
        (EXITED, "Tokens that the oracle agree lets exit there or before, and the layers that it skips"),
    ):
        yield _by_depth(rows, measure, f"{caption}, with {LEVEL:.0%} intervals over prompts.")
    if any(_known(row, "cell_A") or _known(row, "saved") for row in rows):
        yield _assessments(rows)
    if any(_known(row, "generate_time") or _known(row, "time") for row in rows):
        yield _times(rows)
    if table := _differences(comparison, confidences):
        yield table


def _models(rows: Sequence[Row]) -> TextTable:
    caption = "Head in layers: multiply-adds of one read of the lm_head, as a multiple of a layer's."
    heads = ("model", "layers", "width", "vocabulary", "parameters", "head in layers", "dtype", "prompts", "right")
    cells = []
    for row in rows:
        width, vocabulary, parameters, head = (row[name] for name in SHAPE)
        counts = f"{row['layers']}", format_number(width, ",.0f"), format_number(vocabulary, ",.0f")
        price = _parameters(parameters), format_number(head, ".2f"), row["dtype"]
        cells.append((row["model"], *counts, *price, f"{row['prompts']:,}", share(estimate_in(row, CORRECT), UNKNOWN)))
    return TextTable("Models", f"{caption} Right: at full depth, of prompts with an answer.", heads, cells)


def _by_depth(rows: Sequence[Row], measure: str, caption: str) -> TextTable:
    ends = [depth.removeprefix("a ").replace(" ", "_") for depth in DEPTHS]
    skipped = [MEASURES[SKIPPED]] if measure == EXITED else []
    cells = [
        (
            row["model"],
            *(_at_layer(row[f"layer_at_{end}"], estimate_in(row, f"{measure}_at_{end}")) for end in ends),
            *(share(estimate_in(row, SKIPPED), UNKNOWN) for _ in skipped),
        )
        for row in rows
    ]
    heads = ("model", *(f"at {depth}" for depth in DEPTHS), *skipped)
    return TextTable(MEASURES[measure].capitalize(), caption, heads, cells)


def _assessments(rows: Sequence[Row]) -> TextTable:
    cells = [
        (
            row["model"],
            *(share(estimate_in(row, f"cell_{cell}"), UNKNOWN) for cell in "ABD"),
            share(estimate_in(row, "saved"), UNKNOWN),
            row["setting"] if _known(row, "saved") else UNKNOWN,
        )
        for row in rows
    ]
    caption = (
        "Multiply-adds saved within the bound, over an assessment's own prompts. If deciding were free: A by the\n"
        "oracle, B by the oracle with the mode's KV cache, D by the rule with it. As run: by the setting."
    )
    return TextTable("Assessments", caption, ("model", "A", "B", "the rule (D)", "as run", "setting"), cells)


def _times(rows: Sequence[Row]) -> TextTable:
    names = ("generate_time", "time", "time_of_generate")
    cells = [(row["model"], *(multiple(estimate_in(row, name), UNKNOWN) for name in names)) for row in rows]
    heads = ("model", "generate, of full depth's", "the setting, of full depth's", "of generate's")
    return TextTable("Time", f"Time, with {LEVEL:.0%} intervals over calls.", heads, cells)


def _differences(comparison: Comparison, confidences: Sequence[float]) -> TextTable | None:
    found = [comparison.differences_table(each) for each in confidences]
    if not found or found[0].empty:
        return None
    cells = []
    for row, *others in zip(*(each.to_dict("records") for each in found), strict=True):
        at = f"{row['depth']} ({row['layer']:.0f}, {row['other_layer']:.0f})" if row["depth"] else ""
        intervals = [_interval(estimate_in(each, "difference")) for each in (row, *others)]
        named = f"{row['model']} less {row['other']}", MEASURES[row["measure"]], at
        cells.append((*named, _points(row["difference"]), *intervals, f"{row['difference_n']:,}"))
    of_intervals = [f"{100 * each:.4g}% interval" for each in confidences]
    heads = ("paired differences", "measure", "at (layers)", "points", *of_intervals, "n")
    caption = "Of the first model less the other, paired over the prompts that both have."
    return TextTable("Differences", caption, heads, cells)


def estimate_in(row: Row, name: str) -> Estimate:
    """Return the estimate in the four columns of a row of a comparison's table."""
    return Estimate(row[name], row[f"{name}_low"], row[f"{name}_high"], row[f"{name}_n"])


def _known(row: Row, name: str) -> bool:
    return bool(row[f"{name}_n"])


def _at_layer(layer: float | None, found: Estimate) -> str:
    return UNKNOWN if not found.n else f"{layer:.0f}: {share(found)}"


def _points(difference: float) -> str:
    return format_number(100 * difference, "+.1f")


def _interval(found: Estimate) -> str:
    return UNKNOWN if pd.isna(found.low) else f"{_points(found.low)} to {_points(found.high)}"


def _parameters(number: float | None) -> str:
    """Return a number of parameters with three digits and a unit, such as `135 M`."""
    if number is None or pd.isna(number):
        return UNKNOWN
    scale, unit = next((pair for pair in ((1e9, " B"), (1e6, " M"), (1e3, " k")) if number >= pair[0]), (1, ""))
    return f"{number / scale:.3g}{unit}"
