"""Savings of each configuration: in theory, as run, and in time."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from chart_fields import drawn, known
from report_fixtures import MakeSweep
from synthetic_sweeps import KL_1, add_timings, swept

from eexit.costs.operations import READS
from eexit.plan.configuration import Configuration, EarlyExit, HFGenerate, NoExit
from eexit.quality.estimates import ENDS
from eexit.studies.cost_projection import KNOWN
from reports.read.sweep import read_sweep
from reports.read.timings import timed_over
from reports.shared.number_format import format_saving, with_interval
from reports.shared.per_configuration import per_configuration
from reports.shared.savings import SavingsTable, savings

NORMAL, ONLINE, GENERATE = NoExit(), EarlyExit("unfrozen", "fixed", 10.0), HFGenerate()


def costs(full: float, needed: float, run: float | None) -> dict[str, Any]:
    return {"macs_full": full, "macs_required": needed, "macs_executed": run}


def costly(folder: Path, *per_prompt: tuple[float, float, float]) -> Path:
    """Write `normal`, an online rule and an oracle; the rule has (macs_full, macs_required, macs_executed)."""

    def columns(its: Configuration, prompt: int, seed: int) -> dict[str, Any]:
        full, needed, run = per_prompt[prompt]
        return costs(full, full if its == NORMAL else needed, {NORMAL: full, ONLINE: run}.get(its))

    return swept(folder / "s", [NORMAL, ONLINE, KL_1], len(per_prompt), columns=columns)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return costly(tmp_path, (100.0, 50.0, 80.0))


def time(folder: Path, seconds: Mapping[Any, Sequence[float]], **how: Any) -> None:
    run = {NORMAL: 100.0, ONLINE: 70.0}
    add_timings(folder, seconds, columns=lambda its: costs(100.0, 60.0, run[its]) if its in run else {}, **how)


def found(folder: Path) -> tuple[SavingsTable, dict[str, dict[Any, Any]]]:
    """Return the savings of the sweep, and its rows by configuration."""
    sweep = read_sweep(str(folder))
    its = known(savings(sweep, per_configuration(sweep)))
    return its, {row["configuration"]: row for row in pd.concat([its.rows, its.generate]).to_dict("records")}


def test_theoretical_and_run_are_ratios_of_sums_over_runs(tmp_path: Path) -> None:
    _, rows = found(costly(tmp_path, (100.0, 50.0, 80.0), (300.0, 270.0, 360.0)))
    columns = ("theoretical", "run", "run_n", "run_low", "oracle")
    numbers = [[float(rows[its.key][name]) for name in columns] for its in (NORMAL, ONLINE, KL_1)]
    none = np.nan  # no interval below five prompts, and nothing is saved by an oracle as run
    expected = [[0, 0, 2, none, 0], [1 - 320 / 400, -0.1, 2, none, 0], [0.2, none, 0, none, 1]]
    np.testing.assert_allclose(numbers, expected, atol=1e-12)


def test_realised_savings_have_columns_per_batch_size_and_machine(folder: Path) -> None:
    # The second round was slow for all: relative to normal of another round, it would be a loss.
    time(folder, {NORMAL: [10, 20, 10], ONLINE: [8, 15, 9], GENERATE: [12, 24, 12]})
    its, rows = found(folder)
    (measured,) = its.measured
    names = (*(f"realised_0{end}" for end in ENDS), "lacks_0", "run_timed_0", "tokens_per_s_0")
    expected = [0.2, np.nan, np.nan, 3, 0.3 - 0.2, 0.3, 100 / 9]
    assert [rows[ONLINE.key][name] for name in names] == pytest.approx(expected, nan_ok=True)
    others = [rows[its.key]["realised_0"] for its in (GENERATE, NORMAL, KL_1)]
    assert others == pytest.approx([-0.2, 0, np.nan], nan_ok=True)
    assert (measured.label, measured.rounds, measured.prompts) == ("batch 1", 3, 2)
    for call in (2, 3):
        time(folder, {NORMAL: [4, 4], ONLINE: [3, 3]}, call=call, batches=(8,))
    time(folder, {NORMAL: [4], ONLINE: [1]}, call=4, machine="A GPU", device="cuda")
    its, rows = found(folder)
    labels = [
        f"batch {each}"
        for each in ("1, A CPU, float32, 2 threads", "1, A GPU, float32", "8, A CPU, float32, 2 threads")
    ]
    assert [measured.label for measured in its.measured] == labels
    assert [rows[ONLINE.key][f"realised_{number}"] for number in range(3)] == pytest.approx([0.2, 0.75, 0.25])
    assert timed_over(its.measured[2:]).startswith("median of 2 calls: 4 rounds on A CPU")
    path = min((folder / "timings").iterdir())
    path.write_bytes(path.read_bytes()[:-9] + b"x" * 9)
    (line,) = read_sweep(str(folder)).left_out
    assert line.startswith(f"{path} is damaged")
    assert not found(folder)[0].measured, "none, if one file is damaged"


def test_a_chart_has_a_variant_per_batch_size_or_layers_skipped_alone(folder: Path, make_sweep: MakeSweep) -> None:
    time(folder, {NORMAL: [10, 10], ONLINE: [8, 7], GENERATE: [12, 12]}, batches=(1, 8))
    chart = drawn(read_sweep(str(folder)))["quality"]
    variants = {variant["x"]: variant for variant in chart["variants"] if variant["y"] == "Disagreement"}
    times = [f"time, realised at batch {n}" for n in (1, 8)]
    assert [*variants] == ["layers skipped", "multiply-adds, theoretical", "multiply-adds, run", *times]
    assert "median of 2 rounds on A CPU" in variants[times[0]]["note"]
    labels = {column["label"] for column in chart["table"]["columns"]}
    assert labels >= {"Saving, realised, batch 8", "Realised lacks of run, batch 1"}
    assert GENERATE.key in {row["configuration"] for row in chart["table"]["rows"]}
    without = read_sweep(str(make_sweep(2)))
    assert savings(without, per_configuration(without)) is None
    assert {variant["x"] for variant in drawn(without)["quality"]["variants"]} == {"layers skipped"}


def test_what_was_run_is_shown_at_another_models_prices_too(make_sweep: MakeSweep) -> None:
    """The saving is by `cost_at`, summed over runs: exits at half depth save most where the head is cheap."""
    sweep = read_sweep(str(make_sweep(3)))
    nothing_else = dict.fromkeys((*READS, "kv_writes"), 0)
    done = sweep.generations.assign(n_tokens=11, layers_run=10 * 15, **nothing_else | {"head_reads": 10})
    sweep = replace(sweep, generations=done, final_layer=29)
    for name, shapes in KNOWN.items():
        priced = replace(sweep, unit_costs_of=shapes)
        saves = known(savings(priced, per_configuration(priced)))
        assert saves.costs[-1].label == f"multiply-adds, run, at the unit costs of {name}"
        share = (shapes.layers / 2 * shapes.layer + shapes.head) / (shapes.layers * shapes.layer + shapes.head)
        assert saves.rows["run_elsewhere"].tolist() == pytest.approx([1 - share] * len(saves.rows))


def test_findings_name_fewer_prompts_and_uncertain_savings() -> None:
    row = {"equal_share": 0.5, "equal_share_low": 0.4, "equal_share_high": 0.6, "equal_share_n": 6, "n": 6}
    assert with_interval(row, "equal_share") == "50.0% [40.0%, 60.0%]"
    assert with_interval(row | {"equal_share_n": 5}, "equal_share") == "50.0% [40.0%, 60.0%] (n = 5)"
    for share, low, high, said in (
        (0.05, 0.04, 0.065, "5.0% less time (4.0 to 6.5)"),
        (-0.005, -0.006, -0.004, "0.5% more time (0.4 to 0.6)"),
        (0.092, -0.061, 0.122, "9.2% less time, not certainly (−6.1 to 12.2)"),
        (-0.02, -0.05, 0.01, "2.0% more time, not certainly (−1.0 to 5.0)"),
        (0.05, None, None, "5.0% less time"),
    ):
        assert format_saving(share, low, high, "time") == said
