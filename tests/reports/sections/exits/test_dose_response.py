"""Exits and depth against each rule's parameter, on an axis of its own."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import vl_convert
from chart_fields import drawn
from synthetic_sweeps import run_rows, swept, write_runs

from eexit.method.rules import format_parameter
from eexit.plan.configuration import Configuration, EarlyExit, NoExit
from reports.read.sweep import read_sweep
from reports.sections.exits.dose_response import dose_chart, dose_response
from reports.shared.charts import LIGHT, specification
from reports.shared.per_configuration import naming, per_configuration
from reports.shared.styles import ChartStyle


def test_each_rule_has_its_own_axis(several_charts: dict[str, Any]) -> None:
    chart = several_charts["dose-mean_depth"]
    assert (chart["title"], chart["choice"]) == ("Mean depth by parameter", "Rule")
    assert [variant["label"] for variant in chart["variants"]] == ["kl (oracle): KL factor", "fixed: exit layer"]
    axes = []
    for variant in chart["variants"]:
        x = next(layer["encoding"]["x"] for layer in variant["spec"]["layer"] if "x" in layer["encoding"])
        axes.append((x["title"], x["scale"].get("type"), x["axis"]["values"]))
    assert axes == [
        ("KL factor, 1/nat (log2; higher: exits later)", "log", [0.25, 1.0, 4.0]),
        ("exit layer", None, [10.0, 15.0, 20.0, 25.0]),
    ]


@pytest.mark.parametrize(("rule", "parameter", "n"), [("kl", 0.5, 3), ("kl", 0.0, 2), ("fixed", 0.0, 3)])
def test_a_log2_axis_has_no_place_for_a_factor_of_zero(tmp_path: Path, rule: str, parameter: float, n: int) -> None:
    grid: list[Configuration] = [NoExit(), EarlyExit("unfrozen", "kl", 0.5), EarlyExit("unfrozen", "kl", 2.0)]
    trade = per_configuration(read_sweep(str(swept(tmp_path / "s", grid, 1))))
    changed = trade.assign(rule=pd.Series([None, rule, rule]), parameter=pd.Series([None, parameter, 2.0]))
    keys = trade["configuration"].tolist()
    assert dose_response(changed)["configuration"].tolist() == (keys if n == 3 else keys[::2])


def test_axes_write_parameters_as_keys_do(tmp_path: Path) -> None:
    rules = {"confidence": (0.9, 0.97, 0.995), "entropy": (0.15, 0.5, 1.25), "kl": (0.001, 1.0, 1234567.0)}
    grid: list[Configuration] = [NoExit(), *(EarlyExit("unfrozen", rule, p) for rule in rules for p in rules[rule])]
    chart = drawn(read_sweep(str(swept(tmp_path / "s", grid, 3))))["dose-exit_rate"]
    rows = chart["table"]["rows"]
    for variant, parameters in zip(chart["variants"], rules.values(), strict=True):
        svg = vl_convert.vegalite_to_svg({**variant["spec"], "datasets": {"rows": rows}, "config": LIGHT})
        written = [format_parameter(parameter) for parameter in parameters]
        assert [label for label in re.findall(r">([^<>]+)</text>", svg) if label in written] == written


def test_factors_that_differ_beyond_six_digits_are_configurations_of_their_own(tmp_path: Path) -> None:
    factors = (1.0, 1.0000001, 1.1 + 2.2)
    runs = [run_rows("0", "?", "unfrozen", k, ["a", "b", "c", "d"]) for k in factors]
    sweep = read_sweep(str(write_runs(tmp_path / "results", runs)))
    written = ["1", "1.0000001", "3.3000000000000003"]
    assert [configuration.key for configuration in sweep.configurations] == [f"unfrozen/kl/{its}" for its in written]
    trade = per_configuration(sweep)
    assert (list(trade["n"]), list(trade["short"])) == ([1, 1, 1], [f"U·kl {its}" for its in written])
    depth = drawn(sweep)["depth"]
    assert depth["slice"]["values"] == [f"kl/{its}" for its in written]
    assert {row["parameter"] for row in depth["table"]["rows"]} == set(factors)


def test_each_exit_set_of_a_rule_has_a_line_of_its_own() -> None:
    rows = [
        naming(EarlyExit("unfrozen", "confidence", parameter, layers)) | {"mean_depth": depth, "mean_depth_low": None}
        for depth, layers in ((0.5, ()), (0.9, (25,)))
        for parameter in (0.8, 0.9, 0.99)
    ]
    frame = pd.DataFrame(rows).assign(mean_depth_high=None, n=6)
    looks = ChartStyle.for_configurations([EarlyExit("unfrozen", "confidence", 0.9)])
    spec = specification(dose_chart(frame, "confidence", "mean_depth", "Mean depth", "", looks))
    svg = vl_convert.vegalite_to_svg(spec | {"datasets": {"rows": frame.to_dict("records")}})
    lines = re.findall(r'class="mark-line role-mark[^>]*><path [^>]*d="([^"]+)"', svg)
    assert [len(re.findall("[ML]", line)) for line in lines] == [3, 3]
