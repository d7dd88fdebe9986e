"""Choosing a setting of a finished sweep: what is printed, what lands, and what is refused."""

import shutil
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
import pytest
from blank_rows import blank
from commands import here
from full_disk import left, on_a_full_disk
from landed_sweep import land_rows
from scripted import sweep_of

from eexit.output.text import short_percent
from eexit.plan.runs import Run, plan_runs
from eexit.plan.splits import in_pilot_split, in_test_split
from eexit.quality.learn_then_test import alpha_share
from eexit.quality.risk_tests import betting, exact_binomial, prompts_needed, prompts_without_loss
from eexit.quality.rubric import ASPECTS
from eexit.results.store.folder import open_store
from eexit.results.study_tables import CHOICES, JUDGEMENTS, TIMINGS
from jobs.choose import main

PROMPTS = [f"What is {n} plus {n}?" for n in range(120)]
CHOOSING = [prompt for prompt in PROMPTS if not in_test_split(prompt)]
REPORTING = [prompt for prompt in PROMPTS if in_test_split(prompt)]
SEEDS = (0, 1)
RULES = {"confidence": (0.5, 0.9, 0.99), "fixed": (5.0,), "agree": (), "kl": (1.0,)}
CONFIG = sweep_of("a-model", *PROMPTS, rules=RULES, modes=["normal", "skip"], seeds=SEEDS)
FIRST = alpha_share(0.95)  # what the first ask may err with
COSTS = {"skip/confidence/0.99": 0.9, "skip/confidence/0.9": 0.7, "skip/confidence/0.5": 0.4, "skip/fixed/5": 0.6}


def disagreement(key: str, seed: int) -> float:
    """Of 0.99 nothing; of 0.9, 4 % on average, as 0 and 8 % with the two seeds; of others 30 %."""
    return {"normal": 0, "skip/confidence/0.99": 0, "skip/confidence/0.9": 0.08 * seed}.get(key, 0.3)


def number(run: Run) -> dict[str, Any]:
    key = run.configuration.key
    share = COSTS.get(key)
    return {
        "disagreement": disagreement(key, run.seed),
        "perplexity": 2.0,
        "mean_depth": share or 0.5,
        "macs_full": 100.0,
        "macs_required": 100.0 * (share or 0.5),
        "macs_executed": 100.0 * (share or 1) if key == "normal" or share else None,
    }


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return land_rows(tmp_path_factory.mktemp("chosen") / "out", CONFIG, number)


@pytest.fixture
def finished(swept: Path, tmp_path: Path) -> Path:
    """Of which nothing was asked."""
    return Path(shutil.copytree(swept, tmp_path / "finished"))


def chosen(*arguments: str | Path) -> tuple[int, str]:
    """The exit code, and what is printed without its table's line breaks."""
    done = here(main, *arguments)
    return done.returncode, " ".join(f"{done.stdout}{done.stderr}".split())


def last_choice(out: Path) -> dict[str, Any]:
    row: dict[str, Any] = CHOICES.read(open_store(out)).to_pylist()[-1]
    return row


