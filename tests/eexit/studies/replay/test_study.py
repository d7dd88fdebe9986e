"""Replaying a finished sweep: what lands, beside its own runs; what is refused; what stays when it is stopped."""

import re
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from byte_model import N_LAYERS, save_byte_model
from commands import here
from driving import land_all, look_here

from cluster.studies import actors
from cluster.studies import run as running_studies
from cluster.studies.run import run_study
from eexit.errors import UsageError
from eexit.plan.sweep_config import Prompt, SweepConfig
from eexit.results.finished_sweep import read_finished
from eexit.results.store.folder import open_store
from eexit.results.study_tables import REPLAYS
from eexit.studies.replay import study
from eexit.studies.replay.from_records import read_transcripts
from eexit.studies.replay.study import ReplayArgs, make_replay_plan
from jobs import replay

EXITS = (1, 3, 4)
WORDS = ("one", "two", "failed", "four", "five", "six")
RULES = {"kl": (1.0,), "confidence": (0.1, 0.2)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six prompts, of which one failed, with two seeds."""
    folder = tmp_path_factory.mktemp("replayed")
    save_byte_model(folder / "model")
    land_all(folder / "out", config_of(folder / "model"))
    return folder / "out"


def config_of(model: Path, **others: Any) -> SweepConfig:
    prompts = tuple(Prompt(id=text, prompt=text) for text in WORDS)
    modes, grid = ("normal", "unfrozen", "frozen_residual"), {"rules": RULES, "seeds": (0, 1), "exit_layers": EXITS}
    fields = {"model": str(model), "prompts": prompts, "dtype": "float32", "modes": modes, "max_new_tokens": 12}
    return SweepConfig.model_validate(fields | grid | others)


def planned(out: Path, text_of: str = "normal", **others: Any) -> study.ReplayStudy:
    asked = ReplayArgs(**{"kl_factors": (), "rules": {}, **others})
    return make_replay_plan(read_finished(str(out), ["prompt_id", "status"]), asked, text_of)


def test_kl_factors_are_replayed_from_the_tables_alone(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors, "ray_session", Mock(side_effect=AssertionError("Ray was started")))
    before = len(REPLAYS.read(open_store(finished)))
    done = here(replay.main, finished, "--kl-factors", "0", "0.5:2:3", "--texts-of", "unfrozen/kl/1")
    assert done.returncode == 0
    assert "Means over 5 prompts (10 texts, seeds averaged first)" in " ".join(done.stdout.split())
    frame = REPLAYS.read(open_store(finished)).slice(before).to_pandas().set_index("configuration")
    assert frame.index.tolist() == [f"unfrozen/kl/{k}" for k in ("0", "0.5", "1", "2")]
    assert frame[["text_of", "prompts", "texts", "drawn"]].to_numpy().tolist() == [["unfrozen/kl/1", 5, 10, False]] * 4
    assert frame.macs_required.isna().all()
    assert frame.mean_depth.is_monotonic_increasing
    assert ((frame.mean_depth_low <= frame.mean_depth) & (frame.mean_depth <= frame.mean_depth_high)).all()
    tokens = pd.read_parquet(finished / "tokens").query("decided and configuration == 'unfrozen/kl/1'")
    drawn = pd.DataFrame(np.stack([*tokens.exit_prob]), index=[tokens.prompt_id, tokens.seed])
    its, expected = frame.loc["unfrozen/kl/1"], drawn.groupby(level=[0, 1]).mean().groupby(level=0).mean().mean()
    assert its.tokens == len(tokens)
    assert [share for _, share in its.exit_distribution] == pytest.approx(expected.tolist(), abs=1e-6)
    assert [layer for layer, _ in its.exit_distribution] == [*EXITS, N_LAYERS - 1]


@pytest.mark.usefixtures("ray_here")
def test_online_rules_on_their_own_texts_are_their_runs(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_studies, "run_study", partial(run_study, inspect=look_here))
    monkeypatch.setattr(study, "TOKENS_PER_PART", 30)  # so that texts come in several calls
    key = "frozen_residual/confidence/0.1"
    sets = ("all", f"{EXITS[-1]}")
    done = here(replay.main, finished, "--rules", "confidence=0.1:0.2:2", "--texts-of", key, "--exit-sets", *sets)
    assert done.returncode == 0
    assert f"replaying 8 settings on 5 texts of {key}; one actor" in done.stderr
    rows = REPLAYS.read(open_store(finished)).to_pandas()
    rows = rows[rows.text_of == key].set_index("configuration")
    assert (len(rows), set(rows.prompts), set(rows.texts)) == (8, {5}, {5}), "both seeds have the same text"
    runs = pd.read_parquet(finished / "generations").query("status == 'ok' and configuration == @key")
    its, of_prompts = rows.loc[key], runs.groupby("prompt_id").mean(numeric_only=True)
    for name, measure in (("mean_depth", "mean_depth"), ("expected_disagreement", "disagreement")):
        assert its[name] == pytest.approx(of_prompts[measure].mean(), abs=1e-9)
    for name in ("macs_full", "macs_required"):
        assert its[name] == pytest.approx(of_prompts[name].sum())
    assert its.mean_depth != rows.loc["unfrozen/confidence/0.1"].mean_depth, "its own state decides"
    last = rows.loc[f"{key}@{EXITS[-1]}"]
    assert {layer for layer, share in last.exit_distribution if share} <= {EXITS[-1], N_LAYERS - 1}
    assert {layer for layer, share in its.exit_distribution if share} > {EXITS[0]}
    assert (last.exit_set, pd.isna(its.exit_set), last.mean_depth > its.mean_depth) == (f"{EXITS[-1]}", True, True)


def test_the_model_is_needed_for_what_was_not_recorded(finished: Path, tmp_path: Path) -> None:
    kl: dict[str, Any] = {"kl": (1.0,)}
    assert not planned(finished, rules={**kl, "agree": ()}).needs_model
    assert planned(finished, rules={**kl, "fixed": (3.0,)}).needs_model
    assert planned(finished, rules=kl, modes=("frozen_residual",)).needs_model
    bare = config_of(finished.parent / "model", modes=("normal",), rules={}, kl_factors=(), record_top_k=0)
    for observe in ("all", "final", "none"):
        out = land_all(tmp_path / observe, bare.model_copy(update={"record_full_depth": observe}))
        assert planned(out, rules=kl).needs_model
    transcripts = read_transcripts(open_store(finished), "normal")
    expected = [(word, seed) for word in sorted({*WORDS} - {"failed"}) for seed in (0, 1)]
    assert [(its.text.prompt_id, its.seed) for its in transcripts] == expected
    texts = [its.text for its in read_transcripts(open_store(tmp_path / "all"), "normal")]
    assert texts == [its.text for its in transcripts]


def test_what_can_not_be_replayed_is_told_in_a_line(finished: Path, tmp_path: Path) -> None:
    config = config_of(finished.parent / "model", prompts=(Prompt(id="failed", prompt=""),))
    failed = land_all(tmp_path / "failed", config)
    refused: list[tuple[Path, dict[str, Any], str]] = [
        (finished, {}, "no setting is given: give --kl-factors 0.25:16:13, or --rules confidence=0.5:0.95:10"),
        (finished, {"rules": {"confidence": ()}}, "rule confidence takes a threshold above 0 and up to 1"),
        (finished, {"rules": {"random": ()}}, "rule random follows a configuration and has no parameter"),
        (finished, {"kl_factors": (1.0,), "rules": {"kl": (2.0,)}}, "give all of them in one place"),
        (finished, {"kl_factors": (1.0,), "modes": ("normal",)}, "mode normal has no exits to replay: choose from unf"),
        (finished, {"rules": {"agree": ()}, "exit_sets": ("99",)}, "exit set 99: layer 99 is not exitable"),
        (finished, {"kl_factors": (1.0,), "text_of": "unfrozen/kl/2"}, "has no configuration unfrozen/kl/2: did you m"),
        (failed, {"kl_factors": (1.0,)}, "has no texts of normal"),
    ]
    for out, arguments, message in refused:
        with pytest.raises(UsageError, match=rf"^.*{re.escape(message)}.*$"):
            planned(out, **arguments)
