"""Choosing a setting of a finished sweep: the rows that land, and what is refused."""

import re
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import here, refusal
from driving import land_rows
from scripted import sweep_of
from selecting import ALONE, CHOOSING, CONFIG, COSTS, PROMPTS, REPORTING, RULES, SEEDS, disagreement, land, select

from eexit.errors import UsageError
from eexit.plan.runs import Run
from eexit.plan.splits import in_pilot_split, in_test_split
from eexit.quality.learn_then_test import PARETO, alpha_share
from eexit.quality.risk_tests import betting, exact_binomial, prompts_needed
from eexit.results.store.folder import open_store
from eexit.results.study_tables import CHOICES
from jobs.choose import main

FIRST = alpha_share(0.95)  # what the first ask may err with
WITHOUT_PILOT = tuple(prompt for prompt in CONFIG.prompts if not in_pilot_split(prompt.prompt))


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    return land(tmp_path / "finished", CONFIG)


def index(run: Run) -> int:
    return PROMPTS.index(run.prompt.prompt)


def test_the_cheapest_certified_setting_is_chosen_beside_the_naive_choice_and_checked(finished: Path) -> None:
    row, _ = select(finished)
    n, means = len(CHOOSING), [fmean(disagreement(key, seed) for seed in SEEDS) for key in COSTS]
    tested = pd.DataFrame(row["tested"])
    assert tested.configuration.tolist() == [*COSTS], "each family from the conservative end to the bold one"
    assert tested.mean_loss.tolist() == pytest.approx(means)
    assert tested.n.tolist() == [n] * 4
    assert tested.p_value.tolist() == pytest.approx([float(betting(np.full(n, mean), 0.05, FIRST)) for mean in means])
    assert tested.certified.tolist() == [True, False, False, False]
    assert (row["families"], row["seeds"]) == (["skip/confidence", "skip/fixed"], 2)
    assert row["error_of_each"] == pytest.approx(FIRST / 2)
    assert (row["configuration"], row["mean_loss"], row["n"], row["cost"]) == ("skip/confidence/0.99", 0, n, 0.9)
    assert (row["naive_configuration"], row["naive_mean_loss"]) == ("skip/confidence/0.9", pytest.approx(0.04))
    assert (row["reporting_n"], row["naive_reporting_mean_loss"]) == (len(REPORTING), pytest.approx(0.04))
    assert 1 - 0.05 ** (1 / len(REPORTING)) < row["reporting_upper"] < 0.2


def test_where_none_is_certified_it_says_what_would_do_and_an_oracle_is_only_chosen_by_depth(finished: Path) -> None:
    again, unused = (shutil.copytree(finished, finished.parent / name / "finished") for name in ("again", "unused"))
    row, _ = select(finished, keys=["skip/confidence/0.9"])
    enough = prompts_needed(betting, np.full(len(CHOOSING), 0.04), 0.05, FIRST)
    assert enough is not None
    assert (row["configuration"], row["tested"][0]["prompts_needed"]) == (None, enough)
    [tested] = select(again, keys=["skip/confidence/0.5"])[0]["tested"]
    assert tested["prompts_needed"] is None, "no number would do"
    row, said = select(unused, risk="perplexity", cost="depth", rules=["kl"])
    assert row["configuration"] == "skip/kl/1"
    assert "It is an oracle" in said


def test_the_cheapest_certified_setting_is_reported_even_where_it_costs_more_than_full_depth(tmp_path: Path) -> None:
    out = land(tmp_path / "out", columns=lambda run: {"macs_executed": 120.0, "disagreement": 0.0})
    row, said = select(out, max_risk=0.06)
    assert (row["configuration"], row["cost"]) == ("skip/confidence/0.9", 1.2)
    assert row["reporting_n"] > 0, "it is checked too"
    assert "Use normal." in said