def test_the_cheapest_certified_setting_is_named_with_its_guarantee_the_naive_choice_and_the_check(
    finished: Path,
) -> None:
    code, said = chosen(finished, "--risk", "disagreement", "--max-risk", "0.05", "--order", "passed-on")
    assert code == 0
    n = len(CHOOSING)
    row = last_choice(finished)
    means = [fmean(disagreement(key, seed) for seed in SEEDS) for key in COSTS]
    tested = {its["configuration"]: its for its in row["tested"]}
    assert list(tested) == list(COSTS), "each family from the conservative end to the bold one"
    assert [its["mean_loss"] for its in tested.values()] == pytest.approx(means)
    assert [its["n"] for its in tested.values()] == [n] * 4
    p_values = [float(betting(np.full(n, mean), 0.05, FIRST)) for mean in means]
    assert [its["p_value"] for its in tested.values()] == pytest.approx(p_values)
    assert [its["certified"] for its in tested.values()] == [True, False, False, False]
    assert (row["families"], row["error_of_each"], row["seeds"]) == (
        ["skip/confidence", "skip/fixed"],
        pytest.approx(FIRST / 2),
        2,
    )
    assert (row["configuration"], row["mean_loss"], row["n"], row["cost"]) == ("skip/confidence/0.99", 0, n, 0.9)
    assert (row["naive_configuration"], row["naive_mean_loss"]) == ("skip/confidence/0.9", pytest.approx(0.04))
    assert (row["reporting_n"], row["naive_reporting_mean_loss"]) == (len(REPORTING), pytest.approx(0.04))
    assert 1 - 0.05 ** (1 / len(REPORTING)) < row["reporting_upper"] < 0.2
    assert pd.read_parquet(finished / "choices").columns.tolist() == CHOICES.schema.names
    for sentence in (
        "families, which share the error; one that is through passes its part on 2 seeds, averaged first 2 ",
        "Left out: skip/agree: no order from conservative to bold, which a sequence of tests needs.",
        "Left out: skip/kl: oracles save nothing at run time; --cost needed or --cost depth compares them.",
        f"skip/confidence/0.9 4% {n} ",
        "no: stopped here skip/confidence/0.5 30% ",
        "Cost: multiply-adds of what was run, as a share of those of full depth.",
        "Ask 1 of these prompts, of 1 planned: it may err with 4.75%, all asks with 5%.",
        "Certified: skip/confidence/0.99, the cheapest that is, at 90% of full depth.",
        "With 95% confidence, over prompts like these, the mean share of tokens unlike full depth's is at "
        f"most 5%. n = {n}, mean 0%, p = ",
        "its speed (eexit timings RESULTS) not measured",
        f"certified skip/confidence/0.99 90% 0% 0% {len(REPORTING)} ",
        f"naive skip/confidence/0.9 70% 4% 4% {len(REPORTING)} ",
        "which has no guarantee.",
        "not tested",
        f'pd.read_parquet("{finished}/choices")',
    ):
        assert sentence in said


def test_where_none_is_certified_it_says_how_many_prompts_would_do(finished: Path, tmp_path: Path) -> None:
    again = shutil.copytree(finished, tmp_path / "elsewhere" / "finished")
    asked = ("--risk", "disagreement", "--order", "passed-on", "--configurations")
    code, said = chosen(finished, *asked, "skip/confidence/0.9")
    assert code == 1
    assert last_choice(finished)["configuration"] is None
    enough = prompts_needed(betting, np.full(len(CHOOSING), 0.04), 0.05, FIRST)
    assert enough is not None
    assert enough == last_choice(finished)["tested"][0]["prompts_needed"]
    assert f"skip/confidence/0.9 4% {len(CHOOSING)} 0.41 {enough:,} 70% no: stopped here" in said
    assert "No setting is certified with 95% confidence that the mean share of tokens unlike full depth's is at" in said
    assert "Use normal. A setting without any loss would be certified with 60 prompts for choosing." in said
    code, said = chosen(again, *asked, "skip/confidence/0.5")
    assert code == 1
    assert f"skip/confidence/0.5 30% {len(CHOOSING)} 1 – 40% no: stopped here" in said, "no number would do"
    assert "certified none 0 naive none 0 " in said


def test_an_oracle_is_only_chosen_by_what_it_would_save_and_it_says_so(finished: Path) -> None:
    code, said = chosen(finished, "--risk", "perplexity", "--cost", "depth", "--rules", "kl")
    assert code == 0
    assert last_choice(finished)["configuration"] == "skip/kl/1"
    assert "It is an oracle, which looks at the final layer: at run time it saves nothing." in said
    assert "mean depth of the exits, as a fraction of all layers" in said
    assert "theoretical" not in said
    assert "certified skip/kl/1 " in said
    assert "naive skip/kl/1 " in said


