"""Means of each configuration, compared with numbers computed by hand."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from chart_fields import charts_of, drawn, variant_of
from report_fixtures import MakeSweep
from synthetic_sweeps import BOTH, KL_1, swept

from eexit.method.rules import RULES
from eexit.plan.configuration import EarlyExit, exiting_modes
from reports.read.rule_parameters import representative, representatives
from reports.read.sweep import Sweep, read_sweep
from reports.shared.charts import DARK, LIGHT
from reports.shared.per_configuration import naming, per_configuration
from reports.shared.styles import ChartStyle

FOLLOWED, CONTROL = "unfrozen/kl/2", "unfrozen/random/kl/2"  # of several


def means_of(folder: Path, **changes: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the means of `normal` and `unfrozen/kl/1` on two prompts, with these columns of each prompt by mode."""
    path = swept(folder, n_prompts=2, columns=lambda its, prompt, _: changes.get(its.mode, ({}, {}))[prompt])
    return per_configuration(read_sweep(str(path))).set_index("configuration")


def test_a_text_that_is_mostly_one_loop_is_marked_unless_normal_loops_too(tmp_path: Path) -> None:
    loops, less = {"n_tokens": 100, "longest_loop": 95}, {"n_tokens": 40, "longest_loop": 6}
    none, empty = {"n_tokens": 100, "longest_loop": 2}, {"n_tokens": 0, "longest_loop": 0}
    trade = means_of(tmp_path / "0", unfrozen=(loops, less), normal=(none, empty))
    found = trade.loc[[KL_1.key, "normal"], ["loop_share", "loop_share_n", "looping"]].values.tolist()
    assert found == [[pytest.approx((0.95 + 0.15) / 2), 2, True], [pytest.approx(0.02), 1, False]]
    half = means_of(tmp_path / "1", unfrozen=(loops, less | {"longest_loop": 2}), normal=(none, empty))
    alike = means_of(tmp_path / "2", unfrozen=(loops, less), normal=(none | {"longest_loop": 60}, empty))
    assert not half.loc[KL_1.key, "looping"]
    assert not alike["looping"].any()


def test_configurations_keep_the_sweeps_order_and_oracles_are_marked(several: Sweep, make_sweep: MakeSweep) -> None:
    """A control of another sweep's configuration is a point of its own. Each rule of a mode is represented once."""
    trade = per_configuration(several).set_index("configuration")
    assert trade.index.tolist() == [configuration.key for configuration in several.configurations]
    means = several.generations.groupby("configuration")["disagreement"].mean()
    np.testing.assert_allclose(trade["disagreement"], means[trade.index])
    for name in ("disagreement", "perplexity", "tokens_until_difference"):
        assert trade[f"{name}_control"][FOLLOWED] == trade[name][CONTROL]
        assert trade[f"{name}_control"].notna().sum() == 8
    represented = [row["configuration"] for row in representatives(per_configuration(several))]
    parameters = {"kl": [0.25, 0.8, 4.0], "fixed": [25.0, 5.0, 10.0], "of a later version": [0.5, 0.9]}
    assert [representative(*of_rule) for of_rule in parameters.items()] == [0.8, 10.0, 0.5], "the middle one"
    assert represented == [f"{mode}/{setting}" for mode in BOTH for setting in ("confidence/0.7", "kl/0.5")]
    apart = replace(several, configurations=tuple(c for c in several.configurations if c.columns["rule"] != "kl"))
    control = per_configuration(apart).set_index("configuration").loc[CONTROL]
    assert [*control[["control_of", "series"]], pd.isna(control["beneath"])] == [FOLLOWED, CONTROL, True]
    shown = dict(per_configuration(several)[["configuration", "shown_as"]].values)
    oracles = {key for key in shown if ("/kl/" in key and "random" not in key)}
    assert {key for key, name in shown.items() if name != key} == oracles
    alone = per_configuration(read_sweep(str(make_sweep(2))))
    assert alone["shown_as"].tolist() == alone["configuration"].tolist(), "oracles are marked beside other rules only"
    assert naming(EarlyExit("unfrozen", "later", 0.5))["short"] == "U·later .5"


def encodings(chart: dict[str, Any], channel: str) -> list[dict[str, Any]]:
    """Return the encodings of a channel in the trade-off of disagreement."""
    layers = variant_of(chart, "Disagreement")["spec"]["layer"]
    return [layer["encoding"][channel] for layer in layers if channel in layer["encoding"]]


def test_no_rule_or_mode_looks_like_another(several: Sweep, several_content: Any, make_sweep: MakeSweep) -> None:
    chart = charts_of(several_content)["quality"]
    fields = {"color": {"family", None}, "shape": {"family"}, "strokeDash": {"mode"}}  # controls are grey
    fields |= {"detail": {"series", "curve"}, "order": {"parameter", "layers_skipped"}}
    fields |= {"x2": {"layers_skipped_control"}}  # a line to it
    assert {channel: {each.get("field") for each in encodings(chart, channel)} for channel in fields} == fields
    assert "disagreement_control" in [each["field"] for each in encodings(chart, "y2")]
    for channel, field in (("x", "layers_skipped"), ("y", "disagreement")):
        assert f"{field}_control" in [encoding.get("field") for encoding in encodings(chart, channel)]
    (legend, *_) = [colour["legend"] for colour in encodings(chart, "color") if "field" in colour]
    assert legend["labelExpr"] == """indexof(["kl"], datum.value) >= 0 ? datum.label + ' (oracle)' : datum.label"""
    one_rule = drawn(read_sweep(str(make_sweep(6))))["quality"]
    assert {colour["field"] for colour in encodings(one_rule, "color")} == {"mode"}
    assert "control" not in one_rule["caption"]
    looks: Any = ChartStyle.for_configurations(several.configurations)
    trade = per_configuration(several)
    every, one = (looks.colour(trade, one_rule).to_dict()["scale"]["domain"] for one_rule in (False, True))
    assert every == [*one, "confidence", "kl", "random"]
    shapes = looks.shape(trade).to_dict()["scale"]["range"]
    assert len(set(shapes)) == len(shapes) == len(every)
    for colours in (LIGHT["range"]["category"], DARK["category"]):
        assert len(set(colours)) == len(colours) >= len(exiting_modes()) + len(RULES)
