"""Of a model that adds, it is known where depth is needed: its chains let the first layer do it. The tables say so."""

from pathlib import Path

import pandas as pd
import pytest
from adding_model import prompts, save_adding_model
from commands import here
from landed_sweep import land_all

from eexit.plan.config import Prompt, SweepConfig
from eexit.plan.prompts import read_prompts
from eexit.sweeps.controls import controls_of
from jobs.files.chains import main

SURE, AT_RANDOM, ANYWHERE = "unfrozen/confidence/0.8", "unfrozen/random/confidence/0.8", "unfrozen/fixed/0"


@pytest.mark.slow
def test_a_model_that_leaves_where_it_is_sure_needs_its_chain_and_one_that_leaves_at_random_does_not(
    tmp_path: Path,
) -> None:
    save_adding_model(tmp_path / "model")
    config = SweepConfig(
        model=str(tmp_path / "model"), prompts=tuple(Prompt(**row) for row in prompts(200, seed=1)),
        modes=("normal", "unfrozen"), rules={"confidence": (0.8,), "fixed": (0,)}, exit_layers=(0,),
        max_new_tokens=24, dtype="float32", control_tokens=True,
    )  # fmt: skip
    config = config.model_copy(update={"controls": controls_of(str(land_all(tmp_path / "first", config)))})
    swept, out = land_all(tmp_path / "swept", config), tmp_path / "chains.jsonl"
    assert here(main, swept, "--configuration", "normal", "--keep", "0", "--out", out).returncode == 0
    without = land_all(tmp_path / "without", config.model_copy(update={"prompts": tuple(read_prompts(out))}))
    print(here(main, swept, "--necessity", without).stdout)
    table = pd.read_parquet(swept / "chains")
    of = {row["configuration"]: row for row in table[table["steps"].isna()].to_dict("records")}
    assert of["normal"]["accuracy_without"] > 0.9, "depth does it without a chain"
    assert of["normal"]["necessity_low"] <= 0.02
    assert of[SURE]["accuracy"] > 0.9, "a chain lets the first layer do it"
    assert of[SURE]["necessity_low"] > 0.5
    assert of[SURE]["beside_control_low"] > 0.5
    for key in (AT_RANDOM, ANYWHERE):
        assert of[key]["accuracy"] < 0.5, key
        assert of[key]["necessity_low"] <= 0, key
