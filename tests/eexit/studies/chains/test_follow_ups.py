"""Follow-up prompts go on from chains of thought, whole or changed."""

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
from eexit.quality.thinking import AnswerPattern, ThinkingTags
from eexit.studies.chains.follow_ups import ChainEdits, ThoughtChain, _between, _shuffled, _until
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
    edits = ["--keep", "0", "50", "100", "--budget", "2", "--filler", "--shuffle"]
    done = here(main, swept, "--configuration", "normal", *edits, "--out", out)
    assert (done.returncode, done.stdout) == (0, f"{out}\n"), done.stderr
    follow_ups = read_prompts(out)
    runs = pd.read_parquet(swept / "generations").query("configuration == 'normal'").set_index("prompt_id")
    assert runs["thinking_closed"].any(), "else nothing is tested"
    assert len(follow_ups) == len(PARTS) * len(runs)
    for original in config.prompts:
        text, n = runs["text"][original.id], runs["n_thinking_tokens"][original.id]
        of = {each.id.split("/")[1]: each for each in follow_ups if each.group == original.id}
        assert [*of] == PARTS
        carried = {(each.prompt, each.answer, each.steps, each.kind) for each in of.values()}
        assert carried == {(original.prompt, "7", original.steps, "p")}
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
    for prompt_id, run in runs[runs["thinking_closed"]].iterrows():
        left = run["text"][run["n_thinking_tokens"] + len(MARK) :]
        assert rest[f"{prompt_id}/keep-100/normal"].startswith(left)


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
    parts = marks.chains("", text).parts(text)
    tokens = [{"token": letter, "part": part} for letter, part in zip(text, parts, strict=True)]
    found = _between(marks, text, tokens)
    assert replace(found, tokens=tuple(found.tokens)) == chain


def test_what_follows_a_chain_that_is_cut_is_written_as_after_the_whole_one() -> None:
    tokens = ["One.", " Two.", "\n\nAns", "wer:", " 3"]
    chain = _until(AnswerPattern("(?i)answer:"), "", "".join(tokens), tokens)
    assert chain.prefiller("One. Two.\n\n") == "One. Two.\n\nAnswer:"
    assert [chain.prefiller(kept) for _, kept in ChainEdits(keep=(0, 33, 50)).apply(chain, None)] == [  # type: ignore[arg-type]
        "Answer:", "One.\n\nAnswer:", "One. Two.\n\nAnswer:"
    ]  # fmt: skip
    assert ThoughtChain("<t>", ("a ", "b"), "</t>").prefiller("a ") == "<t>a\n</t>"
    assert _shuffled("One. Two.\n\n") == "Two. One.\n\n"
    assert _shuffled("One.") == "One."
