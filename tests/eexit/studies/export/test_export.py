"""`python jobs/files/export.py`: teacher data that says what the sweep says, that `datasets` reads; nothing is lost."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from byte_model import save_byte_model
from transformers import PreTrainedTokenizerFast

from eexit.generator import ModelGenerator
from eexit.model.loading import describe_model
from eexit.output.progress import Silence
from eexit.plan.config import Prompt, SweepConfig
from eexit.plan.runs import OK, plan_runs
from eexit.results.layout import MANIFEST, decode, encode
from eexit.results.shard_tables import Results
from eexit.results.store.folder import Store, open_store
from eexit.results.store.manifest import make_manifest
from eexit.results.store.writing_shards import land, publish_shard
from eexit.results.tables import TOKENS
from eexit.studies.export import export as exporting
from eexit.studies.export.conversations import CONVERSATIONS, conversations, surroundings
from eexit.studies.export.export import export
from jobs.files.export import main, reading

KL_FACTORS = (0.05, 4.0)
KEYS = ("normal", "unfrozen/kl/0.05", "unfrozen/kl/4", "frozen_residual/kl/0.05", "frozen_residual/kl/4")
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
    config = SweepConfig(
        model=str(folder / "model"),
        dtype="float32",
        prompts=(Prompt("kind", "Who?"), Prompt("terse", "é | <b>", system="Be terse."), Prompt("empty", "")),
        system="Be kind.",
        prefiller="Well, ",
        kl_factors=KL_FACTORS,
        exit_every=2,
        max_new_tokens=9,
        temperature=0.7,
    )
    generator = ModelGenerator(config, "cpu")
    store, runs = open_store(folder / "out"), list(plan_runs(config))
    manifest = make_manifest(config, asdict(describe_model(config)), generator.engine.decoding.exitable_layers)
    store.publish(MANIFEST, encode(manifest))
    for some in (runs[:4], runs[4:]):
        land(store, some, generator.generate(some))
    return folder


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    """A copy of that sweep's results, to be changed."""
    shutil.copytree(made / "out", tmp_path / "out")
    return open_store(tmp_path / "out")


def table_of(folder: Path | str) -> pa.Table:
    return pa.concat_tables(map(pq.read_table, sorted(Path(folder).glob("*.parquet"))))


def exported(results: Path | str, out: Path, *others: str) -> list[dict[str, Any]]:
    assert main([str(results), "--out", str(out), "--quiet", *others]) == 0
    rows: list[dict[str, Any]] = table_of(out).to_pylist()
    return rows


def stored(results: Path | str) -> tuple[dict[str, Any], dict[str, dict[str, list[Any]]]]:
    """The rows of a sweep's runs without an error, and the columns of their tokens, by run id."""
    runs = pq.read_table(f"{results}/generations").to_pylist()
    tokens = pq.read_table(f"{results}/tokens").sort_by("position")
    ok = {row["run_id"]: row for row in runs if row["status"] == OK}
    return ok, {run_id: tokens.filter(pc.equal(tokens["run_id"], run_id)).to_pydict() for run_id in ok}


def test_every_chosen_run_is_a_conversation_that_says_of_its_tokens_what_the_sweep_says(
    made: Path, tmp_path: Path
) -> None:
    runs, tokens = stored(made / "out")
    rows = exported(made / "out", tmp_path / "data", "--configurations", *KEYS)
    assert sorted(row["run_id"] for row in rows) == sorted(runs)
    for row in rows:
        its = tokens[row["run_id"]]
        for name in ("decided", "token_id", "token", "exit_layer", "logprob", "final_token_id", "entropy", "kl"):
            assert row[name] == its[name], name
        assert row["final_top_token_ids"] == [top[-1] for top in its["top_token_ids"]]
        assert row["final_top_tokens"] == [top[-1] for top in its["top_tokens"]]
        np.testing.assert_allclose(np.exp(row["final_top_logprob"]), [top[-1] for top in its["top_prob"]], rtol=1e-6)
        assert row["layers"] == [2, 4, 6]
        for name in ("prompt_id", "configuration", "seed", "n_tokens", "prompt_token_ids", "finish_reason"):
            assert row[name] == runs[row["run_id"]][name]