def test_where_it_was_timed_the_realised_time_stands_beside_the_cost(finished: Path) -> None:
    for minute, (call, factor) in enumerate((("a", 1.0), ("b", 0.8))):
        named = blank(TIMINGS) | {"started": minute, "batch": 8, "tokens": 1}
        rows = [
            named | {"timing_id": call * 32, "configuration": key, "seconds": seconds}
            for key, seconds in (("normal", 3.0), ("skip/confidence/0.99", 2.0 * factor), ("generate", 1.0))
        ]
        TIMINGS.publish(open_store(finished), call * 32, rows)
    _, said = chosen(finished, "--risk", "disagreement", "--rules", "confidence")
    for beside, speed in (("normal", "1.68"), ("transformers' generate", "0.56")):
        assert f"its speed, as a multiple of that of {beside}, at 8 rows {speed} " in said, "over both calls"


def answered(run: Run) -> dict[str, Any]:
    """Normal is right in three of four, and the setting in all of them but the first."""
    n = PROMPTS.index(run.prompt.prompt)
    is_normal = run.configuration.mode == "normal"
    correct = n % 4 > 0 and (is_normal or n > 1)
    return {**number(run), "correct": correct, "lcs_share": 1.0 if is_normal or n % 3 else 0.5}


def test_lost_answers_are_those_that_normal_has_right(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"rules": {"confidence": (0.9,)}, "seeds": (0,)})
    out = land_rows(tmp_path / "out", config, answered)
    code, said = chosen(out, "--risk", "answers", "--max-risk", "0.04", "--order", "passed-on")
    assert code == 0
    choosing = [n for n, prompt in enumerate(PROMPTS) if prompt in CHOOSING]
    right, changed = (fmean(n % of > 0 for n in choosing) for of in (4, 3))
    (tested,) = last_choice(out)["tested"]
    lost_here = tested["mean_loss"]
    assert tested["normal_accuracy"] == pytest.approx(right)
    assert tested["accuracy"] == pytest.approx(right - lost_here)
    assert tested["changed"] == pytest.approx(1 - changed)
    kept, normals = (short_percent(share) for share in (right - lost_here, right))
    n_right = sum(n % 4 > 0 for n in choosing)
    n_lost = round(lost_here * len(choosing))
    assert (tested["n_of_right"], tested["loss_of_right"]) == (n_right, pytest.approx(n_lost / n_right))
    p_value = float(exact_binomial(np.arange(n_right) < n_lost, 0.04, FIRST))
    assert tested["p_of_right"] == pytest.approx(p_value)
    loss = short_percent(n_lost / n_right)
    assert (
        f"That is of all prompts: of the {n_right} that full depth gets right, it loses {loss}, for which nothing is "
        f"certified (p = {p_value:.2g})."
    ) in said
    assert f"right answers of normal {normals} its texts that max_new_tokens cut 100% right answers of the " in said
    assert f"certified setting {kept} of its texts, those that max_new_tokens cut 100% " in said
    assert f"its texts that are not those of normal {short_percent(1 - changed)} " in said
    lost = round(last_choice(out)["mean_loss"] * len(CHOOSING))
    losses = np.arange(len(CHOOSING)) < lost
    assert last_choice(out)["test"] == "exact"
    assert last_choice(out)["p_value"] == pytest.approx(float(exact_binomial(losses, 0.04, FIRST)))
    assert last_choice(out)["mean_loss"] == (0 if in_test_split(PROMPTS[1]) else 1 / len(CHOOSING))
    assert "the share of prompts whose answer full depth gets right and the setting gets wrong is at most 4%" in said


