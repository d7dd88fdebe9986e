"""Where tokens become certain: the section's chart of the layers of `normal`."""

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from chart_fields import known, missing_fields
from report_fixtures import PHONE, MakeSweep, Walk, all_drawn, saved
from synthetic_sweeps import LAYERS, run_rows, write_runs

from eexit.sweeps.summary.certainty import ALL
from reports.read.sweep import read_sweep
from reports.sections.certainty import certainty_figure

LONG = "long story with sums"
# Kind of prompt → probability and likeliest token of each layer.
KINDS = {LONG: [(0.95, 1)] * len(LAYERS) + [(0.95, 7)], "sum": [(0.6, 7)] * 3 + [(0.95, 7)] * 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return six prompts of each kind."""
    runs = []
    for kind, number in product(KINDS, range(6)):
        top: dict[str, Any] = {"top_prob": [[p] for p, _ in KINDS[kind]]}
        top |= {"top_token_ids": [[it] for _, it in KINDS[kind]], "top_tokens": [[str(it)] for _, it in KINDS[kind]]}
        of_prompt = f"{kind}-{number}", f"{kind} {number}?"
        row, tokens = run_rows(*of_prompt, "normal", None, ["a", "b", "c"])
        runs += [(row, [token | top for token in tokens]), run_rows(*of_prompt, "unfrozen", 0.5, ["a", "b", "c"])]
    return write_runs(tmp_path_factory.mktemp("certainty") / "s", runs)


def test_each_kind_has_the_shares_of_each_layer(folder: Path, make_sweep: MakeSweep) -> None:
    assert certainty_figure(read_sweep(str(make_sweep(1)))) is None
    figure = known(certainty_figure(read_sweep(str(folder))))
    assert (known(figure.slice).values[known(figure.slice).first], missing_fields(figure.data)) == ("0.9", set())
    shown = figure.rows[figure.rows["sure_from"] == "0.9"]
    assert list(dict.fromkeys(shown["row"])) == [
        f"{ALL}, sure: first at 5", f"{ALL}, confirmed: first at 20, 0.0% taken back",
        f"{ALL}, exits contradicted: 50.0%",
        f"{LONG}, sure: first at 5", f"{LONG}, confirmed: first at 29", f"{LONG}, exits contradicted: 100.0%",
        "sum, sure: first at 20", "sum, confirmed: first at 20, 0.0% taken back", "sum, exits contradicted: 0.0%",
    ]  # fmt: skip
    at_5 = shown[shown["shown_layer"] == "5"].set_index(["kind", "measure"])["share"].to_dict()
    assert (at_5[ALL, "sure"], at_5[LONG, "sure"], at_5[LONG, "confirmed"], at_5["sum", "sure"]) == (0.5, 1, 0, 0)
    assert "first at none" in set(figure.rows.loc[figure.rows["sure_from"] == "0.97", "summary"])
    assert figure.caption.endswith("n = 12 prompts.")


def test_on_a_phone_the_names_of_rows_leave_the_cells_the_width_of_the_page(walk: Walk, folder: Path) -> None:
    page = walk("#/?open=all", path=folder, viewport=PHONE)
    page.locator("[data-chart=certainty]").scroll_into_view_if_needed()
    all_drawn(page)
    svg = saved(page, "Save Where tokens become certain as SVG").path().read_text()
    names = re.findall(r">([^<>]+, (?:sure|confirmed): [^<>]+)</text>", svg)
    cells = re.findall(r'aria-roledescription="rect mark"[^>]* d="M[\d.,]+h([\d.]+)v', svg)
    assert f"{LONG}, sure: first at 5" in names
    assert len(cells) > (len(LAYERS) + 1) * len(names), "exits contradicted have no cell where no exit is"
    assert min(map(float, cells)) * (len(LAYERS) + 1) > 0.9 * 320
