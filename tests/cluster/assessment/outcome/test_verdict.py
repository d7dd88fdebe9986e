"""The verdict, given what the tables say: when it pays, which cause is the largest, and how both are told."""

import json
import math
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from options import options_of
from rich.console import Console

from cluster.assessment.outcome.causes import ledger_sentence, models_part
from cluster.assessment.outcome.verdict import (
    BEST,
    CEILING,
    DRAFT,
    GENERATE,
    TRIED,
    Bound,
    Contender,
    Figures,
    Loss,
    Texts,
    judge,
)
from cluster.assessment.outcome.words import as_json, closing_sentences, instead_sentence, sentences, verdict_table
from cluster.assessment.sizes import STEPS
from eexit.quality.estimates import Estimate
from eexit.studies.verdict_file import (
    BATCHES,
    DECIDING,
    KNOWING,
    MEANINGS,
    MODEL,
    MOST_ROWS,
    OVERHEAD,
    PROOF,
    RESTRICTIONS,
    STATE,
)

KEY = "frozen_residual/confidence/0.97@20,25"
SETTING = Contender(
    KEY,
    BEST,
    theory=0.30,
    run=0.25,
    allowed={1: 0.28, 32: 0.10},
    times={1: Estimate(0.80, 0.75, 0.86, 8), 32: Estimate(0.97, 0.93, 1.02, 8)},
    loss=Loss(0.004, 393),
    certified=True,
    reporting=Loss(0.01, 200),
)
FIGURES = Figures(
    Bound("answers", 0.02, 0.95),
    batches=(1, 32),
    head_in_layers=8.0,
    possible=0.60,
    options=options_of(0.45, 0.4, 0.35, (0.30, 0.25, {1: 0.28, 32: 0.10}, SETTING.times)),
    ceiling=Contender("unfrozen/agree", CEILING, theory=0.45, allowed={1: 0.4, 32: 0.2}),
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
    verdict = judge(figures(of_right=Loss(0.006, 290), of_generate={1: Estimate(1.3, 1.1, 1.5, 8)}))
    assert (verdict.pays, verdict.cause, verdict.batch) == (True, None, 1)
    first, second, third = sentences(verdict)
    assert first == (
        f"It pays here: {KEY} takes 80% of full depth's time (75 to 86) and 1.30 times that of "
        "transformers' generate with 1 row at a time."
    )
    assert (
        "With 95% confidence, the share of prompts whose answer normal gets right and the setting gets wrong" in second
    )
    assert (
        "is at most 2% (0.4% of 393 and 0.6% of the 290 that full depth gets right); of 200 other prompts, it is 1%."
        in second
    )
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
        (
            {"times": {1: Estimate(0.8, math.nan, math.nan, 3)}},
            "80% of full depth's time (too few rounds for an interval) with 1 row",
        ),
        ({"times": {}}, "was not timed"),
    ],
)
def test_each_of_the_four_conditions_is_needed(changed: dict[str, Any], said: str) -> None:
    verdict = judge(figures(**changed))
    assert not verdict.pays
    assert verdict.cause in RESTRICTIONS
    assert sentences(verdict)[0].startswith("It does not pay here")
    assert said in sentences(verdict)[0]
    assert json.loads(as_json(verdict, "m", {}, []))["by_time"] == ("of full depth's time" in said)


def test_where_texts_have_chains_a_right_answer_has_to_take_less_too() -> None:
    dear = figures(per_right=Estimate(1.04, 0.97, 1.12, 393))
    verdict = judge(dear)
    assert (verdict.pays, verdict.cause in RESTRICTIONS) == (False, True)
    assert sentences(verdict)[0] == (
        f"It does not pay here: {KEY}, certified, takes 1.04 [0.97, 1.12] times full depth's multiply-adds per right "
        "answer (n = 393)."
    )
    verdict = judge(figures(per_right=Estimate(0.9, 0.84, 0.97, 393)))
    assert verdict.pays
    assert "it takes 0.90 [0.84, 0.97] times full depth's" in " ".join(closing_sentences(verdict, {}, []))
    row = json.loads(as_json(verdict, "m", {}, []))["rows"][0]
    assert (row["per_right"], row["per_right_high"], row["per_right_n"]) == (0.9, 0.97, 393)
    assert "per_right" not in json.loads(as_json(judge(FIGURES), "m", {}, []))["rows"][0]


def test_a_certificate_says_which_ask_it_is_and_what_its_texts_are_like() -> None:
    given = replace(figures(texts=Texts(0.61, 0.6, 0.04)), ask=3)
    verdict = judge(given)
    assert "(0.4% of 393, by the third ask of these prompts)" in sentences(verdict)[1]
    content = json.loads(as_json(verdict, "m", {}, []))
    assert content["ask"] == 3
    assert [content["rows"][0][name] for name in ("accuracy", "normal_accuracy", "changed")] == [0.61, 0.6, 0.04]