def test_a_setting_may_be_chosen_by_what_a_right_answer_takes(tmp_path: Path) -> None:
    """That of the bolder setting takes more, since its texts are longer."""

    def thinks(run: Run) -> dict[str, Any]:
        bold = run.configuration.key == "skip/confidence/0.5"
        cost = 0.2 if bold else 0.8 if run.configuration.key == "skip/confidence/0.9" else 1.0
        length = 7 if bold else 1
        return {
            "correct": PROMPTS.index(run.prompt.prompt) % 4 > 0, "thinking_closed": True, "lcs_share": 1.0,
            "macs_full": 100.0 * length, "macs_required": 50.0 * length, "macs_executed": 100.0 * cost * length,
        }  # fmt: skip

    config = CONFIG.model_copy(update={"rules": {"confidence": (0.5, 0.9)}, "seeds": (0,)})
    for cost, key, share in (("run", "skip/confidence/0.5", 0.2), ("right", "skip/confidence/0.9", 0.8)):
        out = land_rows(tmp_path / cost / "out", config, thinks)  # not side by side, where asks share the error
        code, said = chosen(out, "--risk", "answers", "--order", "passed-on", "--cost", cost)
        assert code == 0
        assert (last_choice(out)["configuration"], last_choice(out)["cost"]) == (key, pytest.approx(share))
    assert "its multiply-adds per right answer, as a multiple of normal's 0.80 [0.80, 0.80] " in said


def test_where_losing_every_right_answer_would_pass_there_is_no_certificate(tmp_path: Path) -> None:
    """Normal is right on three prompts, and the setting changes all texts and is never right."""
    config = CONFIG.model_copy(update={"rules": {"confidence": (0.9,)}, "seeds": (0,)})
    right = set(CHOOSING[:3])

    def numbers(run: Run) -> dict[str, Any]:
        is_normal = run.configuration.mode == "normal"
        texts = {"correct": is_normal and run.prompt.prompt in right, "lcs_share": 1.0 if is_normal else 0.1}
        return {**number(run), **texts}

    out = land_rows(tmp_path / "out", config, numbers)
    asked = (out, "--risk", "answers", "--order", "passed-on", "--max-risk")
    code, said = chosen(*asked, "0.05")
    share = short_percent(3 / len(CHOOSING))
    assert code == 2
    assert f"error: normal gets {share} of the answers of " in said
    assert "right, so that a setting that loses half of these, or all, could be certified to lose at most 5%" in said
    assert f"such as disagreement, or an --max-risk below {short_percent(1.5 / len(CHOOSING))}" in said
    assert not (out / "choices").exists(), "it was no ask"
    code, said = chosen(*asked, "0.016")
    assert f"takes at least {prompts_without_loss(0.016, FIRST)}" in said, (
        "a bound that answers could tell takes more prompts"
    )


def test_a_failed_run_is_a_loss_of_1_and_a_failed_run_of_normal_excuses_nothing(tmp_path: Path) -> None:
    """Of the prompts for choosing, 4 fail under the setting, and 3 others under normal, where the setting is wrong."""
    config = CONFIG.model_copy(
        update={
            "rules": {"confidence": (0.9,)},
            "seeds": (0,),
            "prompts": tuple(
                replace(prompt, answer="4" if PROMPTS.index(prompt.prompt) % 2 else None) for prompt in CONFIG.prompts
            ),
        }
    )
    marked = [prompt for prompt in CHOOSING if PROMPTS.index(prompt) % 2]
    fails = {**dict.fromkeys([*marked[:4], *CHOOSING[:9:2]], "skip"), **dict.fromkeys(marked[4:7], "normal")}

    def numbers(run: Run) -> dict[str, Any]:
        if fails.get(run.prompt.prompt) == run.configuration.mode:
            return {"status": "error", "error": "no such luck", "correct": None}
        is_wrong = run.configuration.mode == "skip" and fails.get(run.prompt.prompt) == "normal"
        return {**number(run), "correct": None if run.prompt.answer is None else not is_wrong}

    out = land_rows(tmp_path / "out", config, numbers)
    code, said = chosen(out, "--risk", "answers", "--max-risk", "0.2", "--order", "passed-on")
    row = last_choice(out)
    assert (row["tested"][0]["n"], code) == (len(marked), 0 if row["configuration"] else 1)
    assert row["tested"][0]["mean_loss"] == pytest.approx(
        len([prompt for prompt in marked if prompt in fails]) / len(marked)
    ), "a failed run of a prompt without an answer loses none"
    assert f"failed runs, each a loss of 1 {len(fails)} " in said
    assert "failed runs of normal, as if they had said the best 3 " in said
    assert "whose tokens are sampled" not in said


