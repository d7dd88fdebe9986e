"""Each measure has one number: over sampling units, wherever it is shown (`eexit.results.configuration_means`)."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from landed_sweep import land_rows

import eexit
from eexit.output.result_table import SOFT_HYPHEN, ResultTable
from eexit.plan.runs import Run
from eexit.plan.sweep_config import Prompt, SweepConfig
from eexit.results.finished_sweep import read_finished
from eexit.results.store.commit import RunCounts
from eexit.studies.packaging.package_setting import COLUMNS as OF_PACKAGE
from eexit.studies.selection.selection_args import SelectionArgs
from eexit.studies.selection.selection_data import SelectionData
from eexit.sweeps.summary.sweep_summary import SweepSummary
from jobs.sweep import write_figures
from reports.read.sweep import read_sweep
from reports.shared.per_configuration import per_configuration
from reports.shared.savings import savings

KEY = "skip/confidence/0.5"
UNITS = ([0, 1, 2, 3, 4, 5], [6], [7])  # of eight prompts, six name a group


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SweepConfig]:
    """Eight prompts, of which six share a group, with two seeds; the group disagrees most, and saves most."""
    prompts = tuple(
        Prompt(str(n), f"question {n}", answer="7", group="one" if n < 6 else None, kind="sum" if n < 7 else "other")
        for n in range(8)
    )
    config = SweepConfig(
        model="a-model",
        prompts=prompts,
        modes=("normal", "skip"),
        rules={"confidence": (0.5,)},
        seeds=(0, 1),
        temperature=1,
    )

    def columns(run: Run) -> dict[str, Any]:
        n, is_early = int(run.prompt.id), run.configuration.key != "normal"
        return {
            name: values[n] + run.seed * 2.0**-4 * (n % 2)
            for name, values in MEASURED.items()
            if is_early or name not in ("disagreement", "lcs_share")
        } | {
            "correct": n >= 2 * is_early, "finish_reason": "length" if n == 6 else "eos", "macs_full": 1000.0,
            "macs_required": 1000.0 - 100 * n * is_early, "macs_executed": 1000.0 - 50 * n * is_early,
            "longest_loop": n % 4,
        }  # fmt: skip

    return land_rows(tmp_path_factory.mktemp("grouped") / "out", config, columns), config


MEASURED: dict[str, list[float]] = {
    "disagreement": [0.875, 0.75, 0.875, 0.75, 0.875, 0.75, 0.5, 0.25],
    "lcs_share": [0.125, 0.25, 0.125, 0.125, 0.25, 0.125, 0.5, 0.75],
    "mean_depth": [0.25, 0.5, 0.25, 0.5, 0.25, 0.5, 0.75, 0.875],
    "perplexity": [2.0, 4.0, 2.0, 4.0, 2.0, 4.0, 16.0, 64.0],
    "tokens_until_difference": [1, 2, 3, 4, 5, 6, 20, 30],
}


def over_units(values: list[float], seeds: bool = True) -> float:
    """The mean over the three units, of the mean over prompts, of the mean over seeds."""
    of_prompts = [value + 2.0**-5 * (n % 2) * seeds for n, value in enumerate(values)]
    return float(np.mean([np.mean([of_prompts[n] for n in unit]) for unit in UNITS]))


def cells(table: ResultTable, heading: str) -> str:
    """The cell of the setting, which is in the second line."""
    by_heading = {str(column.header).replace(SOFT_HYPHEN, "").replace("\n", " "): column for column in table.columns}
    return str([*by_heading[heading].cells][1])


def json_row(out: Path, config: SweepConfig, to: Path) -> dict[str, Any]:
    summary = SweepSummary(config, str(out), {}, "float32", 32, 0, RunCounts())
    write_figures(summary, str(out), to / "figures.json")
    rows: list[dict[str, Any]] = json.loads((to / "figures.json").read_text())["configurations"]
    return rows[1]


def test_a_measure_has_one_number_in_the_table_as_json_and_in_the_report(
    results: tuple[Path, SweepConfig], tmp_path: Path
) -> None:
    out, config = results
    told, table = json_row(out, config, tmp_path)["estimates"], eexit.open(out).table
    report = per_configuration(read_sweep(str(out))).set_index("configuration").loc[KEY]
    for name in ("disagreement", "lcs_share", "mean_depth", "tokens_until_difference"):
        differ = name != "tokens_until_difference"  # a whole number, the same with both seeds
        assert told[name]["mean"] == pytest.approx(over_units(MEASURED[name], differ)), name
        assert [told[name][end] for end in ("mean", "n")] == pytest.approx([report[name], report[f"{name}_n"]]), name
    assert told["disagreement"]["n"] == 3, "two prompts and a group"
    logs = [(np.log(value) + np.log(value + 2.0**-4 * (n % 2))) / 2 for n, value in enumerate(MEASURED["perplexity"])]
    assert told["perplexity"]["mean"] == pytest.approx(np.exp(over_units(logs, seeds=False)))
    assert report["perplexity"] == pytest.approx(told["perplexity"]["mean"])
    assert [told["correct"]["mean"], told["cut"]["mean"]] == pytest.approx([(4 / 6 + 1 + 1) / 3, 1 / 3])
    assert [report["correct"], report["cut"]] == pytest.approx([told["correct"]["mean"], told["cut"]["mean"]])
    assert told["loop_share"]["mean"] == pytest.approx(report["loop_share"]) == over_units(
        [n % 4 / 3 for n in range(8)], seeds=False
    )  # fmt: skip
    for heading, shown in {
        "layers skipped": f"{1 - told['mean_depth']['mean']:.1%}",
        "disagreement": f"{told['disagreement']['mean']:.1%}",
        "one loop": f"{told['loop_share']['mean']:.1%}",
        "perplexity": f"{told['perplexity']['mean']:.4g}",
        "same as normal until": f"{told['tokens_until_difference']['mean']:.1f}",
        "correct": f"{told['correct']['mean']:.1%}",
        "cut": f"{told['cut']['mean']:.0%}",
    }.items():
        assert cells(table, heading) == shown, heading


def test_a_saving_has_one_number_in_the_report_in_a_package_and_where_a_setting_is_chosen(
    results: tuple[Path, SweepConfig], tmp_path: Path
) -> None:
    out, config = results
    sweep = read_sweep(str(out))
    report = savings(sweep, per_configuration(sweep))
    assert report
    shown = report.rows.set_index("configuration").loc[KEY]
    kept = {name: over_units([1 - share * n for n in range(8)], seeds=False) for name, share in COSTS.items()}
    assert [1 - shown["theoretical"], 1 - shown["run"]] == pytest.approx([*kept.values()])
    finished = read_finished(str(out), OF_PACKAGE)
    for name, column in (("needed", "macs_required"), ("run", "macs_executed")):
        assert finished.saved(KEY, column).mean == pytest.approx(1 - kept[name])
        question = SelectionArgs("disagreement", cost=name, order="passed-on")
        chosen = SelectionData(read_finished(str(out), question.columns), question)
        assert chosen.costs_of("all")[KEY] == pytest.approx(kept[name])
    depth = SelectionArgs("disagreement", cost="depth", order="passed-on")
    chosen = SelectionData(read_finished(str(out), depth.columns), depth)
    told = json_row(out, config, tmp_path)["estimates"]
    assert chosen.costs_of("all")[KEY] == pytest.approx(told["mean_depth"]["mean"])
    assert chosen.losses("all").losses_of(KEY).mean() == pytest.approx(told["disagreement"]["mean"])


COSTS = {"needed": 0.1, "run": 0.05}


def test_the_interval_of_a_mean_is_the_one_of_the_report(results: tuple[Path, SweepConfig], tmp_path: Path) -> None:
    """Of five prompts, which are too few only as two prompts and a group."""
    prompts = tuple(Prompt(str(n), f"question {n}") for n in range(6))
    config = results[1].model_copy(update={"prompts": prompts})
    out = land_rows(tmp_path / "out", config, lambda run: {"disagreement": int(run.prompt.id) / 8, "correct": None})
    told = json_row(out, config, tmp_path)["estimates"]["disagreement"]
    report = per_configuration(read_sweep(str(out))).set_index("configuration").loc[KEY]
    assert [*told.values()] == pytest.approx([report[f"disagreement{end}"] for end in ("", "_low", "_high", "_n")])
    assert told["low"] < told["mean"] < told["high"]
    grouped = json_row(results[0], results[1], tmp_path)["estimates"]["disagreement"]
    assert (grouped["low"], grouped["high"]) == (None, None)


def test_prompts_of_the_same_text_count_once_everywhere(results: tuple[Path, SweepConfig], tmp_path: Path) -> None:
    prompts = tuple(Prompt(str(n), "the same" if n < 6 else f"question {n}") for n in range(8))
    config = results[1].model_copy(update={"prompts": prompts})
    depths = MEASURED["mean_depth"]
    out = land_rows(tmp_path / "out", config, lambda run: {"mean_depth": depths[int(run.prompt.id)]})
    expected = pytest.approx(over_units(depths, seeds=False))
    assert json_row(out, config, tmp_path)["estimates"]["mean_depth"]["mean"] == expected
    assert per_configuration(read_sweep(str(out))).set_index("configuration").loc[KEY, "mean_depth"] == expected
    assert asdict(prompts[0])["group"] is None
