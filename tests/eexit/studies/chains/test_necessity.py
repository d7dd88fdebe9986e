"""Necessity is what plain pandas makes of runs, and is known of a model that adds."""

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from adding_model import prompts, save_adding_model
from commands import here, refusal
from driving import land_all, land_rows
from scripted import sweep_of

from eexit.plan.grid_types import ControlSpec
from eexit.plan.prompts import read_prompts
from eexit.plan.runs import Run
from eexit.plan.sweep_config import Prompt, SweepConfig
from eexit.quality.estimates import ValueKind, estimate_columns
from eexit.sweeps.controls import controls_of
from jobs.files.chains import main

TWINS = {29: "twins", 30: "twins"}
PROMPTS = tuple(Prompt(f"p-{n}", f"Question {n}?", answer="7", steps=1 + n % 2, group=TWINS.get(n)) for n in range(31))
KEY, CONTROL = "unfrozen/kl/1", "unfrozen/random/kl/1"
FIELDS: Mapping[str, Any] = {
    "modes": ("normal", "unfrozen"), "kl_factors": (1.0,), "seeds": (0, 1), "thinking_until": "(?i)answer:",
    "controls": (ControlSpec(of=KEY, counts={5: 1, 29: 1}),),
}  # fmt: skip


def marked(run: Run) -> dict[str, Any]:
    """Right by the run's id; some chains never close, and some runs fail."""
    draw = int(run.run_id[:8], 16) / 2**32
    failed = {"status": "error", "error": "no", "correct": None, "thinking_closed": None} if draw > 0.95 else {}
    return {"correct": draw < 0.6, "n_thinking_tokens": 3, "thinking_closed": draw * 10 % 1 < 0.7, **failed}


@pytest.fixture
def swept(tmp_path: Path) -> Path:
    return land_rows(tmp_path / "swept", sweep_of("a-model", **FIELDS, prompts=PROMPTS), marked)


def follow(out: Path, *kept: str, prompts: tuple[Prompt, ...] = PROMPTS) -> Path:
    followed = tuple(replace(each, id=f"{each.id}/{how}", group=each.id) for each in prompts for how in kept)
    return land_rows(out, sweep_of("a-model", **{**FIELDS, "kl_factors": (1.0, 4.0)}, prompts=followed), marked)


def test_necessity_is_what_plain_pandas_makes_of_the_sweeps(swept: Path, tmp_path: Path) -> None:
    of_each = [f"{chain}/{key}" for chain in ("keep-100", "filler") for key in (KEY, "normal")]
    first = follow(tmp_path / "first", "keep-0", *of_each, prompts=PROMPTS[:27])
    second = follow(tmp_path / "second", f"keep-100/{CONTROL}", f"filler/{CONTROL}")
    done = here(main, swept, "--necessity", first, second)
    assert done.returncode == 0, done.stderr
    assert "so left out: unfrozen/kl/4" in " ".join(done.stdout.split())
    originals = pd.read_parquet(swept / "generations")
    followed = pd.concat([pd.read_parquet(folder / "generations") for folder in (first, second)])
    closed_runs, correct = (
        originals.pivot(index=["prompt_id", "seed"], columns="configuration", values=flag).astype(float)
        for flag in ("thinking_closed", "correct")
    )
    closed = closed_runs.xs(0, level="seed")

    def right(runs: pd.DataFrame, original: pd.Series) -> pd.DataFrame:
        """By prompt and configuration, the mean over seeds; failed runs are wrong."""
        correct = runs["correct"].astype("boolean").fillna(False).astype(float)
        return correct.groupby([original, runs["configuration"]]).mean().unstack()

    def after(chain: str, writer: str) -> pd.DataFrame:
        suffix = f"/{chain}" if chain == "keep-0" else f"/{chain}/{writer}"
        arm = followed[followed["prompt_id"].str.fullmatch(rf"p-\d+{re.escape(suffix)}")]
        return right(arm, arm["prompt_id"].str.removesuffix(suffix))

    def needs(key: str, chain: str, writer: str) -> pd.Series:
        return (after("keep-100", writer)[key] - after(chain, writer)[key]).dropna()

    def expect(row: pd.Series, name: str, values: pd.Series) -> None:
        values = values.dropna().groupby(lambda each: "twins" if int(each[2:]) > 28 else each).mean()
        assert (row[name], row[f"{name}_n"]) == (pytest.approx(values.mean()), len(values)), name
        if name.startswith("necessity"):
            estimate = estimate_columns(values.to_numpy()[:, None], [ValueKind.DIFFERENCE])[0]
            assert [row[f"{name}_low"], row[f"{name}_high"]] == pytest.approx([estimate.low, estimate.high])
        else:
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]

    table = pd.read_parquet(swept / "chains")
    of_all = table[table["steps"].isna()].set_index(["configuration", "chain", "chain_of"])
    for chain, writer in product(("keep-0", "filler"), ("normal", KEY)):
        row, needed = of_all.loc[[(KEY, chain, writer)]].iloc[0], needs(KEY, chain, writer)
        beside = needed - needs("normal", chain, "normal")
        expect(row, "accuracy", right(originals, originals["prompt_id"])[KEY][needed.index])
        expect(row, "closed", closed[writer][needed.index])
        expect(row, "accuracy_with", after("keep-100", writer)[KEY][needed.index])
        expect(row, "accuracy_without", after(chain, writer)[KEY][needed.index])
        expect(row, "necessity", needed)
        expect(row, "necessity_closed", needed[closed[writer][needed.index] == 1])
        expect(row, "beside_normal", beside)
        expect(row, "beside_normal_closed", beside[(closed[writer] * closed["normal"])[beside.index] == 1])
        expect(row, "beside_control", needed - needs(CONTROL, chain, CONTROL if writer == KEY else writer))
        answers = (correct[KEY] - correct["normal"])[closed_runs[KEY] * closed_runs["normal"] == 1]
        expect(row, "accuracy_beside_normal_closed", answers.groupby("prompt_id").mean())
    of_steps = table.query("configuration == 'normal' and chain == 'keep-0' and steps == 2").iloc[0]
    even = [each.id for each in PROMPTS[:27] if each.steps == 2]
    assert of_steps["necessity"] == pytest.approx(needs("normal", "keep-0", of_steps["chain_of"]).loc[even].mean())
    rows_of_normal = table.query("configuration == 'normal'")
    assert rows_of_normal[["beside_control", "beside_normal", "accuracy_beside_normal_closed"]].isna().all(axis=None)