def test_failures_and_settings_that_are_the_same_for_every_seed_are_counted_once(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"rules": {"confidence": (0.9,), "predicted_kl": (1.0,)}})
    fails = {"skip/confidence/0.9": {"status": "error"}}
    out = land_rows(
        tmp_path / "out",
        config,
        lambda run: {
            **number(run),
            **(fails.get(run.configuration.key, {}) if run.prompt.prompt == PROMPTS[0] else {}),
        },
    )
    _, said = chosen(out, "--risk", "disagreement", "--max-risk", "0.5")
    assert "failed runs, each a loss of 1 1 " in said
    assert "settings whose run is the same for all seeds 1 " in said


def test_a_text_without_a_usable_judgement_has_the_worst_score_and_that_of_normal_the_best(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"rules": {"confidence": (0.9,)}, "seeds": (0,)})
    out = land_rows(tmp_path / "out", config, number)
    unusable = {(CHOOSING[0], "skip"), (CHOOSING[1], "normal"), (CHOOSING[2], "skip"), (CHOOSING[2], "normal")}
    rows = [
        {
            **blank(JUDGEMENTS),
            **{"run_id": run.run_id, "seed": run.seed, "judge": "mild", "started": datetime.fromtimestamp(0, UTC)},
            **(
                {"status": "error", "error": "it refuses"}
                if (run.prompt.prompt, run.configuration.mode) in unusable
                else {"status": "ok", **dict.fromkeys(ASPECTS, 4)}
            ),
        }
        for run in plan_runs(config)
        if run.prompt.prompt != CHOOSING[3]  # which the judge was not asked about
    ]
    JUDGEMENTS.publish(open_store(out), "0" * 32, rows)
    _, said = chosen(out, "--risk", "judge", "--max-risk", "0.2", "--order", "passed-on")
    n = len(CHOOSING) - 1
    assert last_choice(out)["n"] == n
    assert last_choice(out)["mean_loss"] == pytest.approx((3 / 4 + 1 / 4 + 1) / n)
    assert "texts without a usable judgement, which get the worst score, or the best as normal's 4 " in said


def test_the_drop_of_the_judges_scores_is_that_of_the_same_seed_and_judge(tmp_path: Path) -> None:
    """One judge is stricter with all texts, and gives the setting's half a point less: a quarter, over both judges."""
    config = CONFIG.model_copy(update={"rules": {"confidence": (0.9,)}, "seeds": (0,)})
    out = land_rows(tmp_path / "out", config, number)
    for minute in range(3):  # of the calls, the second counts: the third is an error
        rows = [
            {
                **(blank(JUDGEMENTS) | {"run_id": run.run_id, "seed": run.seed, "judge": judge}),
                "status": "error" if minute == 2 else "ok",
                "started": datetime.fromtimestamp(minute, UTC),
                **dict.fromkeys(("coherence", "completeness", "clarity"), base),
                "no_repetition": [1, base - drop * (run.configuration.mode != "normal"), None][minute],
            }
            for run in plan_runs(config)
            for judge, base, drop in (("mild", 5, 0), ("strict", 3, 2))
        ]
        JUDGEMENTS.publish(open_store(out), f"{minute}" * 32, rows)
    code, said = chosen(out, "--risk", "judge", "--max-risk", "0.3")
    assert code == 0
    assert last_choice(out)["mean_loss"] == pytest.approx(0.5 / 4 / 2)
    assert "the mean drop in the judge's score, as a share of its range of 4, is at most 30%" in said
    assert "judges, whose losses are averaged mild, strict " in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-risk", "1"], "--max-risk must be above 0 and below 1, as in 0.05 or 0.95, got 1"),
        (["--max-risk", "nan"], "--max-risk must be above 0 and below 1, as in 0.05 or 0.95, got nan"),
        (["--confidence", "0"], "--confidence must be above 0 and below 1, as in 0.05 or 0.95, got 0"),
        (["--rules", "agree"], "can't be chosen from: skip/agree: no order from conservative to bold"),
        (["--configurations", "skip/agree", "skip/fixed/5"], "can't be chosen from: skip/agree: no order"),
        (["--rules", "kl"], "can't be chosen from: skip/kl: oracles save nothing at run time; --cost needed"),
        (["--rules", "confidense"], "has no rule confidense: did you mean confidence?"),
        (["--modes", "draft"], "has no mode with exits called draft: it has skip"),
        (["--configurations", "skip/fixed/6"], "has no configuration skip/fixed/6: did you mean skip/fixed/5"),
        (
            ["--max-risk", "0.01", "--order", "passed-on"],
            "confidence 0.95 among 2 families of settings, which share the error, takes at least 3",
        ),
        (["--max-risk", "0.01"], "0.95 takes at least 304, even without a single loss: give more prompts (nine"),
        (
            ["--pilot", "there", "--order", "passed-on"],
            "--pilot gives the order of --order pareto, and --order passed-on",
        ),
    ],
)
def test_what_nothing_can_be_chosen_from_is_told_in_a_line(finished: Path, arguments: list[str], message: str) -> None:
    code, said = chosen(finished, "--risk", "disagreement", *arguments)
    assert code == 2
    assert said.startswith("error: ")
    assert message in said


