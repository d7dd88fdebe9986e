"""Where tokens become certain: the section's chart of the layers of `normal`."""

import re
from pathlib import Path
from typing import Any

from chart_fields import missing_fields
from report_fixtures import Walk, all_drawn, saved
from synthetic_sweeps import LAYERS, run_rows, write_runs

from eexit.sweeps.summary.certainty import ALL
from reports import build_report
from reports.read.sweep import read_sweep
from reports.sections.certainty import certainty_figure

SURE_AND_WRONG = [(0.95, 1)] * len(LAYERS) + [(0.95, 7)]
SURE_AND_RIGHT = [(0.6, 7)] * 3 + [(0.95, 7)] * 3


def sweep_in(folder: Path, of_kind: dict[str, list[tuple[float, int]]]) -> Path:
    """Return six prompts of each kind; at their tokens, each layer has this probability and likeliest token."""
    runs = []
    for kind, said in of_kind.items():
        top: dict[str, Any] = {"top_prob": [[p] for p, _ in said], "top_token_ids": [[token] for _, token in said]}
        top["top_tokens"] = [[str(token)] for _, token in said]
        for number in range(6):
            for k in (None, 0.5):
                mode = "normal" if k is None else "unfrozen"
                row, tokens = run_rows(f"{kind}-{number}", f"{kind} {number}?", mode, k, ["a", "b", "c"])
                runs.append((row, [token | (top if k is None else {}) for token in tokens]))
    return write_runs(folder, runs)


def test_each_kind_has_the_shares_of_each_layer_and_a_menu_of_thresholds(tmp_path: Path) -> None:
    sweep = read_sweep(str(sweep_in(tmp_path / "s", {"fact": SURE_AND_WRONG, "sum": SURE_AND_RIGHT})))
    figure = certainty_figure(sweep)
    assert figure
    assert figure.slice
    assert figure.slice.values[figure.slice.first] == "0.9"
    assert missing_fields(figure.data) == set()
    shown = figure.rows[figure.rows["sure_from"] == "0.9"]
    assert list(dict.fromkeys(shown["row"])) == [
        f"{ALL}, sure: first at 5", f"{ALL}, confirmed: first at 20, 0.0% taken back",
        f"{ALL}, exits contradicted: 50.0%",
        "fact, sure: first at 5", "fact, confirmed: first at 29", "fact, exits contradicted: 100.0%",
        "sum, sure: first at 20", "sum, confirmed: first at 20, 0.0% taken back", "sum, exits contradicted: 0.0%",
    ]  # fmt: skip
    contradicted = shown[shown["measure"] == "exits contradicted"].set_index(["kind", "shown_layer"])["share"].to_dict()
    assert contradicted == {(ALL, "5"): 1, (ALL, "20"): 0, ("fact", "5"): 1, ("sum", "20"): 0}
    at_5 = shown[shown["shown_layer"] == "5"].set_index(["kind", "measure"])["share"].to_dict()
    assert at_5[ALL, "sure"] == 0.5
    assert at_5["fact", "sure"] == 1
    assert at_5["fact", "confirmed"] == at_5["sum", "sure"] == 0
    assert "first at none" in set(figure.rows.loc[figure.rows["sure_from"] == "0.97", "summary"])
    assert figure.caption.endswith("n = 12 prompts.")


def test_without_likeliest_tokens_there_is_no_such_section(tmp_path: Path) -> None:
    assert (
        certainty_figure(read_sweep(str(write_runs(tmp_path / "s", [run_rows("1", "?", "normal", None, ["a", "b"])]))))
        is None
    )


def test_on_a_phone_the_names_of_rows_leave_the_cells_the_width_of_the_page(walk: Walk, tmp_path: Path) -> None:
    kind = "sums in a long story"
    report = build_report(
        str(sweep_in(tmp_path / "s", {kind: SURE_AND_WRONG, "sum": SURE_AND_RIGHT})), tmp_path / "r.html"
    )
    page = walk("#/?open=all", path=report, viewport=(("width", 360), ("height", 740)))
    page.locator("[data-chart=certainty]").scroll_into_view_if_needed()
    all_drawn(page)
    svg = saved(page, "Save Where tokens become certain as SVG").path().read_text()
    names = re.findall(r">([^<>]+, (?:sure|confirmed): [^<>]+)</text>", svg)
    cells = re.findall(r'aria-roledescription="rect mark"[^>]* d="M[\d.,]+h([\d.]+)v', svg)
    assert f"{kind}, sure: first at 5" in names
    assert len(cells) > (len(LAYERS) + 1) * len(names), "exits contradicted have no cell where no exit is"
    assert min(map(float, cells)) * (len(LAYERS) + 1) > 0.9 * 320
