"""The overview's charts: which there are, and that each field they name is a column of their rows."""

from pathlib import Path
from typing import Any

from chart_fields import drawn, missing_fields
from report_fixtures import MakeSweep
from synthetic_sweeps import add_timings, run_rows, write_runs

from eexit.plan.configuration import HFGenerate, NoExit
from reports.read.sweep import read_sweep


def test_every_field_of_a_chart_is_a_column_of_its_rows(several_charts: dict[str, Any]) -> None:
    assert list(several_charts) == ["quality", "mix", "dose-exit_rate", "dose-mean_depth", "depth"]
    assert {key: missing for key, chart in several_charts.items() if (missing := missing_fields(chart))} == {}


def test_every_chart_gives_n_and_what_its_intervals_are(several_content: dict[str, Any], make_sweep: MakeSweep) -> None:
    captions = [chart["caption"] for chart in several_content["charts"]]
    assert len(captions) == 4
    assert all("95% intervals over prompts; n = 12 prompts." in caption for caption in captions)
    _, *few = drawn(read_sweep(str(make_sweep(2)))).values()
    assert all("n = 2 prompts." in chart["caption"] and "intervals" not in chart["caption"] for chart in few)


def test_where_nothing_exits_early_no_chart_says_what_is_saved(tmp_path: Path) -> None:
    costs: dict[str, Any] = dict.fromkeys(("macs_full", "macs_required", "macs_executed"), 100.0)
    folder = write_runs(tmp_path / "s", [run_rows("0", "?", "normal", None, ["a", "b"], **costs)])
    add_timings(folder, {NoExit(): [1.0, 1.0], HFGenerate(): [2.0, 2.0]})
    charts = drawn(read_sweep(str(folder)))
    assert charts
    assert "quality" not in charts
