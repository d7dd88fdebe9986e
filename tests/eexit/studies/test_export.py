"""`python jobs/files/export.py`: teacher data that says what the sweep says, that `datasets` reads; nothing is lost."""

import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from byte_model import save_byte_model
from commands import here, refusal
from driving import land_all
from scripted import sweep_of
from synthetic_sweeps import shard
from transformers import PreTrainedTokenizerFast

from eexit.plan.runs import OK
from eexit.plan.sweep_config import Prompt, SweepConfig
from eexit.results.store.folder import Store, open_store
from eexit.studies import export as exporting
from eexit.studies.export import CONVERSATIONS, OF_TOKENS
from jobs.files.export import main

KEYS = ("normal", "unfrozen/kl/0.05", "unfrozen/kl/4", "frozen_residual/kl/0.05", "frozen_residual/kl/4")
ALL = ("--configurations", *KEYS)
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished sweep, in which the empty prompt's runs are errors, and its model."""
    folder = tmp_path_factory.mktemp("made")
    save_byte_model(folder / "model")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "model")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "model")
    prompts = (Prompt("kind", "Who?"), Prompt("terse", "é | <b>", system="Be terse."), Prompt("empty", ""))
    config = SweepConfig(
        model=str(folder / "model"), dtype="float32", prompts=prompts, system="Be kind.", prefiller="Well, ",
        rules={"kl": (0.05, 4.0)}, exit_every=2, max_new_tokens=9, temperature=0.7,
    )  # fmt: skip
    land_all(folder / "out", config)
    return folder


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    return open_store(shutil.copytree(made / "out", tmp_path / "out"))


def table_of(folder: Path | str) -> pa.Table:
    return pa.concat_tables(map(pq.read_table, sorted(Path(folder).glob("*.parquet"))))


def exported(results: Path | str, out: Path, *others: str) -> list[dict[str, Any]]:
    assert main([str(results), "--out", str(out), "--quiet", *others]) == 0
    rows: list[dict[str, Any]] = table_of(out).to_pylist()
    return rows


def test_conversations_say_what_the_sweep_says_and_how_exits_were_drawn(made: Path, tmp_path: Path) -> None:
    """Their messages go through the chat template to what the model saw."""
    runs = {row["run_id"]: row for row in pq.read_table(made / "out" / "generations").to_pylist()}
    tokens = pq.read_table(made / "out" / "tokens").sort_by("position")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(made / "model")
    rows = exported(made / "out", tmp_path / "data", *ALL, "--kl-factors", "4", "0", "0.05")
    assert sorted(row["run_id"] for row in rows) == sorted(each for each in runs if runs[each]["status"] == OK)
    n_drawn = 0
    for row in rows:
        run, its = runs[row["run_id"]], tokens.filter(pc.equal(tokens["run_id"], row["run_id"])).to_pydict()
        assert {name: row[name] for name in OF_TOKENS} == {name: its[name] for name in OF_TOKENS}
        assert {len(top) for top in row["top_token_ids"]} == {3}
        of_runs = ("prompt_id", "configuration", "seed", "n_tokens", "prompt_token_ids", "finish_reason")
        assert [row[name] for name in of_runs] == [run[name] for name in of_runs]
        asked = [{"role": "system", "content": "Be kind." if row["prompt_id"] == "kind" else "Be terse."},
                 {"role": "user", "content": run["prompt"]}]  # fmt: skip
        assert row["messages"] == [*asked, {"role": "assistant", "content": "Well, " + run["text"]}]
        text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        assert tokenizer.encode(f"{text}Well, ") == row["prompt_token_ids"]
        assert (row["layers"], row["kl_factors"]) == ([2, 4, 6], [4.0, 0.0, 0.05])
        probability = np.array(row["kl_exit_prob"])
        assert probability.shape == (row["n_tokens"], 3, 3)
        np.testing.assert_allclose(probability.sum(-1), 1, atol=1e-6)
        assert probability[0].tolist() == [[0, 0, 1]] * 3  # the first token is not decided
        assert (probability[1:, 1] == [1, 0, 0]).all()  # k = 0 always exits at the first layer
        if row["rule"] == "kl":
            drawn = probability[:, row["kl_factors"].index(row["parameter"])]
            np.testing.assert_allclose(drawn, np.array(its["exit_prob"]), atol=1e-6)
            n_drawn += 1
    assert n_drawn > 3


