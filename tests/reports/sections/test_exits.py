"""Where tokens exit, how deep they go along the text, and both against each rule's parameter."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import vl_convert
from chart_fields import charts_of, drawn
from synthetic_sweeps import FINAL, KL_1, LAYERS, run_rows, swept, write_runs

from eexit.method.rules import RULES, format_parameter
from eexit.plan.configuration import Configuration, EarlyExit, NoExit
from reports.read.sweep import Sweep, read_sweep
from reports.sections.exits.depth_by_position import depth_by_position
from reports.sections.exits.dose_response import dose_chart, dose_response
from reports.sections.exits.exit_distribution import exit_mix
from reports.shared.charts import LIGHT, specification
from reports.shared.per_configuration import naming
from reports.shared.styles import ChartStyle

THRESHOLD = RULES["confidence"].parameter


def test_exits_are_averaged_over_prompts_and_depth_over_bins_of_drawn_tokens(tmp_path: Path) -> None:
    counts = [[(5, 1), (FINAL, 1)], [(5, 9), (10, 1)]]
    folder = swept(tmp_path / "s", n_prompts=2, columns=lambda _, prompt, __: {"exit_layer_counts": counts[prompt]})
    mix, depth = exit_mix(read_sweep(str(folder))), depth_by_position(read_sweep(str(folder)))
    shares = mix[mix["configuration"] == KL_1.key].set_index("shown_layer")["share"].to_dict()
    assert [*shares] == [*map(str, LAYERS), "29 (final)"]
    assert [*shares.values()] == pytest.approx([0.7, 0.05, 0, 0, 0, 0.25])
    one = depth[depth["configuration"] == KL_1.key].set_index("position")
    assert list(one.index) == [1, 2, 3]  # position 0 comes from the final layer whatever the mode
    assert one["depth"][[1, 2]].tolist() == pytest.approx([1.0, (LAYERS[2] + 1) / 30])
    assert set(one["depth_n"]) == {2}
    run = run_rows("0", "?", "unfrozen", 0.5, ["a"] * 120)
    depth = depth_by_position(read_sweep(str(write_runs(tmp_path / "long", [run]))))
    assert (len(depth), set(depth["width"])) == (24, {5})
    exits = [(LAYERS[i % 5] + 1) / 30 for i in (5, 6, 7, 8, 9)]
    assert depth.set_index("position")["depth"][7.0] == pytest.approx(sum(exits) / 5)


def test_tokens_are_read_in_batches_and_each_rule_has_its_own_axis(several: Sweep, several_content: Any) -> None:
    batches = partial(several.tokens.to_batches, batch_size=7)  # the dataset can't be read as a whole
    few = replace(several, tokens=SimpleNamespace(count_rows=several.tokens.count_rows, to_batches=batches))
    pd.testing.assert_frame_equal(depth_by_position(few), depth_by_position(several))
    charts = charts_of(several_content)
    choice = charts["depth"]["slice"]
    first = [f"{control}confidence/{threshold}" for threshold in (0.7, 0.9) for control in ("", "random/")]
    assert (choice["key"], choice["first"], choice["values"][:4]) == ("setting", 0, first)
    chart, axes = charts["dose-mean_depth"], dict[str, Any]()
    assert (chart["title"], chart["choice"]) == ("Mean depth by parameter", "Rule")
    for variant in chart["variants"]:
        x = next(layer["encoding"]["x"] for layer in variant["spec"]["layer"] if "x" in layer["encoding"])
        axes[variant["label"]] = (x["title"].partition(",")[0], x["scale"].get("type"), x["axis"]["values"])
    expected = {f"confidence: {THRESHOLD}": (THRESHOLD, None, [0.7, 0.9])}
    assert axes == expected | {"kl (oracle): KL factor": ("KL factor", "log", [0.5, 2.0])}


def test_a_log2_axis_has_no_place_for_a_factor_of_zero() -> None:
    frame = pd.DataFrame({"rule": [None, "kl", "kl", "fixed"], "parameter": [None, 0.5, 0.0, 0.0]})
    assert dose_response(frame).index.tolist() == [0, 1, 3]


def test_axes_write_parameters_as_keys_do(tmp_path: Path) -> None:
    rules = {"confidence": (0.9, 0.97, 0.995), "entropy": (0.15, 0.5, 1.25), "kl": (0.001, 1.0000001, 1234567.0)}
    grid: list[Configuration] = [NoExit(), *(EarlyExit("unfrozen", rule, p) for rule in rules for p in rules[rule])]
    chart = drawn(read_sweep(str(swept(tmp_path / "s", grid, 3))))["dose-exit_rate"]
    rows = chart["table"]["rows"]
    for variant, parameters in zip(chart["variants"], rules.values(), strict=True):
        svg = vl_convert.vegalite_to_svg({**variant["spec"], "datasets": {"rows": rows}, "config": LIGHT})
        written = [format_parameter(parameter) for parameter in parameters]
        assert [label for label in re.findall(r">([^<>]+)</text>", svg) if label in written] == written


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
