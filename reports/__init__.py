"""Reports: results → data frames → charts → one HTML file. They depend on the format of results, not on the engine."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reports.page.build import PageOptions, build_report
    from reports.page.original import (
        create_html_visualization,
        generate_multi_prompt_html_visualization,
        load_results_json,
        save_results_json,
    )
    from reports.read.sweep import NotASweepError

__all__ = [
    "NotASweepError", "PageOptions", "build_report", "create_html_visualization",
    "generate_multi_prompt_html_visualization", "load_results_json", "save_results_json",
]  # fmt: skip
_HOMES = dict.fromkeys(__all__, "reports.page.original") | {"NotASweepError": "reports.read.sweep"}
_HOMES |= dict.fromkeys(("PageOptions", "build_report"), "reports.page.build")


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that the report's flags need neither pandas nor Altair."""
    if name not in _HOMES:
        raise AttributeError(f"module 'reports' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