def test_datasets_reads_it_with_the_declared_types(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import Features, load_dataset

    done = here(main, made / "out", "--out", tmp_path / "data", "--configurations", *KEYS[:2])
    files = f"{tmp_path}/data/*.parquet"
    line = f'from datasets import load_dataset; load_dataset("parquet", data_files="{files}", split="train")'
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, line)
    assert "4 conversations" in done.stderr
    options = {"split": "train", "cache_dir": str(tmp_path / "cache")}
    for found in (
        load_dataset("parquet", data_files=files, **options),
        load_dataset("parquet", data_files=files, **options, streaming=True),
        load_dataset(str(tmp_path / "data"), **options),
    ):
        assert found.features == Features.from_arrow_schema(CONVERSATIONS)
        assert list(found) == table_of(tmp_path / "data").to_pylist()


def test_files_are_bounded_and_have_a_run_that_is_there_twice_once(
    made: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = exported(made / "out", tmp_path / "one", *ALL)
    for folder in ("generations", "tokens"):
        [file] = store.names(folder)
        shutil.copy(f"{store.root}/{file}", f"{store.root}/{folder}/{shard(0)}")
    monkeypatch.setattr("eexit.results.committed.TOKENS_AT_ONCE", 7)  # a run has nine
    monkeypatch.setattr(exporting, "TOKENS_PER_FILE", 15)
    assert exported(store.root, tmp_path / "many", *ALL) == one
    assert len([*(tmp_path / "many").iterdir()]) == 5


@pytest.mark.parametrize(
    ("spoil", "flags", "reason"),
    [
        (lambda out: shutil.rmtree(out / "generations"), [], "{out} has no run of normal without an error"),
        (lambda out: shutil.rmtree(out / "tokens"), [], "{out}/tokens/"),
        (str, ["--configurations", "unfrozen/kl/2"], "{out} has no configuration unfrozen/kl/2: did you mean unfrozen"),
        *(
            (str, ["--kl-factors", *factors.split()], f"--kl-factors are distinct, finite and ≥ 0, got {factors}")
            for factors in ("0.5 -1", "nan", "1 1")
        ),
        (str, ["--out", "{out}/data"], "--out {out}/data is inside the sweep's results: choose another"),
        (str, ["--out", "{out}/.."], "--out {out}/.. holds out, and nothing there is replaced: choose"),
    ],
)
def test_bad_input_changes_nothing(spoil: Any, flags: list[str], reason: str, store: Store, tmp_path: Path) -> None:
    spoil(Path(store.root))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    given = [flag.format(out=store.root) for flag in flags]
    line = refusal(main, store.root, "--out", tmp_path / "data", "--quiet", *given)
    assert line.startswith(f"error: {reason.format(out=store.root)}")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_interrupted_export_leaves_nothing(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "TOKENS_PER_FILE", 15)
    monkeypatch.setattr("eexit.output.progress.NullDisplay.show", Mock(side_effect=KeyboardInterrupt))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / ".gitattributes").write_text("*.parquet filter=lfs")
    done = here(main, made / "out", "--out", tmp_path / "data", "--quiet")
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, "stopped: interrupted")
    assert [path.name for path in (tmp_path / "data").iterdir()] == [".gitattributes"]


def test_without_top_tokens_there_are_none(made: Path, tmp_path: Path) -> None:
    config = sweep_of(made / "model", "one", modes=["normal"], rules={}, exit_every=2, record_top_k=0)
    [row] = exported(land_all(tmp_path / "out", config), tmp_path / "data")
    assert row["top_token_ids"] == row["top_prob"] == [None] * 3
