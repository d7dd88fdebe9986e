"""A sweep's generator: what is generated once and shared, and that sharing changes nothing."""

import re
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from byte_model import save_byte_model

from eexit.decode.batch import Batch
from eexit.decode.engine import Engine, row_bytes
from eexit.decode.requests import Request
from eexit.model.decoders import DecoderPair
from eexit.plan.runs import count_different_runs, plan_runs, same_in_several_modes
from eexit.plan.sweep_config import Prompt, SweepConfig
from eexit.results.tables import GENERATIONS, OF_PARTS, TOKENS
from eexit.sweeps.generator import ModelGenerator

N_TOKENS = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_byte_model(folder)
    return folder


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_seeds_share_what_no_draw_can_change(model: Path, temperature: float) -> None:
    config = SweepConfig(
        model=str(model), prompts=(Prompt(id="0", prompt="Why?"), Prompt(id="1", prompt="How?")), seeds=(3, 4),
        modes=("normal", "skip"), rules={"kl": (0.5,), "entropy": (5.0,), "fixed": (3.0,)},
        draft=() if temperature else ("3:2",), exit_every=3, max_new_tokens=N_TOKENS, dtype="float32",
        temperature=temperature,
    )  # fmt: skip
    runs = list(plan_runs(config))
    generator, generated, ended = ModelGenerator(config, "cpu"), list[int](), list[int]()

    def progress(tokens: int, runs: int = 0, observed: int = 0) -> None:
        generated.append(tokens)
        ended.append(runs)

    together = generator.generate(runs, progress)
    assert sum(ended) == len(runs), "each is told of once, however many share its outcome"
    assert sum(ended[: len(ended) // 2]) > 0, "not all at the end"
    alone = [generator.generate([run]) for run in runs]
    assert_alike(together.generations, pa.concat_tables([part.generations for part in alone]))
    assert_alike(together.tokens, pa.concat_tables([part.tokens for part in alone]))
    own = {(run.prompt.id, run.configuration.key, run.seed if temperature or "/kl/" in run.configuration.key else 0)
           for run in runs}  # fmt: skip
    assert sum(generated) == len(own) * (N_TOKENS - 1), "the first token of each comes from the prompt's pass"


MODES = ("unfrozen", "frozen_residual", "frozen_cache", "skip")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_where_all_tokens_exit_at_one_layer_modes_share_one_text_and_have_their_own_costs(
    model: Path, temperature: float
) -> None:
    """Each mode alone, decoded by itself, has the same tokens; together, they are decoded once."""
    config = SweepConfig(
        model=str(model), prompts=(Prompt(id="0", prompt="Why?"), Prompt(id="1", prompt="How is it?")), seeds=(3, 4),
        modes=("normal", *MODES), rules={"fixed": (3.0, 6.0), "entropy": (5.0,)}, exit_every=3, max_new_tokens=9,
        dtype="float32", temperature=temperature,
    )  # fmt: skip
    runs, generated = list(plan_runs(config)), list[int]()
    together = ModelGenerator(config, "cpu").generate(runs, lambda tokens, runs=0, observed=0: generated.append(tokens))
    alone = [ModelGenerator(config, "cpu").generate([run]) for run in runs]
    assert_alike(together.generations, pa.concat_tables([part.generations for part in alone]))
    assert_alike(together.tokens, pa.concat_tables([part.tokens for part in alone]))
    assert together.generations["run_id"].to_pylist() == [run.run_id for run in runs], "a row for each run"
    rows = together.generations.to_pandas().query("rule == 'fixed'")
    assert (rows.groupby(["prompt_id", "parameter", "seed"])["text"].nunique() == 1).all()
    assert {*rows["mode"]} == {*MODES}
    assert rows.groupby("mode")["kv_writes"].sum()["frozen_residual"] > 0
    assert rows.groupby("mode")["kv_writes"].sum()["skip"] == 0
    assert rows.groupby("mode")["macs_executed"].sum().nunique() == 2, "keys and values of skipped layers, or none"
    n_seeds = 2 if temperature else 1
    n_decoded = 2 * n_seeds * (1 + 2 + len(MODES))  # normal, fixed at two layers, and entropy in each mode
    assert sum(generated) == n_decoded * 8, "the first token of each comes from the prompt's pass"
    assert count_different_runs(config) == n_decoded
    assert same_in_several_modes(config) == {"fixed/3": [*MODES], "fixed/6": [*MODES]}


@pytest.mark.parametrize("failure", [torch.OutOfMemoryError("out of memory"), RuntimeError("once")])
def test_what_had_ended_before_a_failure_is_not_decoded_again(model: Path, failure: Exception) -> None:
    prompts = tuple(Prompt(id=str(number), prompt=f"{number}?") for number in range(6))
    config = SweepConfig(model=str(model), prompts=prompts, modes=("normal",), max_new_tokens=N_TOKENS, dtype="float32")
    runs, generator = list(plan_runs(config)), ModelGenerator(config, "cpu")
    generator._reconfigure(max_rows=2)
    expected, generated, ended, raised = generator.generate(runs), list[int](), list[int](), list[Exception]()

    def progress(tokens: int, runs: int = 0, observed: int = 0) -> None:
        generated.append(tokens)
        ended.append(runs)

    def refuse_once(*_: object) -> None:
        if sum(ended) == 2 and not raised:
            raised.append(failure)
            raise failure

    handle = generator.model.get_input_embeddings().register_forward_pre_hook(refuse_once)
    found = generator.generate(runs, progress)
    handle.remove()
    assert raised
    assert sum(ended) == len(runs)
    assert sum(generated) == len(runs) * (N_TOKENS - 1), "the failure came before the next prompt's pass"
    assert_alike(found.generations, expected.generations)


def test_parts_are_what_plain_pandas_makes_of_the_tokens(model: Path) -> None:
    def rows(**thinking: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
        config = SweepConfig(
            model=str(model), prompts=tuple(Prompt(id=str(n), prompt=f"Why {n}?", answer="7") for n in range(6)),
            modes=("normal", "skip"), rules={"kl": (0.5,)}, exit_every=3, max_new_tokens=24, dtype="float32",
            **thinking,
        )  # fmt: skip
        found = ModelGenerator(config, "cpu").generate(list(plan_runs(config)))
        return found.generations.to_pandas(), found.tokens.to_pandas()

    without, tokens = rows()
    assert without[list(OF_PARTS)].isna().all(axis=None)
    assert tokens["part"].isna().all()
    letter = Counter("".join(without["text"])).most_common(9)[-1][0]  # some texts have it, and some don't
    runs, tokens = rows(thinking_until=re.escape(letter))
    same = [name for name in without if name not in ("run_id", "found_answer", *OF_PARTS)]
    assert_alike(pa.Table.from_pandas(runs[same]), pa.Table.from_pandas(without[same]))
    assert runs["run_id"].ne(without["run_id"]).all(), "they are other runs, since grading differs"
    assert {*runs["thinking_closed"]} == {True, False}
    for run in runs.to_dict("records"):
        own, text = tokens[tokens["run_id"] == run["run_id"]], str(run["text"])
        start, end = own["token"].str.len().cumsum().shift(fill_value=0), len(text.partition(letter)[0])
        thinks = (start < end) | (letter not in text)
        assert own["part"].tolist() == thinks.map({True: "thinking", False: "answer"}).tolist()
        assert run["thinking_closed"] == (letter in text)
        assert run["n_thinking_tokens"] + run["n_answer_tokens"] == run["n_tokens"]
        for part in ("thinking", "answer"):
            of = own[(own["part"] == part) & own["decided"]]
            assert run[f"n_{part}_tokens"] == (own["part"] == part).sum()
            assert sum(dict(run[f"exit_layer_counts_{part}"]).values()) == len(of)
            if len(of):
                assert run[f"exit_rate_{part}"] == (of["exit_layer"] < 6).mean()
                assert run[f"mean_depth_{part}"] == pytest.approx((of["exit_layer"] + 1).mean() / 7)
                assert run[f"disagreement_{part}"] == (of["token_id"] != of["final_token_id"]).mean()
                np.testing.assert_allclose(run[f"kl_{part}"], np.array(of["kl"].tolist(), float).mean(axis=0))
            else:
                assert pd.isna(run[f"exit_rate_{part}"])
                assert run[f"kl_{part}"] is None


def assert_alike(table: pa.Table, alone: pa.Table) -> None:
    """The same rows; numbers but for rounding, which batches of other sizes have."""
    for name, theirs in zip(alone.column_names, alone.columns, strict=True):
        if pa.types.is_floating(theirs.type):
            ours = table[name].to_numpy().astype(float)
            np.testing.assert_allclose(ours, theirs.to_numpy().astype(float), 1e-3, 1e-4, err_msg=name)
        elif not pa.types.is_nested(theirs.type):
            assert table[name].to_pylist() == theirs.to_pylist(), name


def test_a_prompts_own_start_and_limit_are_its_own_alone_and_leave_others_what_they_are(model: Path) -> None:
    shared: dict[str, Any] = {
        "model": str(model), "modes": ("normal", "skip"), "rules": {"kl": (0.5,)}, "exit_every": 3, "dtype": "float32",
        "record_full_depth": "all", "prefiller": "So",
    }  # fmt: skip
    plain = Prompt(id="plain", prompt="Why?")
    own = (
        Prompt(id="short", prompt="Why?", max_new_tokens=2),
        Prompt(id="long", prompt="Why?", max_new_tokens=N_TOKENS + 3),
        Prompt(id="started", prompt="Why?", prefiller="Thus"),
        Prompt(id="bare", prompt="Why?", prefiller=""),
        Prompt(id="endless", prompt="Why?", prefiller="Thus " * 2000),
    )

    def texts(*prompts: Prompt, **given: Any) -> dict[str, list[dict[str, Any]]]:
        config = SweepConfig(prompts=prompts, **shared | {"max_new_tokens": N_TOKENS} | given)
        rows = ModelGenerator(config, "cpu").generate(list(plan_runs(config))).generations.to_pylist()
        kept = ("configuration", "text", "prompt_token_ids", "n_tokens", "error")
        return {p.id: [{name: row[name] for name in kept} for row in rows if row["prompt_id"] == p.id] for p in prompts}

    together = texts(plain, *own)
    assert together["plain"] == texts(plain)["plain"]
    assert together["short"] == texts(plain, max_new_tokens=2)["plain"]
    assert together["long"] == texts(plain, max_new_tokens=N_TOKENS + 3)["plain"]
    assert together["started"] == texts(plain, prefiller="Thus")["plain"]
    assert together["bare"] == texts(plain, prefiller="")["plain"]
    assert [row["n_tokens"] for row in together["short"]] == [2, 2]
    assert {row["error"].split(" tokens, ")[1] for row in together["endless"]} == {
        "which leaves no room in the model's context of 256"
    }


POSITIONS = 2048


PROMPTS = [
    {"id": "recursion", "prompt": "Explain recursion.", "system": "You are a helpful programming tutor."},
    {"id": "hostile", "prompt": "<script>alert('\u202e')</script> \x07 👩‍👩‍👧 " + 300 * "long "},
    {"id": "empty", "prompt": " \n"},
    {"id": "endless", "prompt": 9000 * "word "},
]


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> ModelGenerator:
    """Of a small model with as many layers as the default one."""
    model = tmp_path_factory.mktemp("model")
    save_byte_model(model, ends=True, n_layers=30, positions=POSITIONS)
    config = {"prompts": PROMPTS, "kl_factors": [0.5, 4], "max_new_tokens": 10, "dtype": "float32"}
    return ModelGenerator(SweepConfig.model_validate({"model": str(model), **config}))


def assert_same_rows(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    """Equal but for rounding, which differs with the batch."""
    for row, other in zip(rows, others, strict=True):
        assert row.pop("perplexity") == pytest.approx(other.pop("perplexity"), rel=1e-4)
        assert row == other


def test_every_run_has_its_row_and_nothing_is_lost(generator: ModelGenerator) -> None:
    runs = list(plan_runs(generator.config))
    seen: list[int] = []
    results = generator.generate(runs, lambda tokens, runs=0, observed=0: seen.append(tokens))
    assert results.generations.schema.equals(GENERATIONS, check_metadata=True)
    assert results.tokens.schema.equals(TOKENS, check_metadata=True)
    rows = results.generations.to_pylist()
    assert [row["run_id"] for row in rows] == [run.run_id for run in runs]
    prompts = {prompt["id"]: prompt["prompt"] for prompt in PROMPTS}
    exitable, own_lists = generator.engine.decoding.exitable_layers, 0
    disagreements: dict[str, list[float]] = {}
    for row in rows:
        assert row["prompt"] == prompts[row["prompt_id"]]
        tokens = results.tokens.filter(pc.field("run_id") == row["run_id"])
        if row["status"] == "error":
            assert len(tokens) == 0
            continue
        assert "".join(tokens["token"].to_pylist()) == row["text"]
        assert tokens["position"].to_pylist() == list(range(row["n_tokens"]))
        assert tokens["decided"].to_pylist() == [False] + [True] * (row["n_tokens"] - 1)
        assert row["perplexity"] == pytest.approx(np.exp(-np.mean(tokens["logprob"].to_numpy())), rel=1e-5)
        assert sum(dict(row["exit_layer_counts"]).values()) == row["n_tokens"] - 1
        for token in tokens.to_pylist():
            assert [len(ids) for ids in token["top_token_ids"]] == [3] * 6
            assert token["top_token_ids"][-1][0] == token["final_token_id"]
            assert token["top_prob"][-1][0] >= np.exp(token["logprob"]) * 0.999
            texts = [generator.tokenizer.decode([token_id]) for token_id in token["top_token_ids"][0]]
            assert token["top_tokens"][0] == texts
            exit_rank = [*exitable, 29].index(token["exit_layer"])
            assert token["exit_top_token_ids"][0] == token["token_id"]
            assert token["exit_top_prob"][0] == pytest.approx(np.exp(token["exit_logprob"]), rel=1e-5)
            texts = [generator.tokenizer.decode([token_id]) for token_id in token["exit_top_token_ids"]]
            assert token["exit_top_tokens"] == texts
            of_teacher = (token["top_token_ids"][exit_rank], token["top_prob"][exit_rank])
            if row["mode"] != "frozen_residual" or not token["decided"]:
                assert (token["exit_top_token_ids"], token["exit_top_prob"]) == of_teacher
            elif token["exit_top_prob"] != pytest.approx(of_teacher[1], rel=1e-3):
                own_lists += 1
        decided = tokens.filter(pc.field("decided"))
        differs = pc.not_equal(decided["token_id"], decided["final_token_id"]).to_numpy()
        assert row["disagreement"] == differs.mean()
        on_normal = decided.filter(pc.field("position") <= row["tokens_until_difference"])
        early = on_normal.filter(pc.field("exit_layer") < 29)
        contradicted = pc.not_equal(early["token_id"], early["final_token_id"]).to_numpy()
        assert (row["exits_on_normal"], row["contradicted_on_normal"]) == (len(early), contradicted.sum())
        disagreements.setdefault(row["mode"], []).append(row["disagreement"])
        if row["mode"] == "normal":
            assert tokens["token_id"].to_pylist() == tokens["final_token_id"].to_pylist()
            assert (row["tokens_until_difference"], row["lcs_share"]) == (row["n_tokens"], 1.0)
    assert own_lists > 0, "a student must have lists of its own"
    assert set(disagreements["normal"]) == {0.0}
    assert max(disagreements["unfrozen"]) > 0
    errors = {row["prompt_id"]: row["error"] for row in rows if row["status"] == "error"}
    assert errors.keys() == {"empty", "endless"}
    assert "empty" in errors["empty"]
    assert f"context of {POSITIONS}" in errors["endless"]
    n_ok = sum(row["n_tokens"] for row in rows if row["status"] == "ok")
    assert 0 < sum(seen) <= n_ok


def test_agreement_is_with_normal_even_when_normal_is_not_among_the_runs(generator: ModelGenerator) -> None:
    runs = [run for run in plan_runs(generator.config) if run.prompt.id == "recursion"]
    together = generator.generate(runs).generations.to_pylist()
    alone = generator.generate(runs[1:2]).generations.to_pylist()
    assert alone[0]["tokens_until_difference"] is not None
    assert_same_rows(alone, together[1:2])


def test_a_model_that_fails_on_one_prompt_costs_that_prompt_alone(generator: ModelGenerator) -> None:
    runs = [run for run in plan_runs(generator.config) if run.prompt.id in ("recursion", "hostile")]

    def refuse(_: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if args[0].shape[-1] > 200:
            raise RuntimeError("no long prompts today")

    handle = generator.model.get_input_embeddings().register_forward_pre_hook(refuse)
    rows = generator.generate(runs).generations.to_pylist()
    handle.remove()
    assert {row["prompt_id"] for row in rows if row["status"] == "ok"} == {"recursion"}
    assert {row["error"] for row in rows if row["prompt_id"] == "hostile"} == {"RuntimeError: no long prompts today"}
    assert_same_rows(rows[:5], generator.generate(runs[:5]).generations.to_pylist())


def test_running_out_of_memory_halves_what_is_in_flight_and_frees_it_first(
    generator: ModelGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = generator.config.model_copy(update={"rules": {"kl": (0.0, 0.2)}})  # far apart: each row has its own text
    runs = [run for run in plan_runs(config) if run.prompt.id == "recursion"]
    expected = generator.generate(runs).generations.to_pylist()
    new_batch, failures = Engine._new_batch, list[int]()
    held: list[Callable[[], Batch | None]] = []

    def watched(engine: Engine, has_oracles: bool, decoders: DecoderPair, requests: Sequence[Request]) -> Batch:
        assert all(batch() is None for batch in held)
        batch = new_batch(engine, has_oracles, decoders, requests)
        held.append(weakref.ref(batch))
        return batch

    def refuse(_: torch.nn.Module, __: object) -> None:
        batch = held[-1]() if held else None
        if batch is not None and len(batch.slots) > 1:
            failures.append(len(batch.slots))
            raise torch.OutOfMemoryError("out of memory")

    requests = list(generator.requests(runs).values())
    length = len(requests[0].prompt_token_ids) + config.max_new_tokens
    row = row_bytes(True, generator.engine.decoders, generator.engine.decoding, length, requests)
    monkeypatch.setattr(Engine, "_new_batch", watched)
    monkeypatch.setattr("eexit.decode.engine.budget_of", lambda decoder, memory_share: 3 * row)
    decoding = replace(generator.engine.decoding, max_rows=1024)
    monkeypatch.setattr(generator, "engine", Engine(generator.engine.decoder, decoding))
    handle = generator.model.get_input_embeddings().register_forward_pre_hook(refuse)
    rows = generator.generate(runs).generations.to_pylist()
    handle.remove()
    assert_same_rows(rows, expected)
    assert (len(failures), len(held)) == (1, 2), "half of what was in flight is enough"
