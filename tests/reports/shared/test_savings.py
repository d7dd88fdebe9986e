"""Savings of each configuration: in theory, as run, and in time."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import vl_convert
from chart_fields import drawn, variant_of
from page_content import charts_of, content_of
from report_fixtures import MakeSweep
from synthetic_sweeps import failed_row, run_rows, write_sweep

from eexit.decode.costs import LOOKS
from eexit.plan.configuration import GENERATE, EarlyExit
from eexit.results.store.folder import open_store
from eexit.results.study_tables import TIMINGS
from eexit.studies.cost_projection import KNOWN
from reports.page.build import build_report
from reports.read.sweep import Sweep, read_sweep
from reports.read.timings import timed_over
from reports.shared.number_format import format_saving
from reports.shared.per_configuration import per_configuration
from reports.shared.savings import SavingsTable, savings
from reports.shared.styles import HOLLOW

NORMAL, ONLINE, ORACLE = "normal", "unfrozen/fixed/10", "unfrozen/kl/1"
FIXED = EarlyExit("unfrozen", "fixed", 10.0).columns


def costs(full: float, needed: float, run: float | None) -> dict[str, float | None]:
    return {"macs_full": full, "macs_required": needed, "macs_executed": run}


def costly(folder: Path, per_prompt: Sequence[tuple[float, float, float]], **change: Any) -> Path:
    """Write `normal`, an online rule and an oracle per prompt; the rule has these full, required and executed MACs."""
    generations, tokens = [], []
    for number, (full, needed, run) in enumerate(per_prompt):
        for mode, k, columns in (
            ("normal", None, costs(full, full, full)),
            ("unfrozen", 2.0, FIXED | costs(full, needed, run) | change),
            ("unfrozen", 1.0, costs(full, needed, None)),
        ):
            row, rows = run_rows(str(number), f"Question {number}?", mode, k, ["a", "b", "c", "d"])
            generations.append(row | columns)
            tokens += [token | {name: (row | columns)[name] for name in FIXED} for token in rows]
    return write_sweep(folder, generations, tokens)


def time(folder: Path, seconds: dict[str, Sequence[float]], *, call: int = 1, batch: int = 1, **change: Any) -> None:
    """Write the seconds of each configuration in each round of one call of `eexit timings`."""
    rows = [
        {
            "timing_id": f"{call:032x}", "started": call, "configuration": key, "batch": batch, "round": number + 1,
            "prompts": 2, "tokens": 100, "seconds": value, "device": "cpu", "machine": "A CPU", "threads": 2,
            "versions": "", "model": "tiny", "dtype": "float32",
        }
        | ({} if key == GENERATE else costs(100.0, 60.0, 70.0 if key == ONLINE else 100.0))
        | change
        for key, values in seconds.items()
        for number, value in enumerate(values)
    ]  # fmt: skip
    (folder / "timings").mkdir(exist_ok=True)
    name = f"{100 * call + batch:032x}"
    TIMINGS.publish(open_store(folder), name, rows)


def found(folder: Path) -> tuple[SavingsTable, dict[str, dict[Any, Any]]]:
    """Return the savings of the sweep, and its rows by configuration."""
    sweep = read_sweep(str(folder))
    its = savings(sweep, per_configuration(sweep))
    assert its
    return its, {row["configuration"]: row for row in pd.concat([its.rows, its.generate]).to_dict("records")}


def test_where_nothing_exits_early_nothing_is_saved_and_no_chart_says_so(tmp_path: Path) -> None:
    row, rows = run_rows("0", "Question?", "normal", None, ["a", "b", "c", "d"])
    folder = write_sweep(tmp_path / "s", [row | costs(100.0, 100.0, 100.0)], rows)
    time(folder, {NORMAL: [1.0, 1.0], GENERATE: [2.0, 2.0]})
    keys = charts_of(content_of(build_report(str(folder), tmp_path / "report.html"))).keys()
    assert keys
    assert "quality" not in keys


def test_theoretical_and_run_are_ratios_of_sums_over_runs(tmp_path: Path) -> None:
    folder = costly(tmp_path / "s", [(100.0, 50.0, 80.0), (300.0, 270.0, 360.0)])
    _, rows = found(folder)
    assert (rows[ONLINE]["theoretical"], rows[ONLINE]["run"]) == (pytest.approx(1 - 320 / 400), pytest.approx(-0.1))
    assert (rows[NORMAL]["theoretical"], rows[NORMAL]["run"]) == (0, 0)
    assert rows[ONLINE]["run_n"] == 2
    assert np.isnan(rows[ONLINE]["run_low"]), "no interval below five prompts"
    assert (rows[ORACLE]["theoretical"], rows[ORACLE]["oracle"]) == (pytest.approx(0.2), True)
    assert np.isnan(rows[ORACLE]["run"])


def test_a_failed_run_counts_in_no_sum(tmp_path: Path) -> None:
    row, tokens = run_rows("0", "?", "normal", None, ["a", "b"])
    row |= costs(10.0, 10.0, 10.0)
    folder = write_sweep(tmp_path / "s", [row, failed_row("1", "?", "normal", None, "no")], tokens)
    _, rows = found(folder)
    assert (rows[NORMAL]["run"], rows[NORMAL]["run_n"]) == (0, 1)


def test_realised_is_the_median_ratio_to_normal_in_the_same_round(tmp_path: Path) -> None:
    folder = costly(tmp_path / "s", [(100.0, 50.0, 80.0)])
    # The second round was slow for all: relative to normal of another round, it would be a loss.
    time(folder, {NORMAL: [10, 20, 10], ONLINE: [8, 15, 9], GENERATE: [12, 24, 12]})
    its, rows = found(folder)
    (measured,) = its.measured
    realised = {end: rows[ONLINE][f"realised_0{end}"] for end in ("", "_low", "_high", "_n")}
    assert list(realised.values()) == pytest.approx([0.2, np.nan, np.nan, 3], nan_ok=True)
    assert rows[ONLINE]["lacks_0"] == pytest.approx(0.3 - 0.2)
    assert rows[ONLINE]["run_timed_0"] == pytest.approx(0.3)
    assert rows[ONLINE]["tokens_per_s_0"] == pytest.approx(100 / 9)
    assert (rows[GENERATE]["realised_0"], rows[NORMAL]["realised_0"]) == (pytest.approx(-0.2), 0)
    assert np.isnan(rows[ORACLE]["realised_0"])
    assert (measured.label, measured.rounds, measured.prompts) == ("batch 1", 3, 2)


def test_seconds_of_calls_are_not_mixed_and_each_call_counts(tmp_path: Path) -> None:
    folder = costly(tmp_path / "s", [(100.0, 50.0, 80.0)])
    time(folder, {NORMAL: [10, 10], ONLINE: [5, 5]})
    time(folder, {NORMAL: [40, 40], ONLINE: [30, 30]}, call=2)
    time(folder, {ONLINE: [1, 1]}, call=3)  # unusable without normal
    time(folder, {NORMAL: [4], ONLINE: [3]}, batch=8)
    its, rows = found(folder)
    assert [measured.label for measured in its.measured] == ["batch 1", "batch 8"]
    over_calls = pytest.approx(1 - (1 / 2 * 3 / 4) ** 0.5)
    assert rows[ONLINE]["realised_0"] == over_calls
    assert (rows[ONLINE]["realised_0_n"], rows[ONLINE]["realised_1"]) == (4, 0.25)
    assert timed_over(its.measured).startswith("median of 2 calls: 4 rounds on A CPU")
    time(folder, {NORMAL: [4], ONLINE: [1]}, call=4, machine="A GPU", device="cuda")
    its, rows = found(folder)
    assert [measured.label for measured in its.measured] == [
        "batch 1, A CPU, float32, 2 threads", "batch 1, A GPU, float32", "batch 8, A CPU, float32, 2 threads",
    ]  # fmt: skip
    assert [rows[ONLINE][f"realised_{number}"] for number in range(3)] == [over_calls, 0.75, 0.25]


def test_damaged_timings_are_left_out_and_named(tmp_path: Path) -> None:
    folder = costly(tmp_path / "s", [(100.0, 50.0, 80.0)])
    time(folder, {NORMAL: [10.0], ONLINE: [8.0]})
    (path,) = (folder / "timings").iterdir()
    path.write_bytes(path.read_bytes()[:-9] + b"x" * 9)
    (line,) = read_sweep(str(folder)).left_out
    assert line.startswith(f"{path} is damaged")
    assert not found(folder)[0].measured


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Return six prompts, timed at two batch sizes."""
    folder = costly(tmp_path_factory.mktemp("saves") / "s", [(100.0 + n, 50.0, 80.0 + n % 3) for n in range(6)])
    for batch in (1, 8):
        time(folder, {NORMAL: [10, 10], ONLINE: [8, 7], GENERATE: [12, 12]}, batch=batch)
    return read_sweep(str(folder))


