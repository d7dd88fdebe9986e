"""The original file format, `early_exit_analysis.json`, and the original functions that drew it.

    results = load_results_json("early_exit_analysis.json")
    generate_multi_prompt_html_visualization(results, "early_exit.html")

A file is a list of `{prompt, results: [{mode, kl_factor | null, response, evaluation}]}`. Files that others wrote, with
keys missing, load and render too. Everything becomes a `Sweep`, so there is one page and not two.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reports.original_sweep import sweep_of, text_of
from reports.page import render, write_report
from reports.sweep import NotASweepError

TITLE = "Early exit analysis"


def save_results_json(results: Sequence[Mapping[str, Any]], filename: str | Path = "early_exit_analysis.json") -> Path:
    """Write results in the original shape; returns where they are."""
    path = Path(filename)
    path.write_text(json.dumps(list(results), indent=2), encoding="utf-8")
    return path


def load_results_json(filename: str | Path) -> list[dict[str, Any]]:
    """Read results in the original shape. Raises NotASweepError where the file isn't a list of prompts."""
    try:
        results = json.loads(Path(filename).read_text(encoding="utf-8"))
    except ValueError as error:
        raise NotASweepError(f"{filename} is not JSON: {error}") from error
    if not isinstance(results, list) or not all(isinstance(entry, dict) for entry in results):
        raise NotASweepError(f"{filename} is not a list of {{prompt, results}} as early_exit_analysis.json is")
    return results


def generate_multi_prompt_html_visualization(
    results: Sequence[Mapping[str, Any]],
    output_file: str | Path = "early_exit_visualization.html",
    title: str = TITLE,
) -> Path:
    """Write the report of results in the original shape; returns where it is."""
    return write_report(sweep_of(results), output_file, text_of(title))


def create_html_visualization(
    tokens: Sequence[str],
    exit_layers: Sequence[int | None],
    title: str = TITLE,
    output_file: str | Path | None = None,
    exitable_layers: Sequence[int] | None = None,
) -> str:
    """The report of one text: its tokens and the layer each was read from. Returns the HTML, and writes it if asked.

    Without `exitable_layers`, the deepest layer that occurs is taken for the final one.
    """
    evaluation = {"tokens": list(tokens), "chosen_exit_layers": list(exit_layers)}
    result = {"mode": "text", "evaluation": evaluation | {"exitable_layers": list(exitable_layers or [])}}
    title = text_of(title)
    sweep = sweep_of([{"prompt": title, "results": [result]}])
    if output_file is not None:
        write_report(sweep, output_file, title)
    return render(sweep, title)
