"""Losses of prompts and configurations, against plain loops over the runs."""

import math
from collections.abc import Callable
from itertools import product
from random import Random
from statistics import fmean
from typing import Any

import pyarrow as pa
import pytest

from eexit.quality.risks import RISKS, answers_tell, losses

# Each risk's definition again, for one run: number, normal's number → loss; the best number; and a draw of numbers.
BY_HAND: dict[str, tuple[Callable[[float, float], float], float | None, Callable[[Random], Any]]] = {
    "disagreement": (lambda number, normal: number, None, Random.random),
    "answers": (lambda number, normal: float(normal > number), 1.0, lambda random: random.random() < 0.6),
    "perplexity": (
        lambda number, normal: 1 - normal / number if number > normal else 0.0, 1.0,
        lambda random: random.uniform(1, 10),
    ),
    "judge": (
        lambda number, normal: (normal - number) / 4 if number < normal else 0.0, 5.0,
        lambda random: random.randint(4, 20) / 4,
    ),
}  # fmt: skip
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


def mean_of_known(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


@pytest.mark.parametrize("risk", RISKS)
def test_losses_are_averaged_over_seeds_and_then_over_prompts_of_the_same_text(risk: str) -> None:
    runs, column, (by_hand, best, _) = runs_of(risk), RISKS[risk].column, BY_HAND[risk]
    run_of = {(run["prompt_id"], run["configuration"], run["draw"]): run for run in runs}

    def loss(prompt: int, configuration: str, seed: int) -> float | None:
        mine, normal = (run_of[f"{prompt}", key, f"{seed}"] for key in (configuration, "normal"))
        if mine["status"] == "error":
            return 1.0
        number = best if normal["status"] == "error" and best is not None else normal[column]
        if mine[column] is None or (number is None and RISKS[risk].compares):
            return None
        return by_hand(mine[column], number)

    found = losses(RISKS[risk], pa.Table.from_pylist(Random(1).sample(runs, len(runs))))
    assert sorted(found.units) == [f"text {text}" for text in range(6)]
    for text, configuration in product(range(6), CONFIGURATIONS):
        of_prompts = [
            mean_of_known([loss(prompt, configuration, seed) for seed in range(3)]) for prompt in range(text, 7, 6)
        ]
        at = found.units.index(f"text {text}"), found.configurations.index(configuration)
        expected = mean_of_known(of_prompts)
        assert found.loss_PC[at] == pytest.approx(math.nan if expected is None else expected, nan_ok=True)
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
