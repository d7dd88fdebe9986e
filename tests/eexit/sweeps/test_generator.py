"""A sweep's generator: what is generated once and shared, and that sharing changes nothing."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from byte_model import save_byte_model

from eexit.plan.config import Prompt, SweepConfig
from eexit.plan.runs import count_different_runs, plan_runs, same_in_several_modes
from eexit.results.tables import OF_PARTS
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
