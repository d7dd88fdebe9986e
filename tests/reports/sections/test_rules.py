"""A sweep with several rules, modes and controls: how they are distinguished, compared and described."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vl_convert
from chart_fields import drawn, missing_fields, variant_of
from page_content import Charts, charts_of, content_of
from report_fixtures import MakeSweep, Page, Visit, Walk, all_drawn, ink_of
from synthetic import every_rule_grid, rules_grid, write_synthetic_sweep

from eexit.method.rules import ORACLES, RULES, format_parameter
from eexit.plan.configuration import Configuration, EarlyExit, NoExit, exiting_modes
from reports import build_report
from reports.page.pack_tokens import encode_probabilities
from reports.page.run_info import facts
from reports.read.prompt_choice import choose_prompts
from reports.read.rule_parameters import representative, representatives
from reports.read.sweep import Sweep, read_sweep
from reports.shared.charts import DARK, LIGHT
from reports.shared.per_configuration import naming, per_configuration
from reports.shared.styles import ChartStyle

FOLLOWED, CONTROL = "unfrozen/kl/1", "unfrozen/random/kl/1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_sweep(tmp_path_factory.mktemp("rules") / "results", 6, rules_grid(), 40, timed=True)


@pytest.fixture(scope="module")
def sweep(folder: Path) -> Sweep:
    return read_sweep(str(folder))


@pytest.fixture(scope="module")
def several(folder: Path) -> Path:
    return build_report(str(folder), folder / "report.html")


@pytest.fixture(scope="module")
def content(several: Path) -> dict[str, Any]:
    """Return the report's data, which take seconds to compute."""
    return content_of(several)


@pytest.fixture(scope="module")
def charts(content: dict[str, Any]) -> Charts:
    return charts_of(content)


def of_disagreement(charts: Charts) -> dict[str, Any]:
    """Return the trade-off of disagreement alone."""
    chart = charts["quality"]
    return chart | {"variants": [variant_of(chart, "Disagreement")]}


def encodings(chart: dict[str, Any], channel: str) -> list[dict[str, Any]]:
    layers = chart["variants"][0]["spec"]["layer"]
    return [layer["encoding"][channel] for layer in layers if channel in layer["encoding"]]


def test_every_field_of_a_chart_is_a_column_of_its_rows(charts: Charts) -> None:
    assert list(charts) == [
        "quality", "mix", "dose-exit_rate", "dose-mean_depth", "depth",
    ]  # fmt: skip
    assert {key: missing for key, chart in charts.items() if (missing := missing_fields(chart))} == {}


def test_configurations_are_those_of_the_sweep_in_its_order(sweep: Sweep) -> None:
    assert [c.key for c in sweep.configurations] == [c.key for c in rules_grid()]
    assert [c.columns for c in sweep.configurations] == [c.columns for c in rules_grid()]
    trade = per_configuration(sweep)
    assert trade["configuration"].tolist() == [c.key for c in rules_grid()]
    means = sweep.generations.groupby("configuration")["disagreement"].mean()
    np.testing.assert_allclose(trade["disagreement"], means[trade["configuration"]])


def test_axes_write_parameters_as_keys_do(tmp_path: Path) -> None:
    rules = {"confidence": (0.9, 0.97, 0.995), "entropy": (0.15, 0.5, 1.25), "kl": (0.001, 1.0, 1234567.0)}
    grid: list[Configuration] = [NoExit(), *(EarlyExit("unfrozen", rule, p) for rule in rules for p in rules[rule])]
    sweep = read_sweep(str(write_synthetic_sweep(tmp_path / "results", 3, grid, 10)))
    chart = drawn(sweep)["dose-exit_rate"]
    rows = chart["table"]["rows"]
    for variant, parameters in zip(chart["variants"], rules.values(), strict=True):
        svg = vl_convert.vegalite_to_svg({**variant["spec"], "datasets": {"rows": rows}, "config": LIGHT})
        labels = re.findall(r">([^<>]+)</text>", svg)
        assert [label for label in labels if label in map(format_parameter, parameters)] == [
            format_parameter(p) for p in parameters
        ]