def test_only_the_batch_sizes_that_are_asked_about_count() -> None:
    assert not judge(replace(FIGURES, batches=(32,))).pays


# The lines of ten ledgers: ceiling, state, knowing, proof, and of what is proven: run, allowed and time of one row.
LEDGERS = [
    (STATE, (0.279, 0.07, 0.05, None), "What exits leave behind takes most: of 27.9% that the oracle agree would save"),
    (STATE, (0.279, 0.02, 0.02, (0.018, 0.012, 0.015, 0.99)), "25.9% is lost without that; within the bound"),
    (KNOWING, (0.279, 0.25, 0.04, None), "of 25.0% that an oracle saves there, online rules lose 21.0%"),
    (KNOWING, (0.279, 0.279, 0.0, None), "full depth keeps the bound and saves 0.0%"),
    (PROOF, (0.279, 0.25, 0.2, None), "knowing would save 20.0% by its mean loss, of which 20.0% is not certified"),
    (PROOF, (0.279, 0.25, 0.2, (0.05, 0.05, 0.04, 0.97)), "of which 15.0% is not certified; proven saves 5.0%"),
    (DECIDING, (0.279, 0.27, 0.26, (0.25, -0.3, 0.24, 1.3)), "Deciding takes most: 55.0% of full depth's"),
    (BATCHES, (0.279, 0.27, 0.26, (0.25, 0.24, 0.02, 1.0)), "allow proven 1.0% of the time, 23.0% less than what was"),
    (
        OVERHEAD,
        (0.279, 0.27, 0.26, (0.25, 0.24, 0.24, 1.1)),
        "would allow proven 23.0% of the time, and the clock says",
    ),
    (MODEL, (0.0, 0.0, 0.0, None), "The model leaves nothing to save: the oracle agree itself saves 0.0%."),
]


@pytest.mark.parametrize(("cause", "lines", "said"), LEDGERS)
def test_otherwise_the_largest_line_of_the_ledger_is_the_cause(
    cause: str, lines: tuple[float, float, float, Any], said: str
) -> None:
    ceiling, state, knowing, proven = lines
    given = FIGURES
    if proven is None:
        given = figures(certified=False, loss=Loss(0.015, 393), times={})
    else:
        time = Estimate(proven[3], proven[3] - 0.005, proven[3] + 0.05, 8)
        proven = (*proven[:2], {1: proven[2]}, {1: time})
        given = figures(run=proven[1], times={1: time})
    given = replace(given, batches=(1,), options=options_of(ceiling, state, knowing, proven))
    verdict = judge(given)
    assert (verdict.pays, verdict.cause) == (False, cause), ledger_sentence(verdict)
    assert said in sentences(verdict)[1]
    assert all(len(text.split()) <= 45 for text in sentences(verdict))


def test_every_cause_has_words() -> None:
    assert list(MEANINGS) == [*RESTRICTIONS, MODEL]


def test_what_would_have_to_be_different_is_said() -> None:
    in_vain = replace(
        figures(certified=False, loss=Loss(0.01, 393), times={}, would_do=969), options=options_of(0.3, 0.25, 0.2)
    )
    assert sentences(judge(in_vain))[2] == (
        f"About 969 prompts for choosing would certify {KEY} with a chance of 80%, if it goes on losing 1%; there were "
        "393 prompts."
    )
    costly = options_of(0.3, 0.29, 0.28, (0.27, -0.3, {}, {}))
    assert (
        "At the prices of llama-2-7b, the exits of" in sentences(judge(replace(figures(run=-0.3), options=costly)))[2]
    )
    late = options_of(0.3, 0.0, 0.0)
    assert "70.0% of the tokens agree" in sentences(judge(replace(figures(certified=False, times={}), options=late)))[2]
    busy = options_of(0.3, 0.29, 0.28, (0.27, 0.27, {32: 0.2}, {32: Estimate(1, 0.98, 1.02, 8)}))
    waiting = replace(figures(times={32: Estimate(1, 0.98, 1.02, 8)}), batches=(32,), options=busy)
    assert sentences(judge(waiting))[2] == (
        "If all 32 rows left at the same steps, and deciding took no time, 10.0% of the time would be saved."
    )


