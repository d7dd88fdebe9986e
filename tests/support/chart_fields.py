"""The content of a report's file for the page's scripts, and the fields that its charts name.

Where a field is missing, Vega draws nothing, without an error.
"""

import base64
import gzip
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from reports.read.sweep import Sweep, read_sweep
from reports.sections.overview import overview
from reports.shared.paired import PairedRuns
from reports.shared.per_configuration import per_configuration
from reports.shared.quality import QualityTable, quality_of
from reports.shared.savings import savings

Charts = dict[str, dict[str, Any]]
T = TypeVar("T")


def blob(page: str, name: str) -> bytes:
    """Return the content of one of the page's blobs, unpacked."""
    found = re.search(rf'id="blob-{name}">([^<]*)</script>', page)
    assert found, name
    return b"".join(gzip.decompress(base64.b64decode(column)) for column in found[1].split(","))


def content_of(report: Path) -> dict[str, Any]:
    """Return the data of a report as its scripts read them, so that tests need not compute them again."""
    content: dict[str, Any] = json.loads(blob(report.read_text(encoding="utf-8"), "payload"))
    return content


def charts_of(told: Mapping[str, Any]) -> Charts:
    return {chart["key"]: chart for chart in [told["trade"], *told["charts"]] if chart}


def missing_fields(chart: dict[str, Any]) -> set[str]:
    """Return the fields that any variant of a chart encodes and that neither rows nor a transform have."""
    tables = [chart["table"], *filter(None, [chart.get("replayed")])]
    known = {column for table in tables for row in table["rows"] for column in row}
    parts = list[dict[str, Any]]()
    json.loads(json.dumps([variant["spec"] for variant in chart["variants"]]), object_hook=parts.append)
    for made in (part.get("as", []) for part in parts):
        known |= {made} if isinstance(made, str) else {*made}
    return {part["field"] for part in parts if isinstance(part.get("field"), str)} - known


def drawn(sweep: Sweep) -> Charts:
    return charts_of(overview(sweep))


def variant_of(chart: dict[str, Any], y: str, x: str = "layers skipped") -> dict[str, Any]:
    (variant,) = (each for each in chart["variants"] if (each["y"], each["x"]) == (y, x))
    return variant  # type: ignore[no-any-return]


def quality_in(folder: Path) -> QualityTable:
    """Return the quality of the sweep in this folder, as in its report."""
    sweep = read_sweep(str(folder))
    trade = per_configuration(sweep)
    return known(quality_of(sweep, trade, PairedRuns.from_sweep(sweep).differences(), savings(sweep, trade)))


def known(found: T | None) -> T:
    assert found is not None
    return found