def test_sweeps_that_are_not_ready_for_it_are_refused(finished: Path, tmp_path: Path) -> None:
    few = sweep_of("a-model", *PROMPTS[:20], rules={"confidence": (0.9,)}, modes=["skip"])
    land_rows(tmp_path / "few", few, number)
    land_rows(tmp_path / "half", CONFIG.model_copy(update={"seeds": (0,)}), number, leave_out=3)
    n_few = sum(not in_test_split(prompt) and not in_pilot_split(prompt) for prompt in PROMPTS[:20])
    for out, risk, message in (
        (finished, "answers", "has no answers to check: sweep prompts that bring an answer"),
        (finished, "judge", "has no judgements of settings and of normal: eexit judge RESULTS asks for them"),
        (tmp_path / "few", "perplexity", "has no runs of normal, which risk perplexity compares with"),
        (tmp_path / "few", "disagreement", f"has {n_few} prompts to choose with, and certifying a risk of 0.05 with "
         "confidence 0.95 takes at least 60, even without a single loss: give more prompts"),
        (tmp_path / "half", "disagreement", "has 837 of 840 runs: finish that sweep first"),
        (tmp_path, "disagreement", "holds no sweep.json: give the folder of a finished sweep"),
    ):  # fmt: skip
        code, said = chosen(out, "--risk", risk)
        assert (code, message in said) == (2, True), said
        assert not (out / "choices").exists() or out == finished


def test_the_order_comes_from_a_part_of_the_prompts_that_chooses_nothing(finished: Path) -> None:
    _, said = chosen(finished, "--risk", "disagreement", "--max-risk", "0.06")
    row, pilot = last_choice(finished), [prompt for prompt in PROMPTS if in_pilot_split(prompt)]
    assert row["asked"] == ["skip/confidence/0.99", "skip/confidence/0.9", "skip/fixed/5", "skip/confidence/0.5"]
    assert (row["families"], row["error_of_each"], row["pilot"]) == (["pareto"], pytest.approx(FIRST), None)
    assert row["tested"][0]["n"] == len(CHOOSING) - len(pilot)
    assert f"prompts of a pilot, which gave the order and choose nothing {len(pilot)} " in said


def test_the_order_may_come_from_another_sweep_that_shares_no_prompt(finished: Path, tmp_path: Path) -> None:
    others = sweep_of("a-model", *(f"How about {n}?" for n in range(9)), rules=RULES, modes=["normal", "skip"])
    pilot = land_rows(tmp_path / "pilot", others, number)
    code, said = chosen(finished, "--risk", "disagreement", "--max-risk", "0.06", "--pilot", pilot)
    row = last_choice(finished)
    assert (code, row["pilot"], row["tested"][0]["n"]) == (0, str(pilot), len(CHOOSING))
    assert "prompts of a pilot, which gave the order and choose nothing 9 " in said
    code, said = chosen(finished, "--risk", "disagreement", "--pilot", finished)
    assert code == 2
    assert f"shares {len(PROMPTS)} prompts with" in said
    assert "whatever orders the settings must not choose among them" in said


