"""Columns are what their definitions say: null where full depth was not observed, counted as runs alone have them."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from byte_model import save_byte_model
from commands import here, refusal
from landed_sweep import land_all
from rich.console import Console

from eexit.plan.config import Observe, Prompt, SweepConfig
from eexit.plan.runs import configurations
from eexit.results.store.folder import open_store
from eexit.results.tables import GENERATIONS, TOKENS
from eexit.sweeps.summary.summary_table import closing_table
from jobs import choose
from jobs.files import export
from reports.page.payload import payload
from reports.read.sweep import read_sweep

UNOBSERVED: dict[Observe, set[str]] = {
    "all": set(),
    "final": {"kl", "jsd", "top_token_ids", "top_tokens", "top_prob"},
    "none": {"kl", "jsd", "top_token_ids", "top_tokens", "top_prob", "logprob", "final_token_id", "entropy"},
}
ASKED: dict[Observe, str] = {"final": "at its final layer alone", "none": "full depth was asked nothing"}


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same sweep with each `--record-full-depth`, in folders of these names."""
    folder = tmp_path_factory.mktemp("unobserved")
    save_byte_model(folder / "model")
    for record_full_depth in UNOBSERVED:
        config = SweepConfig(
            model=str(folder / "model"), prompts=tuple(Prompt(id=text, prompt=text) for text in ("one", "two")),
            modes=("normal", "frozen_residual"), rules={"confidence": (0.1, 0.2)}, exit_every=2,
            max_new_tokens=12, dtype="float32", record_full_depth=record_full_depth,
        )  # fmt: skip
        land_all(folder / record_full_depth, config)
    return folder


def tables(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    generations, tokens = (pd.read_parquet(folder / name) for name in ("generations", "tokens"))
    key = ["configuration", "prompt_id"]
    return generations.sort_values(key).reset_index(drop=True), tokens.sort_values([*key, "position"]).reset_index()


@pytest.mark.parametrize("record_full_depth", ["final", "none"])
def test_what_was_not_observed_is_null_and_all_else_is_the_same(sweeps: Path, record_full_depth: Observe) -> None:
    (runs, tokens), (all_runs, all_tokens) = tables(sweeps / record_full_depth), tables(sweeps / "all")
    assert {
        field.name for field in TOKENS if "null with --record-full-depth" in field.metadata[b"definition"].decode()
    } == (
        UNOBSERVED["none"] - {"top_tokens"}  # the texts of top_token_ids
    )
    for field in TOKENS:
        if field.name in UNOBSERVED[record_full_depth]:
            assert field.nullable
            assert tokens[field.name].isna().all()
        elif field.name != "run_id" and all_tokens[field.name].notna().any():
            assert_alike(tokens[field.name], all_tokens[field.name])
    for name in runs:
        if (
            name in ("disagreement", "exits_on_normal", "contradicted_on_normal", "perplexity")
            and record_full_depth == "none"
        ):
            assert runs[name].isna().all()
        elif name != "run_id" and runs[name].dtype != object:
            assert_alike(runs[name], all_runs[name])
    assert runs["text"].tolist() == all_runs["text"].tolist()


def assert_alike(mine: pd.Series, theirs: pd.Series) -> None:
    """Assert that columns are equal; lists of numbers are flattened."""
    if mine.dtype == object and isinstance(mine.dropna().iloc[:1].squeeze(), np.ndarray):
        mine, theirs = (pd.Series(np.concatenate(each.dropna().to_list())) for each in (mine, theirs))
    pd.testing.assert_series_equal(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("record_full_depth", ["final", "none"])
def test_table_and_report_say_so_and_show_what_is_known(sweeps: Path, record_full_depth: Observe) -> None:
    store, sweep = open_store(sweeps / record_full_depth), read_sweep(str(sweeps / record_full_depth))
    config = json.loads((sweeps / record_full_depth / "sweep.json").read_text())["config"]
    planned = configurations(SweepConfig.model_validate(config))
    table = closing_table(store, planned)
    cells = {re.sub("[\n\u00ad]", "", str(column.header)): list(column.cells) for column in table.columns}
    assert (cells["disagreement"] == ["–"] * 3) == (cells["perplexity"] == ["–"] * 3) == (record_full_depth == "none")
    assert "–" not in cells["layersskipped"]
    assert (ASKED["none"] in str(table.caption)) == (record_full_depth == "none")
    Console(width=80).print(table)
    data, _ = payload(sweep, "A sweep")
    assert ASKED[record_full_depth] in dict(data["facts"])["Not observed"]
    assert {"core", "prob", "read"} <= set(data["kinds"])
    assert ("more" in data["kinds"]) == (record_full_depth == "final")
    assert not {"kl", "top"} & set(data["kinds"])


def test_what_needs_it_is_refused_in_a_line(sweeps: Path, tmp_path: Path) -> None:
    for risk in ("disagreement", "perplexity"):
        assert refusal(choose.main, sweeps / "none", "--risk", risk) == (
            f"error: {sweeps}/none was swept with --record-full-depth none, and risk {risk} needs what full depth says "
            "of its texts: sweep with --record-full-depth final, or choose another --risk"
        )
        assert "needs what full depth says" not in here(choose.main, str(sweeps / "final"), "--risk", risk).stderr
    for asked in ("final", "none"):
        assert refusal(export.main, sweeps / asked, "--out", tmp_path / "data") == (
            f"error: the sweep was run with --record-full-depth {asked}, and teacher data has the KL of every "
            "exitable layer: run it with --record-full-depth all"
        )


@pytest.mark.parametrize("name", ["layers_run", "head_reads", "kv_writes", "macs_executed"])
def test_counts_that_a_batch_does_not_have_say_so(name: str) -> None:
    definition = GENERATIONS.field(name).metadata[b"definition"].decode()
    assert "decoded alone" in definition
