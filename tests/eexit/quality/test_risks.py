"""Losses of prompts and configurations, against the same in pandas."""

import math
from collections.abc import Callable
from itertools import product
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from eexit.quality.risks import RISKS, answers_tell, losses

# Each risk's definition again: numbers, normal's numbers → losses; the best number; and a draw of numbers.
BY_HAND: dict[str, tuple[Callable[[pd.Series, pd.Series], pd.Series], float, Callable[[Random], Any]]] = {
    "disagreement": (lambda number, normal: number, math.nan, Random.random),
    "answers": (lambda number, normal: (normal - number).clip(0), 1.0, lambda random: random.random() < 0.6),
    "perplexity": (lambda number, normal: (1 - normal / number).clip(0), 1.0, lambda random: random.uniform(1, 10)),
    "judge": (lambda number, normal: (normal - number).clip(0) / 4, 5.0, lambda random: random.randint(4, 20) / 4),
}
CONFIGURATIONS = ["normal", "skip/kl/1", "skip/kl/2"]


def runs_of(risk: str) -> list[dict[str, Any]]:
    """Return seven prompts, two with the same text, and three seeds; some runs have no number, and some failed."""
    random = Random(risk)
    rows: list[dict[str, Any]] = [
        {"prompt_id": f"{prompt}", "unit": f"text {prompt % 6}", "configuration": configuration, "draw": f"{seed}"}
        for prompt, configuration, seed in product(range(7), CONFIGURATIONS, range(3))
    ]
    for row in rows:
        row["status"] = "error" if random.random() < 0.15 and row["prompt_id"] != "4" else "ok"
        unknown = row["status"] == "error" or random.random() < 0.2 or row["prompt_id"] == "4"
        row[RISKS[risk].column] = None if unknown else BY_HAND[risk][2](random)
    return rows


@pytest.mark.parametrize("risk", RISKS)
def test_losses_are_averaged_over_seeds_and_then_over_prompts_of_the_same_text(risk: str) -> None:
    runs, column, (by_hand, best, _) = runs_of(risk), RISKS[risk].column, BY_HAND[risk]
    rows = pd.DataFrame(runs).astype({column: float}).set_index(["prompt_id", "draw"])
    has_failed, is_normal = rows["status"] == "error", rows["configuration"] == "normal"
    normal = rows[column].mask(has_failed, best)[is_normal].reindex(rows.index)
    rows["loss"] = by_hand(rows[column], normal).mask(has_failed, 1.0)
    of_prompts = rows.groupby(["prompt_id", "unit", "configuration"])["loss"].mean()
    expected = of_prompts.groupby(["unit", "configuration"]).mean().unstack()
    found = losses(RISKS[risk], pa.Table.from_pylist(Random(1).sample(runs, len(runs))))
    assert sorted(found.units) == [f"text {text}" for text in range(6)]
    np.testing.assert_allclose(found.loss_PC, expected.loc[[*found.units], [*found.configurations]])
    n_known = max(len(found.losses_of(configuration)) for configuration in CONFIGURATIONS)
    assert (n_known, len(found.losses_of("skip/kl/3"))) == (5, 0), "a prompt without any number counts nowhere"
    again = losses(RISKS[risk], pa.Table.from_pylist(runs))
    assert again.units == found.units, "an order that depends on the texts alone, whatever that of the runs"
    ok = losses(RISKS[risk], pa.Table.from_pylist([run for run in runs if run["status"] == "ok"]))
    assert not RISKS[risk].compares or set(ok.losses_of("normal")) == {0.0}, "normal loses nothing beside itself"


def test_without_groups_or_in_equal_ones_the_mean_over_prompts_is_that_over_groups() -> None:
    row = {"configuration": "skip/kl/1", "draw": "0", "status": "ok"}
    rows = [{**row, "prompt_id": f"{n}", "unit": f"{n // 2}", "disagreement": n / 8} for n in range(8)]
    assert losses(RISKS["disagreement"], pa.Table.from_pylist(rows)).over_prompts("skip/kl/1") is None
    unequal = losses(RISKS["disagreement"], pa.Table.from_pylist(rows[1:]))
    assert unequal.over_prompts("skip/kl/1") == pytest.approx((sum(range(1, 8)) / 8 / 7, 7))


def test_lost_answers_tell_something_only_if_losing_half_of_the_right_ones_breaks_the_bound() -> None:
    rates = 0.0, 0.0064, 0.04, 0.041, 0.6  # the second is a random model's; half of the third may be lost
    assert [answers_tell(rate, 0.02) for rate in rates] == [False, False, False, True, True]