def test_what_lies_beyond_the_oracle_is_the_models() -> None:
    verdict = judge(FIGURES)
    assert models_part(verdict).startswith("Leaving at the first layer would save 60.0%; 15.0% of it is the model's")
    assert ledger_sentence(verdict) == (
        "Of full depth, the oracle would save 45.0%, state -5.0%, knowing -5.0%, proof -5.0%, deciding -5.0%, batches "
        "-2.0%, overhead -3.0%: 20.0% is left."
    )


def test_without_any_setting_the_ledger_ends_at_full_depth() -> None:
    verdict = judge(replace(FIGURES, best=None, options=options_of(0.3, 0.2, 0.0)))
    assert (verdict.cause, verdict.ledger.lines[-1].left, verdict.ledger.batch) == (KNOWING, 0.0, None)
    assert "no token leaves early at any setting" in sentences(verdict)[0]


PAYS_NOT = replace(FIGURES, best=None, options=options_of(0.3, 0.2, 0.0))


@pytest.mark.parametrize("whole", [FIGURES, figures(certified=False), PAYS_NOT], ids=["pays", "not certified", "none"])
def test_an_assessment_that_lacks_any_steps_concludes_nothing(whole: Figures) -> None:
    assert judge(whole).pays is not None
    for n_missing in range(1, len(STEPS) + 1):
        for missing in combinations(STEPS, n_missing):
            verdict = judge(replace(whole, missing=missing))
            content = json.loads(as_json(verdict, "m", {}, []))
            known = [content[name] for name in ("pays", "cause", "ledger", "instead", "setting")]
            assert known == [None] * 5
            said = " ".join([*sentences(verdict), *closing_sentences(verdict, {}, [])])
            assert said.startswith("It is not known whether it pays here: step")
            assert all(step in said for step in missing)
            assert "takes most" not in said
            assert "lose" not in said


def test_a_setting_that_loses_all_right_answers_is_near_to_nothing() -> None:
    verdict = judge(figures(certified=False, loss=Loss(0.9, 10), of_right=Loss(1.0, 9)))
    assert sentences(verdict)[0] == "It does not pay here: no setting keeps any of the 9 right answers."
    assert "nearest" not in [*verdict_table(verdict).columns[0].cells]
    assert "nearest" in [*verdict_table(judge(figures(certified=False))).columns[0].cells]


FAST, SLOW = Estimate(0.5, 0.4, 0.6, 8), Estimate(0.9, 0.8, 1.02, 8)
OWN, PERHAPS = Contender("generate", GENERATE, times={1: FAST}), Estimate(0.7, 0.52, 1.06, 6)
DRAFTED = Contender("draft/20:4", DRAFT, times={1: SLOW, 32: Estimate(0.4, 0.3, 0.5, 8)})


@pytest.mark.parametrize(
    ("alternatives", "taken"),
    [
        ([], None),
        ([OWN], ("generate", 1)),
        ([OWN, DRAFTED], ("draft/20:4", 32)),
        ([replace(DRAFTED, times={1: SLOW})], None),
    ],
)
def test_what_takes_least_time_of_all_that_keeps_the_bound_is_named(
    alternatives: list[Contender], taken: tuple[str, int] | None
) -> None:
    for figures in (FIGURES, replace(FIGURES, best=None)):
        verdict = judge(replace(figures, alternatives=alternatives))
        found = verdict.instead
        assert (found and (found.contender.key, found.batch)) == taken
        told, said = json.loads(as_json(verdict, "m", {}, []))["instead"], instead_sentence(verdict)
        assert (told and (told["setting"], told["batch"], told["sentence"])) == (taken and (*taken, said))
        assert next(closing_sentences(verdict, {}, [])) == said
        assert ("pays most is" in said) == (taken is not None)


def test_a_setting_that_takes_least_itself_is_not_called_an_alternative() -> None:
    slower = replace(OWN, times={1: Estimate(0.9, 0.88, 0.95, 8)})
    assert judge(replace(FIGURES, alternatives=[slower])).instead is None
    assert judge(replace(FIGURES, best=None, alternatives=[slower])).instead == (slower, 1)


def test_what_was_timed_in_the_first_look_alone_is_not_called_what_pays_most() -> None:
    verdict = judge(replace(FIGURES, alternatives=[OWN], were_timed=False))
    assert verdict.instead is None
    assert next(closing_sentences(verdict, {}, [])).startswith("What pays most is not known: ")


def test_what_too_few_prompts_certify_says_which_ask_of_them_it_was() -> None:
    few = figures(certified=False, loss=Loss(0.005, 200))
    assert "over 200 prompts, which are too few" in sentences(judge(few))[0]
    said = "over 200 prompts, by the fourth ask of these prompts, which are too few"
    assert said in sentences(judge(replace(few, ask=4)))[0]


