"""The notebook's cells run one after the other, on a small sweep, and show what they say."""

import ast
import json
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import pytest
from byte_model import save_byte_model
from landed_sweep import land_all

from eexit.plan.config import Prompt, SweepConfig

NOTEBOOK = Path(__file__).parents[2] / "jobs" / "files" / "results.ipynb"
DEMO = "../../results/demo"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("notebook")
    save_byte_model(folder / "model")
    config = SweepConfig(
        model=str(folder / "model"), prompts=tuple(Prompt(id=text, prompt=text) for text in ("one", "<b>two")),
        kl_factors=(0.0, 4.0), exit_every=2, max_new_tokens=20, dtype="float32",
    )  # fmt: skip
    return str(land_all(folder / "out", config))


def shown(source: str, names: dict[str, Any]) -> Any:
    """Run a cell; returns the value of its last expression, which a notebook shows."""
    *statements, last = ast.parse(source).body
    assert isinstance(last, ast.Expr)
    exec(compile(ast.Module(statements, []), str(NOTEBOOK), "exec"), names)
    return eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)


def test_every_cell_runs_and_shows_a_table_two_charts_and_a_coloured_text(
    results: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    sources = ["".join(cell["source"]) for cell in cells]
    assert sum(DEMO in source for source in sources) == 1
    assert [cell["outputs"] for cell in cells] == [[]] * len(cells), "without outputs, changes can be read"
    names: dict[str, Any] = {}
    table, quality, where, text = (shown(source.replace(DEMO, results), names) for source in sources)
    runs, tokens = (pd.read_parquet(f"{results}/{name}") for name in ("generations", "tokens"))
    assert list(table.index) == list(dict.fromkeys(runs.configuration))
    assert isinstance(quality, alt.Chart)
    assert isinstance(where, alt.Chart)
    assert len(quality.data) == (runs["mode"] != "normal").sum()
    assert where.data.tokens.sum() == (tokens.decided & (tokens["mode"] != "normal")).sum()
    assert quality.to_dict()["encoding"]["x"]["field"] == "skipped"
    assert where.to_dict()["encoding"]["color"]["field"] == "exit_layer"
    said = capsys.readouterr().out.splitlines()
    assert said[0] in table.index
    of_run = tokens[tokens.run_id == names["earliest"].run_id]
    html = text._repr_html_()
    assert html.count("<span title=") == len(of_run) > 1
    assert f'title="layer {of_run.exit_layer.min()}"' in html
    hues = {span.partition(" ")[0] for span in html.split("hsl(")[1:]}
    assert len(hues) == of_run.exit_layer.nunique() > 1