def test_exit_probabilities_are_those_that_runs_of_rule_kl_drew_from_and_the_draws_give_their_exits(
    made: Path, tmp_path: Path
) -> None:
    _, tokens = stored(made / "out")
    flags = ("--configurations", *KEYS, "--kl-factors", "4", "0", "0.05")
    exits = set()
    for row in exported(made / "out", tmp_path / "data", *flags):
        assert row["kl_factors"] == [4.0, 0.0, 0.05]
        probability = np.array(row["kl_exit_prob"])
        assert probability.shape == (row["n_tokens"], 3, 3)
        np.testing.assert_allclose(probability.sum(-1), 1, atol=1e-6)
        assert probability[0].tolist() == [[0, 0, 1]] * 3  # the first token is not decided
        assert (probability[1:, 1] == [1, 0, 0]).all()  # k = 0 always exits at the first layer
        if row["rule"] == "kl":
            its = probability[:, row["kl_factors"].index(row["parameter"])]
            np.testing.assert_allclose(its, np.array(tokens[row["run_id"]]["exit_prob"]), atol=1e-6)
            first = (its.cumsum(-1) > np.array(row["exit_draw"])[:, None]).argmax(-1)
            assert np.array(row["layers"])[first].tolist() == row["exit_layer"]
            exits |= set(first[1:].tolist())
    assert exits == {0, 1, 2}