def test_what_can_not_be_followed_up_is_one_line(swept: Path, tmp_path: Path) -> None:
    plain = land_rows(tmp_path / "plain", sweep_of("a-model", "One?", kl_factors=(1.0,)))
    other = land_rows(tmp_path / "other", sweep_of("another", **FIELDS, prompts=PROMPTS), marked)
    out = ("--out", tmp_path / "x.jsonl")
    lost = follow(tmp_path / "lost", "keep-0", prompts=(Prompt(id="q-9", prompt="?", answer="7"),))
    followed, whole = (follow(tmp_path / kept.replace("/", "-"), kept) for kept in ("keep-0", "keep-100/normal"))
    way_out = f"write these by eexit chains {swept} --configuration normal --keep 100 --out whole.jsonl, sweep them"
    for arguments, reason in (
        ((plain, "--configuration", "normal", "--keep", "0", *out), "has no chains of normal, since its texts have no"),
        ((plain, "--necessity", followed), "has no chains of thought: run it with --thinking or --thinking-until"),
        ((swept, "--necessity", lost), f"prompt q-9/keep-0 follows up q-9, which {swept} has no prompt of"),
        ((swept, "--necessity", followed), f"normal has follow-ups with keep-0 in {followed}, and none with whole "
         f"chains to compare them with: {way_out}"),
        ((swept, "--necessity", whole), f"all follow-ups in {whole} have the whole chain: sweep some with another"),
        ((swept, "--necessity", plain), "prompt 0 follows up no group, which"),
        ((swept, "--necessity", other), f"is not of the model of {swept} (model.name: \"a-model\" -> \"another\")"),
        ((swept, "--configuration", "norml", "--keep", "0", *out), "has no configuration norml: did you mean normal?"),
        ((swept, "--configuration", "normal", "--keep", "110", *out), "must be at most 100, got 110"),
        ((swept, "--configuration", "normal", *out), "no edit selected: give --keep"),
        ((swept, "--keep", "0"), "give --configuration and --out to write follow-up prompts"),
        ((swept, "--necessity", followed, *out), "--necessity reads sweeps, and the other flags write prompts"),
    ):  # fmt: skip
        assert reason in refusal(main, *arguments), reason
    assert not (tmp_path / "x.jsonl").exists()


SURE, AT_RANDOM, ANYWHERE = "unfrozen/confidence/0.8", "unfrozen/random/confidence/0.8", "unfrozen/fixed/0"


@pytest.mark.slow
def test_a_model_that_leaves_where_it_is_sure_needs_its_chain(tmp_path: Path) -> None:
    save_adding_model(tmp_path / "model")
    config = SweepConfig(
        model=str(tmp_path / "model"), prompts=tuple(Prompt(**row) for row in prompts(200, seed=1)),
        modes=("normal", "unfrozen"), rules={"confidence": (0.8,), "fixed": (0,)}, exit_layers=(0,),
        max_new_tokens=24, dtype="float32", control_tokens=True,
    )  # fmt: skip
    config = config.model_copy(update={"controls": controls_of(str(land_all(tmp_path / "first", config)))})
    swept, follow_ups = land_all(tmp_path / "swept", config), []
    for at, key in enumerate(("normal", SURE, AT_RANDOM, ANYWHERE)):
        out = tmp_path / f"chains-{at}.jsonl"
        assert here(main, swept, "--configuration", key, "--keep", "0", "100", "--out", out).returncode == 0
        own = config.model_copy(update={"prompts": tuple(read_prompts(out)), "only": (key,)})
        follow_ups.append(land_all(tmp_path / f"chains-{at}", own))
    print(here(main, swept, "--necessity", *follow_ups).stdout)
    table = pd.read_parquet(swept / "chains")
    of = {row["configuration"]: row for row in table[table["steps"].isna()].to_dict("records")}
    assert of["normal"]["accuracy_without"] > 0.9, "depth does it without a chain"
    assert of["normal"]["necessity_low"] <= 0.02
    assert min(of[SURE][name] for name in ("accuracy", "accuracy_with")) > 0.9, "a chain lets the first layer do it"
    assert min(of[SURE][f"{name}_low"] for name in ("necessity", "beside_normal", "beside_control")) > 0.5
    for key in (AT_RANDOM, ANYWHERE):
        assert of[key]["accuracy"] < 0.5, key
        assert of[key]["necessity_low"] <= 0, key
