"""The notebook runs from its first cell to its last, with a small model, and its cells show what they say."""

import ast
from itertools import product
from pathlib import Path

import nbformat
from byte_model import save_byte_model
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[3] / "jobs" / "files" / "results.ipynb"
DEFAULT = "smollm2-135m"


def test_every_cell_runs_and_shows_what_it_says(tmp_path: Path) -> None:
    save_byte_model(tmp_path / "model")
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]  # it has no types
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert (len(notebook.cells), sum(DEFAULT in cell.source for cell in code)) == (12, 1)
    assert not any(cell.outputs or cell.execution_count for cell in code), "without outputs, changes can be read"
    small = {DEFAULT: str(tmp_path / "model"), '"max_new_tokens": 40': '"max_new_tokens": 8, "exit_every": 2'}
    for cell, (printed, given) in product(code, small.items()):
        cell.source = cell.source.replace(printed, given)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [cell.outputs[-1].data for cell in code]
    swept, depth, grown, corrected, altair, matplotlib, models, report = shown
    assert swept["text/html"].count(">normal</t") == 3 + 1, "three texts, and a line of the table"
    assert "/ratio/" not in swept["text/html"]
    assert all(f">{kind}</th>" in depth["text/html"] for kind in ("all prompts", "fact", "sum", "text"))
    assert "frozen_residual/confidence/0.7" in depth["text/html"]
    assert all(models["text/html"].count(f"<th>{key}/confidence/0.7<") == 2 for key in ("unfrozen", "frozen_residual"))
    assert grown["text/html"].count(">frozen_residual/ratio/5</t") == 4
    assert all(corrected["text/html"].count(f"/ratio{text}") for text in ("/5<", "~"))
    assert '"field": "exit_layer"' in altair["text/html"]
    assert "image/png" in matplotlib
    path = Path(ast.literal_eval(report["text/plain"].removeprefix("PosixPath")))
    assert path.name == "report.html"