def test_messages_go_through_the_chat_template_to_what_the_model_saw(made: Path, tmp_path: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(made / "model")
    runs, _ = stored(made / "out")
    systems = {"kind": "Be kind.", "terse": "Be terse."}
    for row in exported(made / "out", tmp_path / "data"):
        system, user, assistant = row["messages"]
        assert row["configuration"] == "normal"
        assert system == {"role": "system", "content": systems[row["prompt_id"]]}
        assert user == {"role": "user", "content": runs[row["run_id"]]["prompt"]}
        assert assistant == {"role": "assistant", "content": "Well, " + runs[row["run_id"]]["text"]}
        text = tokenizer.apply_chat_template([system, user], tokenize=False, add_generation_prompt=True)
        assert tokenizer.encode(f"{text}Well, ") == row["prompt_token_ids"]


def test_datasets_reads_it_with_the_declared_types_at_once_and_as_a_stream(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import Features, load_dataset

    assert main([str(made / "out"), "--out", str(tmp_path / "data"), "--configurations", *KEYS[:2]]) == 0
    said = capsys.readouterr()
    line = f'load_dataset("parquet", data_files="{tmp_path}/data/*.parquet", split="train")'
    assert said.out.splitlines()[-1] == f"from datasets import {line.partition('(')[0]}; {line}"
    assert "4/4 conversations" in said.err
    table, options = table_of(tmp_path / "data"), {"split": "train", "cache_dir": str(tmp_path / "cache")}
    for found in (
        load_dataset("parquet", data_files=f"{tmp_path}/data/*.parquet", **options),
        load_dataset("parquet", data_files=f"{tmp_path}/data/*.parquet", **options, streaming=True),
        load_dataset(str(tmp_path / "data"), **options),  # by the card's header
    ):
        assert found.features == Features.from_arrow_schema(CONVERSATIONS)
        assert list(found) == table.to_pylist()


def test_how_to_read_it_under_a_uri_is_said_without_its_secrets() -> None:
    assert reading("s3://KEY:SECRET@bucket/data?region=eu").endswith(
        'data_files="s3://bucket/data/*.parquet", split="train")  # with storage_options for what else --out carries'
    )


def test_the_card_says_what_each_column_is_and_how_the_data_was_made(made: Path, tmp_path: Path) -> None:
    rows = exported(made / "out", tmp_path / "data", "--configurations", *KEYS[:2], "--kl-factors", "3")
    card = (tmp_path / "data" / "README.md").read_text()
    assert card.startswith("---\nlicense: ")
    for column in table_of(tmp_path / "data").schema:
        definition = column.metadata[b"definition"].decode().replace("|", "\\|")
        assert f"| `{column.name}` |" in card
        assert f"| {column.metadata[b'unit'].decode()} | {definition} |" in card
    manifest = decode((made / "out" / MANIFEST).read_bytes())
    mass = np.mean([np.exp(top).sum() for row in rows for top in row["final_top_logprob"]])
    early = np.mean([1 - p[0][-1] for row in rows for p in row["kl_exit_prob"][1:]])
    for text in (
        *("4 conversations on 2 prompts, 36 tokens. The exit of 32 of", "2 runs of these configurations are left"),
        *(str(manifest.model["digest"]), "| exitable layers | 2 4, 0-based |", "sampled with temperature 0.7"),
        *("the 3 likeliest tokens", f"cover {mass:.1%} of the probability", f"| 3 | {early:.1%} |"),
        f"`python jobs/files/export.py {made}/out --out {tmp_path}/data --quiet --configurations normal "
        "unfrozen/kl/0.05 --kl-factors 3`",
    ):
        assert text in card, text


def test_files_are_bounded_and_runs_are_whole_wherever_the_tables_are_cut(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([str(made / "out"), "--out", str(tmp_path / "one"), "--configurations", *KEYS]) == 0
    monkeypatch.setattr("eexit.results.landed.TOKENS_AT_ONCE", 7)  # a run has nine
    monkeypatch.setattr(exporting, "ROW_GROUP_BYTES", 1)
    monkeypatch.setattr(exporting, "FILE_BYTES", 1)
    done = export(str(made / "out"), str(tmp_path / "many"), KEYS, (0.5, 1, 2, 4), "", Silence())
    assert len(done.files) == 10
    one, many = table_of(tmp_path / "one"), table_of(tmp_path / "many")
    assert many.drop_columns("kl_exit_prob").equals(one.drop_columns("kl_exit_prob"))
    for row, other in zip(*(table["kl_exit_prob"].to_pylist() for table in (one, many)), strict=True):
        np.testing.assert_allclose(row, other, atol=1e-6)  # the last bit depends on what is computed together


def test_a_run_that_is_there_twice_is_exported_once(store: Store, tmp_path: Path) -> None:
    config = SweepConfig.model_validate(decode(store.read(MANIFEST) or b"").config)
    [first, *_] = plan_runs(config)
    runs, tokens = (
        table.filter(pc.equal(table["run_id"], first.run_id))
        for table in (pq.read_table(f"{store.root}/{folder}") for folder in ("generations", "tokens"))
    )
    land(store, [first], Results(runs.combine_chunks(), tokens.combine_chunks()))
    rows = exported(store.root, tmp_path / "data", "--configurations", *KEYS)
    assert sorted(row["run_id"] for row in rows) == sorted(stored(store.root)[0])


def changed(store: Store, **fields: Any) -> None:
    """Give the manifest other values."""
    store.publish(MANIFEST, encode(replace(decode(store.read(MANIFEST) or b""), **fields)))


def test_of_an_unfinished_sweep_what_has_landed_is_exported_and_both_say_what_is_missing(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = decode(store.read(MANIFEST) or b"").config
    changed(store, config={**config, "prompts": [*config["prompts"], {"id": "more", "prompt": "?", "system": None}]})
    assert main([store.root, "--out", str(tmp_path / "data")]) == 0
    assert "1 of 4 runs did not land yet: what is there is exported" in capsys.readouterr().err
    assert " 1 had not landed when this was exported." in (tmp_path / "data" / "README.md").read_text()


def test_without_top_tokens_the_lists_are_empty_and_both_say_so(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in store.names("generations"):
        generations = pq.read_table(f"{store.root}/{name}")
        tokens = pq.read_table(f"{store.root}/tokens/{Path(name).name}")
        for column in ("top_token_ids", "top_tokens", "top_prob"):
            at = tokens.schema.get_field_index(column)
            tokens = tokens.set_column(at, column, pa.nulls(len(tokens), TOKENS.field(column).type))
        publish_shard(store.publish, Path(name).stem, generations, tokens, attempt=1)
    for row in exported(store.root, tmp_path / "data"):
        assert row["final_top_token_ids"] == row["final_top_tokens"] == row["final_top_logprob"] == [[]] * 9
    assert "the sweep recorded no top tokens (record_top_k 0)" in capsys.readouterr().out
    assert "The sweep recorded none (`record_top_k` 0)" in (tmp_path / "data" / "README.md").read_text()


def removed(store: Store, folder: str) -> None:
    for name in store.names(folder):
        store.remove(name)


Spoil = Callable[[Store], None]
REFUSED: list[tuple[Spoil, list[str], str]] = [
    (lambda store: store.remove(MANIFEST), [], "{out} holds no sweep.json: give the folder of a finished sweep"),
    (
        lambda store: changed(store, format=2),
        [],
        "{out} is no sweep's folder (it has format 2, not 7)",
    ),
    (
        lambda store: None,
        ["--configurations", "normal", "unfrozen/kl/2"],
        "{out} has no configuration unfrozen/kl/2: did you mean unfrozen/kl/",
    ),
    (lambda store: None, ["--kl-factors", "0.5", "-1"], "KL factors must be finite and ≥ 0, got -1"),
    (lambda store: None, ["--kl-factors", "nan"], "KL factors must be finite and ≥ 0, got nan"),
    (lambda store: None, ["--kl-factors", "1", "1"], "KL factors must be distinct, got 1 1"),
    (lambda store: None, ["--kl-factors", "few"], "argument --kl-factors: must be a number, got few"),
    (lambda store: None, ["--out", "{out}/data"], "--out {out}/data is inside the sweep's results: choose another"),
    (lambda store: None, ["--out", "{out}/sweep.json"], "--out {out}/sweep.json is inside the sweep's results"),
    (lambda store: None, ["--out", "{out}/.."], "--out {out}/.. holds out, and nothing there is replaced: choose"),
    (
        lambda store: removed(store, "generations"),
        [],
        "{out} has no run of normal without an error: there is nothing to export",
    ),
    (lambda store: removed(store, "tokens"), [], "{out}/tokens/"),
]


@pytest.mark.parametrize(("spoil", "flags", "reason"), REFUSED)
def test_bad_input_is_refused_in_a_line_and_nothing_is_changed(
    spoil: Spoil, flags: list[str], reason: str, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(store)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    given = [flag.format(out=store.root) for flag in flags]
    assert main([store.root, "--out", str(tmp_path / "data"), "--quiet", *given]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {reason.format(out=store.root)}")
    assert len(said.splitlines()) == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_export_that_is_interrupted_leaves_nothing_of_its_own(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "dataset_card", interrupted)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / ".gitattributes").write_text("*.parquet filter=lfs")
    assert main([str(made / "out"), "--out", str(tmp_path / "data"), "--quiet"]) == 1
    assert capsys.readouterr().err.startswith("stopped: interrupted\n")
    assert [path.name for path in (tmp_path / "data").iterdir()] == [".gitattributes"]


def test_tokens_that_are_not_in_order_are_no_conversation(made: Path) -> None:
    told = surroundings(decode((made / "out" / MANIFEST).read_bytes()), [1])
    runs, tokens = (pq.read_table(f"{made}/out/{folder}") for folder in ("generations", "tokens"))
    assert len(conversations(runs, tokens.slice(9, 18), told)) == 2
    for wrong in (tokens.slice(9, 17), tokens.slice(10, 17), tokens.take([0, 2, 1, *range(3, 9)])):
        with pytest.raises(ValueError, match="not together and in order"):
            conversations(runs, wrong, told)


def test_the_questions_for_training_can_be_swept() -> None:
    from eexit.plan.prompts import read_prompts

    path = Path(__file__).parents[4] / "jobs" / "sweeps" / "prompts" / "questions.jsonl"
    assert len({prompt.prompt for prompt in read_prompts(path)}) == 160
    assert all(set(json.loads(line)) == {"id", "prompt"} for line in path.read_text().splitlines())
