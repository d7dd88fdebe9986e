"""Columns are what their definitions say: null where full depth was not observed, and all else is the same."""

from pathlib import Path
from typing import get_args

import pandas as pd
import pytest
from byte_model import save_byte_model, sweep_of
from commands import refusal
from driving import land_all

import eexit
from eexit.plan.sweep_config import Observe, Prompt
from eexit.results.tables import TOKENS
from jobs import choose
from jobs.files import export
from reports.page.payload import payload
from reports.read.sweep import read_sweep

OF_LAYERS = {"kl", "jsd", "top_token_ids", "top_tokens", "top_prob"}
OF_TEXTS = {"logprob", "final_token_id", "entropy"}
OF_RUNS = {"disagreement", "exits_on_normal", "contradicted_on_normal", "perplexity"}


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same sweep with each `--record-full-depth`, in folders of these names."""
    save_byte_model(model := (folder := tmp_path_factory.mktemp("unobserved")) / "model")
    for observe in get_args(Observe):
        config = sweep_of(
            model, modes=("normal", "frozen_residual"), rules={"confidence": (0.1, 0.2)}, exit_every=2,
            prompts=[Prompt("one", "one"), Prompt("two", "two")], max_new_tokens=12, record_full_depth=observe,
        )  # fmt: skip
        land_all(folder / observe, config)
    return folder


UNOBSERVED = [("final", OF_LAYERS, "final layer alone"), ("none", OF_LAYERS | OF_TEXTS | OF_RUNS, "was not recorded")]


@pytest.mark.parametrize(("observe", "missing", "said"), UNOBSERVED)  # columns that are null, and words of the report
def test_what_was_not_observed_is_null_and_said(sweeps: Path, observe: str, missing: set[str], said: str) -> None:
    """All else is the same."""
    for frame in ("runs", "tokens"):
        found, whole = (getattr(eexit.open(sweeps / name), frame) for name in (observe, "all"))
        for name in {*found} - {"run_id"}:
            if name in missing:
                assert found[name].isna().all(), name
            elif whole[name].notna().any() and (frame == "tokens" or name == "text" or found[name].dtype != object):
                pd.testing.assert_series_equal(found[name], whole[name], rtol=1e-4, atol=1e-5)
    table = eexit.open(sweeps / observe).table
    assert any([*column.cells] == ["–"] * 3 for column in table.columns) == (observe == "none")
    assert (said in str(table.caption)) == (observe == "none")
    data, _ = payload(read_sweep(str(sweeps / observe)), "A sweep")
    assert said in dict(data["facts"])["Not observed"]
    assert {"core", "prob", "read"} <= set(data["kinds"])
    assert ("more" in data["kinds"]) == (observe == "final")
    assert not {"kl", "top"} & set(data["kinds"])


def test_definitions_name_what_is_null_and_what_needs_it_is_refused_in_a_line(sweeps: Path, tmp_path: Path) -> None:
    defined = {field.name for field in TOKENS if b"null with --record-full-depth" in field.metadata[b"definition"]}
    assert defined == (OF_LAYERS | OF_TEXTS) - {"top_tokens"}, "which has the texts of top_token_ids"
    for risk in ("disagreement", "perplexity"):
        said = refusal(choose.main, sweeps / "none", "--risk", risk)
        assert f"risk {risk} needs full depth's predictions" in said
        assert "needs full depth" not in refusal(choose.main, sweeps / "final", "--risk", risk), "too few prompts"
    for observe in ("final", "none"):
        said = refusal(export.main, sweeps / observe, "--out", tmp_path / "data")
        assert said.endswith("run it with --record-full-depth all")
