"""Paired differences in Python are those of the report's "Side by side", overall and by kind of prompt."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_sweeps import with_answers, with_kinds, write_manifest

import eexit
from eexit.quality.estimates import ENDS, ValueKind, estimate_columns
from eexit.results.paired_runs import EQUAL_LAYERS, EQUAL_RUN, MATCHED
from reports.read.sweep import read_sweep
from reports.sections.contrasts import beside_mixes, pairs
from reports.shared.paired import PairedRuns
from reports.shared.per_configuration import per_configuration

ONE, OTHER = "unfrozen", "frozen_residual"
KINDS = ["sum", "fact"] * 6
ESTIMATES = [f"{name}{end}" for name in MATCHED for end in ENDS]
NAMES = {f"saved{end}": f"run{end}" for end in ENDS}  # in Python → in the report


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> eexit.SweepResults:
    """Return two modes with two rules and controls; two prompts have no answer."""
    return eexit.open(with_kinds(with_answers(tmp_path_factory.mktemp("paired") / "s", 12), KINDS))


def test_it_is_the_reports_number(swept: eexit.SweepResults) -> None:
    sweep = read_sweep(swept.out)
    paired = PairedRuns.from_sweep(sweep)
    mixes = beside_mixes(paired, per_configuration(sweep))
    mixes = mixes[mixes["configuration"].str.startswith(f"{ONE}/")]
    bases = [f"{OTHER}/{series.partition('/')[2]}" for series in mixes["series"]]
    of_same_rule = mixes[mixes["base"] == bases].set_index("configuration")
    for at, criterion in (("layers_skipped", EQUAL_LAYERS), ("macs", EQUAL_RUN)):
        found = swept.paired_difference(ONE, OTHER, at=at).rename(columns=NAMES).set_index("configuration")
        assert len(found) > 1
        expected = of_same_rule[of_same_rule["at"] == criterion].loc[found.index]
        pd.testing.assert_frame_equal(found[ESTIMATES], expected[ESTIMATES])
        assert found["other"].tolist() == expected["mix"].tolist()
    found = swept.paired_difference(OTHER, ONE, at="threshold").rename(columns=NAMES)
    of_pairs = [*zip(found["other"], found["configuration"], strict=True)]
    thresholds = ("confidence/0.7", "confidence/0.9", "kl/0.5", "kl/2")
    assert of_pairs == [(f"{ONE}/{each}", f"{OTHER}/{each}") for each in thresholds]
    expected = pairs(paired).set_index(["baseline", "configuration"]).reindex(of_pairs)
    pd.testing.assert_frame_equal(found[ESTIMATES], expected[ESTIMATES].reset_index(drop=True))


def test_each_kind_has_the_differences_of_its_own_prompts(swept: eexit.SweepResults) -> None:
    found = swept.paired_difference(ONE, OTHER, at="threshold", by="kind")
    assert found["kind"].unique().tolist() == ["all prompts", "fact", "sum"]
    key = f"{ONE}/confidence/0.7"
    its = found[(found["kind"] == "fact") & (found["configuration"] == key)].iloc[0]
    right = swept.runs.astype({"correct": float}).pivot_table("correct", "prompt_id", "configuration")
    facts = right[[KINDS[int(prompt)] == "fact" for prompt in right.index]]
    difference = (facts[key] - facts[f"{OTHER}/confidence/0.7"]).dropna().to_numpy()
    (of,) = estimate_columns(difference[:, None], [ValueKind.DIFFERENCE])
    assert [its[f"correct{end}"] for end in ENDS] == pytest.approx([of.mean, of.low, of.high, 5])
    depth = swept.paired_difference(ONE, OTHER, at="layers_skipped", by="kind")
    assert {*depth["kind"]} == {"all prompts", "fact", "sum"}
    assert np.allclose(depth["layers_skipped"], 0)


def test_prompts_of_a_group_count_once_and_intervals_are_over_groups(tmp_path: Path) -> None:
    folder = with_answers(tmp_path / "s", 12)
    about = json.loads((folder / "sweep.json").read_text())
    for at, prompt in enumerate(about["config"]["prompts"]):
        prompt["group"] = str(at // 2)
    write_manifest(folder, about)
    found = eexit.open(folder).paired_difference(ONE, OTHER, at="threshold")
    assert ({*found["correct_n"]}, {*found["disagreement_n"]}) == ({5}, {6}), "ten prompts have answers"


@pytest.mark.parametrize(
    ("settings", "others", "how", "line"),
    [
        (ONE, OTHER, {"at": "depth"}, "at must be layers_skipped, macs, threshold, got 'depth'"),
        (ONE, OTHER, {"at": "macs", "by": "answer"}, "by must be kind, group, steps, got 'answer'"),
        (ONE, OTHER, {"at": "macs", "by": "steps"}, "no prompt of {} has steps: give prompts a field steps"),
        ("unfrozn", OTHER, {"at": "macs"}, "the sweep has no settings of 'unfrozn': did you mean unfrozen?"),
        (f"{ONE}/kl", f"{OTHER}/confidence", {"at": "threshold"}, "no setting of unfrozen/kl has one of "
         "frozen_residual/confidence with the same rule, threshold, exit set and gate"),
    ],
)  # fmt: skip
def test_refusals(swept: eexit.SweepResults, settings: str, others: str, how: dict[str, str], line: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(line.format(swept.out))}$"):
        swept.paired_difference(settings, others, **how)
