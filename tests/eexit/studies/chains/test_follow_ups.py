"""Follow-up prompts go on from chains of thought, whole or changed."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from byte_model import save_byte_model
from commands import here
from driving import land_all
from transformers import AutoModelForCausalLM, AutoTokenizer

from eexit.plan.prompts import read_prompts
from eexit.plan.sweep_config import Prompt, SweepConfig
from eexit.quality.thinking import ThinkingTags
from eexit.studies.chains.follow_ups import ThoughtChain, _between, _shuffled
from jobs.files.chains import main

MARK = "="  # what begins the answers of a model of random weights
RIGHT = "^=?(?!=)[!-O]"  # the first letter after the mark, which some answers have
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


def config_of(model: Path) -> SweepConfig:
    return SweepConfig(
        model=str(model),
        prompts=tuple(Prompt(id=f"p-{n}", prompt=f"Why {n}?", answer_pattern=RIGHT, steps=n + 1) for n in range(8)),
        modes=("normal", "skip"), rules={"kl": (0.5,)}, exit_every=3, max_new_tokens=60, dtype="float32",
        prefiller="So ", thinking_until=MARK,
    )  # fmt: skip


def runs_of(folder: Path, key: str) -> pd.DataFrame:
    return pd.read_parquet(folder / "generations").query("configuration == @key").set_index("prompt_id")


@pytest.fixture(scope="module")
def swept(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return land_all(tmp_path_factory.mktemp("swept") / "swept", config_of(model))


def test_follow_ups_of_a_sweep_have_its_edited_chains_and_end_alike(model: Path, swept: Path, tmp_path: Path) -> None:
    out, runs = tmp_path / "chains.jsonl", runs_of(swept, "normal")
    edits = ["--keep", "0", "50", "100", "--budget", "2", "--filler", "--shuffle"]
    done = here(main, swept, "--configuration", "normal", *edits, "--out", out)
    assert (done.returncode, done.stdout) == (0, f"{out}\n"), done.stderr
    follow_ups = read_prompts(out)
    assert {*runs["thinking_closed"]} == {True, False}, "else nothing is tested"
    assert len(follow_ups) == len(PARTS) * len(runs)
    texts = ["So " + text for text in pd.read_parquet(swept / "generations")["text"]]
    closings = Counter(found[0] for text in texts if (found := re.search(rf"\s*{MARK}", text)))
    [(closing, _)] = closings.most_common(1)
    for original in config_of(model).prompts:
        text, n = runs["text"][original.id], runs["n_thinking_tokens"][original.id]
        of = {each.id.split("/")[1]: each for each in follow_ups if each.group == original.id}
        assert [*of] == PARTS
        carried = {(each.prompt, each.answer_pattern, each.steps, each.kind) for each in of.values()}
        assert carried == {(original.prompt, RIGHT, original.steps, "p")}
        starts = {name: str(each.prefiller).removeprefix("So ") for name, each in of.items()}
        kept = {"keep-50": text[: round(n / 2)], "keep-100": text[:n], "budget-2": text[: min(2, n)]}
        kept |= {"keep-0": "", "filler": (" ..." * n)[:n]}
        for name, chain in kept.items():
            assert starts[name] == (chain.rstrip() + closing if chain.strip() else closing.lstrip()), name
        assert sorted(starts["shuffle"]) == sorted(starts["keep-100"])
    assert [*map(_shuffled, ("One. Two.\n\n", "One."))] == ["Two. One.\n\n", "One."]
    assert ThoughtChain("<t>", ("a ", "b")).prefiller("a ", "</t>") == "<t>a</t>"


def test_a_whole_chain_goes_on_alike_and_its_necessity_is_found(model: Path, swept: Path, tmp_path: Path) -> None:
    out = tmp_path / "chains.jsonl"
    assert here(main, swept, "--configuration", "normal", "--keep", "0", "100", "--out", out).returncode == 0
    folder = land_all(tmp_path / "followed", config_of(model).model_copy(update={"prompts": tuple(read_prompts(out))}))
    done = here(main, swept, "--necessity", folder)
    assert done.returncode == 0, done.stderr
    found = pd.read_parquet(swept / "chains").query("steps.isna()").set_index("configuration")["necessity"]
    for key in ("normal", "skip/kl/0.5"):
        correct = runs_of(folder, key)["correct"]
        with_chain, without = (correct.filter(like=f"/{part}").mean() for part in ("keep-100", "keep-0"))
        assert found[key] == pytest.approx(with_chain - without)
    originals, followed = (runs_of(each, "normal") for each in (swept, folder))  # a prefiller is read at full depth
    closed = originals["thinking_closed"].astype(bool) & ~originals["text"].str.contains(rf"\s{MARK}")
    for prompt_id, run in originals[closed].iterrows():
        left, whole = run["text"][run["n_thinking_tokens"] + len(MARK) :], followed.loc[f"{prompt_id}/keep-100/normal"]
        assert whole["text"].startswith(left), "the same words go on alike"
        assert whole["correct"] == run["correct"]


def test_what_stands_between_marks_is_the_chain() -> None:
    marks = ThinkingTags("<t>", "</t>")
    for text, opening, chain in (("<t>a b\n</t>7", "<t>", "a b\n"), ("a b</t>7", "", "a b"), ("7", "", ""),
                                 ("Well. <t>a", "<t>", "a")):  # fmt: skip
        parts = marks.chains("", text).parts(text)
        tokens = [{"token": letter, "part": part} for letter, part in zip(text, parts, strict=True)]
        found = _between(marks, text, tokens)
        assert replace(found, tokens=tuple(found.tokens)) == ThoughtChain(opening, tuple(chain))
