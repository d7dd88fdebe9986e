"""Comparisons: pairs of configurations, averages over pairs, and settings with mixes of others."""

import re
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import vl_convert
from synthetic_sweeps import BOTH, with_answers

from eexit.plan.configuration import Configuration, EarlyExit, NoExit, short_name
from eexit.quality.estimates import ValueKind, estimate_columns
from eexit.results.paired_runs import EQUAL_LAYERS, EQUAL_QUALITY
from reports.read.sweep import Sweep, read_sweep
from reports.sections.contrasts import CONTROL, PairedContrast, averages, beside_mixes, paired_chart, pairs
from reports.shared.charts import LIGHT, specification
from reports.shared.measures import CORRECT, DISAGREEMENT, RUN, SKIPPED
from reports.shared.paired import PairedRuns
from reports.shared.per_configuration import naming, per_configuration
from reports.shared.styles import ChartStyle

BASE, OTHER = "unfrozen/confidence", "unfrozen/kl"


def by_prompt(sweep: Sweep, name: str) -> pd.DataFrame:
    done = sweep.done.assign(**{SKIPPED: 1 - sweep.done["mean_depth"].astype(float)})
    return done.astype({name: float}).pivot_table(name, "prompt_id", "configuration")


def test_pairs_are_of_the_same_prompts(several: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pair is there once; of many configurations, those are compared that differ in one thing."""
    found, keys = pairs(PairedRuns.from_sweep(several)), [c.key for c in several.configurations]
    assert len(found) == len(keys) * (len(keys) - 1) / 2
    wide = by_prompt(several, CORRECT)
    for row in found.to_dict("records")[::7]:
        assert keys.index(row["baseline"]) < keys.index(row["configuration"])
        differences = (wide[row["configuration"]] - wide[row["baseline"]]).dropna().to_numpy()
        (expected,) = estimate_columns(differences[:, None], [ValueKind.DIFFERENCE])
        its = [row[f"{CORRECT}{end}"] for end in ("", "_low", "_high", "_n")]
        assert its == pytest.approx([expected.mean, expected.low, expected.high, 10])
        assert row[f"{CORRECT}_gained"] - row[f"{CORRECT}_lost"] == pytest.approx(differences.sum())
    monkeypatch.setattr("reports.sections.contrasts.MOST_CONFIGURATIONS", 3)
    of_pairs = pairs(PairedRuns.from_sweep(several))[["baseline", "configuration"]]
    few = {tuple(sorted(pair)) for pair in of_pairs.itertuples(index=False)}
    one = "unfrozen/kl/0.5"
    assert {("frozen_residual/kl/0.5", one), (one, "unfrozen/kl/2"), ("normal", "unfrozen/kl/2")} < few
    assert ("frozen_residual/kl/0.5", "unfrozen/confidence/0.7") not in few


def test_modes_and_controls_are_averaged_prompt_by_prompt(several: Sweep) -> None:
    found = averages(PairedRuns.from_sweep(several), per_configuration(several)).set_index("base")
    assert found["settings"].to_dict() == {"unfrozen": 4, CONTROL: 8}
    wide = by_prompt(several, DISAGREEMENT)
    controls = {c.columns["control_of"]: c.key for c in several.configurations if c.columns["control_of"]}
    of = np.mean([wide[key] - wide[control] for key, control in controls.items()], axis=0)
    (expected,) = estimate_columns(of[:, None], [ValueKind.DIFFERENCE])
    row = found.loc[CONTROL, [DISAGREEMENT, f"{DISAGREEMENT}_high"]]
    assert [*row] == pytest.approx([expected.mean, expected.high])
    assert expected.high < 0, "rules know something"


def test_a_setting_stands_beside_the_best_mix_that_costs_as_much_or_is_as_good(several: Sweep, tmp_path: Path) -> None:
    mixes = beside_mixes(PairedRuns.from_sweep(several), per_configuration(several))
    its = mixes[(mixes["base"] == BASE) & (mixes["configuration"] == f"{OTHER}/0.5")].set_index("at")
    skipped, right = by_prompt(several, SKIPPED), by_prompt(several, CORRECT)
    means, mixed = skipped.mean(), []
    target = means[f"{OTHER}/0.5"]
    for one, other in permutations(("normal", f"{BASE}/0.7", f"{BASE}/0.9"), 2):
        if means[one] <= target <= means[other] and means[one] < means[other]:
            share = (target - means[one]) / (means[other] - means[one])
            mixed.append((1 - share) * right[one] + share * right[other])
    best = max(mixed, key=lambda mix: mix.mean())
    equal = its.loc[EQUAL_LAYERS]
    assert equal[CORRECT] == pytest.approx((right[f"{OTHER}/0.5"] - best).dropna().mean())
    assert "%" in equal["mix"]
    assert set(mixes["equal"]) == {CORRECT, SKIPPED, RUN}
    for row in mixes.to_dict("records"):
        assert row[row["equal"]] == pytest.approx(0, abs=1e-9)
        assert row["best_by"] != row["equal"]
    assert set(mixes["base"]) == {f"{mode}/{rule}" for mode in BOTH for rule in ("confidence", "kl")}
    without = replace(several, generations=several.generations.assign(correct=np.nan))
    found = {*beside_mixes(PairedRuns.from_sweep(without), per_configuration(without))["at"]}
    assert found & {*EQUAL_QUALITY.values()} == {EQUAL_QUALITY[DISAGREEMENT]}, "without answers"
    # Where nothing ran, nothing is compared.
    sweep = read_sweep(str(with_answers(tmp_path / "s", 2, modes=())))
    assert pairs(PairedRuns.from_sweep(sweep)).empty
    assert beside_mixes(PairedRuns.from_sweep(sweep), per_configuration(sweep)).empty


def test_rows_of_the_paired_chart_keep_the_order_and_differences_are_in_points() -> None:
    settings: list[Configuration] = [EarlyExit(mode, "kl", k) for mode in BOTH for k in (0.5, 1.0, 2.0)]
    estimate = {"correct": 0.04, "correct_low": 0.02, "correct_high": 0.06, "correct_n": 6}
    rows: list[dict[str, Any]] = [naming(each) | {"order": i} | estimate for i, each in enumerate(settings)]
    rows[0] |= {"correct_low": None, "correct_high": None}  # too few prompts for an interval
    frame, looks = pd.DataFrame(rows), ChartStyle.for_configurations([NoExit(), *settings])
    spec = specification(paired_chart(frame, PairedContrast("correct", "", ""), "", looks))
    known = frame.astype(object).where(frame.notna(), None).to_dict("records")
    svg = vl_convert.vegalite_to_svg(spec | {"datasets": {"rows": known}, "config": LIGHT, "width": 600})
    labels = re.findall(r"translate\([\d.-]+,([\d.-]+)\)[^>]*>([UF]·kl [\d.]+)</text>", svg)
    names = [name for _, name in sorted(labels, key=lambda label: float(label[0]))]
    assert names == [short_name(setting.key) for setting in settings]
    assert {"0", "+2", "+4"} <= set(re.findall(r">([+−\-]?[\d.]+%?)</text>", svg))
