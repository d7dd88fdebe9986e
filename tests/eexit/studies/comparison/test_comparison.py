"""Models beside each other: numbers recomputed from Parquet alone, differences that are paired, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from compared_sweeps import ORACLE, SHAPE, save_model_sweep
from synthetic_sweeps import add_timings, write_manifest

import eexit
from eexit.plan.configuration import HFGenerate, NoExit
from eexit.quality.estimates import ValueKind, estimate_columns
from eexit.results.layout import MANIFEST
from eexit.studies.comparison.comparison import read_comparison

LAYER, AT_LAYER = 15, 2  # nearest to half of 30 layers, and its place among the exitable ones
ENDS = ("", "_low", "_high", "_n")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two models, of which the second has fewer prompts; four prompts are a group."""
    folder = tmp_path_factory.mktemp("compared")
    small = save_model_sweep(folder / "small", "org/small", 14, bold=0.3, group=4)
    large = save_model_sweep(folder / "large", "org/large", 12, bold=0.6, group=4, dtype="bfloat16", max_new_tokens=64)
    return str(small), str(large)


def values_by_hand(folder: str) -> pd.DataFrame:
    """Return right, agreement, confirmed and skipped by shared prompt or group, with pandas alone."""
    runs = pd.read_parquet(Path(folder) / "generations")
    tokens = pd.read_parquet(Path(folder) / "tokens")
    normal = tokens[(tokens.configuration == "normal") & tokens.decided]
    agrees = normal.top_token_ids.map(lambda top: float(top[AT_LAYER][0] == top[-1][0]))
    is_sure = normal.top_prob.map(lambda top: float(top[AT_LAYER][0] >= 0.9))
    by_prompt = pd.DataFrame({
        "correct": runs[runs.configuration == "normal"].set_index("prompt_id").correct.astype(float),
        "oracle_skipped": 1 - runs[runs.configuration == ORACLE.key].set_index("prompt_id").mean_depth,
        "agreement_at_half": agrees.groupby(normal.prompt_id).mean(),
        "confirmed_at_half": (agrees * is_sure).groupby(normal.prompt_id).mean(),
    })  # fmt: skip
    by_prompt = by_prompt[by_prompt.index.astype(int) < 12]
    return by_prompt.groupby(lambda prompt: "group" if int(prompt) < 4 else prompt).mean()


def columns_by_hand(values: pd.Series, kind: ValueKind, level: float = 0.95) -> list[float]:
    return [*estimate_columns(values.to_numpy()[:, None], [kind], level)[0].columns("").values()]


def test_a_line_is_recomputed_from_parquet_alone_and_what_differs_is_told(pair: tuple[str, str], capsys: Any) -> None:
    line: Any = eexit.compare(pair).iloc[0]
    assert capsys.readouterr().err.splitlines() == [
        "12 prompts are shared, on which all are measured, of small 14, large 12",
        "dtype differs: float32 (small), bfloat16 (large)",
        "max_new_tokens differs: 40 (small), 64 (large)",
        "chat templates may differ: sweep.json does not record them all",
    ]
    values = values_by_hand(pair[0])
    assert (line.model, line.layers, line.prompts, line.layer_at_half) == ("small", 30, 12, LAYER)
    assert {name: line[name] for name in SHAPE} == SHAPE
    assert len(values) == 9
    for name in map(str, values):
        found, expected = (line[[f"{name}{end}" for end in ENDS]], columns_by_hand(values[name], ValueKind.SHARE))
        assert [*found] == pytest.approx(expected, abs=1e-9), name


@pytest.mark.parametrize("confidence", [0.95, 0.998])
def test_differences_are_paired_over_the_shared_prompts(pair: tuple[str, str], confidence: float) -> None:
    found: Any = eexit.compare(pair, "differences", confidence).set_index(["measure", "depth"])
    differences = values_by_hand(pair[0]) - values_by_hand(pair[1])
    for measure, depth in (("agreement", "half"), ("confirmed", "half"), ("oracle_skipped", ""), ("correct", "")):
        value = differences[f"{measure}_at_half" if depth else measure]
        numbers = found.loc[(measure, depth), [f"difference{end}" for end in ENDS]].astype(float)
        expected = columns_by_hand(value, ValueKind.DIFFERENCE, confidence)
        assert [*numbers] == pytest.approx(expected, abs=1e-9), measure
    names = ["model", "other", "layer", "other_layer"]
    assert found.loc[("agreement", "half"), names].tolist() == ["small", "large", LAYER, LAYER]


