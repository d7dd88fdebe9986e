"""The verdict, given what the tables say: when it pays, which cause is the largest, and how both are told."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from eexit.quality.estimates import Estimate
from eexit.studies.assessment.verdict import (
    BATCHES,
    BEST,
    CEILING,
    DECIDING,
    GENERATE,
    LATE,
    MOST_ROWS,
    TRIED,
    Bound,
    Contender,
    Figures,
    Loss,
    judge,
)
from eexit.studies.assessment.words import as_json, closing_sentences, sentences, verdict_table

KEY = "frozen_residual/confidence/0.97@20,25"
SETTING = Contender(
    KEY,
    BEST,
    theory=0.30,
    run=0.25,
    allowed={1: 0.28, 32: 0.10},
    times={1: Estimate(0.80, 0.75, 0.86, 8), 32: Estimate(0.97, 0.93, 1.02, 8)},
    loss=Loss(0.004, 393),
    p_value=0.01,
    certified=True,
    reporting=Loss(0.01, 200),
)
FIGURES = Figures(
    Bound("answers", 0.02, 0.95),
    batches=(1, 32),
    head_in_layers=8.0,
    possible=0.60,
    ceiling=Contender("frozen_residual/agree", CEILING, theory=0.45, allowed={1: 0.4, 32: 0.2}),
    agrees_early=0.7,
    best=SETTING,
    others=(),
    n_tried=3,
    elsewhere={"llama-2-7b": 0.12},
)


def figures(**changed: Any) -> Figures:
    """With another setting."""
    return replace(FIGURES, best=replace(SETTING, **changed))


def test_it_pays_where_a_setting_is_certified_holds_costs_less_and_takes_less_time_at_one_batch_size() -> None:
    verdict = judge(FIGURES)
    assert (verdict.pays, verdict.cause, verdict.batch) == (True, None, 1)
    first, second, third = sentences(verdict)
    assert first == f"It pays here: {KEY} takes 80% of full depth's time (75 to 86) with 1 row at a time."
    assert (
        "With 95% confidence, the share of prompts whose answer normal gets right and the setting gets wrong" in second
    )
    assert "is at most 2% (0.4% of 393); of 200 other prompts, it is 1%." in second
    assert third == (
        "It saves 25.0% of the multiply-adds by what was run; the oracle agree would save 45.0%, and exits at the "
        "first layer 60.0%."
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"certified": False, "loss": Loss(0.03, 400)}, "of 3 settings tried, none is certified"),
        ({"certified": False, "loss": Loss(0.005, 200)}, "loses 0.5% over 200 prompts, which are too few to certify"),
        ({"reporting": Loss(0.03, 200)}, "was certified, but the share"),
        ({"run": -0.1}, "the cheapest of 3 settings"),
        ({"times": {1: Estimate(0.98, 0.9, 1.0, 8)}}, "takes 98% of full depth's time (90 to 100) with 1 row"),
        ({"times": {1: Estimate(0.8, math.nan, math.nan, 3)}}, "(– to –)"),
        ({"times": {}}, "was not timed"),
    ],
)
def test_each_of_the_four_conditions_is_needed(changed: dict[str, Any], said: str) -> None:
    verdict = judge(figures(**changed))
    assert not verdict.pays
    assert verdict.cause in (LATE, DECIDING, BATCHES)
    assert sentences(verdict)[0].startswith("It does not pay here")
    assert said in sentences(verdict)[0]


def test_only_the_batch_sizes_that_are_asked_about_count() -> None:
    assert not judge(replace(FIGURES, batches=(32,))).pays


@pytest.mark.parametrize(
    ("changed", "cause", "losses", "said"),
    [
        # Of 60 % that could be saved, the exits save 4 % in theory.
        ({"theory": 0.04, "run": -0.01}, LATE, (0.56, 0.05, 0.0), "56.0% is lost at this risk; the oracle agree"),
        # They would save 55 %, but looking costs all of it and more.
        ({"theory": 0.55, "run": -0.3}, DECIDING, (0.05, 0.85, 0.27), "runs 85.0% of full depth's multiply-adds for"),
        # They would save 55 %, and T(rows, layers) leaves 2 % of it at the best batch size.
        (
            {"theory": 0.55, "run": 0.5, "allowed": {1: 0.02, 32: 0.0}, "times": {}},
            BATCHES,
            (0.05, 0.05, 0.53),
            "of 55.0% saved in theory, 1 row at a time allow 2.0% of the time, 53.0% less",
        ),
        # What is not certified saves nothing that is shown.
        ({"certified": False, "theory": 0.55, "run": 0.54}, LATE, (0.6, 0.01, 0.27), "60.0% is lost at this risk"),
    ],
)
def test_otherwise_the_largest_loss_is_the_cause(
    changed: dict[str, Any], cause: str, losses: tuple[float, ...], said: str
) -> None:
    verdict = judge(figures(**changed))
    assert verdict.cause == cause
    assert tuple(verdict.losses.values()) == pytest.approx(losses)
    assert said in sentences(verdict)[1]


def test_what_would_have_to_be_different_is_said() -> None:
    assert "At the prices of llama-2-7b, the exits of" in sentences(judge(figures(theory=0.55, run=-0.3)))[2]
    assert "70.0% agree with full depth at any exitable layer" in sentences(judge(figures(theory=0.0, run=-0.1)))[2]
    busy = replace(figures(theory=0.55, run=0.5, allowed={1: 0.5, 32: 0.0}, times={}), batches=(32,))
    assert sentences(judge(busy))[2] == "With one row at a time, these exits would allow 50.0% of the time."


def test_without_any_setting_tokens_are_certain_too_late() -> None:
    verdict = judge(replace(FIGURES, best=None))
    assert (verdict.cause, verdict.losses[LATE]) == (LATE, 0.6)
    assert "no token leaves early at any setting" in sentences(verdict)[0]


def test_a_faster_generate_is_not_kept_quiet() -> None:
    own = Contender("generate", GENERATE, times={1: Estimate(0.5, 0.4, 0.6, 8)})
    said = list(closing_sentences(judge(replace(FIGURES, others=[own])), {"look": 61.0, "run": 59.4}, ["A remark."]))
    assert said == [
        f"Transformers' own generate, at full depth, takes 50% of that time with 1 row at a time: less than {KEY}.",
        "A remark.",
        "Minutes: look 1:01, run 0:59; 2:00 in all.",
    ]


def test_the_file_has_what_its_description_says_and_the_table_six_rows_at_most() -> None:
    others = [replace(SETTING, key=f"frozen_residual/entropy/{n}", role=TRIED) for n in range(9)]
    verdict = judge(replace(FIGURES, others=others))
    content = json.loads(as_json(verdict, "m", {"look": 61.04}, ["A remark."]))
    assert {name: content[name] for name in ("format", "pays", "cause", "model", "setting", "seconds", "remarks")} == {
        "format": 1, "pays": True, "cause": None, "model": "m", "setting": KEY, "seconds": {"look": 61.0},
        "remarks": ["A remark."],
    }  # fmt: skip
    assert content["sentences"] == list(sentences(verdict))
    assert len(content["rows"]) == MOST_ROWS
    first = content["rows"][0]
    assert [first[f"time_at_1{end}"] for end in ("", "_low", "_high")] == [0.8, 0.75, 0.86]
    assert [first[f"time_at_32{end}"] for end in ("", "_low", "_high")] == [0.97, 0.93, 1.02]
    assert all(row.keys() == first.keys() for row in content["rows"])
    assert content["rows"][1] == {
        "setting": "frozen_residual/agree", "role": "ceiling", "saved_in_theory": 0.45, "saved_by_what_was_run": None,
        "time_at_1": None, "time_at_1_low": None, "time_at_1_high": None, "allowed_at_1": 0.4,
        "time_at_32": None, "time_at_32_low": None, "time_at_32_high": None, "allowed_at_32": 0.2,
        "loss": None, "n": None, "certified": False,
    }  # fmt: skip
    console = Console(width=80, record=True)
    console.print(verdict_table(verdict))
    printed = console.export_text()
    assert max(map(len, printed.splitlines())) <= 80
    assert printed.count("frozen_residual/") == MOST_ROWS


def test_every_sentence_is_short() -> None:
    for changed in ({}, {"certified": False}, {"theory": 0.55, "run": -0.3}, {"theory": 0.04, "run": -0.01}):
        assert all(len(text.split()) <= 45 for text in sentences(judge(figures(**changed))))
