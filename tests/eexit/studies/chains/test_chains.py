"""Follow-up prompts go on from chains of thought, whole or changed; necessity is what plain pandas makes of runs."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from byte_model import save_byte_model
from commands import here, refusal
from landed_sweep import land_all, land_rows
from scripted import sweep_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from eexit.plan.config import Prompt, SweepConfig
from eexit.plan.grid_types import ControlSpec
from eexit.plan.prompts import read_prompts
from eexit.plan.runs import Run
from eexit.quality.estimates import ValueKind, estimate_columns
from eexit.quality.thinking import AnswerPattern, ThinkingTags
from eexit.studies.chains.follow_ups import ChainEdits, ThoughtChain, _between, _shuffled, _until
from eexit.studies.chains.study import _mean, _twice
from jobs.files.chains import main

MARK = "="  # what begins the answers of a model of random weights
PARTS = ["keep-0", "keep-50", "keep-100", "budget-2", "filler", "shuffle"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights that write printable letters alone, so that text and tokens are the same thing."""
    folder = tmp_path_factory.mktemp("model")
    save_byte_model(folder, positions=512)
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    printable = tokenizer("".join(map(chr, range(32, 127))))["input_ids"]
    with torch.no_grad():
        others = [token for token in range(len(tokenizer)) if token not in printable]
        loaded.lm_head.weight[others] = 0
    loaded.save_pretrained(folder)
    return folder


def test_follow_ups_of_a_real_sweep_go_on_as_its_texts_do(model: Path, tmp_path: Path) -> None:
    config = SweepConfig(
        model=str(model),
        prompts=tuple(Prompt(id=f"p-{n}", prompt=f"Why {n}?", answer="7", steps=n + 1) for n in range(8)),
        modes=("normal", "skip"), rules={"kl": (0.5,)}, exit_every=3, max_new_tokens=60, dtype="float32",
        prefiller="So ", thinking_until=MARK,
    )  # fmt: skip
    swept, out = land_all(tmp_path / "swept", config), tmp_path / "chains.jsonl"
    done = here(
        main, swept, "--configuration", "normal", "--keep", "0", "50", "100", "--budget", "2", "--filler", "--shuffle",
        "--out", out,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"{out}\n"), done.stderr
    follow_ups = read_prompts(out)
    runs = pd.read_parquet(swept / "generations").query("configuration == 'normal'").set_index("prompt_id")
    assert runs["thinking_closed"].any(), "else nothing is tested"
    assert len(follow_ups) == len(PARTS) * len(runs)
    for original in config.prompts:
        text, n = runs["text"][original.id], runs["n_thinking_tokens"][original.id]
        of = {each.id.split("/")[1]: each for each in follow_ups if each.group == original.id}
        assert [*of] == PARTS
        assert {(each.prompt, each.answer, each.steps, each.kind) for each in of.values()} == {
            (original.prompt, "7", original.steps, "p")
        }
        assert [each.id.partition("/normal")[1] for each in of.values()] == ["", *["/normal"] * 5]
        starts = {name: str(each.prefiller).removeprefix("So ") for name, each in of.items()}
        assert starts["keep-0"] == MARK
        assert starts["keep-100"] == text[:n] + MARK
        if n > 4:
            assert starts["keep-50"].rstrip(MARK).rstrip() == text[: round(n / 2)].rstrip()
            assert starts["budget-2"].rstrip(MARK).rstrip() == text[:2].rstrip()
            assert len(starts["filler"].rstrip(MARK).rstrip()) in (n, n - 1, n - 2, n - 3), "filler ends in spaces"
            assert sorted(starts["shuffle"]) == sorted(starts["keep-100"])
    whole = tuple(each for each in follow_ups if "/keep-100/" in each.id)
    again = pd.read_parquet(land_all(tmp_path / "again", config.model_copy(update={"prompts": whole})) / "generations")
    rest = again.query("configuration == 'normal'").set_index("prompt_id")["text"]
    closed = runs[runs["thinking_closed"]]
    for prompt_id, run in closed.iterrows():
        left = run["text"][run["n_thinking_tokens"] + len(MARK) :]
        assert rest[f"{prompt_id}/keep-100/normal"].startswith(left)
    done = here(main, swept, "--necessity", tmp_path / "again")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("text", "chain"),
    [
        ("<t>a b\n</t>7", ThoughtChain("<t>", ("a", " ", "b", "\n"), "</t>")),
        ("a b</t>7", ThoughtChain("", ("a", " ", "b"), "</t>")),
        ("Well. <t>a", ThoughtChain("<t>", ("a",), "")),
        ("7", ThoughtChain("", (), "")),
    ],
)
def test_what_stands_between_marks_is_the_chain(text: str, chain: ThoughtChain) -> None:
    marks = ThinkingTags("<t>", "</t>")
    tokens = [
        {"token": letter, "part": part} for letter, part in zip(text, marks.chains("", text).parts(text), strict=True)
    ]
    found = _between(marks, text, tokens)
    assert replace(found, tokens=tuple(found.tokens)) == chain