def test_numbers_are_those_of_one_sweep(pair: tuple[str, str]) -> None:
    """Alone, a model is measured on all its prompts, as `eexit.open` does."""
    sweep = eexit.open(pair[0])
    alone = eexit.compare([sweep], "depths")
    certain = sweep.confidence_by_depth().query("kind == 'all prompts'")
    assert alone.confirmed_n.tolist() == [11] * 6
    for end in ENDS:
        assert alone[f"confirmed{end}"].tolist() == pytest.approx(certain[f"confirmed{end}"].tolist())
    exits = sweep.runs.query("configuration == 'unfrozen/agree'")
    shares = [sum(dict(counts)[layer] for layer in (5, 10, 15)) / 3 for counts in exits.exit_layer_counts]
    group, *others = np.mean(shares[:4]), *shares[4:]
    assert alone.oracle_exited.iloc[2] == pytest.approx(np.mean([group, *others]))
    assert (alone.agreement.iloc[-1], alone.oracle_exited.iloc[-1]) == (1, 1)


def test_losses_and_savings_of_settings_are_over_the_shared_prompts(pair: tuple[str, str]) -> None:
    found: Any = eexit.compare(pair, "settings").set_index(["model", "configuration"])
    runs: Any = pd.read_parquet(Path(pair[0]) / "generations").set_index(["configuration", "prompt_id"])
    lost = (runs.loc["normal"].correct & ~runs.loc["frozen_residual/confidence/0.9"].correct.astype(bool)).astype(float)
    by_unit = lost[lost.index.astype(int) < 12].groupby(lambda prompt: "group" if int(prompt) < 4 else prompt).mean()
    row = found.loc[("small", "frozen_residual/confidence/0.9")]
    assert (row.lost, row.lost_n) == (pytest.approx(by_unit.mean()), 9)
    assert np.isnan(found.loc[("small", ORACLE.key), "saved"]), "an oracle has run nothing less"
    assert found.loc[("small", ORACLE.key), "saved_if_free"] > 0.2


def changed(folder: str, out: Path, change: Any) -> str:
    """Copy a manifest with a change beside the same tables; return the folder."""
    about = json.loads((Path(folder) / MANIFEST).read_text())
    change(about)
    out.mkdir()
    write_manifest(out, about)
    for table in ("generations", "tokens"):
        (out / table).symlink_to(Path(folder) / table)
    return str(out)


def test_models_of_one_name_without_a_shared_prompt(pair: tuple[str, str], tmp_path: Path) -> None:
    def other(about: dict[str, Any]) -> None:
        del about["model"]["shape"]
        for prompt in about["config"]["prompts"]:
            prompt["prefiller"] = "So"

    comparison = read_comparison([pair[0], changed(pair[0], tmp_path / "other", other)])
    assert comparison.names == [f"small {pair[0]}", f"small {tmp_path / 'other'}"]
    first, second = comparison.names
    assert comparison.notes == [
        f"no prompt is shared by all: each model is measured on its own prompts ({first} 14, {second} 14)",
        f"{second}: sweep.json has no shape of the model: width, vocabulary, parameters and head are unknown",
    ]
    assert comparison.differences_table().empty
    assert comparison.models_table().correct_n.tolist() == [11, 11]


def test_what_is_unknown_has_a_reason_and_times_are_those_of_the_calls(tmp_path: Path) -> None:
    bare = save_model_sweep(tmp_path / "bare", "bare", 6, grid=(ORACLE,))
    for call in range(1, 8):
        add_timings(bare, {NoExit(): [2.0, 2.0], HFGenerate(): [3.0, 3.0]}, call)
    [model] = read_comparison([bare]).models
    assert model.gaps == ["there is no normal: right answers at full depth, and losses, are unknown"]
    line = eexit.compare([bare]).iloc[0]
    assert (line.correct_n, line.cell_A_n) == (0, 0)
    assert line.agreement_at_half_n == 6, "layers are read on the oracle's texts"
    assert eexit.compare([bare], "settings").lost_n.tolist() == [0]
    assert [line.generate_time, line.generate_time_low, line.generate_time_n] == pytest.approx([1.5, 1.5, 7])


def test_what_can_not_be_compared(pair: tuple[str, str], tmp_path: Path) -> None:
    small, unfinished = pair[0], changed(pair[0], tmp_path / "unfinished", lambda about: about.update(n_runs=50))
    refused: list[tuple[list[str], dict[str, Any], str]] = [
        ([small, f"{small}/"], {}, "is given twice"),
        ([], {}, "there are no results to compare"),
        ([unfinished], {}, "has 42 of 50 runs: finish that sweep first"),
        ([small], {"table": "depth"}, "table must be models, depths, settings, differences, got 'depth'"),
        ([small], {"confidence": 0.998}, "confidence is of table 'differences', not of 'models'"),
        ([small], {"table": "differences", "confidence": 1.5}, "confidence must be at least 0.5 and below 1"),
    ]
    for results, arguments, message in refused:
        with pytest.raises(ValueError, match=re.escape(message)):
            eexit.compare(results, **arguments)
