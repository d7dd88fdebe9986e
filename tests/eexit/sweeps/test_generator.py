"""A sweep's generator: what is generated once and shared, and that sharing changes nothing."""

import re
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from byte_model import save_byte_model

from eexit.decode.batch import Batch
from eexit.decode.engine import Engine
from eexit.plan.runs import configurations, count_different_runs, plan_runs, same_in_several_modes
from eexit.plan.sweep_config import Prompt, SweepConfig
from eexit.results.shard_tables import ShardTables
from eexit.results.tables import GENERATIONS, OF_PARTS, TOKENS
from eexit.sweeps.generator import ModelGenerator

N_TOKENS = 4
MODES = ("unfrozen", "frozen_residual", "frozen_cache", "skip")
POSITIONS = 2048
PROMPTS = [
    {"id": "recursion", "prompt": "Explain recursion.", "system": "You are a helpful programming tutor."},
    {"id": "hostile", "prompt": "<script>alert('\u202e')</script> \x07 👩‍👩‍👧 " + 300 * "long "},
    {"id": "empty", "prompt": " \n"},
    {"id": "endless", "prompt": 9000 * "word "},
]


def assert_alike(found: ShardTables, expected: Sequence[ShardTables]) -> None:
    """The same rows; numbers but for rounding, which batches of other sizes have."""
    for name in ("generations", "tokens"):
        table, alone = getattr(found, name), pa.concat_tables([getattr(each, name) for each in expected])
        for column, theirs in zip(alone.column_names, alone.columns, strict=True):
            if pa.types.is_floating(theirs.type):
                ours = table[column].to_numpy().astype(float)
                np.testing.assert_allclose(ours, theirs.to_numpy().astype(float), 1e-3, 1e-4, err_msg=column)
            elif not pa.types.is_nested(theirs.type) or column == "exit_layer_counts":
                assert table[column].to_pylist() == theirs.to_pylist(), column


class Counted(list[tuple[int, int]]):
    """Progress: generated tokens and ended runs, each time that they were told."""

    def __call__(self, tokens: int, runs: int = 0, observed: int = 0) -> None:
        self.append((tokens, runs))

    @property
    def total(self) -> tuple[int, ...]:
        return tuple(map(sum, zip(*self, strict=True)))


def before_each_pass(generator: ModelGenerator, hook: Callable[..., None]) -> Any:
    return generator.model.get_input_embeddings().register_forward_pre_hook(hook)  # until the context's end