def test_a_report_says_what_its_model_computed_in(sweep: Sweep) -> None:
    model = {**sweep.about["model"], "dtype": "bfloat16", "gguf_bits": 4}
    about = {**sweep.about, "model": model, "dtype_asked": "auto"}
    told = dict(facts(replace(sweep, about=about)))["Model"]
    assert told == f"{model['name']} bfloat16 (--dtype auto), weights dequantised from 4 bits"


def test_a_version_that_is_not_known_is_not_told(sweep: Sweep) -> None:
    about = {**sweep.about, "versions": {"python": "3.13", "eexit": None, "torch": "2.9.0"}}
    assert dict(facts(replace(sweep, about=about)))["Versions"] == "python 3.13, torch 2.9.0"


def test_a_control_stands_beside_its_configuration(sweep: Sweep) -> None:
    trade = per_configuration(sweep).set_index("configuration")
    for name in ("disagreement", "perplexity", "tokens_until_difference"):
        assert trade[f"{name}_control"][FOLLOWED] == trade[name][CONTROL]
        assert trade[f"{name}_control"].notna().sum() == 6
    assert trade["disagreement"][FOLLOWED] < trade["disagreement"][CONTROL], "the rule knows something"


def test_a_control_of_another_sweeps_configuration_is_a_point_of_its_own(sweep: Sweep) -> None:
    kept = tuple(c for c in sweep.configurations if c.columns["rule"] != "kl")
    rows = sweep.generations["configuration"].isin([c.key for c in kept])
    apart = replace(
        sweep, configurations=kept, generations=sweep.generations[rows], layer_counts=sweep.layer_counts[rows]
    )
    trade = per_configuration(apart).set_index("configuration")
    assert (trade["control_of"][CONTROL], trade["series"][CONTROL]) == (FOLLOWED, CONTROL)
    assert trade["beneath"].isna().all()
    chart = of_disagreement(drawn(apart))
    assert "dotted line" not in chart["caption"]
    assert encodings(chart, "color")[0]["legend"]["values"] == ["random", "fixed", "agree"]


def test_trade_offs_tell_rules_by_colour_and_shape_and_modes_by_dashes(charts: Charts) -> None:
    chart = of_disagreement(charts)
    assert {colour.get("field") for colour in encodings(chart, "color")} == {"family", None}, "controls are grey"
    assert {shape["field"] for shape in encodings(chart, "shape")} == {"family"}
    assert {dash["field"] for dash in encodings(chart, "strokeDash")} == {"mode"}
    line = next(each["encoding"] for each in chart["variants"][0]["spec"]["layer"] if "strokeDash" in each["encoding"])
    assert (line["detail"]["field"], line["order"]["field"]) == ("series", "parameter")
    for channel, field in (("x", "layers_skipped"), ("y", "disagreement")):
        at = [encoding.get("field") for encoding in encodings(chart, channel)]
        to = [encoding["field"] for encoding in encodings(chart, f"{channel}2")]
        assert f"{field}_control" in at, "the control"
        assert f"{field}_control" in to, "a line to the control"
    assert "control" in chart["caption"]


def test_modes_are_told_by_colour_where_there_is_one_rule(make_sweep: MakeSweep) -> None:
    chart = of_disagreement(drawn(read_sweep(str(make_sweep(6)))))
    assert {colour["field"] for colour in encodings(chart, "color")} == {"mode"}
    assert "control" not in chart["caption"]


def test_no_rule_has_the_colour_of_a_mode(sweep: Sweep) -> None:
    trade = per_configuration(sweep)
    looks = ChartStyle.for_configurations(sweep.configurations)
    colours: list[Any] = [looks.colour(trade, one_rule).to_dict() for one_rule in (False, True)]
    every, one = (colour["scale"]["domain"] for colour in colours)
    assert every == [*one, "kl", "fixed", "agree", "random"]


def test_there_is_a_colour_for_every_mode_and_rule() -> None:
    for colours in (LIGHT["range"]["category"], DARK["category"]):
        assert len(set(colours)) == len(colours) >= len(exiting_modes()) + len(RULES)


def test_dose_responses_are_per_rule_on_its_own_axis(charts: Charts) -> None:
    chart = charts["dose-mean_depth"]
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


