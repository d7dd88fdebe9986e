"""The section on learned exits: what the cards in sweep.json say, as tables, charts and sentences."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chart_fields import missing_fields
from report_fixtures import MakeSweep, Visit, Walk, all_drawn, ink_of
from synthetic_cards import DIGESTS, FACTORS, LENS, LINEAR, card, linear, probe, student, with_cards
from synthetic_sweeps import LAYERS

from reports.page.build import render
from reports.page.origin import facts
from reports.read.sweep import Sweep, read_sweep
from reports.sections.learned_exits import cards as tables
from reports.sections.learned_exits.section import learned_section
from reports.sections.learned_exits.words import learned_findings
from reports.shared.palette import exit_colours

Used = Callable[..., Sweep]


@pytest.fixture(scope="module")
def bare(make_sweep: MakeSweep) -> Path:
    return make_sweep(1, [("normal", None), ("unfrozen", 1.0)])


@pytest.fixture(scope="module")
def used(bare: Path, tmp_path_factory: pytest.TempPathFactory) -> Used:
    """used(readout=card, …) → a sweep that uses these artefacts."""

    def used(**cards: dict[str, Any]) -> Sweep:
        folder = tmp_path_factory.mktemp("learned") / "s"
        shutil.copytree(bare, folder)
        return read_sweep(str(with_cards(folder, **cards)))

    return used


def only(**cards: dict[str, Any]) -> tables.Artefact:
    (artefact,) = tables.artefacts({"learned": cards, "config": {"digests": DIGESTS}})
    return artefact


def section(sweep: Sweep) -> dict[str, Any]:
    found = learned_section(sweep)
    assert found
    return found


def test_without_cards_there_is_no_section_and_no_word_of_it(bare: Path, report: Path, walk: Walk) -> None:
    sweep = read_sweep(str(bare))
    assert learned_section(sweep) is None
    assert dict(facts(sweep))["Readout"] == "lens"
    assert not {"Probe", "Adapter", "Deciding reads"} & dict(facts(sweep)).keys()
    assert "<h2>Learned exits</h2>" not in report.read_text()
    assert walk("#/").get_by_text("Learned exits").count() == 0
    assert walk("#/methods").get_by_text("Learned exits").count() == 0


def test_tables_have_the_numbers_of_the_card() -> None:
    held_out = tables.held_out(only(readout=linear()))
    assert tables.series_of(held_out) == ["lens", "linear"]
    for name, rows in (("lens", LENS), ("linear", LINEAR)):
        its = held_out[held_out["series"] == name]
        assert {layer: pair for layer, *pair in its[["layer", "agreement", "median_kl"]].values.tolist()} == {
            layer: list(pair) for layer, pair in rows.items()
        }
    trade = tables.trade_off(only(readout=linear()))
    assert trade["layers_skipped"].tolist() == pytest.approx([1 - row["mean_depth"] for row in linear()["trade_off"]])
    assert trade["agreement_control"].tolist() == [row["control_agreement"] for row in linear()["trade_off"]]
    assert trade["label"].tolist() == ["0.5", "1", "2", "4"] * 2


def test_what_differs_names_the_lines_of_a_trade_off() -> None:
    assert tables.series_of(tables.trade_off(only(probe=probe()))) == ["kl", "predicted_kl"]
    both = probe() | {"trade_off": [*probe()["trade_off"], *probe("raw")["trade_off"]]}
    names = tables.series_of(tables.trade_off(only(probe=both)))
    learned = DIGESTS["readout"][:12]
    assert names == [f"{learned} · kl", f"{learned} · predicted_kl", "raw · kl", "raw · predicted_kl"]


def test_a_readout_is_shown_by_name_where_the_sweep_has_it() -> None:
    about = {"learned": {"readout": linear(), "probe": probe()}, "config": {"digests": DIGESTS}}
    assert [artefact.readout_name(DIGESTS["readout"]) for artefact in tables.artefacts(about)] == ["linear", "linear"]


def test_an_artefact_in_two_roles_is_there_once() -> None:
    artefact = only(adapter=student(), probe=student())
    assert (artefact.name, artefact.roles) == ("student", ("adapter", "probe"))
    other = student() | {"made": "2027-01-01T00:00:00+00:00"}
    names = [its.name for its in tables.artefacts({"learned": {"adapter": student(), "probe": other}})]
    assert names == ["student, adapter", "student, probe"]


def test_the_kept_probe_of_each_layer_is_marked() -> None:
    rows = tables.probes(only(probe=probe()))
    assert rows.loc[rows["kept"], "series"].tolist() == ["mlp"] * 4 + ["linear"]
    assert len(rows) == 2 * len(LAYERS)


def test_sentences_say_what_learning_changed_and_where_it_helped() -> None:
    said = learned_findings(only(readout=linear()))
    assert said[0] == (
        "At layer 25, the linear readout names the final layer's token for 71.6% of held-out tokens, the lens for "
        "45.5% (n = 2,411 held-out tokens of 18 prompts). It helps at every layer, in agreement and median KL."
    )
    # Linear at k = 2 skips 0.2 / 2^0.7; the lens skips as much between k = 0.5 and 1, on a line from 90% to 95%.
    skipped, ends = 0.2 / 2**0.7, (0.09, 0.09 / 0.5**0.7)
    beside = 0.95 - 0.05 * (skipped - ends[0]) / (ends[1] - ends[0])
    assert said[1:] == [
        f"Where {skipped:.1%} of the layers are skipped, the linear readout would agree with the final "
        f"layer on 96.0% of held-out tokens, the lens on {beside:.1%} (teacher-forced, interpolated)."
    ]
    (probed, ranks) = learned_findings(only(probe=probe()))
    assert probed == (
        "At KL factor 1, kl would skip 20.0% of the layers and agree with the final layer on 92.0% of held-out tokens "
        "(teacher-forced). At KL factor 1, predicted_kl would skip 18.0% of the layers and agree with the final layer "
        "on 89.0% of held-out tokens (teacher-forced)."
    )
    assert ranks.startswith("The probe's rank correlation with the true KL is 0.65 (layer 5) to 0.81 (layer 20).")
    assert learned_findings(only(adapter=student())) == [
        "At KL factor 1, training lowers the mean KL of what tokens are read from. It is 1.5 nats before and 1.05 nats "
        "after (n = 400 held-out tokens). It does not fall at layer 5."
    ]


def test_sentences_say_where_learning_does_not_help() -> None:
    worse = linear()
    for row in worse["held_out"]:
        if row["readout"] == "linear" and row["layer"] == 25:
            row |= {"agreement": 0.4, "median_kl": 4.0}
    for row in worse["trade_off"]:
        if row["readout"] == "linear":
            row |= {"agreement": 0.5, "control_agreement": 0.5}
    said = " ".join(learned_findings(only(readout=worse)))
    assert "It does not help everywhere: agreement is no higher at layer 25." in said
    assert "It does not help everywhere: the median KL is no lower at layer 25." in said
    assert "It does not help where 7.6%, 12.3% are skipped." in said
    assert "linear does not help at KL factor 0.5, 1, 2, 4: random exits at the same depths agree as often." in said
    same = student()
    for row in same["exits"]:
        row["mean_kl"] = 1.0
    assert (
        "training does not lower the mean KL of what tokens are read from. It is 1 nats before"
        in learned_findings(only(adapter=same))[0]
    )


def test_calibration_errors_are_weighted_by_tokens() -> None:
    bins = [
        {"layer": 5, "kl_factor": 1.0, "bin": 0, "n": 30, "predicted": 0.1, "true": 0.0},
        {"layer": 10, "kl_factor": 1.0, "bin": 9, "n": 10, "predicted": 0.9, "true": 0.4},
        {"layer": 10, "kl_factor": 1.0, "bin": 3, "n": 0, "predicted": None, "true": None},
    ]
    (said,) = learned_findings(only(probe=card("probe", "probe", calibration=bins)))
    assert said == (
        "At KL factor 1 its stop chance is off by 20.0 points on average, most (50.0) at layer 10. Its mean is 20.0 "
        "points too high."
    )


def test_charts_share_colours_with_the_report_and_have_a_variant_for_each_artefact(used: Used) -> None:
    found = section(used(readout=linear(), probe=probe(), adapter=student()))
    charts = {chart["key"]: chart for chart in found["charts"]}
    assert {key: missing for key, chart in charts.items() if (missing := missing_fields(chart))} == {}
    assert list(charts) == [
        "learned-agreement", "learned-median_kl", "learned-trade-agreement", "learned-trade-expected_kl",
        "learned-ranks", "learned-calibration", "learned-exits",
    ]  # fmt: skip
    assert [variant["label"] for variant in charts["learned-trade-agreement"]["variants"]] == ["linear", "probe"]
    assert [variant["label"] for variant in charts["learned-agreement"]["variants"]] == ["linear"]
    assert "Teacher-forced, on held-out prompts" in charts["learned-trade-agreement"]["caption"]
    assert "n = 2,411 held-out tokens of 18 prompts" in charts["learned-agreement"]["caption"]
    calibration = charts["learned-calibration"]
    assert calibration["slice"]["values"] == [f"{k:g}" for k in FACTORS]
    assert calibration["slice"]["values"][calibration["slice"]["first"]] == "1"
    scales = [layer["encoding"]["color"]["scale"] for layer in calibration["variants"][0]["spec"]["layer"][1:]]
    assert all(
        scale == {"domain": [str(layer) for layer in LAYERS], "range": exit_colours(len(LAYERS) + 1)[:-1]}
        for scale in scales
    )
    assert [line.partition(":")[0] for line in found["findings"]] == ["linear", "linear", "probe", "probe", "student"]


def test_the_probe_and_the_student_have_charts_only_where_they_are_used(used: Used) -> None:
    whole = student() | {"probes": probe()["probes"], "calibration": probe()["calibration"]}
    assert [chart["key"] for chart in section(used(adapter=whole))["charts"]] == ["learned-exits"]
    keys = [chart["key"] for chart in section(used(adapter=whole, probe=whole))["charts"]]
    assert keys == ["learned-ranks", "learned-calibration", "learned-exits"]


def test_the_artefact_and_its_data_are_described(used: Used) -> None:
    sweep = used(readout=linear(), probe=probe())
    (first, second) = section(sweep)["artefacts"]
    assert first["summary"] == ("linear, used as readout · trained on 9,294 tokens of 72 prompts · digest 111111111111")
    said = dict(first["facts"])
    assert said["Trained on"] == "9,294 tokens of 72 prompts from results/texts"
    assert said["Held out"] == "2,411 held-out tokens of 18 prompts"
    assert said["Settings"] == "ridge 0.01, seed 0, lora_targets q_proj v_proj"
    assert said["Training"] == "1.54 min; loss 3.1 nats at first, 1.2 at the end; held-out loss 3.2 nats"
    assert said["Made"] == "2026-01-02 03:04:05 UTC"
    assert dict(second["facts"])["Read through"] == "linear"
    about = dict(facts(sweep))
    assert about["Readout"] == "linear (exits/linear, 111111111111)"
    assert about["Probe"] == "probe (exits/probe, 222222222222)"


@pytest.mark.parametrize("lacking", ["every second value", "the tables", "everything"])
def test_what_a_card_lacks_is_left_out(used: Used, lacking: str) -> None:
    cards = {"readout": linear(), "probe": probe(), "adapter": student()}
    for its in cards.values():
        for name in ("held_out", "trade_off", "probes", "calibration", "exits", "progress"):
            for number, row in enumerate(its[name]):
                row |= dict.fromkeys(key for key, value in row.items() if isinstance(value, float) and number % 2)
            its[name] = its[name] if lacking == "every second value" else []
    if lacking == "everything":
        cards = {role: {"what": role} for role in cards}
    found = section(used(**cards))
    assert bool(found["findings"]) == bool(found["charts"]) == (lacking == "every second value")
    assert "nan" not in " ".join(found["findings"])
    assert len(found["artefacts"]) == 3


def test_the_section_draws_and_is_opened_by_its_address(used: Used, visit: Visit, tmp_path: Path) -> None:
    report = tmp_path / "r.html"
    report.write_text(render(used(readout=linear(), probe=probe(), adapter=student()), ""), encoding="utf-8")
    assert "<h2>Learned exits</h2>" in report.read_text(), "for readers without JavaScript"
    page = visit("#/at/learned", report)
    assert page.evaluate("document.activeElement.id") == "learned"
    for key in ("agreement", "median_kl", "trade-agreement", "trade-expected_kl", "ranks", "calibration", "exits"):
        assert ink_of(all_drawn(page.locator(f'[data-chart="learned-{key}"]')).locator(".chart")) > 50, key
    page.locator('[data-chart="learned-trade-agreement"] select').select_option(label="probe")
    page.locator('[data-chart="learned-agreement"] summary').click()
    rows = page.locator('[data-chart="learned-agreement"] tbody tr')
    rows.first.wait_for()  # a table is made once it has been opened, and count() waits for nothing
    assert rows.count() == 2 * len(LAYERS)
