"""A sweep's generator: what is generated once and shared, and that sharing changes nothing."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from byte_model import save_byte_model

from eexit.generator import ModelGenerator
from eexit.plan.config import Prompt, SweepConfig
from eexit.plan.runs import plan_runs

N_TOKENS = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_byte_model(folder)
    return folder


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_seeds_share_what_no_draw_can_change(model: Path, temperature: float) -> None:
    config = SweepConfig(
        model=str(model), prompts=(Prompt(id="0", prompt="Why?"), Prompt(id="1", prompt="How?")), seeds=(3, 4, 5),
        modes=("normal", "skip"), rules={"kl": (0.5,), "entropy": (5.0,), "fixed": (3.0,)}, draft=("3:2",),
        exit_every=3, max_new_tokens=N_TOKENS, dtype="float32", temperature=temperature,
    )  # fmt: skip
    runs = list(plan_runs(config))
    generator, generated, ended = ModelGenerator(config, "cpu"), list[int](), list[int]()

    def progress(tokens: int, runs: int = 0) -> None:
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


def assert_alike(table: pa.Table, alone: pa.Table) -> None:
    """The same rows; numbers but for rounding, which batches of other sizes have."""
    for name, theirs in zip(alone.column_names, alone.columns, strict=True):
        if pa.types.is_floating(theirs.type):
            ours = table[name].to_numpy().astype(float)
            np.testing.assert_allclose(ours, theirs.to_numpy().astype(float), 1e-3, 1e-4, err_msg=name)
        elif not pa.types.is_nested(theirs.type):
            assert table[name].to_pylist() == theirs.to_pylist(), name
