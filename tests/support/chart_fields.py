"""Fields that charts name. Where a field is missing, Vega draws nothing, without an error."""

from collections.abc import Iterator
from typing import Any

from page_content import Charts, charts_of

from reports.read.sweep import Sweep
from reports.sections.overview import overview


def missing_fields(chart: dict[str, Any]) -> set[str]:
    """Return the fields that any variant of a chart encodes and that neither rows nor a transform have."""
    known = {column for row in chart["table"]["rows"] for column in row}
    encoded: set[str] = set()
    for variant in chart["variants"]:
        for part in _objects(variant["spec"]):
            encoded |= {part["field"]} if isinstance(part.get("field"), str) else set()
            made = part.get("as", [])
            known |= {made} if isinstance(made, str) else {*made}
    return encoded - known


def _objects(part: Any) -> Iterator[dict[str, Any]]:
    """Yield all JSON objects in a part of a specification."""
    if isinstance(part, dict):
        yield part
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from _objects(inner)


def drawn(sweep: Sweep) -> Charts:
    """Return the charts of a sweep's overview by key."""
    return charts_of(overview(sweep))


def variant_of(chart: dict[str, Any], y: str, x: str = "layers skipped") -> dict[str, Any]:
    """Return the trade-off's variant with these axes."""
    (variant,) = (each for each in chart["variants"] if (each["y"], each["x"]) == (y, x))
    return variant  # type: ignore[no-any-return]
