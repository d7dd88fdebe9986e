"""Comparisons: pairs of configurations, averages over pairs, and settings with mixes of others."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import vl_convert
from synthetic_sweeps import BOTH, with_answers

from eexit.plan.configuration import Configuration, EarlyExit, NoExit, short_name
from eexit.quality.estimates import ValueKind, estimate_columns
from eexit.results.paired_runs import EQUAL_LAYERS, EQUAL_QUALITY
from reports.read.sweep import Sweep, read_sweep
from reports.sections.contrasts import (
    CONTROL,
    PairedContrast,
    averages,
    beside_mixes,
    paired_chart,
    pairs,
)
from reports.shared.charts import LIGHT, specification
from reports.shared.measures import CORRECT, DISAGREEMENT, RUN, SKIPPED
from reports.shared.paired import PairedRuns
from reports.shared.per_configuration import naming, per_configuration
from reports.shared.styles import ChartStyle

BASE, OTHER = "unfrozen/confidence", "unfrozen/kl"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Return two modes with two rules and controls; ten of twelve prompts have an answer."""
    return read_sweep(str(with_answers(tmp_path_factory.mktemp("pairs") / "s", 12)))


def by_prompt(sweep: Sweep, name: str) -> pd.DataFrame:
    done = sweep.done.assign(**{SKIPPED: 1 - sweep.done["mean_depth"].astype(float)})
    return done.astype({name: float}).pivot_table(name, "prompt_id", "configuration")


def test_every_pair_is_there_once_and_is_that_of_the_same_prompts(sweep: Sweep) -> None:
    found, keys = pairs(PairedRuns.from_sweep(sweep)), [c.key for c in sweep.configurations]
    assert len(found) == len(keys) * (len(keys) - 1) / 2
    wide = by_prompt(sweep, CORRECT)
    for row in found.to_dict("records")[::7]:
        assert keys.index(row["baseline"]) < keys.index(row["configuration"])
        differences = (wide[row["configuration"]] - wide[row["baseline"]]).dropna().to_numpy()
        (expected,) = estimate_columns(differences[:, None], [ValueKind.DIFFERENCE])
        its = [row[f"{CORRECT}{end}"] for end in ("", "_low", "_high", "_n")]
        assert its == pytest.approx([expected.mean, expected.low, expected.high, 10])
        assert row[f"{CORRECT}_gained"] - row[f"{CORRECT}_lost"] == pytest.approx(differences.sum())


def test_modes_and_controls_are_averaged_prompt_by_prompt(sweep: Sweep) -> None:
    found = averages(PairedRuns.from_sweep(sweep), per_configuration(sweep)).set_index("base")
    assert found["settings"].to_dict() == {"unfrozen": 4, CONTROL: 8}
    wide = by_prompt(sweep, DISAGREEMENT)
    controls = {c.columns["control_of"]: c.key for c in sweep.configurations if c.columns["control_of"]}
    of = np.mean([wide[key] - wide[control] for key, control in controls.items()], axis=0)
    (expected,) = estimate_columns(of[:, None], [ValueKind.DIFFERENCE])
    row = found.loc[CONTROL]
    assert row[DISAGREEMENT] == pytest.approx(expected.mean)
    assert row[f"{DISAGREEMENT}_high"] == pytest.approx(expected.high)
    assert expected.high < 0, "rules know something"


def test_a_setting_stands_beside_the_best_mix_that_costs_as_much_or_is_as_good(sweep: Sweep) -> None:
    found = beside_mixes(PairedRuns.from_sweep(sweep), per_configuration(sweep))
    its = found[(found["base"] == BASE) & (found["configuration"] == f"{OTHER}/0.5")].set_index("at")
    skipped, right = by_prompt(sweep, SKIPPED), by_prompt(sweep, CORRECT)
    means, points = skipped.mean(), ["normal", f"{BASE}/0.7", f"{BASE}/0.9"]
    target, mixes = means[f"{OTHER}/0.5"], []
    for one in points:
        for other in points:
            if means[one] <= target <= means[other] and means[one] < means[other]:
                share = (target - means[one]) / (means[other] - means[one])
                mixes.append((1 - share) * right[one] + share * right[other])
    best = max(mixes, key=lambda mix: mix.mean())
    equal = its.loc[EQUAL_LAYERS]
    assert equal[SKIPPED] == pytest.approx(0, abs=1e-9)
    assert equal[CORRECT] == pytest.approx((right[f"{OTHER}/0.5"] - best).dropna().mean())
    assert "%" in equal["mix"]
    assert its.loc[EQUAL_QUALITY[CORRECT], CORRECT] == pytest.approx(0, abs=1e-9)
    assert set(found["base"]) == {
        "unfrozen/confidence",
        "unfrozen/kl",
        "frozen_residual/confidence",
        "frozen_residual/kl",
    }