def test_what_was_timed_in_too_few_rounds_for_an_interval_leaves_open_what_pays_most() -> None:
    few = Estimate(0.66, math.nan, math.nan, 3)
    verdict = judge(replace(FIGURES, best=None, alternatives=[replace(DRAFTED, times={1: few})]))
    assert verdict.instead is None
    assert next(closing_sentences(verdict, {}, [])) == (
        "What pays most is not known: draft/20:4 takes 66% of full depth's time (too few rounds for an "
        "interval) with 1 row at a time."
    )
    perhaps = replace(OWN, times={1: PERHAPS})
    unsure = judge(replace(FIGURES, best=None, alternatives=[perhaps, replace(DRAFTED, times={1: few})])).unsure
    assert unsure
    assert (unsure.contender.key, unsure.batch) == (DRAFTED.key, 1)
    proven = judge(replace(FIGURES, best=None, alternatives=[OWN, replace(DRAFTED, times={1: few})]))
    assert (proven.instead, proven.unsure) == ((OWN, 1), None)


def test_what_takes_less_but_not_certainly_is_named_with_its_interval() -> None:
    alternatives = [replace(OWN, times={1: PERHAPS}), replace(DRAFTED, times={1: SLOW})]
    verdict = judge(replace(FIGURES, best=None, alternatives=alternatives))
    assert verdict.instead is None
    assert next(closing_sentences(verdict, {}, [])) == (
        "Nothing that could be taken instead takes certainly less time within the bound; nearest to it, generate takes "
        "70% of full depth's time (52 to 106) with 1 row at a time."
    )


def test_after_the_verdict_come_what_to_take_instead_remarks_and_minutes() -> None:
    verdict = judge(replace(FIGURES, alternatives=[OWN]))
    said = list(closing_sentences(verdict, {"look": 61.0, "run": 59.4}, ["A remark."]))
    assert said[0] == (
        "What pays most is generate, which takes 50% of full depth's time (40 to 60) with 1 row at a time; its texts "
        "are full depth's. It is transformers' own: model.generate(**inputs)."
    )
    assert said[3:] == ["A remark.", "Minutes: look 1:01, run 0:59; 2:00 in all."]


def test_the_file_has_what_its_description_says_and_the_table_ten_rows_at_most() -> None:
    others = [replace(SETTING, key=f"frozen_residual/entropy/{n}", role=TRIED) for n in range(9)]
    verdict = judge(replace(FIGURES, others=others))
    content = json.loads(as_json(verdict, "m", {"look": 61.04}, ["A remark."]))
    assert {name: content[name] for name in ("format", "pays", "cause", "model", "setting", "seconds", "remarks")} == {
        "format": 3, "pays": True, "cause": None, "model": "m", "setting": KEY, "seconds": {"look": 61.0},
        "remarks": ["A remark."],
    }  # fmt: skip
    assert content["sentences"] == list(sentences(verdict))
    assert len(content["rows"]) == MOST_ROWS
    first = content["rows"][0]
    assert [first[f"time_at_1{end}"] for end in ("", "_low", "_high")] == [0.8, 0.75, 0.86]
    assert [first[f"time_at_32{end}"] for end in ("", "_low", "_high")] == [0.97, 0.93, 1.02]
    assert all(row.keys() == first.keys() for row in content["rows"])
    assert content["rows"][1] == {
        "setting": "unfrozen/agree", "role": "ceiling", "saved_in_theory": 0.45, "saved_by_what_was_run": None,
        "time_at_1": None, "time_at_1_low": None, "time_at_1_high": None,
        **dict.fromkeys((f"time_at_1_of_generate{end}" for end in ("", "_low", "_high")), None), "allowed_at_1": 0.4,
        "time_at_32": None, "time_at_32_low": None, "time_at_32_high": None,
        **dict.fromkeys((f"time_at_32_of_generate{end}" for end in ("", "_low", "_high")), None), "allowed_at_32": 0.2,
        "loss": None, "n": None, "loss_of_right": None, "n_of_right": None,
        "certified": False,
        "accuracy": None, "normal_accuracy": None, "changed": None,
    }  # fmt: skip
    taken = [line["taken"] for line in content["ledger"]["lines"]]
    assert content["ledger"]["ceiling"]["saved"] - sum(taken) == pytest.approx(content["ledger"]["lines"][-1]["left"])
    assert (content["possible"], content["ledger"]["batch"]) == (0.6, 1)
    console = Console(width=80, record=True)
    console.print(verdict_table(verdict))
    printed = console.export_text()
    assert max(map(len, printed.splitlines())) <= 80
    assert printed.count("F·") == MOST_ROWS, (
        "one row is the oracle's, and a line says what one of the names is short for"
    )
    assert printed.count("frozen_residual/") == 1