def test_the_chart_has_a_variant_per_batch_size_and_marks_for_what_is_known(timed: Sweep) -> None:
    chart = drawn(timed)["quality"]
    counted = ["layers skipped", "multiply-adds, theoretical", "multiply-adds, run"]
    realised = ["time, realised at batch 1", "time, realised at batch 8"]
    variants = [variant for variant in chart["variants"] if variant["y"] == "Disagreement"]
    assert [variant["x"] for variant in variants] == [*counted, *realised]
    labels = [column["label"] for column in chart["table"]["columns"]]
    assert "Saving, realised, batch 8" in labels
    assert "Realised lacks of run, batch 1" in labels
    assert "oracles save nothing at run time." in variants[2]["note"]
    assert "median of 2 rounds on A CPU, float32, 2 threads; 2 prompts" in variants[3]["note"]
    assert GENERATE in {row["configuration"] for row in chart["table"]["rows"]}


def test_points_of_loops_are_hollow_and_the_caption_says_so(tmp_path: Path) -> None:
    costing = [(100.0, 50.0, 80.0)]
    for name, loop in (("loop", {"n_tokens": 4, "longest_loop": 3}), ("sound", {"n_tokens": 4, "longest_loop": 2})):
        report = build_report(str(costly(tmp_path / name, costing, **loop)), tmp_path / f"{name}.html")
        chart = charts_of(content_of(report))["quality"]
        assert "In one loop" in {column["label"] for column in chart["table"]["columns"]}
        for measure, cost in (("Disagreement", "layers skipped"), ("Perplexity", "multiply-adds, run")):
            spec = variant_of(chart, measure, cost)["spec"]
            svg = vl_convert.vegalite_to_svg(spec | {"datasets": {"rows": chart["table"]["rows"]}})
            circles = re.findall(r'<path [^>]*d="M[\d.]+,0A[^>]*>', svg)
            assert sum('fill-opacity="0"' in mark for mark in circles) == (name == "loop"), measure
            layers = spec["layer"]
            titles = {tip["title"] for layer in layers for tip in layer["encoding"].get("tooltip", [])}
            assert "In one loop" in titles
        assert (HOLLOW in chart["caption"]) == (name == "loop")