def test_lost_answers_are_those_that_normal_has_right(tmp_path: Path) -> None:
    """Normal is right in three of four, and the setting in all of them but the first; it changes a third of texts."""
    out = land(tmp_path / "out", columns=lambda run: {
        "correct": index(run) % 4 > 0 and (run.configuration.key == "normal" or index(run) > 1),
        "lcs_share": 1.0 if run.configuration.key == "normal" or index(run) % 3 else 0.5,
    })  # fmt: skip
    row, _ = select(out, risk="answers", max_risk=0.04)
    [tested], choosing = row["tested"], [n for n, prompt in enumerate(PROMPTS) if prompt in CHOOSING]
    n_right, n_lost = sum(n % 4 > 0 for n in choosing), 1 in choosing
    assert (row["test"], row["mean_loss"]) == ("exact", n_lost / len(choosing))
    lost = np.arange(len(choosing)) < n_lost
    assert row["p_value"] == pytest.approx(float(exact_binomial(lost, 0.04, FIRST)))
    assert tested["normal_accuracy"] == pytest.approx(n_right / len(choosing))
    assert tested["accuracy"] == pytest.approx((n_right - n_lost) / len(choosing))
    assert tested["changed"] == pytest.approx(1 - fmean(n % 3 > 0 for n in choosing))
    assert (tested["n_of_right"], tested["loss_of_right"]) == (n_right, pytest.approx(n_lost / n_right))
    assert tested["p_of_right"] == pytest.approx(float(exact_binomial(np.arange(n_right) < n_lost, 0.04, FIRST)))


@pytest.mark.parametrize(("cost", "key", "share"), [("run", "0.5", 0.2), ("right", "0.9", 0.8)])
def test_a_setting_may_be_chosen_by_a_right_answers_cost(tmp_path: Path, cost: str, key: str, share: float) -> None:
    def thinks(run: Run) -> dict[str, Any]:
        setting = run.configuration.columns["parameter"]
        of_full, length = {0.5: (0.2, 7), 0.9: (0.8, 1)}.get(setting, (1.0, 1))  # type: ignore[arg-type]
        costs = {"macs_full": 100.0 * length, "macs_required": 50.0 * length, "macs_executed": 100.0 * of_full * length}
        return {"correct": index(run) % 4 > 0, "thinking_closed": True, "lcs_share": 1.0, **costs}

    out = land(tmp_path / "out", ALONE.model_copy(update={"rules": {"confidence": (0.5, 0.9)}}), thinks)
    row, _ = select(out, risk="answers", cost=cost)
    assert (row["configuration"], row["cost"]) == (f"skip/confidence/{key}", pytest.approx(share))


def test_what_nothing_can_be_chosen_from_is_told(finished: Path, tmp_path: Path) -> None:
    """In `vacuous`, normal is right on three prompts, and the setting never."""
    right = {("normal", prompt) for prompt in CHOOSING[:3]}
    few = land(tmp_path / "few", sweep_of("a-model", *PROMPTS[:20], rules={"confidence": (0.9,)}, modes=["skip"]))
    half = land_rows(tmp_path / "half", CONFIG.model_copy(update={"seeds": (0,)}), leave_out=3)
    wrong = land(tmp_path / "wrong", columns=lambda run: {"disagreement": 1.5} if run.prompt.id == "3" else {})
    vacuous, without = tmp_path / "vacuous", tmp_path / "without"
    land(vacuous, columns=lambda run: {"correct": (run.configuration.key, run.prompt.prompt) in right})
    land(without, ALONE.model_copy(update={"prompts": WITHOUT_PILOT}))
    n_few = sum(not in_test_split(prompt) and not in_pilot_split(prompt) for prompt in PROMPTS[:20])
    refused: list[tuple[Path, dict[str, Any], str]] = [
        (finished, {"max_risk": float("nan")}, "--max-risk must be above 0 and below 1, as in 0.05 or 0.95, got nan"),
        (finished, {"confidence": 0.0}, "--confidence must be above 0 and below 1"),
        (finished, {"pilot": "there"}, "--pilot gives the order of --order pareto, and --order passed-on"),
        (finished, {"keys": ["skip/agree", "skip/fixed/5"]}, "can't be chosen from: skip/agree: no order"),
        (finished, {"rules": ["kl"]}, "can't be chosen from: skip/kl: oracles save nothing at run time; --cost needed"),
        (finished, {"rules": ["confidense"]}, "has no rule confidense: did you mean confidence?"),
        (finished, {"modes": ["draft"]}, "has no mode with exits called draft: it has skip"),
        (finished, {"keys": ["skip/fixed/6"]}, "has no configuration skip/fixed/6: did you mean skip/fixed/5"),
        (finished, {"max_risk": 0.01}, "confidence 0.95 among 2 families of settings, which share the error, takes at"),
        (finished, {"max_risk": 0.01, "order": PARETO}, "0.95 takes at least 304, even without a single loss"),
        (finished, {"risk": "answers"}, "has no answers to check: sweep prompts that have an answer"),
        (finished, {"risk": "judge"}, "has no judgements of settings and of normal: eexit judge scores texts"),
        (few, {"risk": "perplexity"}, "has no runs of normal, which risk perplexity compares with"),
        (few, {"order": PARETO}, f"has {n_few} calibration prompts, and certifying a risk of 0.05"),
        (half, {}, "has 837 of 840 runs: finish that sweep first"),
        (vacuous, {"risk": "answers"}, "could be certified to lose at most 5%"),
        (vacuous, {"risk": "answers", "max_risk": 0.016}, "takes at least"),  # a bound that answers could tell
        (without, {"order": PARETO}, "has no prompts for a pilot"),
        (vacuous, {"order": PARETO, "pilot": str(without)}, f"shares {len(WITHOUT_PILOT)} prompts with"),
    ]
    for out, asked, message in refused:
        with pytest.raises(UsageError, match=re.escape(message)):
            select(out, **asked)
        assert not (out / "choices").exists(), "it was no ask"
    with pytest.raises(UsageError, match=r"has a loss of 1\.5, and losses for risk disagreement are between 0 and 1"):
        select(wrong)


