"""The page of a comparison of models: charts, tables and links to the models' reports, in one HTML file."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from eexit.output.atomic_files import write_all
from eexit.plan.configuration import DRAFT, NORMAL
from eexit.quality.estimates import MIN_SAMPLES
from eexit.quality.intervals import LEVEL
from eexit.studies.comparison.comparison import Comparison
from eexit.studies.comparison.comparison_text import tables
from reports.page.build import page_html, refuse_place
from reports.page.pack_tokens import squeeze
from reports.sections.model_comparison import comparison_figures

# The payload of a sweep without runs, on which the page's scripts rely.
NO_RUNS: Final[dict[str, Any]] = {
    "verdict": None, "layers": ["final"], "normal": NORMAL, "draft": DRAFT, "modes": {}, "rules": {},
    "configurations": [], "short": {}, "judges": [], "metrics": [], "prompts": [], "confident": [], "failures": [],
    "kinds": {}, "flags": {}, "top": 0, "methods": {}, "charts": [],
    "counts": {"runs": 0, "different": 0, "failed": 0, "why": [], "planned": None, "prompts": 0},
    "intervals": {"level": LEVEL, "least": MIN_SAMPLES},
}  # fmt: skip


def write_comparison(comparison: Comparison, out: str | Path, confidences: Sequence[float] = (LEVEL,)) -> Path:
    """Write the page of a comparison, and return its path. Raise `UsageError` as `reports.build_report` does."""
    out = Path(out)
    refuse_place(out)
    title = f"Early exit: {', '.join(comparison.names)}"
    compared = {
        "notes": [*comparison.notes],
        "charts": [figure.data for figure in comparison_figures(comparison)],
        "tables": [asdict(table) for table in tables(comparison, confidences)],
        "reports": _reports(comparison, out),
    }
    facts = [(name, each.manifest.started) for name, each in zip(comparison.names, comparison.models, strict=True)]
    data = NO_RUNS | {"title": title, "facts": facts, "comparison": compared}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_all({out: page_html(data, squeeze(json.dumps([]).encode()), {}, {}, "")})
    return out


def _reports(comparison: Comparison, out: Path) -> dict[str, str]:
    """Return the address of each model's report, relative to the page, by the model's name."""
    folder = out.parent.resolve()
    reports = {name: each.report for name, each in zip(comparison.names, comparison.models, strict=True) if each.report}
    return {name: quote(Path(os.path.relpath(path.resolve(), folder)).as_posix()) for name, path in reports.items()}
