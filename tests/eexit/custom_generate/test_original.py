"""The user's snippet on the real default model; and on a small one, that all that is generated is recorded."""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from byte_model import save_byte_model

from eexit import (
    KLExitGenerator,
    format_and_tokenize_input,
    get_early_exit_indices,
    load_default_model_and_tokenizer,
)
from eexit.decode.batch import Batch
from eexit.decode.engine import Engine, row_bytes
from eexit.decode.requests import Request
from eexit.errors import UsageError
from eexit.model.decoders import DecoderPair
from eexit.plan.config import SweepConfig
from eexit.plan.runs import plan_runs
from eexit.results.shard_tables import token_pieces
from eexit.results.tables import GENERATIONS, TOKENS
from eexit.sweeps.generator import ModelGenerator

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


@pytest.fixture(scope="module")
def default_tokenizer() -> Any:
    return load_default_model_and_tokenizer()[1]


def assert_same_rows(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    """Equal but for rounding, which differs with the batch."""
    for row, other in zip(rows, others, strict=True):
        assert row.pop("perplexity") == pytest.approx(other.pop("perplexity"), rel=1e-4)
        assert row == other


def test_the_users_snippet_runs_as_it_stands() -> None:
    model, tokenizer = load_default_model_and_tokenizer()
    inputs = format_and_tokenize_input(
        prompt="Explain recursion.",
        system_prompt="You are a helpful programming tutor.",
        prefiller="",
        tokenizer=tokenizer,
        device=model.device,
    )
    generator = KLExitGenerator(model=model, tokenizer=tokenizer, mode="frozen_residual",
                                exitable_layers=get_early_exit_indices(model))  # fmt: skip
    tokens, exit_layers, prediction = generator.generate(inputs=inputs, kl_strength=1.0, max_new_tokens=100)
    results = generator.evaluate_response(tokens, exit_layers, inputs)

    assert results["response"] == prediction.text == "".join(tokens)
    assert "recurs" in prediction.text.lower()
    assert get_early_exit_indices(model) == results["exitable_layers"] == [5, 10, 15, 20, 25]
    normal = KLExitGenerator(model=model, tokenizer=tokenizer, mode="normal")
    _, _, plain = normal.generate(inputs=inputs, kl_strength=1.0, max_new_tokens=10)
    whole = model.generate(**inputs, max_new_tokens=10, do_sample=False, pad_token_id=2)  # type: ignore[operator]
    assert plain.token_ids == whole[0, inputs["input_ids"].shape[1] :].tolist()
    stats = results["early_exit_stats"]
    assert stats["total_tokens"] == len(exit_layers) - 1 == sum(stats["layer_distribution"].values())
    assert 0 < stats["early_exit_rate"] < 1
    assert prediction.kl.shape == (len(tokens), 5)


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


@pytest.mark.parametrize(
    "text",
    ["Straße 👩‍👩‍👧 naïve 日本語 \u202eabc\u202c", "```python\n\tdef f():\r\n```", "\ufffd�", " lead  and trail  "],
)
def test_pieces_concatenate_to_the_text_and_keep_characters_whole(default_tokenizer: Any, text: str) -> None:
    token_ids = default_tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = token_pieces(default_tokenizer, token_ids)
    assert len(pieces) == len(token_ids)
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


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


def test_running_out_of_memory_halves_the_rows_and_goes_on(generator: ModelGenerator) -> None:
    config = generator.config.model_copy(update={"rules": {"kl": (0.0, 0.2)}})  # far apart: each row has its own text
    runs = [run for run in plan_runs(config) if run.prompt.id == "recursion"]
    expected = generator.generate(runs).generations.to_pylist()

    def refuse(_: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if args[0].shape[0] > 2:
            raise torch.OutOfMemoryError("out of memory")

    handle = generator.model.get_input_embeddings().register_forward_pre_hook(refuse)
    rows = generator.generate(runs).generations.to_pylist()
    handle.remove()
    assert_same_rows(rows, expected)
    assert generator.engine.decoding.max_rows == 2


def test_what_ran_out_of_memory_holds_none_when_it_is_tried_again(
    generator: ModelGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [run for run in plan_runs(generator.config) if run.prompt.id == "recursion"]
    new_batch = Engine._new_batch
    held: list[Callable[[], Batch | None]] = []
    failures: list[int] = []

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

    monkeypatch.setattr(Engine, "_new_batch", watched)
    requests = list(generator.requests(runs).values())
    n_prompt = len(requests[0].prompt_token_ids)
    length = n_prompt + generator.config.max_new_tokens
    row = row_bytes(True, generator.engine.decoders, generator.engine.decoding, length, requests)
    monkeypatch.setattr("eexit.decode.engine.budget_of", lambda decoder, memory_share: 3 * row)
    decoding = replace(generator.engine.decoding, max_rows=1024)
    monkeypatch.setattr(generator, "engine", Engine(generator.engine.decoder, decoding))
    handle = generator.model.get_input_embeddings().register_forward_pre_hook(refuse)
    generator.generate(runs)
    handle.remove()
    assert len(failures) == 1, "half of what was in flight is enough"
    assert len(held) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "thawed"}, "unknown mode 'thawed': choose from normal, unfrozen, frozen_residual"),
        ({"exitable_layers": [3, 29]}, "within 0…28, got .3, 29."),
        ({"exitable_layers": [5, 3]}, "must be increasing"),
    ],
)
def test_a_generator_that_cannot_be_is_refused(generator: ModelGenerator, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        KLExitGenerator(generator.model, generator.tokenizer, **change)
