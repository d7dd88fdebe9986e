"""What each configuration saves: in theory, of what was run, and of the time it took."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_fixtures import MakeSweep
from synthetic_sweeps import failed_row, run_rows, write_sweep

from eexit.method.rules import CONTROL, Control
from eexit.plan.configuration import GENERATE, Exit
from eexit.quality.bootstrap import estimate_ratios
from eexit.results.store.folder import open_store
from eexit.results.study_tables import TIMINGS
from reports.charts.styles import HOLLOW
from reports.frames import runs as frames
from reports.frames.savings import UNTIMED, Savings, savings
from reports.page.build import build_report
from reports.read.sweep import Sweep, read_sweep
from reports.sections.findings.quality import _beside
from reports.sections.findings.savings import change, saved
from reports.sections.findings.sweep import FEW, SEVERAL, findings, with_interval
from reports.sections.overview import overview_charts

NORMAL, ONLINE, ORACLE = "normal", "unfrozen/fixed/10", "unfrozen/kl/1"
FIXED = Exit("unfrozen", "fixed", 10.0).columns


def costs(full: float, needed: float, run: float | None) -> dict[str, float | None]:
    return {"cost_full": full, "cost_needed": needed, "cost_run": run}


def costly(folder: Path, per_prompt: Sequence[tuple[float, float, float]], **change: Any) -> Path:
    """`normal`, an online rule and an oracle on each prompt; of the second, (cost_full, cost_needed, cost_run)."""
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
    """The seconds of each configuration in each round of one call of `jobs/timings.py`."""
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


def found(folder: Path) -> tuple[Savings, dict[str, dict[Any, Any]]]:
    """The savings of the sweep, and its rows by configuration."""
    sweep = read_sweep(str(folder))
    its = savings(sweep, frames.trade_off(sweep))
    assert its
    return its, {row["configuration"]: row for row in its.rows.to_dict("records")}


def test_where_nothing_exits_early_nothing_is_saved_and_no_chart_says_so(tmp_path: Path) -> None:
    row, rows = run_rows("0", "Question?", "normal", None, ["a", "b", "c", "d"])
    folder = write_sweep(tmp_path / "s", [row | costs(100.0, 100.0, 100.0)], rows)
    time(folder, {NORMAL: [1.0, 1.0], GENERATE: [2.0, 2.0]})
    sweep = read_sweep(str(folder))
    trade = frames.trade_off(sweep)
    titles = {chart["title"] for chart in overview_charts(sweep, trade, savings(sweep, trade))}
    assert titles
    assert "What it saves" not in titles
    build_report(str(folder), tmp_path / "report.html")


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


def test_the_interval_of_a_ratio_resamples_both_sums_together() -> None:
    draw = np.random.default_rng(5)
    below = draw.uniform(50, 500, size=40)
    above = below * draw.uniform(0.5, 1.0, size=40)
    ratio, low, high, n = estimate_ratios(above[:, None], below[:, None])
    places = np.random.default_rng(8).integers(40, size=(20_000, 40))
    resampled = above[places].sum(axis=1) / below[places].sum(axis=1)
    assert ratio[0] == pytest.approx(above.sum() / below.sum())
    assert (low[0], high[0]) == pytest.approx(np.quantile(resampled, (0.025, 0.975)), abs=0.004)
    assert n[0] == 40
    assert estimate_ratios(np.array([[1.0], [np.nan], [3.0]]), np.array([[2.0], [5.0], [np.nan]]))[0][0] == 0.5


def test_realised_is_the_median_ratio_to_normal_in_the_same_round(tmp_path: Path) -> None:
    folder = costly(tmp_path / "s", [(100.0, 50.0, 80.0)])
    # The second round was slow for all: beside normal of another round, it would be a loss.
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


def test_calls_are_not_mixed_and_the_latest_counts(tmp_path: Path) -> None:
    folder = costly(tmp_path / "s", [(100.0, 50.0, 80.0)])
    time(folder, {NORMAL: [10, 10], ONLINE: [5, 5]})
    time(folder, {NORMAL: [40, 40], ONLINE: [30, 30]}, call=2)
    time(folder, {ONLINE: [1, 1]}, call=3)  # of no use without normal
    time(folder, {NORMAL: [4], ONLINE: [3]}, batch=8)
    its, rows = found(folder)
    assert [measured.label for measured in its.measured] == ["batch 1", "batch 8"]
    assert (rows[ONLINE]["realised_0"], rows[ONLINE]["realised_0_n"], rows[ONLINE]["realised_1"]) == (0.25, 2, 0.25)
    time(folder, {NORMAL: [4], ONLINE: [1]}, call=4, machine="A GPU", device="cuda")
    its, rows = found(folder)
    assert [measured.label for measured in its.measured] == [
        "batch 1, A CPU, float32, 2 threads", "batch 1, A GPU, float32", "batch 8, A CPU, float32, 2 threads",
    ]  # fmt: skip
    assert [rows[ONLINE][f"realised_{number}"] for number in range(3)] == [0.25, 0.75, 0.25]


def test_damaged_timings_are_left_out_and_named(tmp_path: Path) -> None:
    folder = costly(tmp_path / "s", [(100.0, 50.0, 80.0)])
    time(folder, {NORMAL: [10.0], ONLINE: [8.0]})
    (path,) = (folder / "timings").iterdir()
    path.write_bytes(path.read_bytes()[:-9] + b"x" * 9)
    (line,) = read_sweep(str(folder)).left_out
    assert line.startswith(f"{path} is damaged")
    assert UNTIMED in saved(found(folder)[0])[0]


def test_findings_say_what_saved_time_at_which_disagreement(tmp_path: Path) -> None:
    folder = costly(tmp_path / "s", [(100.0, 50.0, 80.0)], disagreement=0.04)
    time(folder, {NORMAL: [10] * 5, ONLINE: [8, 8, 7, 9, 8], GENERATE: [11] * 5})
    its, _ = found(folder)
    assert saved(its) == [
        "Realised at batch 1 (median of 5 rounds): within 5% disagreement, unfrozen/fixed/10 took 20.0% [10.0%, 30.0%] "
        "less time than full depth (run: 30.0%), at 4.0% disagreement. The generate of transformers took 10.0% more "
        "time than full depth on the same path."
    ]
    time(folder, {NORMAL: [10], ONLINE: [8]}, call=2)
    said = (
        "Realised at batch 1 (median of 1 round, and fewer than 5 are too few for intervals): within 5% disagreement, "
    )
    assert saved(found(folder)[0])[0].startswith(f"{said}unfrozen/fixed/10 took 20.0% less time than full depth (run: ")
    time(folder, {NORMAL: [10] * 5, ONLINE: [9, 11.2, 9, 10.1, 12]}, call=3)
    assert saved(found(folder)[0])[0].startswith(
        "Realised at batch 1 (median of 5 rounds): no configuration was certainly faster than full depth; the fastest, "
        "unfrozen/fixed/10, took 1.0% [−10.0%, 20.0%] more time (run: 30.0%), at 4.0% disagreement."
    )


def test_without_timings_the_findings_say_which_command_measures_them(tmp_path: Path) -> None:
    its, _ = found(costly(tmp_path / "s", [(100.0, 50.0, 80.0)], disagreement=0.5))
    said = "Run, not timed (n = 1 prompt): unfrozen/fixed/10 ran 20.0% fewer multiply-adds than full depth, at 50.0% "
    assert saved(its) == [f"{said}disagreement. {UNTIMED}"]
    its, _ = found(costly(tmp_path / "t", [(100.0, 50.0, 120.0)]))
    assert saved(its)[0].startswith("No configuration ran fewer multiply-adds than full depth; the cheapest, unfrozen/")
    oracles = replace(its, rows=its.rows[its.rows["configuration"] != ONLINE])
    assert saved(oracles)[0].startswith("No configuration saves time: all rules of this sweep are oracles")


@pytest.mark.parametrize("followed", ["unfrozen/kl/1", "unfrozen/kl/0.5"])
def test_a_control_is_never_named_as_what_saves_not_even_without_what_it_follows(tmp_path: Path, followed: str) -> None:
    control = Exit("unfrozen", CONTROL, Control(followed, ()))
    folder = costly(tmp_path / "s", [(100.0, 50.0, 80.0)], disagreement=0.04, **control.columns)
    its, rows = found(folder)
    assert rows[control.key]["run"] == pytest.approx(0.2)
    assert saved(its) == [
        "No configuration saves time: all rules of this sweep are oracles, which need the full-depth pass."
    ]
    alone = replace(its, rows=its.rows[its.rows["configuration"] != ORACLE])
    assert saved(alone) == ["No configuration of this sweep exits early, apart from controls."]
    time(folder, {NORMAL: [10] * 5, control.key: [8, 8, 7, 9, 8]})
    (said,) = saved(found(folder)[0])
    assert said == "Realised at batch 1 (median of 5 rounds): no configuration that exits early was timed."


def rows_with(its: Savings, *others: tuple[str, float, float, float]) -> Savings:
    """The savings with further online configurations: their name, saving (run and realised), disagreement and loops."""
    (row,) = its.rows[its.rows["configuration"] == ONLINE].to_dict("records")
    more = [
        row
        | {"configuration": name, "run": saving, "realised_0": saving, "disagreement": differs, "loop_share": loop}
        | {"looping": loop > 0.5, "realised_0_low": saving - 0.01, "realised_0_high": saving + 0.01}
        for name, saving, differs, loop in others
    ]
    return replace(its, rows=pd.concat([its.rows, pd.DataFrame(more)], ignore_index=True))


LOOPS = [(f"unfrozen/loop/{number}", 0.1 * number, 0.02, 1 - 0.1 * number) for number in (1, 2, 3, 4)]


def test_what_writes_loops_is_not_named_as_the_best(tmp_path: Path) -> None:
    folder = costly(tmp_path / "s", [(100.0, 50.0, 80.0)], disagreement=0.04)
    time(folder, {NORMAL: [10] * 5, ONLINE: [8, 8, 7, 9, 8]})
    alone, _ = found(folder)
    (said,) = saved(rows_with(alone, *LOOPS))
    assert said == (
        f"{saved(alone)[0]} 4 configurations (unfrozen/loop/4, unfrozen/loop/3, unfrozen/loop/2 and 1 more) took up to "
        "40.0% less time, but 60.0% to 90.0% of their text is one loop, which full depth agrees with once it is there."
    )
    (said,) = saved(rows_with(replace(alone, measured=()), LOOPS[0]))
    assert (
        "within 5% disagreement, unfrozen/fixed/10 ran 20.0% fewer multiply-adds than full depth, at 4.0% "
        "disagreement. "
        "1 configuration (unfrozen/loop/1) ran up to 10.0% fewer multiply-adds, but 90.0% of its text is one loop, "
    ) in said


def test_if_nothing_but_loops_saves_the_findings_say_so(tmp_path: Path) -> None:
    folder = costly(tmp_path / "s", [(100.0, 50.0, 120.0)], disagreement=0.04)
    time(folder, {NORMAL: [10] * 5, ONLINE: [12, 12, 13, 11, 12]})
    its = rows_with(found(folder)[0], *LOOPS)
    loops = " (unfrozen/loop/4, unfrozen/loop/3, unfrozen/loop/2 and 1 more) "
    (said,) = saved(its)
    assert (
        "no configuration that writes more than loops was certainly faster than full depth; the fastest of them, "
        "unfrozen/fixed/10, took 20.0% [10.0%, 30.0%] more time (run: 30.0%), at 4.0% disagreement. 4 configurations"
        f"{loops}took up to 40.0% less time, "
    ) in said
    (said,) = saved(replace(its, measured=()))
    assert said.startswith(
        "No configuration that writes more than loops ran fewer multiply-adds than full depth; the cheapest of them, "
        f"unfrozen/fixed/10, ran 20.0% more multiply-adds, at 4.0% disagreement. 4 configurations{loops}ran up to 40.0%"
    )
    only = replace(its, rows=its.rows[its.rows["configuration"] != ONLINE])
    assert "(median of 5 rounds): no configuration that writes more than loops was timed. 4 conf" in saved(only)[0]
    said = saved(replace(only, measured=()))[0]
    assert said.startswith("No configuration that decides online writes more than loops. 4 configurations (")


@pytest.mark.parametrize("n", [1, FEW + 1, SEVERAL + 1])
def test_a_low_disagreement_is_not_said_without_the_loop_that_it_hides(tmp_path: Path, n: int) -> None:
    trade = frames.trade_off(read_sweep(str(costly(tmp_path / "s", [(100.0, 50.0, 80.0)], disagreement=0.2))))
    online = trade[trade["configuration"] == ONLINE]
    loops = [
        online.assign(
            rule=name, series=name, shown_as=f"unfrozen/{name}/1", disagreement=0.1, looping=True, loop_share=0.95
        )
        for name in (f"loop{number}" for number in range(n))
    ]  # fmt: skip
    said = findings(pd.concat([*loops, online], ignore_index=True), pd.DataFrame())
    text = " ".join(said)
    assert text.count("(but 95.0% of ") == {1: 1, FEW + 1: n, SEVERAL + 1: 1}[n]
    if n > SEVERAL:
        assert said[0].startswith("unfrozen: fixed/10 would skip "), "loops come last, however low their disagreement"
        assert said[0].count("(one loop: 95.0%)") == n - 1


def test_many_rules_get_a_sentence_for_each_mode(tmp_path: Path) -> None:
    trade = frames.trade_off(read_sweep(str(costly(tmp_path / "s", [(100.0, 50.0, 80.0)]))))
    row = trade[trade["rule"] == "kl"]
    names = [f"rule{number}" for number in range(SEVERAL)]
    more = [row.assign(rule=name, series=name, shown_as=f"unfrozen/{name}/1", disagreement=0.1) for name in names]
    said = findings(pd.concat([trade, *more], ignore_index=True), pd.DataFrame())
    assert len(said) == 1
    assert said[0].startswith("unfrozen: rule0/1 would skip ")
    assert said[0].count(" at ") == SEVERAL + 2
    assert "kl/1 (oracle)" in said[0]
    assert said[0].endswith("(n = 1 prompt; intervals: in the table of the first chart).")


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Six prompts, timed at two batch sizes."""
    folder = costly(tmp_path_factory.mktemp("saves") / "s", [(100.0 + n, 50.0, 80.0 + n % 3) for n in range(6)])
    for batch in (1, 8):
        time(folder, {NORMAL: [10, 10], ONLINE: [8, 7], GENERATE: [12, 12]}, batch=batch)
    return read_sweep(str(folder))


