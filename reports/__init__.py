"""Reports: results → data frames → charts → one HTML file. It knows the format of results, but not the engine."""

from reports.page.build import PageSettings, build_report
from reports.page.original import (
    create_html_visualization,
    generate_multi_prompt_html_visualization,
    load_results_json,
    save_results_json,
)
from reports.read.sweep import NotASweepError

__all__ = [
    "NotASweepError",
    "PageSettings",
    "build_report",
    "create_html_visualization",
    "generate_multi_prompt_html_visualization",
    "load_results_json",
    "save_results_json",
]