def config_of(model: str, *prompts: str, **fields: Any) -> SweepConfig:
    given = tuple(Prompt(id=str(number), prompt=text, answer="7") for number, text in enumerate(prompts))
    return SweepConfig(**{"model": model, "prompts": given, "dtype": "float32", "exit_every": 3, **fields})


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_seeds_and_modes_share_texts(model: str, temperature: float) -> None:
    """Runs by themselves have the same tokens; together, they are decoded once, and have costs of their own."""
    config = config_of(
        model, "Why?", "How is it?", seeds=(3, 4), modes=("normal", *MODES), max_new_tokens=6, temperature=temperature,
        rules={"kl": (0.5,), "entropy": (5.0,), "fixed": (3.0, 6.0)}, draft=() if temperature else ("3:2",),
    )  # fmt: skip
    runs, generator, counted = list(plan_runs(config)), ModelGenerator(config, "cpu"), Counted()
    together = generator.generate(runs, counted)
    alone = [run for run in runs if run.seed == 3 + int(run.prompt.id)]  # each prompt with one of the seeds
    is_alone = pc.field("run_id").isin([run.run_id for run in alone])
    of_alone = ShardTables(together.generations.filter(is_alone), together.tokens.filter(is_alone))
    assert_alike(of_alone, [generator.generate([run]) for run in alone])
    assert together.generations["run_id"].to_pylist() == [run.run_id for run in runs], "a row for each run"
    assert sum(ended for _, ended in counted[: len(counted) // 2]) > 0, "not all at the end"
    of_seeds = (1 + 2 + len(MODES)) * (2 if temperature else 1)  # normal, fixed at two layers, entropy in each mode
    n_decoded = 2 * (of_seeds + 2 * len(MODES) + len(config.draft))
    assert counted.total == (n_decoded * 5, len(runs)), "each run once; its first token comes from the prompt's pass"
    assert count_different_runs(config) == n_decoded
    assert same_in_several_modes(config) == {"fixed/3": [*MODES], "fixed/6": [*MODES]}
    rows = together.generations.to_pandas().query("rule == 'fixed'")
    assert (rows.groupby(["prompt_id", "parameter", "seed"])["text"].nunique() == 1).all()
    costs = rows.groupby("mode")[["kv_writes", "macs_executed"]].sum()
    assert costs.kv_writes["frozen_residual"] > 0 == costs.kv_writes["skip"]
    assert costs.macs_executed.nunique() == 2, "keys and values of skipped layers, or none"


def test_prompt_exits_are_recorded_and_their_costs_have_the_prompt(model: str) -> None:
    """Runs with and without them are in one sweep; each run by itself has the same tokens."""
    rules = {"kl": (0.5,), "entropy": (5.0,), "fixed": (3.0,)}
    plain = config_of(model, "Why?", modes=("normal", *MODES), rules=rules, max_new_tokens=5)
    exiting = plain.model_copy(update={"prompt_exits": True})
    keys = dict.fromkeys(each.key for config in (plain, exiting) for each in configurations(config))
    config = exiting.model_copy(update={"only": tuple(keys)})
    runs, generator = list(plan_runs(config)), ModelGenerator(config, "cpu")
    together = generator.generate(runs)
    assert_alike(together, [generator.generate([run]) for run in runs])
    rows, tokens = together.generations.to_pandas(), together.tokens.to_pandas()
    in_prompt = rows["configuration"].str.endswith("+prompt")
    assert in_prompt.sum() == len(MODES) * 3
    assert in_prompt.tolist() == rows["prompt_exits"].eq(True).tolist() == rows["prompt_mean_depth"].notna().tolist()
    n_decided = rows["exit_layer_counts"].map(lambda counts: sum(n for _, n in counts))
    assert n_decided.tolist() == [4 + exits for exits in in_prompt]
    assert tokens["decided"].equals((tokens["position"] > 0) | tokens["configuration"].str.endswith("+prompt"))
    full = rows["macs_full"] + rows["macs_prompt"].mask(in_prompt, 0)
    assert full.eq(full[0]).all(), "at full depth, runs of equal length cost the same once all have the prompt"
    fixed = rows[in_prompt & rows["rule"].eq("fixed")]
    assert fixed["prompt_mean_depth"].eq(4 / generator.engine.decoder.n_layers).all()
    assert fixed["macs_required"].lt(fixed["macs_full"]).all()
    ran = fixed.set_index("mode")["layers_run"]
    assert ran["unfrozen"] > ran["skip"] == 4 * (rows["n_prompt_tokens"][0] + 4)


@pytest.mark.parametrize("failure", [torch.OutOfMemoryError("out of memory"), RuntimeError("once")])
def test_what_had_ended_before_a_failure_is_not_decoded_again(model: str, failure: Exception) -> None:
    generator = ModelGenerator(config_of(model, *map(str, range(6)), modes=("normal",), max_new_tokens=N_TOKENS), "cpu")
    runs = list(plan_runs(generator.config))
    generator._reconfigure(max_rows=2)
    expected, counted, failures = generator.generate(runs), Counted(), [failure]

    def refuse_once(*_: object) -> None:
        if counted and counted.total[1] == 2 and failures:
            raise failures.pop()

    with before_each_pass(generator, refuse_once):
        assert_alike(generator.generate(runs, counted), [expected])
    assert (failures, counted.total) == ([], (6 * (N_TOKENS - 1), 6)), "it failed before the next prompt's pass"


def test_parts_are_what_plain_pandas_makes_of_the_tokens(model: str) -> None:
    def rows(**thinking: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
        prompts, modes = (f"Why {n}?" for n in range(6)), ("normal", "skip")
        config = config_of(model, *prompts, modes=modes, rules={"kl": (0.5,)}, max_new_tokens=24, **thinking)
        found = ModelGenerator(config, "cpu").generate(list(plan_runs(config)))
        return found.generations.to_pandas(), found.tokens.to_pandas()

    without, tokens = rows()
    assert without[list(OF_PARTS)].isna().all(axis=None)
    assert tokens["part"].isna().all()
    letter = Counter("".join(without["text"])).most_common(9)[-1][0]  # some texts have it, and some don't
    runs, tokens = rows(thinking_until=re.escape(letter))
    assert runs["text"].equals(without["text"])
    assert runs["run_id"].ne(without["run_id"]).all(), "they are other runs, since grading differs"
    assert {*runs["thinking_closed"]} == {True, False}
    measures = {"exit_rate": tokens["exit_layer"] < 6, "mean_depth": (tokens["exit_layer"] + 1) / 7}
    tokens = tokens.assign(**measures, disagreement=tokens["token_id"] != tokens["final_token_id"])
    for run in runs.to_dict("records"):
        own, text = tokens[tokens["run_id"] == run["run_id"]], str(run["text"])
        start, end = own["token"].str.len().cumsum().shift(fill_value=0), len(text.partition(letter)[0])
        thinks = (start < end) | (letter not in text)
        assert run["thinking_closed"] == (letter in text)
        for part, is_in in (("thinking", thinks), ("answer", ~thinks)):
            assert own["part"].eq(part).equals(is_in)
            of = own[is_in & own["decided"]]
            assert run[f"n_{part}_tokens"] == is_in.sum()
            assert sum(dict(run[f"exit_layer_counts_{part}"]).values()) == len(of)
            for name in ("exit_rate", "mean_depth", "disagreement"):
                assert run[f"{name}_{part}"] == pytest.approx(of[name].mean(), rel=1e-12, nan_ok=True)
            assert (run[f"kl_{part}"] is None) == of.empty
            if not of.empty:
                np.testing.assert_allclose(run[f"kl_{part}"], np.array(of["kl"].tolist(), float).mean(axis=0))


def test_a_prompts_own_start_and_limit_change_no_other_prompt(model: str) -> None:
    shared = {"modes": ("normal", "skip"), "rules": {"kl": (0.5,)}, "max_new_tokens": N_TOKENS, "prefiller": "So"}
    owns: dict[str, dict[str, Any]] = {
        "plain": {}, "short": {"max_new_tokens": 2}, "long": {"max_new_tokens": N_TOKENS + 3},
        "started": {"prefiller": "Thus"}, "bare": {"prefiller": ""}, "endless": {"prefiller": "Thus " * 2000},
    }  # fmt: skip

    def texts(*prompts: Prompt, **given: Any) -> dict[str, list[dict[str, Any]]]:
        config = config_of(model, **{**shared, "prompts": prompts, **given})
        rows = ModelGenerator(config, "cpu").generate(list(plan_runs(config))).generations.to_pylist()
        kept = ("configuration", "text", "prompt_token_ids", "n_tokens", "error")
        return {p.id: [{name: row[name] for name in kept} for row in rows if row["prompt_id"] == p.id] for p in prompts}

    together = texts(*(Prompt(id=name, prompt="Why?", **own) for name, own in owns.items()))
    assert all("no room in the model's context of 256" in row["error"] for row in together.pop("endless"))
    for name, rows in together.items():
        assert rows == texts(Prompt(id="plain", prompt="Why?"), **owns[name])["plain"]
    assert [row["n_tokens"] for row in together["short"]] == [2, 2]


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> ModelGenerator:
    """Of a small model with as many layers as the default one."""
    model = tmp_path_factory.mktemp("model")
    save_byte_model(model, ends=True, n_layers=30, positions=POSITIONS)
    config = {"prompts": PROMPTS, "kl_factors": [0.5, 4], "max_new_tokens": 10, "dtype": "float32"}
    return ModelGenerator(SweepConfig.model_validate({"model": str(model), **config}))


def test_every_run_has_its_row_and_nothing_is_lost(generator: ModelGenerator) -> None:
    runs = list(plan_runs(generator.config))
    results = generator.generate(runs)
    assert results.generations.schema.equals(GENERATIONS, check_metadata=True)
    assert results.tokens.schema.equals(TOKENS, check_metadata=True)
    rows = results.generations.to_pylist()
    assert [(row["run_id"], row["prompt"]) for row in rows] == [(run.run_id, run.prompt.prompt) for run in runs]
    errors = {row["prompt_id"]: row["error"] for row in rows if row["status"] == "error"}
    assert errors.keys() == {"empty", "endless"}
    assert "empty" in errors["empty"]
    assert f"context of {POSITIONS}" in errors["endless"]
    done = [row for row in rows if row["status"] == "ok"]
    assert {*pc.unique(results.tokens["run_id"]).to_pylist()} == {row["run_id"] for row in done}
    for row in done:
        tokens = results.tokens.filter(pc.field("run_id") == row["run_id"])
        assert "".join(tokens["token"].to_pylist()) == row["text"]
        assert tokens["position"].to_pylist() == list(range(row["n_tokens"]))
        assert tokens["decided"].to_pylist() == [False] + [True] * (row["n_tokens"] - 1)
        assert row["perplexity"] == pytest.approx(np.exp(-np.mean(tokens["logprob"].to_numpy())), rel=1e-5)
        assert sum(dict(row["exit_layer_counts"]).values()) == row["n_tokens"] - 1
        for token in tokens.to_pylist():
            assert [[*map(len, token[name])] for name in ("top_token_ids", "top_tokens", "top_prob")] == [[3] * 6] * 3
            for ids, texts in (("top_token_ids", "top_tokens"), ("exit_top_token_ids", "exit_top_tokens")):
                assert np.vectorize(generator.tokenizer.decode)(token[ids]).tolist() == token[texts]
            assert (token["exit_top_token_ids"][0], token["exit_top_prob"][0]) == (
                token["token_id"], pytest.approx(np.exp(token["exit_logprob"]), rel=1e-5)
            )  # fmt: skip
        decided = tokens.filter(pc.field("decided"))
        differs = pc.not_equal(decided["token_id"], decided["final_token_id"]).to_numpy()
        assert row["disagreement"] == differs.mean()
        is_on_normal = pc.less_equal(decided["position"], row["tokens_until_difference"]).to_numpy()
        is_early = is_on_normal & pc.less(decided["exit_layer"], 29).to_numpy()
        assert (row["exits_on_normal"], row["contradicted_on_normal"]) == (is_early.sum(), differs[is_early].sum())
        if row["mode"] == "normal":
            assert (row["tokens_until_difference"], row["lcs_share"]) == (row["n_tokens"], 1.0)
            assert row["disagreement"] == 0
    assert any(row["mode"] == "unfrozen" and row["disagreement"] for row in done)


def test_agreement_is_with_normal_and_a_prompt_fails_alone(generator: ModelGenerator) -> None:
    runs = [run for run in plan_runs(generator.config) if run.prompt.id in ("recursion", "hostile")]

    def refuse(_: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if args[0].shape[-1] > 200:
            raise RuntimeError("no long prompts today")

    with before_each_pass(generator, refuse):
        rows = generator.generate(runs)
    failed = rows.generations.filter(pc.field("prompt_id") == "hostile")
    assert {*failed["error"].to_pylist()} == {"RuntimeError: no long prompts today"}
    alone = [generator.generate([run]) for run in runs[:5]]
    assert all(each.generations["tokens_until_difference"].null_count == 0 for each in alone)
    is_whole = pc.field("prompt_id") == "recursion"
    assert_alike(ShardTables(rows.generations.filter(is_whole), rows.tokens.filter(is_whole)), alone)


def test_out_of_memory_half_of_the_slots_go_on(generator: ModelGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    config = generator.config.model_copy(update={"rules": {"kl": (0.0, 0.2)}})  # far apart: each row has its own text
    runs = [run for run in plan_runs(config) if run.prompt.id == "recursion"]
    expected, new_batch, failures = generator.generate(runs), Engine._new_batch, list[int]()
    held: list[Callable[[], Batch | None]] = []

    def watched(*given: Any) -> Batch:
        assert all(batch() is None for batch in held), "the memory of a batch that failed is free"
        batch = new_batch(*given)
        held.append(weakref.ref(batch))
        return batch

    def refuse(*_: object) -> None:
        batch = held[-1]() if held else None
        if batch is not None and len(batch.slots) > 1:
            failures.append(len(batch.slots))
            raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Engine, "_new_batch", watched)
    monkeypatch.setattr(generator, "engine", generator.engine)  # which changes, until the test's end
    with before_each_pass(generator, refuse):
        assert_alike(generator.generate(runs), [expected])
    assert (failures, len(held)) == ([5, 2], 3), "half of what was in flight, which is far below `max_rows`"