def test_the_chart_has_a_variant_per_batch_size_and_marks_for_what_is_known(timed: Sweep) -> None:
    trade = frames.trade_off(timed)
    its = savings(timed, trade)
    assert its
    chart = next(chart for chart in overview_charts(timed, trade, its) if chart["key"] == "saves")
    assert [variant["label"] for variant in chart["variants"]] == ["batch 1", "batch 8"]
    labels = [column["label"] for column in chart["table"]["columns"]]
    assert "Saving, realised, batch 8" in labels
    assert "Realised lacks of run, batch 1" in labels
    assert "Oracles save nothing at run time." in chart["caption"]
    apart = overview_charts(timed, trade, replace(its, measured=()))
    chart = next(chart for chart in apart if chart["key"] == "saves")
    legends = [layer["encoding"]["shape"]["legend"]["values"] for layer in chart["variants"][0]["spec"]["layer"]
               if "shape" in layer["encoding"]]  # fmt: skip
    assert legends == [["theoretical", "run"]] * 2
    assert UNTIMED in chart["caption"]


def test_points_of_loops_are_hollow_in_the_page_and_in_the_static_charts(tmp_path: Path) -> None:
    costing = [(100.0, 50.0, 80.0)]
    for name, loop in (("loop", {"n_tokens": 4, "longest_loop": 3}), ("sound", {"n_tokens": 4, "longest_loop": 2})):
        folder = costly(tmp_path / name, costing, **loop)
        sweep = read_sweep(str(folder))
        trade = frames.trade_off(sweep)
        drawn = {chart["key"]: chart for chart in overview_charts(sweep, trade, savings(sweep, trade))}
        for key in ("saves", "trade-disagreement", "trade-perplexity"):
            layers = drawn[key]["variants"][0]["spec"]["layer"]
            assert any("fillOpacity" in layer["encoding"] for layer in layers) == (name == "loop"), key
            labels = {column["label"] for column in drawn[key]["table"]["columns"]}
            assert "In one loop" in labels
            titles = {tip["title"] for layer in layers for tip in layer["encoding"].get("tooltip", [])}
            assert "In one loop" in titles
        page = build_report(str(folder), tmp_path / f"{name}.html").read_text()
        static = page[page.index("<noscript>") : page.index("</noscript>")]
        assert (HOLLOW in static) == (name == "loop")
        hollow = [mark for mark in re.findall(r"<path [^>]*>", static) if 'fill-opacity="0"' in mark]
        assert len(hollow) == (3 if name == "loop" else 0), "one in each of the trade-off charts"


def test_a_sweep_without_costs_has_no_such_chart(make_sweep: MakeSweep) -> None:
    sweep = read_sweep(str(make_sweep(2)))
    trade = frames.trade_off(sweep)
    assert savings(sweep, trade) is None
    assert "saves" not in {chart["key"] for chart in overview_charts(sweep, trade, None)}


def test_sentences_have_no_sign_before_zero() -> None:
    row = {"saved": 0.0002, "saved_low": -0.0004, "saved_high": 0.0006, "n": 9, "saved_n": 9}
    assert change(row, "saved", "time") == "0.0% [0.0%, 0.1%] less time"
    assert with_interval(row | {"saved": -1e-6}, "saved") == "0.0% [0.0%, 0.1%]"
    assert _beside(row | {"saved": -1e-6}, "saved", is_share=True) == "+0.0 [+0.0, +0.1] pp"