def test_a_sweep_without_costs_has_no_such_chart(make_sweep: MakeSweep) -> None:
    sweep = read_sweep(str(make_sweep(2)))
    trade = per_configuration(sweep)
    assert savings(sweep, trade) is None
    assert {variant["x"] for variant in drawn(sweep)["quality"]["variants"]} == {"layers skipped"}


def test_what_was_run_is_shown_at_another_models_prices_too(make_sweep: MakeSweep) -> None:
    """The saving is by `cost_at`, summed over runs: exits at half depth save most where the head is cheap."""
    sweep = read_sweep(str(make_sweep(3)))
    nothing_else = dict.fromkeys((*LOOKS, "kv_writes"), 0)
    done = sweep.generations.assign(n_tokens=11, layers_run=10 * 15, **nothing_else | {"head_reads": 10})
    sweep = replace(sweep, generations=done, final_layer=29)
    for name, shapes in KNOWN.items():
        priced = replace(sweep, prices_of=shapes)
        saves = savings(priced, per_configuration(priced))
        assert saves
        assert saves.costs[-1].label == f"multiply-adds, run, at the prices of {name}"
        share = (shapes.layers / 2 * shapes.layer + shapes.head) / (shapes.layers * shapes.layer + shapes.head)
        assert saves.rows["run_elsewhere"].tolist() == pytest.approx([1 - share] * len(saves.rows))
    own = savings(sweep, per_configuration(sweep))
    assert own is None or "run_elsewhere" not in own.rows


@pytest.mark.parametrize(
    ("share", "low", "high", "said"),
    [
        (0.05, 0.04, 0.065, "5.0% less time (4.0 to 6.5)"),
        (-0.005, -0.006, -0.004, "0.5% more time (0.4 to 0.6)"),
        (0.092, -0.061, 0.122, "9.2% less time, not certainly (−6.1 to 12.2)"),
        (-0.02, -0.05, 0.01, "2.0% more time, not certainly (−1.0 to 5.0)"),
        (0.05, None, None, "5.0% less time"),
    ],
)
def test_what_may_be_less_or_more_is_not_said_to_be_certain(
    share: float, low: float | None, high: float | None, said: str
) -> None:
    assert format_saving(share, low, high, "time") == said