def test_depth_by_position_is_shown_of_one_rule_and_parameter_at_a_time(charts: Charts) -> None:
    choice = charts["depth"]["slice"]
    assert (choice["key"], choice["values"][choice["first"]]) == ("setting", "kl/1")
    assert choice["values"][:4] == ["kl/0.25", "random/kl/0.25", "kl/1", "random/kl/1"]


def test_what_stands_for_a_rule(sweep: Sweep) -> None:
    assert representative("kl", [0.25, 0.8, 4.0]) == 0.8
    assert representative("fixed", [25.0, 5.0, 10.0]) == 10.0
    keys = [row["configuration"] for row in representatives(per_configuration(sweep))]
    modes = ("unfrozen", "frozen_residual")
    assert keys == [f"{mode}/{setting}" for mode in modes for setting in ("kl/1", "fixed/15", "agree")]


def test_controls_choose_no_prompts(folder: Path, sweep: Sweep) -> None:
    worst = sweep.generations["control_of"].notna() & (sweep.generations["prompt_id"] == "3")
    sweep.generations.loc[worst, "longest_loop"] = 99
    try:
        assert "longest loop" not in choose_prompts(sweep, 5).get("3", "")
    finally:
        sweep.generations.loc[worst, "longest_loop"] = 0


def test_exit_probabilities_are_packed_to_a_hundredth_and_sum_to_one() -> None:
    draw = np.random.default_rng(3)
    probabilities = np.concatenate([draw.dirichlet([0.2] * 6, 1000), np.eye(6)]).astype(np.float32)
    packed = encode_probabilities(probabilities).astype(int)
    whole = np.concatenate([packed, 100 - packed.sum(axis=1, keepdims=True)], axis=1)
    assert whole.min() >= 0
    assert np.abs(whole / 100 - probabilities).max() < 0.01 + 1e-6
    np.testing.assert_array_equal(whole[-6:], 100 * np.eye(6))


def test_the_page_knows_what_rules_say_of_themselves(content: dict[str, Any]) -> None:
    rules = content["rules"]
    assert list(rules) == ["kl", "random", "fixed", "agree"]
    for name, words in rules.items():
        assert (words["definition"], words["oracle"]) == (RULES[name].definition, name in ORACLES)


def test_a_rule_of_a_later_version_is_reported_without_words(make_sweep: MakeSweep, sweep: Sweep) -> None:
    later = [EarlyExit("unfrozen", rule, parameter) for rule, parameter in (("later", 0.5), ("later", 0.9))]
    assert representative("later", [0.5, 0.9]) == 0.5
    assert [naming(configuration)["short"] for configuration in later] == ["U·later .5", "U·later .9"]


def test_the_rule_of_a_dose_response_is_chosen_and_only_multiply_adds_are_theoretical(
    visit: Visit, several: Path
) -> None:
    page = visit("#/?open=all", path=several)
    chart = page.locator("[data-chart=dose-exit_rate]")
    chart.get_by_role("combobox", name="Rule").select_option("fixed: exit layer")
    chart.locator(".chart canvas[aria-label*='exit layer of rule fixed']").wait_for()
    assert is_of_multiply_adds(page), "not layers skipped, which is another number of the same setting"
    page.goto(several.as_uri() + "#/methods")
    page.get_by_role("heading", name="Depth and savings").wait_for()
    assert is_of_multiply_adds(page)


def is_of_multiply_adds(page: Page) -> bool:
    """Return True if everything labelled theoretical is in multiply-adds, and layers skipped are there too."""
    page.evaluate("document.querySelectorAll('main select').forEach(select => select.remove())")  # selects list both
    said = page.locator("main").inner_text().lower()
    return "layers skipped" in said and not re.search(
        r"(skip|layers)[^.]{0,40}theoretical|theoretical[^.]{0,40}skip", said
    )


def test_every_rule_and_control_has_its_address(walk: Walk, several: Path) -> None:
    page = walk(f"#/c/{CONTROL}", path=several)
    page.get_by_role("heading", name=f"{CONTROL} on every prompt").wait_for()
    page.goto(several.as_uri() + f"#/p/0/{FOLLOWED}/vs/{CONTROL}/t/3")
    page.get_by_role("heading", name=f"{FOLLOWED} on prompt 0").wait_for()
    assert page.locator(".texts h2").all_inner_texts() == [FOLLOWED, CONTROL]
    page.goto(several.as_uri() + "#/p/0/unfrozen%2Fkl%2F1/t/3")
    page.get_by_role("heading", name=f"{FOLLOWED} on prompt 0").wait_for()