@pytest.mark.filterwarnings("error")
def test_a_sweep_without_a_pilot_says_so_and_what_does(tmp_path: Path) -> None:
    without = CONFIG.model_copy(update={"prompts": tuple(it for it in CONFIG.prompts if not in_pilot_split(it.prompt))})
    out = land_rows(tmp_path / "run", without, number)
    assert chosen(out, "--risk", "disagreement") == (
        2,
        f"error: {out} has no prompts for a pilot, which gives the order of testing: name a finished sweep of other "
        "prompts with --pilot RESULTS, or use --order passed-on, which needs none",
    )
    others = sweep_of("a-model", *(f"How about {n}?" for n in range(9)), rules=RULES, modes=["normal", "skip"])
    pilot = land_rows(tmp_path / "tried", others, number)
    for way_out in (("--pilot", pilot), ("--order", "passed-on")):
        assert chosen(out, "--risk", "disagreement", "--max-risk", "0.4", *way_out)[0] == 0


def test_what_is_asked_lands_before_it_is_answered_and_further_asks_share_the_error(tmp_path: Path) -> None:
    out = land_rows(tmp_path / "out", CONFIG, number)
    for bound, which, may_err in (
        ("0.2", 1, 0.0475),
        ("0.25", 2, 0.002375),
        ("0.2", 1, 0.0475),
        ("0.3", 3, 0.00011875),
    ):
        _, said = chosen(out, "--risk", "disagreement", "--max-risk", bound)
        row = last_choice(out)
        assert (row["question"], row["error"]) == (which, pytest.approx(may_err))
        assert [its["certified"] for its in row["tested"]] == sequentially(
            its["p_value"] <= may_err for its in row["tested"]
        )
        err = f"{100 * row['error']:.3g}%"
        assert f"Ask {which} of these prompts, of 1 planned: it may err with {err}, all asks with 5%." in said
    rows = pd.read_parquet(out / "choices").sort_values(["started", "status"])
    assert rows["status"].tolist() == ["asked", "ok"] * 4
    assert rows.loc[rows["status"] == "asked", "mean_loss"].isna().all()
    assert rows.groupby("choice_id")["max_risk"].nunique().eq(1).all()
    assert len(CHOICES.read(open_store(out))) == 4, "of a question and its answer, one row counts"
    code, said = chosen(out, "--risk", "disagreement", "--max-risk", "0.06")
    assert code == 2
    assert (
        "confidence 0.95, as the fourth ask of these prompts (error 0.000594%), takes at least 195, even without"
        in said
    )
    assert "three for the pilot and four for reporting), other prompts, a higher --max-risk" in said


def sequentially(passed: Iterable[bool]) -> list[bool]:
    return list(accumulate(passed, lambda before, now: before and now))


def test_asks_that_were_planned_share_the_error_equally_and_say_so(finished: Path) -> None:
    asked = (finished, "--risk", "disagreement", "--max-risk", "0.2")
    _, said = chosen(*asked, "--planned-uses", "2")
    assert "Ask 1 of these prompts, of 2 planned: it may err with 2.38%, all asks with 5%." in said
    assert last_choice(finished)["error_of_each"] == pytest.approx(0.02375)
    _, said = chosen(*asked, "--rules", "confidence")
    assert "Ask 2 of these prompts, of 2 planned: it may err with 2.38%, all asks with 5%." in said
    code, said = chosen(*asked, "--planned-uses", "3")
    assert (code, "--planned-uses 3 comes too late: 2 was planned" in said) == (2, True)
    code, said = chosen(*asked, "--planned-uses", "0")
    assert (code, "must be a whole number above 0, got 0" in said) == (2, True)


