"""The cost per right answer, against the same in pandas, and the coverage of its interval by simulation."""

from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from answered_runs import KEY, ORACLE, UNIT_OF, runs
from scipy.special import ndtri

from eexit.quality.cost_per_correct import COLUMNS, TAKEN, per_right
from eexit.quality.estimates import estimate_per_right, estimate_ratios
from eexit.quality.intervals import clopper_pearson

DRAWS: Final = 3000
NORMAL_RIGHT: Final = 0.6


def test_beside_runs_with_prompt_exits_the_costs_of_others_have_the_prompt_too() -> None:
    common = {"prompt_id": "0", "seed": 0, "status": "ok", "correct": True, "thinking_closed": True, "n_tokens": 9}
    costs = {"normal": (None, 100.0), KEY: (False, 80.0), f"{KEY}+prompt": (True, 120.0)}
    rows = [
        {**common, "configuration": key, "prompt_exits": in_prompt, "macs_executed": cost, "macs_required": cost,
         "macs_prompt": 50.0}
        for key, (in_prompt, cost) in costs.items()
    ]  # fmt: skip
    for n_runs, expected in ((3, [150, 130, 120]), (2, [100, 80])):
        found = per_right(pa.Table.from_pylist(rows[:n_runs]), {"0": "0"})
        assert [found[key]["macs_executed"].taken.mean for key in [*costs][:n_runs]] == pytest.approx(expected)


def test_a_right_answer_takes_what_plain_pandas_says() -> None:
    found = per_right(pa.Table.from_pylist(runs()).select(COLUMNS), UNIT_OF)
    ok = pd.DataFrame(runs()).query("status == 'ok'").astype({"correct": float, "macs_executed": float})
    of_prompts = ok.groupby(["configuration", "prompt_id"]).mean(numeric_only=True).reset_index()
    of_prompts["unit"] = of_prompts.prompt_id.map(UNIT_OF)
    of_units = of_prompts.groupby(["configuration", "unit"]).mean(numeric_only=True)
    for key in ("normal", KEY, ORACLE):
        for name in TAKEN:
            pairs, of_normal = (of_units.loc[each][[name, "correct"]].dropna() for each in (key, "normal"))
            both = pairs.join(of_normal.add_suffix("_n"), how="inner")
            taken, beside = found[key][name].taken, found[key][name].beside_normal
            assert taken.n == len(pairs)
            if (key, name) == (ORACLE, "macs_executed"):
                assert taken.as_dict["mean"] is beside.as_dict["mean"] is None
                continue
            assert taken.mean == pytest.approx(pairs[name].sum() / pairs["correct"].sum())
            assert taken.low < taken.mean < taken.high
            if key != "normal":
                normal = both[f"{name}_n"].sum() / both["correct_n"].sum()
                assert beside.mean == pytest.approx(both[name].sum() / both["correct"].sum() / normal)
                assert (beside.n, beside.low < beside.mean < beside.high) == (len(both), True)
    for lack in ({"thinking_closed": None}, {"correct": None}, {"status": "error"}):
        rows = pa.Table.from_pylist([row | lack for row in runs()], schema=pa.Table.from_pylist(runs()).schema)
        assert per_right(rows, UNIT_OF) == {}, lack


def test_no_right_answer_has_no_price_and_all_of_them_are_not_certain() -> None:
    assert np.isnan(estimate_per_right(np.full(9, 5.0), np.zeros(9)).mean)
    found = estimate_per_right(np.full(50, 4.0), np.ones(50))
    assert [found.mean, found.low, found.high] == pytest.approx([4, 4, 4 / clopper_pearson(50, 50)[0]])
    beside = estimate_per_right(np.full(50, 4.0), np.ones(50), (np.full(50, 5.0), np.ones(50)))
    assert beside.low < beside.mean < beside.high


@pytest.mark.parametrize("right", [0.3, 0.85])
@pytest.mark.parametrize("n", [50, 500])
def test_the_interval_of_a_ratio_of_means_contains_it_as_often_as_stated(n: int, right: float) -> None:
    """Costs are log-normal, of skewness 3.3, and expensive texts are right less often."""
    truth = np.exp(0.75**2 / 2) / right
    covered = np.zeros((DRAWS, 3))
    generator, least = np.random.default_rng(n), np.sqrt(1.36) * ndtri(1 - np.array([right, NORMAL_RIGHT]))
    for at in range(DRAWS):
        hard_P, other_P, able_P, luck_P = generator.standard_normal((4, n))
        cost_P, normal_P = np.exp(0.75 * (0.8 * hard_P + 0.6 * other_P)), np.exp(0.75 * hard_P)
        right_P = (able_P - 0.6 * hard_P > least[0]).astype(float)
        normal_right_P = (0.7 * able_P + np.sqrt(0.51) * luck_P - 0.6 * hard_P > least[1]).astype(float)
        alone = estimate_per_right(cost_P, right_P)
        beside = estimate_per_right(cost_P, right_P, (normal_P, normal_right_P))
        (linear,) = estimate_ratios(cost_P[:, None], right_P[:, None])
        truths = (alone, truth), (beside, NORMAL_RIGHT / right), (linear, truth)
        covered[at] = [found.low <= true <= found.high for found, true in truths]
    covers, covers_beside, covers_linear = covered.mean(axis=0).tolist()
    assert [covers, covers_beside] == pytest.approx([0.95, 0.95], abs=0.015)
    assert covers_linear < covers, "that of the quotient itself, which is narrower than it should be"