def test_oracles_are_marked_beside_other_rules(
    walk: Walk, charts: Charts, several: Path, make_sweep: MakeSweep
) -> None:
    colours = encodings(of_disagreement(charts), "color")
    (legend, *_) = [colour["legend"] for colour in colours if "field" in colour]
    assert legend["labelExpr"] == (
        """indexof(["kl", "agree"], datum.value) >= 0 ? datum.label + ' (oracle)' : datum.label"""
    )
    assert set(per_configuration(read_sweep(str(make_sweep(2))))["shown_as"]) == {
        c.key for c in read_sweep(str(make_sweep(2))).configurations
    }, "where all rules are oracles, labels stay short"
    page = walk("#/p/0?prompt.numbers=true", path=several)
    names = page.locator("main tbody th[scope=row]").all_inner_texts()
    assert [name for name in names if "(oracle)" in name] == [
        name for name in names if ("/kl/" in name and "random" not in name) or "agree" in name
    ]
    assert page.locator("main tbody th[scope=row] a").first.inner_text() == "normal"


def test_what_it_saves_is_a_table_too_and_fits_a_phone(visit: Visit, several: Path) -> None:
    page = visit("#/?open=numbers&quality.y=Disagreement", path=several, viewport=(("width", 360), ("height", 740)))
    section = page.locator("[data-chart=quality]")
    assert ink_of(all_drawn(section).locator(".chart")) > 100
    section.get_by_role("combobox", name="Saved").select_option("time, realised at batch 8")
    section = page.locator("[data-fold=numbers]")
    rows = section.locator("tbody tr")
    rows.first.wait_for()
    assert rows.count() == len(rules_grid()) + 1
    assert rows.filter(has_text="generate").count() == 1
    assert rows.filter(has_text="unfrozen/kl/1").first.inner_text().startswith("unfrozen/kl/1 (oracle)")
    section.get_by_role("button", name="Saving, realised, batch 8", exact=True).press("Enter")
    assert rows.first.locator("th").inner_text() == "generate", "it loses"
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_a_report_of_every_rule_stays_readable(visit: Visit, tmp_path: Path) -> None:
    """No legend is cut off."""
    folder = write_synthetic_sweep(tmp_path / "every", 2, every_rule_grid(), 20, timed=True)
    page = visit("#/?open=all", path=build_report(str(folder), tmp_path / "r.html"))
    chart = all_drawn(page.locator("[data-chart=quality]")).locator(".chart")
    assert chart.locator("canvas").bounding_box()["width"] <= chart.bounding_box()["width"]


def test_the_token_pane_shows_what_the_rule_saw(walk: Walk, several: Path, sweep: Sweep) -> None:
    key = "unfrozen/agree"
    page = walk(f"#/p/0/{key}/t/3", path=several)
    table = page.locator(".pane table")
    heads = table.locator("thead th").all_inner_texts()
    column = heads.index(f"Rule saw: {RULES['agree'].sees}")
    stored = sweep.tokens.to_table(columns=["run_id", "position", "exit_score"]).to_pandas()
    (saw,) = stored.loc[(stored["run_id"] == f"0-{key}-0") & (stored["position"] == 3), "exit_score"]
    cells = table.locator(f"tbody tr:not(:has(.who)) > :nth-child({column + 1})").all_inner_texts()
    assert cells == [*(f"{value:g}" for value in saw), "–"]
    assert "What the rule saw is the teacher's" in table.locator("caption").inner_text()
    page.goto(several.as_uri() + "#/p/0/unfrozen/kl/1/t/3")
    page.get_by_text("The rule decides by the KL.").wait_for()
    assert "Rule saw" not in page.locator(".pane").inner_text()
    page.goto(several.as_uri() + "#/p/0/unfrozen/fixed/10/t/3")
    page.get_by_role("heading", name="unfrozen/fixed/10 on prompt 0").wait_for()
    assert "Rule saw" not in page.locator(".pane").inner_text()