def test_losses_outside_their_range_are_refused(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"rules": {"confidence": (0.99,)}, "seeds": (0,)})
    wrong = {"disagreement": 1.5}
    out = land_rows(tmp_path / "out", config, lambda run: {**number(run), **(wrong if run.prompt.id == "3" else {})})
    code, said = chosen(out, "--risk", "disagreement")
    assert code == 2
    assert "has a loss of 1.5, and losses for risk disagreement are between 0 and 1: check its column" in said


def test_the_cheapest_certified_setting_is_reported_even_where_it_costs_more_than_full_depth(tmp_path: Path) -> None:
    dear = {"macs_executed": 120.0, "macs_full": 100.0}
    config = CONFIG.model_copy(update={"rules": {"confidence": (0.99,)}})
    out = land_rows(tmp_path / "out", config, lambda run: {**number(run), **dear})
    code, said = chosen(out, "--risk", "disagreement", "--max-risk", "0.06")
    row = last_choice(out)
    assert (code, row["configuration"], row["cost"]) == (1, "skip/confidence/0.99", 1.2)
    assert row["reporting_n"] > 0, "it is checked too"
    assert "It does not cost less than full depth. Use normal." in said


def test_prompts_of_a_group_count_once_and_are_on_one_side(tmp_path: Path) -> None:
    """Eight groups of ten prompts and forty alone: of each group, one prompt in ten is lost."""
    prompts = tuple(
        replace(prompt, answer="4", group=f"{index // 10}" if index < 80 else None)
        for index, prompt in enumerate(CONFIG.prompts)
    )
    changed = {"prompts": prompts, "rules": {"confidence": (0.9,)}, "seeds": (0,)}
    lost = {f"What is {n} plus {n}?" for n in range(0, 80, 10)}
    out = land_rows(
        tmp_path / "out",
        CONFIG.model_copy(update=changed),
        lambda run: {**number(run), "correct": run.configuration.key == "normal" or run.prompt.prompt not in lost},
    )
    chosen(out, "--risk", "answers", "--max-risk", "0.2", "--order", "passed-on")
    row, n_groups = last_choice(out), sum(not in_test_split(f"group {group}") for group in range(8))
    n = n_groups + sum(not in_test_split(prompt) for prompt in PROMPTS[80:])
    assert (row["tested"][0]["n"], row["test"]) == (n, "betting")
    assert row["tested"][0]["mean_loss"] == pytest.approx(0.1 * n_groups / n)
    code, said = chosen(out, "--risk", "answers", "--max-risk", "0.2", "--order", "passed-on")
    assert code == 0
    n_prompts = 10 * n_groups + n - n_groups
    assert row["tested"][0]["loss_of_prompts"] == pytest.approx(n_groups / n_prompts)
    assert row["tested"][0]["n_of_prompts"] == n_prompts
    of_groups, of_prompts = short_percent(0.1 * n_groups / n), short_percent(n_groups / n_prompts)
    for sentence in (
        "prompts that belong to a group 80 groups, each of which counts once 8 ",
        "and of prompts is the mean loss over single prompts.",
        f"skip/confidence/0.9 {of_groups} {of_prompts} {n} ",
        "gets right and the setting gets wrong, averaged over groups of prompts that count once each, is at most 20%.",
        f"n = {n} groups, mean {of_groups}, p = ",
        f"That is of groups: over their {n_prompts} prompts the mean is {of_prompts}, for which nothing is certified.",
        f"That is of all groups: of the {n} where full depth has one right, it loses {of_groups},",
    ):
        assert sentence in said


def test_on_a_full_disk_it_stops_in_a_line_and_leaves_nothing(tmp_path: Path) -> None:
    out = land_rows(tmp_path / "out", CONFIG, number)
    done = on_a_full_disk(2048, main, out, "--risk", "disagreement")
    assert done.returncode == 1
    [stopped] = done.stderr.splitlines()
    assert stopped.startswith("stopped: ")
    assert "File too large" in stopped
    assert left(out / "choices") == []
    assert chosen(out, "--risk", "disagreement")[0] == 0