def test_nothing_differs_in_what_is_held_equal(sweep: Sweep) -> None:
    found = beside_mixes(PairedRuns.from_sweep(sweep), per_configuration(sweep))
    assert set(found["equal"]) == {CORRECT, SKIPPED, RUN}
    for row in found.to_dict("records"):
        assert row[row["equal"]] == pytest.approx(0, abs=1e-9)
        assert row["best_by"] != row["equal"]


def test_without_answers_rules_meet_at_equal_disagreement(sweep: Sweep) -> None:
    blind = sweep.generations.assign(correct=np.nan)
    without = replace(sweep, generations=blind)
    found = beside_mixes(PairedRuns.from_sweep(without), per_configuration(without))
    assert EQUAL_QUALITY[DISAGREEMENT] in set(found["at"])
    assert EQUAL_QUALITY[CORRECT] not in set(found["at"])


def test_of_many_configurations_those_that_differ_in_one_thing_are_compared(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reports.sections.contrasts.MOST_CONFIGURATIONS", 3)
    of_pairs = pairs(PairedRuns.from_sweep(sweep))[["baseline", "configuration"]]
    found = {tuple(sorted(pair)) for pair in of_pairs.itertuples(index=False)}
    assert ("frozen_residual/kl/0.5", "unfrozen/kl/0.5") in found
    assert ("unfrozen/kl/0.5", "unfrozen/kl/2") in found
    assert ("normal", "unfrozen/kl/2") in found
    assert ("frozen_residual/kl/0.5", "unfrozen/confidence/0.7") not in found


def test_nothing_is_compared_where_nothing_ran(tmp_path: Path) -> None:
    sweep = read_sweep(str(with_answers(tmp_path / "s", 2, modes=())))
    assert pairs(PairedRuns.from_sweep(sweep)).empty
    assert beside_mixes(PairedRuns.from_sweep(sweep), per_configuration(sweep)).empty


def test_differences_are_told_in_points_from_zero() -> None:
    rows = pd.DataFrame(
        [naming(EarlyExit("unfrozen", "confidence", 0.9)) | {"correct": 0.04, "correct_n": 6, "order": 0}]
    ).assign(correct_low=0.02, correct_high=0.06)
    looks = ChartStyle.for_configurations([EarlyExit("unfrozen", "confidence", 0.9)])
    chart = paired_chart(rows, PairedContrast("correct", "Right answers", "Right answers, in points"), "", looks)
    spec = specification(chart) | {
        "datasets": {"rows": rows.to_dict("records")},
        "width": 600,
        "params": [{"name": "picked", "value": ""}],
    }
    labels = re.findall(r">([+−\-]?[\d.]+%?)</text>", vl_convert.vegalite_to_svg(spec))
    assert "0" in labels
    assert {"+2", "+4"} <= set(labels)


def test_rows_of_the_paired_chart_keep_the_order_when_runs_fail() -> None:
    configurations: list[Configuration] = [
        NoExit(),
        *(EarlyExit(mode, "kl", k) for mode in BOTH for k in (0.5, 1.0, 2.0)),
    ]
    keys, rows = [c.key for c in configurations], []
    for i, known in enumerate(configurations[1:]):
        few = i == 0  # the first has too few prompts for an interval
        row = naming(known) | {"perplexity": 1.5, "perplexity_n": 3 if few else 6}
        ends = {"perplexity_low": None if few else 1.2, "perplexity_high": None if few else 1.8}
        rows.append(row | ends | {"order": i})
    frame = pd.DataFrame(rows).astype({"perplexity_low": float})
    difference = PairedContrast("perplexity", "", "", none=1.0)
    spec = specification(paired_chart(frame, difference, "", ChartStyle.for_configurations(configurations)))
    known_rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    svg = vl_convert.vegalite_to_svg(spec | {"datasets": {"rows": known_rows}, "config": LIGHT, "width": 500})
    labels = re.findall(r"translate\([\d.-]+,([\d.-]+)\)[^>]*>([UF]·kl [\d.]+)</text>", svg)
    assert [name for _, name in sorted(labels, key=lambda label: float(label[0]))] == [*map(short_name, keys[1:])]
