"""Colours, shapes and dashes of rules and modes."""

from typing import Any

from chart_fields import drawn, variant_of
from report_fixtures import MakeSweep

from eexit.method.rules import RULES
from eexit.plan.configuration import exiting_modes
from reports.read.sweep import Sweep, read_sweep
from reports.shared.charts import DARK, LIGHT
from reports.shared.per_configuration import per_configuration
from reports.shared.styles import ChartStyle


def encodings(chart: dict[str, Any], channel: str) -> list[dict[str, Any]]:
    """Return the encodings of a channel in the trade-off of disagreement."""
    layers = variant_of(chart, "Disagreement")["spec"]["layer"]
    return [layer["encoding"][channel] for layer in layers if channel in layer["encoding"]]


def test_rules_differ_in_colour_and_shape_and_modes_in_dashes(several_charts: dict[str, Any]) -> None:
    chart = several_charts["quality"]
    assert {colour.get("field") for colour in encodings(chart, "color")} == {"family", None}, "controls are grey"
    assert {shape["field"] for shape in encodings(chart, "shape")} == {"family"}
    assert {dash["field"] for dash in encodings(chart, "strokeDash")} == {"mode"}
    for channel, field in (("x", "layers_skipped"), ("y", "disagreement")):
        assert f"{field}_control" in [encoding.get("field") for encoding in encodings(chart, channel)]
        assert f"{field}_control" in [encoding["field"] for encoding in encodings(chart, f"{channel}2")], "a line to it"
    (legend, *_) = [colour["legend"] for colour in encodings(chart, "color") if "field" in colour]
    oracles = """indexof(["kl"], datum.value) >= 0 ? datum.label + ' (oracle)' : datum.label"""
    assert legend["labelExpr"] == oracles


def test_modes_differ_in_colour_where_there_is_one_rule(make_sweep: MakeSweep) -> None:
    chart = drawn(read_sweep(str(make_sweep(6))))["quality"]
    assert {colour["field"] for colour in encodings(chart, "color")} == {"mode"}
    assert "control" not in chart["caption"]


def test_no_rule_has_the_colour_or_the_shape_of_a_mode(several: Sweep) -> None:
    looks = ChartStyle.for_configurations(several.configurations)
    trade = per_configuration(several)
    colours: list[Any] = [looks.colour(trade, one_rule).to_dict() for one_rule in (False, True)]
    every, one = (colour["scale"]["domain"] for colour in colours)
    assert every == [*one, "confidence", "kl", "random"]
    shape: Any = looks.shape(trade).to_dict()
    shapes = shape["scale"]["range"]
    assert len(set(shapes)) == len(shapes) == len(every)
    for colours in (LIGHT["range"]["category"], DARK["category"]):
        assert len(set(colours)) == len(colours) >= len(exiting_modes()) + len(RULES)