def test_the_order_comes_from_a_pilot_split_or_another_sweep(finished: Path, tmp_path: Path) -> None:
    row, _ = select(finished, max_risk=0.06, order=PARETO)
    assert row["asked"] == ["skip/confidence/0.99", "skip/confidence/0.9", "skip/fixed/5", "skip/confidence/0.5"]
    assert (row["families"], row["error_of_each"], row["pilot"]) == ([PARETO], pytest.approx(FIRST), None)
    assert row["tested"][0]["n"] == len(CHOOSING) - sum(map(in_pilot_split, PROMPTS))
    others = sweep_of("a-model", *(f"How about {n}?" for n in range(9)), rules=RULES, modes=["normal", "skip"])
    pilot = str(land(tmp_path / "pilot", others))
    without = land(tmp_path / "run" / "without", CONFIG.model_copy(update={"prompts": WITHOUT_PILOT}))
    for out in (finished, without):
        row, _ = select(out, max_risk=0.4, order=PARETO, pilot=pilot)
        assert (row["pilot"], row["configuration"]) == (pilot, "skip/confidence/0.5")
    assert row["n"] == len(CHOOSING) - sum(map(in_pilot_split, PROMPTS)), "of a sweep that has none for a pilot"


def test_what_is_asked_lands_before_it_is_answered_and_further_asks_share_the_error(finished: Path) -> None:
    for bound, which, may_err in ((0.2, 1, 0.0475), (0.25, 2, 0.002375), (0.2, 1, 0.0475), (0.3, 3, 0.00011875)):
        row, said = select(finished, max_risk=bound)
        assert (row["question"], row["error"]) == (which, pytest.approx(may_err))
        assert f"Use {which} of these prompts, of 1 planned: its error budget is " in said
    rows = pd.read_parquet(finished / "choices").sort_values(["started", "status"])
    assert rows["status"].tolist() == ["asked", "ok"] * 4
    assert rows.loc[rows["status"] == "asked", "mean_loss"].isna().all()
    assert len(CHOICES.read(open_store(finished))) == 4, "of a question and its answer, one row counts"
    with pytest.raises(UsageError, match=r"as the fourth use of these prompts \(error 0.000594%\)"):
        select(finished, max_risk=0.06)


def test_the_command_says_by_its_exit_code_whether_a_setting_saves(finished: Path) -> None:
    flags = ("--risk", "disagreement", "--order", "passed-on", "--max-risk")
    done = here(main, finished, *flags, "0.1", "--planned-uses", "2")
    assert done.returncode == 0, done.stderr
    assert f'pd.read_parquet("{finished}/choices")' in done.stdout
    assert here(main, finished, *flags, "0.2", "--configurations", "skip/fixed/5").returncode == 1
    assert "3 comes too late: 2 was planned" in refusal(main, finished, *flags, "0.1", "--planned-uses", "3")
    asked = CHOICES.read(open_store(finished)).to_pylist()
    assert [(row["question"], row["planned"]) for row in asked] == [(1, 2), (2, 2)]
    assert [row["error"] for row in asked] == pytest.approx([0.95 * 0.05 / 2] * 2), "planned uses share equally"
