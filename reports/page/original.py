"""The original functions, which read, write and draw files of the original format, `early_exit_analysis.json`.

    results = load_results_json("early_exit_analysis.json")
    generate_multi_prompt_html_visualization(results, "early_exit.html")

`eexit.results.original_format` defines the format. The results become a `Sweep`, so that one page serves all formats.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eexit.results.original_format import entry_of_text, read, valid_text, write
from reports.page.build import render, write_report
from reports.read.original_sweep import sweep_of
from reports.read.sweep import NotASweepError

TITLE = "Early exit analysis"


def save_results_json(results: Sequence[Mapping[str, Any]], filename: str | Path = "early_exit_analysis.json") -> Path:
    """Write results in the original format, and return the path of the file."""
    write(results, path := Path(filename))
    return path


def load_results_json(filename: str | Path) -> list[dict[str, Any]]:
    """Read results in the original format. Raise `NotASweepError` if the file isn't a list of prompts."""
    try:
        return read(Path(filename))
    except ValueError as error:
        raise NotASweepError(str(error)) from error


def generate_multi_prompt_html_visualization(
    results: Sequence[Mapping[str, Any]], output_file: str | Path = "early_exit_visualization.html", title: str = TITLE
) -> Path:
    """Write the report on results in the original format, and return its path."""
    return write_report(sweep_of(results), output_file, valid_text(title))


def create_html_visualization(
    tokens: Sequence[str], exit_layers: Sequence[int | None], title: str = TITLE,
    output_file: str | Path | None = None, exitable_layers: Sequence[int] | None = None,
) -> str:  # fmt: skip
    """Return the report on one text, from its tokens and exit layers, as HTML. Write it to `output_file`, if any.

    Without `exitable_layers`, the deepest layer that occurs counts as the final one.
    """
    title = valid_text(title)
    sweep = sweep_of([entry_of_text(title, tokens, exit_layers, exitable_layers or [])])
    if output_file is not None:
        write_report(sweep, output_file, title)
    return render(sweep, title)