def test_what_follows_a_chain_that_is_cut_is_written_as_after_the_whole_one() -> None:
    chain = _until(
        AnswerPattern("(?i)answer:"), "", "One. Two.\n\nAnswer: 3", ["One.", " Two.", "\n\nAns", "wer:", " 3"]
    )
    assert chain.prefiller("One. Two.\n\n") == "One. Two.\n\nAnswer:"
    assert [chain.prefiller(kept) for _, kept in ChainEdits(keep=(0, 33, 50)).apply(chain, None)] == [  # type: ignore[arg-type]
        "Answer:", "One.\n\nAnswer:", "One. Two.\n\nAnswer:"
    ]  # fmt: skip
    assert ThoughtChain("<t>", ("a ", "b"), "</t>").prefiller("a ") == "<t>a\n</t>"
    assert _shuffled("One. Two.\n\n") == "Two. One.\n\n"
    assert _shuffled("One.") == "One."


PROMPTS = tuple(
    Prompt(id=f"p-{n}", prompt=f"Question {n}?", answer="7", steps=1 + n % 2, group="twins" if n > 28 else None)
    for n in range(31)
)
KEY, CONTROL = "unfrozen/kl/1", "unfrozen/random/kl/1"
FIELDS: Mapping[str, Any] = {
    "modes": ("normal", "unfrozen"), "kl_factors": (1.0,), "seeds": (0, 1), "thinking_until": "(?i)answer:",
    "controls": (ControlSpec(of=KEY, counts={5: 1, 29: 1}),),
}  # fmt: skip


def marked(run: Run) -> dict[str, Any]:
    """Right by the run's id; some runs fail."""
    draw = int(run.run_id[:8], 16) / 2**32
    failed = {"status": "error", "error": "no", "correct": None} if draw > 0.95 else {}
    return {"correct": draw < 0.6, "n_thinking_tokens": 3, "thinking_closed": True, **failed}


@pytest.fixture
def swept(tmp_path: Path) -> Path:
    return land_rows(tmp_path / "swept", sweep_of("a-model", **FIELDS, prompts=PROMPTS), marked)


def follow(out: Path, *kept: str, prompts: tuple[Prompt, ...] = PROMPTS) -> Path:
    followed = tuple(replace(each, id=f"{each.id}/{how}", group=each.id) for each in prompts for how in kept)
    return land_rows(out, sweep_of("a-model", **FIELDS, prompts=followed), marked)


def test_necessity_is_what_plain_pandas_makes_of_the_two_sweeps(swept: Path, tmp_path: Path) -> None:
    first = follow(tmp_path / "first", "keep-0", f"filler/{KEY}", "filler/normal", prompts=PROMPTS[:27])
    second = follow(tmp_path / "second", f"filler/{CONTROL}")
    done = here(main, swept, "--necessity", first, second)
    assert done.returncode == 0, done.stderr
    assert "neces" in done.stdout
    originals = pd.read_parquet(swept / "generations")
    followed = pd.concat([pd.read_parquet(folder / "generations") for folder in (first, second)])

    def right(runs: pd.DataFrame, original: pd.Series) -> pd.DataFrame:
        """By prompt that counts, and configuration: seeds first, then prompts of a group; failed runs are wrong."""
        correct = runs["correct"].astype("boolean").fillna(False).astype(float)
        by = correct.groupby([original, runs["configuration"]]).mean().unstack()
        return by.groupby([("twins" if int(each[2:]) > 28 else each) for each in by.index]).mean()

    def needs(chain: str, writer: str) -> pd.DataFrame:
        suffix = f"/{chain}/{writer}" if writer else f"/{chain}"
        arm = followed[followed["prompt_id"].str.fullmatch(rf"p-\d+{re.escape(suffix)}")]
        return right(originals, originals["prompt_id"]) - right(arm, arm["prompt_id"].str.removesuffix(suffix))

    table = pd.read_parquet(swept / "chains").assign(chain_of=lambda rows: rows["chain_of"].fillna(""))
    of_all = table[table["steps"].isna()].set_index(["configuration", "chain", "chain_of"])
    for chain, writer, of_control in (("keep-0", "", ""), ("filler", KEY, CONTROL), ("filler", "normal", "normal")):
        difference, control = needs(chain, writer)[KEY].dropna(), needs(chain, of_control)[CONTROL]
        row = of_all.loc[[(KEY, chain, writer)]].iloc[0]
        estimate = estimate_columns(difference.to_numpy()[:, None], [ValueKind.DIFFERENCE])[0]
        assert row["necessity"] == pytest.approx(difference.mean())
        assert [row["necessity_low"], row["necessity_high"]] == pytest.approx([estimate.low, estimate.high])
        assert row["necessity_n"] == len(difference)
        assert row["beside_control"] == pytest.approx((difference - control).mean())
        assert row["beside_control_low"] < row["beside_control"] < row["beside_control_high"]
        assert row["accuracy"] - row["accuracy_without"] == pytest.approx(row["necessity"])
    of_steps = table.query("configuration == 'normal' and chain == 'keep-0' and steps == 2").iloc[0]
    even = [f"p-{n}" for n in range(27) if n % 2]
    assert of_steps["necessity"] == pytest.approx(needs("keep-0", "")["normal"].loc[even].mean())
    assert table.query("configuration == 'normal'")["beside_control"].isna().all()


def test_the_interval_of_a_difference_of_differences_covers() -> None:
    rng, truth, n_covered = np.random.default_rng(0), 0.3 * 0.5 - 0.1, 0
    for _ in range(600):
        needs_P = rng.random(60) < 0.15, rng.random(60) < 0.1
        found = _twice(_mean((needs_P[0] * 1.0 - needs_P[1] * (rng.random(60) < 1)) / 2, ValueKind.DIFFERENCE))
        n_covered += found.low <= truth <= found.high
    assert n_covered / 600 >= 0.93


def test_what_can_not_be_followed_up_is_one_line(swept: Path, tmp_path: Path) -> None:
    plain = land_rows(tmp_path / "plain", sweep_of("a-model", "One?", kl_factors=(1.0,)))
    other = land_rows(tmp_path / "other", sweep_of("another", **FIELDS, prompts=PROMPTS), marked)
    out = ("--out", tmp_path / "x.jsonl")
    lost = follow(tmp_path / "lost", "keep-0", prompts=(Prompt(id="q-9", prompt="?", answer="7"),))
    followed = follow(tmp_path / "followed", "keep-0")
    for arguments, reason in (
        ((plain, "--configuration", "normal", "--keep", "0", *out), "has no chains of normal, since its texts have no"),
        ((plain, "--necessity", followed), "has no chains of thought: run it with --thinking or --thinking-until"),
        ((swept, "--necessity", lost), f"prompt q-9/keep-0 follows up q-9, which {swept} has no prompt of"),
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
